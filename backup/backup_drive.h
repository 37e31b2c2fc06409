/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a backup is made of: a raw file or device, an export of NBD, or a snapshot of an image, of
 * which the ranges that matter are known (SPEC.md B11).
 */
#ifndef BACKUP_BACKUP_DRIVE_H
#define BACKUP_BACKUP_DRIVE_H

#include "chunk_set.h"
#include "drive_snapshots.h"

/* A range of the drive that has to be looked at. */
struct vb_span {
    uint64_t offset, length; /* bytes */
    bool is_zero;            /* reads as zeros */
};

struct vb_drive;

struct vb_drive_ops {
    /* A reader for a thread. */
    int (*open)(struct vb_drive *drive, void **reader, struct vdisk_error *error);
    int (*read)(void *reader, uint64_t offset, void *data, size_t length,
                struct vdisk_error *error);
    void (*close)(void *reader);
    /* The next span at or after `from`; length 0: there is none. What is in no span has not changed
     * since the base, or, without a base, is zeros. By one thread, with `from` growing. */
    int (*next)(struct vb_drive *drive, uint64_t from, struct vb_span *span,
                struct vdisk_error *error);
};

struct vb_drive {
    const struct vb_drive_ops *ops;
    uint64_t size;                /* bytes, of any alignment */
    const struct vb_backup *base; /* what the spans are changes against; NULL: nothing */
};

/* --- a raw file or block device -----------------------------------------------------------------
 */

/* `path` must outlive it. 0 or an error. */
int vb_drive_raw_open(const char *path, struct vb_drive **out, struct vdisk_error *error);
void vb_drive_raw_close(struct vb_drive *drive); /* NULL is allowed */

/* --- an export of NBD ------------------------------------------------------------------------- */

struct nbd_address;

/*
 * What is zeros is not read, where the server tells. `bitmap` (NULL: none) names a dirty bitmap of
 * the server's: the spans are what it has, and are changes against what the caller puts into
 * `base`. Both must outlive the drive. The threads have connections of their own if the server
 * takes several, else they share one. VDISK_E_NOT_FOUND: it has no such bitmap; errors of
 * nbd_client_open().
 */
int vb_drive_nbd_open(const struct nbd_address *address, const char *bitmap, struct vb_drive **out,
                      struct vdisk_error *error);
void vb_drive_nbd_close(struct vb_drive *drive); /* NULL is allowed */

/* --- an image ----------------------------------------------------------------------------- */

struct vb_image;

struct vb_image_options {
    const char *path;            /* outlives it, as do the others */
    const char *base_path;       /* of an overlay; NULL: as recorded */
    const struct vdisk_key *key; /* of the image */
    struct vb_repo *repo;
    const struct vb_backups *backups;
};

/*
 * Opens the image, makes the snapshot for the next backup and finds the newest one to build on.
 * Then the image can be read by others, and not written, until it is closed. Fills in the
 * manifest: drive, sequence, previous, size, created, snapshot, image facts. Errors of
 * vdisk_open().
 */
int vb_image_open(const struct vb_image_options *options, struct vb_manifest *manifest,
                  struct vb_image **out, struct vdisk_error *error);
struct vb_drive *vb_image_drive(struct vb_image *image);
/*
 * Closes it and deletes snapshots that are not needed: the older ones of this repository after a
 * backup that is `done`, else the new one. NULL is allowed. An error leaves snapshots that the next
 * backup deletes.
 */
int vb_image_close(struct vb_image *image, bool done, struct vdisk_error *error);

/* --- an image that a vdiskd serves -------------------------------------------------------------
 */

struct vb_served;

struct vb_served_options {
    const char *socket, *export; /* of management; its name */
    struct vb_repo *repo;
    const struct vb_backups *backups;
    /* Calls take(arg), which makes the snapshot, with the drive at rest; NULL: as it is. */
    int (*at_rest)(void *opaque, int (*take)(void *arg, struct vdisk_error *error), void *arg,
                   struct vdisk_error *error);
    void *opaque;
};

/*
 * As vb_image_open(), by the daemon: it makes the snapshot, tells what has changed and is read
 * from; its file is not opened. Clients go on writing. Errors of served_find(), and what the daemon
 * says.
 */
int vb_served_open(const struct vb_served_options *options, struct vb_manifest *manifest,
                   struct vb_served **out, struct vdisk_error *error);
struct vb_drive *vb_served_drive(struct vb_served *served);
/* The image's path, as the daemon has it. */
const char *vb_served_path(const struct vb_served *served);
/* As vb_image_close(). */
int vb_served_close(struct vb_served *served, bool done, struct vdisk_error *error);

/* --- what an open image still has of its backups ------------------------------------------------
 */

/* The size of an image with a drive of so many bytes: whole sectors. */
uint64_t vb_image_size(uint64_t drive_bytes);

/* vb_snapshots_base() of the image, which fills in wish->drive; *out NULL: there is none. Errors of
 * vdisk_snapshot_list(). */
int vb_image_base(struct vdisk_image *image, struct vb_base_wish wish,
                  const struct vb_backup **out);

/*
 * The chunks in which the live state of the image may differ from `backup`: what has changed since
 * the snapshot of `base`, and from that backup to this one. Settled; vb_chunk_set_release() is the
 * caller's. Errors of vdisk_snapshot_open(), vdisk_diff_part(), vb_tree_diff().
 */
int vb_image_differences(struct vdisk_image *image, struct vb_repo *repo,
                         const struct vb_backup *base, const struct vb_backup *backup,
                         struct vb_chunk_set *chunks, struct vdisk_error *error);

#endif
