/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which exports are drives of virtual machines: a vhost-user server for each (vhost_server.h), by
 * the export's name.
 *
 * A table belongs to one thread; its functions are called there, all but new and free by a task.
 */
#ifndef VDISKD_VHOST_EXPORTS_H
#define VDISKD_VHOST_EXPORTS_H

#include "listen.h"
#include "vhost_server.h"

struct vhost_exports;

int vhost_exports_new(struct exports *exports,
                      void (*event)(void *opaque, const struct vhost_event *event), void *opaque,
                      struct vhost_exports **out);
/* Every one is closed by then. NULL is allowed. */
void vhost_exports_free(struct vhost_exports *table);

/* Makes a socket: PATH, with mode 0600, or fd:N, which must listen. Blocks. An error with a
 * sentence. */
int vhost_exports_socket(const char *address, struct listen_socket *socket,
                         struct vdisk_error *error);
/* The same by a task, which waits. */
int vhost_exports_make(const char *address, struct listen_socket *socket,
                       struct vdisk_error *error);

/* Adds an export; where a socket (fd -1: none) is given, it or its snapshot (NULL: live) is served
 * there. Takes the socket over in any case. Errors as of export_add() and vhost_server_start();
 * then there is no export. */
int vhost_exports_open(struct vhost_exports *table, const struct export_options *options,
                       const char *snapshot, const struct listen_socket *socket,
                       struct vdisk_error *error);
/* The front end, if there is one, gets its answers and is disconnected; the socket goes, then the
 * export. Errors as of export_remove(). */
int vhost_exports_close(struct vhost_exports *table, const char *export, struct vdisk_error *error);

/* Outside of tasks as well: where it listens ("fd" for a descriptor that was passed), or NULL. */
const char *vhost_exports_address(const struct vhost_exports *table, const char *export);
/* Likewise: the snapshot that is served there, or NULL. */
const char *vhost_exports_snapshot(const struct vhost_exports *table, const char *export);

#endif
