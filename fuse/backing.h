/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a mount shows, and how it is reached: an image that this process opened for reading
 * (backing_image.c) or for writing (backing_engine.c), a backup (backing_backup.c), or a drive that
 * a vdiskd serves (backing_served.c).
 *
 * A backing has states: number 0 is what `disk` is, the others are snapshots. Each thread that
 * serves has an access of its own, which it alone uses and in which it waits.
 */
#ifndef FUSE_BACKING_H
#define FUSE_BACKING_H

#include "vdisk/vdisk.h"

#include <stdbool.h>
#include <stdint.h>

struct access;
struct backing;

/* A range, whether it reads as zeros; false ends it. */
typedef bool access_range(void *opaque, uint64_t offset, uint64_t length, bool is_zero);

struct access_change {
    enum vdisk_request_op op; /* WRITE, FLUSH, DISCARD, ZERO */
    bool durable;             /* when it returns */
    uint64_t offset, length;  /* bytes; within the drive */
    const void *data;         /* WRITE */
    /* WRITE: called, or not, before the change is made, when what comes later is sure to be seen as
     * later; a failure is then also told by the next flush or settle. NULL: only when it is made.
     */
    void (*taken)(void *opaque);
    void *opaque;
};

/* All return 0 or an error, with access->error where there is more to say of it. Ranges lie within
 * the state. */
struct access_ops {
    int (*read)(struct access *access, unsigned state, uint64_t offset, void *data,
                uint64_t length);
    /* Of a part of the range, from its beginning to *reached, which is behind that. */
    int (*map)(struct access *access, unsigned state, uint64_t offset, uint64_t length,
               access_range *each, void *opaque, uint64_t *reached);
    /* Of the state that can be written; these two are NULL where none can. */
    int (*change)(struct access *access, const struct access_change *change);
    /* Waits for every write that was taken, and tells whether any has failed. */
    int (*settle)(struct access *access);
    /* The text of info.json, to be freed. */
    int (*info)(struct access *access, char **text);
    void (*close)(struct access *access);
};

/* Embedded, as the first member. */
struct access {
    const struct access_ops *ops;
    struct vdisk_error error;
};

struct backing_state {
    char name[VDISK_NAME_MAX + 1];
    uint64_t size;   /* bytes */
    int64_t created; /* nanoseconds since 1970 */
};

struct backing_ops {
    /* For the calling thread. */
    int (*open)(struct backing *backing, struct access **out, struct vdisk_error *error);
    /* Every access is closed. Makes all durable and frees; the error of that. */
    int (*close)(struct backing *backing, struct vdisk_error *error);
};

/* Embedded, as the first member. */
struct backing {
    const struct backing_ops *ops;
    const char *name;    /* for messages; the opener's */
    bool writable;       /* state 0 */
    bool has_base;       /* it is an overlay */
    unsigned threads;    /* that should serve it */
    uint64_t used_bytes; /* stored for all states, when it was opened; 0: unknown */
    unsigned scratch;    /* the state that is thrown away; 0: there is none */
    unsigned count;
    struct backing_state *state;
};

/* An image for reading; `snapshot` "" is the live state, `base` NULL the base as recorded. Errors
 * as those of vdisk_open(); VDISK_E_NOT_FOUND: no such snapshot. */
struct backing_image_options {
    const char *path, *snapshot, *base;
    const char *shown;                     /* the path in info.json */
    const struct vdisk_unlocked *unlocked; /* copied */
};
int backing_open_image(const char *name, const struct backing_image_options *options,
                       struct backing **out, struct vdisk_error *error);

/* The same image for writing, always as recorded and its live state. */
int backing_open_engine(const char *name, const struct backing_image_options *options,
                        struct backing **out, struct vdisk_error *error);

/* A backup, of which there is one state (backing_backup.c). */
struct backing_backup_options {
    const char *repo, *backup;   /* as vb_backups_pick() takes it */
    const struct vdisk_key *key; /* of the repository */
};
int backing_open_backup(const char *name, const struct backing_backup_options *options,
                        struct backing **out, struct vdisk_error *error);

/* An export of a vdiskd, whose management is at `socket`; `snapshot` NULL: one is made, and removed
 * at the end. Errors as those of inspect_begin() (inspect.h). */
struct backing_served_options {
    const char *socket, *export, *snapshot;
};
int backing_open_served(const char *name, const struct backing_served_options *options,
                        struct backing **out, struct vdisk_error *error);

/*
 * Another backing, which is taken over, with one more state behind the others: what state 0 is, to
 * be written, in locked memory that is thrown away in the end. It holds up to `room` bytes of
 * changes, then there is -ENOSPC. NULL without memory; then `under` is still the caller's.
 */
struct backing *backing_with_scratch(struct backing *under, uint64_t room);

/* ---- what the kinds have in common (backing.c) ---- */

/* Puts a state behind the others. -ENOMEM. */
int backing_add(struct backing *backing, const char *name, uint64_t size, int64_t created);
/* Adds every snapshot of the image. */
int backing_add_snapshots(struct backing *backing, struct vdisk_image *image);
/* info.json of an image: -ENOMEM. */
int backing_describe(const char *path, const struct vdisk_public_info *public_info,
                     const struct vdisk_info *info, char **text);
/* One range of the map, for access_ops.map. */
struct backing_mapping {
    access_range *each;
    void *opaque;
};
vdisk_extent_callback backing_map_extent; /* opaque: a struct backing_mapping */

/* How many threads decrypt well beside each other. */
unsigned backing_reading_threads(void);

#endif
