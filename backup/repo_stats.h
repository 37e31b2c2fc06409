/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Figures of a repository: what its backups hold, what they share, what that takes on disk.
 *
 * Memory: as marking (mark.h), and four bytes for each record.
 */
#ifndef BACKUP_REPO_STATS_H
#define BACKUP_REPO_STATS_H

#include "manifest.h"

/* Of one backup; bytes of sealed records. */
struct vb_backup_stats {
    uint64_t stored; /* all that it needs */
    uint64_t unique; /* what nothing else needs: that much its removal frees */
};

struct vb_stats {
    struct vb_backup_stats *backup; /* as in the list of backups */
    uint64_t backups, drives;
    uint64_t size_bytes;   /* of all backups' drives together */
    uint64_t data_bytes;   /* in chunks that are not all zeros, of all backups together */
    uint64_t unique_bytes; /* of plaintext that is stored, each record once */
    uint64_t stored_bytes; /* of these records, sealed */
    uint64_t node_bytes;   /* of these, nodes */
    uint64_t pack_bytes;   /* on disk: with what is not needed any more */
    uint64_t trash_bytes;
    uint64_t packs, records, index_objects, prune_records;
};

/* free() stats->backup. A key of any role. VDISK_E_DAMAGED where something is missing, -ENOMEM,
 * -errno. `go_on` NULL: always; false cancels. */
int vb_stats_load(struct vb_repo *repo, const struct vb_backups *backups,
                  bool (*go_on)(void *opaque), void *opaque, struct vb_stats *stats,
                  struct vdisk_error *error);

#endif
