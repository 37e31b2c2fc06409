/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of what keeps a repository in order: drives, their backups and the states they must
 * restore to, pruned, collected and copied.
 */
#ifndef BACKUP_CARE_KIT_H
#define BACKUP_CARE_KIT_H

#include "backup_kit.h"
#include "gc.h"

#define CARE_DRIVES  2u
#define CARE_BACKUPS 32u
#define CARE_HOUR    3600
#define CARE_MIB     (UINT64_C(1) << 20)

struct care_backup {
    struct vb_id name;
    struct kit_drive *state;
    bool is_pruned;
};

struct care {
    struct sim_rng rng;
    struct kit_store *kit;
    struct kit_drive *drive[CARE_DRIVES];
    struct care_backup backup[CARE_BACKUPS];
    unsigned count;
};

void care_begin(struct care *care, uint64_t seed, uint64_t drive_bytes);
void care_end(struct care *care);
/* The result of vb_create(); one that succeeds must restore from now on. */
int care_back_up(struct care *care, unsigned drive, const struct vdisk_key *key, bool whole);
/* By the maintainer; the result of vb_prune(). A failed one may have pruned or not: see
 * care_sort(). */
int care_prune(struct care *care, unsigned which);
int care_collect(struct care *care, uint64_t grace, struct vb_gc_result *result);
/* Every backup that is not pruned restores, and verify finds nothing. Of pruned ones, which are
 * there or not, none gives wrong bytes. `kit` may be another repository. */
void care_check(struct care *care, struct kit_store *kit);
/* After a crash in a prune: what is not there any more counts as pruned, if it may. */
void care_sort(struct care *care, unsigned may_be_pruned);

#endif
