/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of backups: a repository in memory, whose store crashes and fails on demand; drives in
 * memory that know what has changed; and restores that compare.
 */
#ifndef BACKUP_KIT_H
#define BACKUP_KIT_H

#include "backup_create.h"
#include "backup_restore.h"
#include "backup_verify.h"
#include "sim_random.h"

/* --- the store ---------------------------------------------------------------------------- */

struct kit_object {
    enum vb_place place;
    struct vb_id name;
    uint8_t *bytes;
    size_t length;
    bool is_pending; /* put, not synced */
    bool in_trash, is_gone;
    bool is_moved;  /* since the last sync: a crash may undo it */
    bool was_trash; /* before that */
    int64_t when;   /* when it was put, or into the trash */
};

struct kit_store {
    struct kit_object *object;
    size_t count, room;
    uint64_t operations; /* that change something, since it was made */
    uint64_t fail_at;    /* from this one on nothing works any more; 0: all do */
    bool fail_once;      /* only that one fails */
    int fail_with;
    uint64_t get_bytes, gets;
    int64_t now; /* its clock, in seconds; each change takes one */
    /* Called before each change, without the mutex; not from within itself. */
    void (*step)(void *opaque);
    void *step_opaque;
    bool in_step;
    struct sim_rng rng;
    void *mutex;
};

struct kit_store *kit_store_new(uint64_t seed);
void kit_store_free(struct kit_store *kit);
/* A copy of all that is durable. */
struct kit_store *kit_store_copy(const struct kit_store *kit);
/* For vb_repo_open(): its close() leaves the objects. */
struct vb_store *kit_store_handle(struct kit_store *kit);
/* The machine went down: what was not synced is lost, or there, each by chance. */
void kit_store_crash(struct kit_store *kit);
struct kit_object *kit_store_find(struct kit_store *kit, enum vb_place place, unsigned which);
unsigned kit_store_count(const struct kit_store *kit, enum vb_place place);

/* --- keys and repositories -------------------------------------------------------------------- */

extern const struct vdisk_key kit_read_key, kit_put_key, kit_other_put_key, kit_maintain_key;

/* A repository with a key of each role. */
struct kit_store *kit_repo_make(uint64_t seed);
struct vb_repo *kit_repo_open(struct kit_store *kit, const struct vdisk_key *key);

/* --- drives ------------------------------------------------------------------------------- */

struct kit_drive {
    struct vb_drive drive;
    uint8_t id[VB_DRIVE_ID_BYTES];
    uint8_t **chunk; /* NULL: zeros */
    size_t chunks;
    bool blind;     /* it tells no zeros from data */
    uint8_t *dirty; /* a byte for each block: changed since the base */
    struct vb_backup base;
    uint64_t read_bytes;
    bool fails; /* every read */
};

struct kit_drive *kit_drive_new(uint64_t size, struct sim_rng *rng);
void kit_drive_free(struct kit_drive *drive);
struct kit_drive *kit_drive_copy(const struct kit_drive *drive);
/* data NULL: zeros. */
void kit_drive_write(struct kit_drive *drive, uint64_t offset, const void *data, size_t length);
void kit_drive_resize(struct kit_drive *drive, uint64_t size);
/* Writes of all sizes, of noise, text, copies and zeros. */
void kit_drive_scribble(struct kit_drive *drive, struct sim_rng *rng, unsigned writes);

/* Backs it up; `whole`: without a base. Returns vb_create()'s result; the backup's name in *result.
 * The base is then this one. */
int kit_backup(struct vb_repo *repo, struct kit_drive *drive, bool whole,
               struct vb_create_result *result, struct vdisk_error *error);
/* Restores: 0 when every byte is that of `drive`; an error; never wrong bytes (asserts). */
int kit_restore(struct vb_repo *repo, const struct vb_id *name, const struct kit_drive *drive,
                struct vdisk_error *error);
/* Finds damage? Findings and verdicts are counted. */
#define KIT_GOOD_MAX 16u
struct kit_verdict {
    unsigned findings, good, bad;
    char first[512];
    char all[8192];                       /* a line for each finding */
    struct vb_id good_name[KIT_GOOD_MAX]; /* of those that restore, the first ones */
};
int kit_verify(struct vb_repo *repo, bool data, struct kit_verdict *verdict);

#endif
