/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a repository's objects are kept (SPEC.md B2): what a directory can do, and an object store
 * could.
 *
 * All functions may be called from any thread at any time, but close(). They return 0 or an error
 * (-ENOENT: there is no such object) and leave the words to the caller.
 */
#ifndef BACKUP_STORE_H
#define BACKUP_STORE_H

#include "vdisk/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VB_ID_BYTES        32u
#define VB_NAME_TEXT_BYTES (2 * VB_ID_BYTES + 1)

/* An id, or the name of an object. */
struct vb_id {
    uint8_t b[VB_ID_BYTES];
};

enum vb_place {
    VB_CONFIG, /* one object, whatever its name */
    VB_KEYS,
    VB_WRITERS,
    VB_PACKS,
    VB_INDEX_DATA,
    VB_INDEX_TREE,
    VB_BACKUPS,
    VB_LEASES,
    VB_PLACES
};

struct vb_store;

/* Returns false to stop. */
typedef bool vb_store_each(void *opaque, const struct vb_id *name, uint64_t bytes);

struct vb_store_ops {
    /* What is there, in no order; with `trash` what was taken away from the place. */
    int (*list)(struct vb_store *store, enum vb_place place, bool trash, vb_store_each *each,
                void *opaque);
    int (*length)(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                  uint64_t *bytes);
    /* Exactly so many bytes; -ENODATA where the object ends before. A pack or index object that is
     * in the trash is read from there. */
    int (*get)(struct vb_store *store, enum vb_place place, const struct vb_id *name,
               uint64_t offset, void *data, size_t bytes);
    /* A whole object, which must not count before the next sync(): until then it may be invisible,
     * afterwards it is there and durable. One that is there already stays as it is. */
    int (*put)(struct vb_store *store, enum vb_place place, const struct vb_id *name,
               const void *data, size_t bytes);
    /* All puts and moves that have returned before are durable. */
    int (*sync)(struct vb_store *store);
    /* A lease: there at once, in the place of an older one. */
    int (*replace)(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                   const void *data, size_t bytes);
    /* Into the trash, and back. */
    int (*trash)(struct vb_store *store, enum vb_place place, const struct vb_id *name);
    int (*untrash)(struct vb_store *store, enum vb_place place, const struct vb_id *name);
    /* For ever; with `trash` from there. */
    int (*remove)(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                  bool trash);
    /* Seconds since 1970 when it was put, or put into the trash. */
    int (*when)(struct vb_store *store, enum vb_place place, const struct vb_id *name, bool trash,
                int64_t *seconds);
    /* What was begun before then, in seconds since 1970, and never got its name, goes. */
    int (*tidy)(struct vb_store *store, int64_t before);
    void (*close)(struct vb_store *store);
};

/* Embedded in each kind of store. */
struct vb_store {
    const struct vb_store_ops *ops;
};

/* The words for a place: "packs". */
const char *vb_place_name(enum vb_place place);

/* 64 hexadecimal digits and a NUL. Returns `text`. */
char *vb_id_text(char text[static VB_NAME_TEXT_BYTES], const struct vb_id *id);
/* False for anything else than 64 lower-case digits. */
bool vb_id_parse(const char *text, struct vb_id *id);
bool vb_id_equal(const struct vb_id *a, const struct vb_id *b);
bool vb_id_is_zero(const struct vb_id *id);
int vb_id_compare(const void *a, const void *b); /* for qsort */

/*
 * A directory. `make` makes it and its folders, where it must be empty or absent: VDISK_E_EXISTS;
 * without, -ENOENT where there is no config. The path is copied.
 */
int vb_store_dir_open(const char *path, bool make, struct vb_store **out,
                      struct vdisk_error *error);
/* Removes one that was made in vain. */
void vb_store_dir_discard(const char *path);

#endif
