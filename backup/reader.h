/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One backup as a drive that can be read anywhere, by any thread: what an image is filled from
 * (vdisk_source), and what a mount shows.
 *
 * Whole chunks are fetched and verified, and the last ones kept, so that small reads in one of them
 * cost it once; who reads in order finds the next one fetched already.
 */
#ifndef BACKUP_READER_H
#define BACKUP_READER_H

#include "manifest.h"

/* Embedded source: for vdisk_create, vdisk_open, and for calls by any thread. */
struct vb_source {
    struct vdisk_source source;
    struct vb_manifest manifest;
};

struct vb_source_options {
    const char *path;            /* of the repository */
    const char *backup;          /* as vb_backups_pick() takes it */
    const char *drive;           /* likewise; NULL: any */
    const struct vdisk_key *key; /* of role read */
    unsigned cached_chunks;      /* of 1 MiB; 0: 16 */
};

/*
 * Opens repository and backup; nothing of it is written, and after it only packs are read. Errors
 * of vb_repo_open(), vb_backups_pick(); VDISK_E_WRONG_KEY: a role that cannot read data.
 */
int vb_source_open(const struct vb_source_options *options, struct vb_source **out,
                   struct vdisk_error *error);
/* No call is under way. Wipes what it knows. NULL is allowed. */
void vb_source_close(struct vb_source *source);

/*
 * The name of a source, "REPO::NAME" with the absolute path and the whole name: free() it. NULL
 * without memory. And back: the text's repository (free() it) and what follows the last "::" of it;
 * false where there is none.
 */
char *vb_source_name(const char *repo, const struct vb_id *backup);
bool vb_source_split(const char *text, char **repo, const char **backup);

#endif
