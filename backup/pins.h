/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this host has seen of repositories (SPEC.md B15): which one is at a place, and the newest
 * backup of each drive, so that an older state or another repository is noticed.
 *
 * A small text file for each place, in a directory of its own; the latter is made.
 */
#ifndef BACKUP_PINS_H
#define BACKUP_PINS_H

#include "manifest.h"

struct vb_pin {
    uint8_t drive[VB_DRIVE_ID_BYTES];
    uint64_t sequence;
    struct vb_id name;
};

struct vb_pins {
    char *path; /* of the file; NULL: nothing can be remembered */
    bool known; /* this place was seen before */
    uint8_t repo_id[VB_REPO_ID_BYTES];
    struct vb_id root_public;
    struct vb_pin *pin;
    size_t count;
};

/* `directory` NULL: $XDG_STATE_HOME/vdisk, or ~/.local/state/vdisk. `place` is the repository's
 * path. A file that cannot be read, or is not right, is an error. */
int vb_pins_load(const char *directory, const char *place, struct vb_pins *pins,
                 struct vdisk_error *error);
void vb_pins_release(struct vb_pins *pins);
/* 0, or VDISK_E_NOT_AUTHENTIC: another repository than the one that was here. */
int vb_pins_check_repo(const struct vb_pins *pins, const struct vb_repo *repo,
                       struct vdisk_error *error);
/* 0, or VDISK_E_NOT_AUTHENTIC: a backup that was seen is gone, and no record says that it was
 * removed. */
int vb_pins_check_backups(const struct vb_pins *pins, const struct vb_backups *backups,
                          struct vdisk_error *error);
/* Remembers what is there now; a file that cannot be written is an error. */
int vb_pins_save(struct vb_pins *pins, const struct vb_repo *repo, const struct vb_backups *backups,
                 struct vdisk_error *error);

#endif
