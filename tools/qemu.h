/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Other programs' formats, by way of qemu-nbd on a private socket, in a directory of mode 0700.
 */
#ifndef TOOLS_QEMU_H
#define TOOLS_QEMU_H

#include "child.h"
#include "nbd_uri.h"

#include "vdisk/error.h"

#include <stdbool.h>
#include <stdint.h>

struct qemu_server {
    struct child child;
    struct nbd_address address; /* to connect to */
    char directory[sizeof(((struct nbd_address *)0)->socket)];
};

/* Serves the drive in the file; it takes connections when this returns 0. Then qemu_stop() or
 * qemu_finish() is due. */
int qemu_serve(struct qemu_server *server, const char *path, const char *format, bool read_only,
               struct vdisk_error *error);

/* Waits until it has ended by itself, as it does behind its last client, having written all. */
int qemu_finish(struct qemu_server *server, struct vdisk_error *error);

/* Ends it. Does nothing when that was done, or nothing was started (a zeroed server). */
void qemu_stop(struct qemu_server *server);

/* Makes a file of that format with a drive of `size` bytes; the file may exist. */
int qemu_create(const char *path, const char *format, uint64_t size, struct vdisk_error *error);

#endif
