/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's backend of io.h: the files of an image through a reactor. Adjacent writes go out as
 * one; O_DIRECT where the file system allows it.
 */
#ifndef VDISKD_RING_IO_H
#define VDISKD_RING_IO_H

#include "reactor.h"
#include "vdisk/io.h"

/* As vdisk_io_plain_open(). `ready` is kicked whenever poll() has something to do. */
int ring_io_open(struct reactor *reactor, struct reactor_hook *ready, const char *path, int flags,
                 struct vdisk_io **out, struct vdisk_error *error);

#endif
