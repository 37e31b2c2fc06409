/* SPDX-License-Identifier: Apache-2.0 */
/*
 * File systems that only the kernel can read, mounted by it in the empty folders that a mount has
 * for them in files/ (tree.h): read-only, through a loop device on a view that is thrown away, so
 * that the kernel may replay a journal and nothing comes to the image. Needs root.
 *
 * The kernel then reads what a guest has written, with code that is not made for hostile data.
 */
#ifndef FUSE_KERNEL_MOUNT_H
#define FUSE_KERNEL_MOUNT_H

#include <stdbool.h>

/* Whether this process may. */
bool kernel_mount_may(void);

/* Mounts those of the mount at `folder`. What cannot be mounted is told on standard error, and is
 * no failure. */
void kernel_mount_all(const char *folder);

#endif
