/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Manifests and prune records (SPEC.md B10): codecs, and the list of backups.
 */
#ifndef BACKUP_MANIFEST_H
#define BACKUP_MANIFEST_H

#include "node.h"

#define VB_TEXT_MAX          255u
#define VB_TAG_TEXT_MAX      63u
#define VB_TAGS_MAX          16u
#define VB_DRIVE_ID_BYTES    16u
#define VB_MANIFEST_MAX      65536u
#define VB_PRUNE_ENTRIES_MAX 4096u
#define VB_CLUSTER_MAX       (1u << 20)
#define VB_CODEC_LEVEL_MIN   (-7)
#define VB_CODEC_LEVEL_MAX   19

enum vb_consistency {
    VB_CONSISTENT_CRASH = 1,
    VB_CONSISTENT_FILES = 2,
    VB_CONSISTENT_APPLICATION = 3,
};

enum vb_source_kind {
    VB_FROM_IMAGE = 1,
    VB_FROM_RAW = 2,
    VB_FROM_NBD = 3,
};

struct vb_manifest {
    uint8_t drive[VB_DRIVE_ID_BYTES];
    uint64_t sequence;
    uint64_t size;            /* bytes */
    int64_t created;          /* nanoseconds since 1970 */
    uint64_t immutable_until; /* seconds since 1970; 0 */
    struct vb_id previous;
    struct vb_id root; /* zero: the drive is all zeros */
    uint8_t level;
    uint8_t consistency, source; /* enums above */
    bool compress;               /* of the image, as are the next two */
    int8_t compress_level;
    uint32_t cluster_bytes;
    uint64_t snapshot_id;
    uint8_t snapshot_tag[VDISK_TAG_BYTES];
    uint64_t bytes_read, bytes_stored, bytes_data;
    char drive_name[VB_TEXT_MAX + 1];
    char host[VB_TEXT_MAX + 1];
    char snapshot_name[VB_TEXT_MAX + 1];
    unsigned tag_count;
    char tag[VB_TAGS_MAX][VB_TAG_TEXT_MAX + 1];
};

/* Copies the text, if it has room and may stand in a manifest: UTF-8 without control characters. */
bool vb_text_set(char *to, size_t room, const char *text);

/* Returns the length of the payload. */
size_t vb_manifest_encode(const struct vb_manifest *manifest,
                          uint8_t bytes[static VB_MANIFEST_MAX]);
/* VDISK_E_MALFORMED. */
int vb_manifest_decode(struct vb_manifest *manifest, const uint8_t *bytes, size_t length);

struct vb_pruned {
    struct vb_id name;
    uint8_t drive[VB_DRIVE_ID_BYTES];
    uint64_t sequence;
    char reason[VB_TEXT_MAX + 1];
};
struct vb_prune {
    uint64_t when; /* seconds since 1970 */
    uint32_t count;
    struct vb_pruned *removed;
};
/* free() *bytes; -ENOMEM. */
int vb_prune_encode(const struct vb_prune *prune, uint8_t **bytes, size_t *length);
/* free() prune->removed. VDISK_E_MALFORMED, -ENOMEM. */
int vb_prune_decode(struct vb_prune *prune, const uint8_t *bytes, size_t length);

/* --- the backups that are there ------------------------------------------------------------ */

struct vb_backup {
    struct vb_id name, signer;
    struct vb_manifest manifest;
};

/* An object in backups/ that does not count, and why. */
struct vb_bad_backup {
    struct vb_id name;
    int result;
    char reason[160];
};

struct vb_backups {
    struct vb_backup *backup; /* by drive, then sequence, then name */
    size_t count;
    struct vb_pruned *pruned; /* by name */
    size_t pruned_count;
    struct vb_bad_backup *bad;
    size_t bad_count;
};

/* Reads and verifies all. 0, -ENOMEM, -errno of the listing. */
int vb_backups_load(struct vb_repo *repo, struct vb_backups *backups, struct vdisk_error *error);
/* What was loaded as it is now: reads what has come since, and forgets what has gone; on failure
 * all. The same errors. */
int vb_backups_refresh(struct vb_repo *repo, struct vb_backups *backups, struct vdisk_error *error);
void vb_backups_release(struct vb_backups *backups);

/* The newest of a drive, NULL: none. */
const struct vb_backup *vb_backups_newest(const struct vb_backups *backups,
                                          const uint8_t drive[static VB_DRIVE_ID_BYTES]);
/* The drive is given; fills in sequence and previous of its next backup. */
void vb_backups_continue(const struct vb_backups *backups, struct vb_manifest *manifest);
const struct vb_backup *vb_backups_find(const struct vb_backups *backups, const struct vb_id *name);
bool vb_backups_is_pruned(const struct vb_backups *backups, const struct vb_id *name);
/* Names that a manifest has as its previous one, and which are neither there nor pruned: calls
 * missing() for each. */
void vb_backups_gaps(const struct vb_backups *backups,
                     void (*missing)(void *opaque, const struct vb_backup *after), void *opaque);

/* Whether it is of that drive: NULL (any), its name, or digits of its id. */
bool vb_backup_is_of(const struct vb_backup *backup, const char *drive);
/*
 * What a person calls a backup: `latest`, or at least 4 digits of its name; `drive` (NULL: any) is
 * a drive's name, or digits of its id. VDISK_E_NOT_FOUND, -EINVAL (several), with error.
 */
int vb_backups_pick(const struct vb_backups *backups, const char *text, const char *drive,
                    const struct vb_backup **out, struct vdisk_error *error);

/* Seals, signs and puts one; sync() is the caller's. */
int vb_manifest_put(struct vb_repo *repo, const struct vb_manifest *manifest, struct vb_id *name);
int vb_prune_put(struct vb_repo *repo, const struct vb_prune *prune, struct vb_id *name);

#endif
