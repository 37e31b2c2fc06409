/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An export of a vdiskd, for who wants a snapshot of it: what management says of it, its snapshots,
 * and where they are read by NBD.
 */
#ifndef TOOLS_SERVED_H
#define TOOLS_SERVED_H

#include "nbd_uri.h"
#include "rundir.h"

#include "vdisk/error.h"

#include <jansson.h>

#define SERVED_SOCKET_BYTES (RUNDIR_BYTES + 16)

/* Of `vdiskd:EXPORT` the export, within the operand; NULL: it is something else. */
const char *served_name(const char *operand);

/* Where management is: that of the guest `vm` of `vdisk run` (in `room`), else `socket`, else the
 * usual one (both may be NULL). Errors of rundir_find(). */
int served_socket(const char *socket, const char *vm, char room[static SERVED_SOCKET_BYTES],
                  const char **path, struct vdisk_error *error);

struct served_export {
    char *socket, *export;      /* of management; its name */
    json_t *about;              /* as export-list has it */
    struct nbd_address address; /* without the export's name */
};

/* After any result served_release() is due. VDISK_E_NOT_FOUND: no such export, or no NBD; -EPERM:
 * this user may not; -errno: there is no daemon. */
int served_find(struct served_export *of, const char *socket, const char *export,
                struct vdisk_error *error);
void served_release(struct served_export *of);

/* As snapshot-list has them, a new reference. */
int served_list(const struct served_export *of, json_t **snapshots, struct vdisk_error *error);
/* VDISK_E_EXISTS and what else the daemon says. */
int served_create(const struct served_export *of, const char *snapshot, struct vdisk_error *error);
/* Clients that have gone a moment ago may still be counted, so it tries for so long (0: once).
 * VDISK_E_NOT_FOUND, VDISK_E_IN_USE. */
#define SERVED_PATIENCE_MS 5000u
int served_delete(const struct served_export *of, const char *snapshot, unsigned patience_ms,
                  struct vdisk_error *error);

/* Where a snapshot is read. -ENAMETOOLONG. */
int served_address(const struct served_export *of, const char *snapshot,
                   struct nbd_address *address, struct vdisk_error *error);

#endif
