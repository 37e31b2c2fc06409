/* SPDX-License-Identifier: Apache-2.0 */
/* Sockets that listen at a path. */
#ifndef VDISKD_UNIX_LISTEN_H
#define VDISKD_UNIX_LISTEN_H

/* A socket for its owner alone (mode 0600); what is left of an earlier server's is replaced. A
 * descriptor or -errno. */
int unix_listen(const char *path);

#endif
