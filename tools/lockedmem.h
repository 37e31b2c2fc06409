/* SPDX-License-Identifier: Apache-2.0 */
/* What a program does, and a library must not, to keep keys out of swap and core dumps. */
#ifndef LOCKEDMEM_H
#define LOCKEDMEM_H

/*
 * For the first line of main(), before threads and before anything that uses OpenSSL (vdisk_init()
 * may come before or after). Core dumps, and being traced by others, are switched off. Where the
 * process may lock memory without limit, all of it is locked; otherwise OpenSSL, which holds the
 * key schedules, gets a small locked arena (libsodium locks what vdisk_secret_alloc() gives).
 * That little or nothing can be locked is not an error. 0; -EBUSY when OpenSSL was already in use;
 * -errno.
 *
 * Of an unprivileged process /proc/self/fd and the like can no longer be opened afterwards.
 */
int vd_process_harden(void);

#endif
