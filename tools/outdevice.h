/* SPDX-License-Identifier: Apache-2.0 */
/* A block device that a drive is written onto. */
#ifndef TOOLS_OUTDEVICE_H
#define TOOLS_OUTDEVICE_H

#include <stdint.h>

/* Opens a device that nobody uses and that has room for `size` bytes. Returns an exit status,
 * having reported; after success outdevice_close() is due. */
int outdevice_open(const char *path, uint64_t size, int *fd);

/* Makes it durable if `status`, that of the writing, is STATUS_DONE. Returns it, or that of a
 * failure of its own, having reported. */
int outdevice_close(const char *path, int fd, int status);

#endif
