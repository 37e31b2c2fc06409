/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a mount shows:
 *
 *     info.json
 *     disk
 *     partitions/1 ...
 *     snapshots/NAME/disk
 *     snapshots/NAME/partitions/1 ...
 *
 * and, if files are shown, files/1 ... (or files/disk, without a table of partitions) and the same
 * of snapshots: the root folders of file systems (contents.h). Of state 0, and where there is a
 * state to throw away, a file system of another kind has an empty folder, for the kernel's mount.
 *
 * Inode numbers are made of what they stand for and never change. Every drive and partition is a
 * view: a range of a state of the backing. Tables of partitions are read when they are first asked
 * for; that of a drive which may be written again when something has been written to it.
 *
 * Used by any thread, each with its own access.
 */
#ifndef FUSE_TREE_H
#define FUSE_TREE_H

#include "backing.h"
#include "mountpoint.h"

#include <stdatomic.h>
#include <sys/stat.h>

#define TREE_ROOT       UINT64_C(1)
#define TREE_INFO       UINT64_C(2)
#define TREE_SNAPSHOTS  UINT64_C(3)
#define TREE_SERVER     UINT64_C(4) /* not listed: a link to the number of the process that serves */
#define TREE_SCRATCH    ".scratch"  /* not listed: the state that is thrown away, if there is one */
#define TREE_BLOCK      (1u << 20)  /* what a program should read at a time */
#define TREE_NAME_BYTES (VDISK_NAME_MAX + 1)

struct contents;
struct tree;

/* A range of a state. */
struct tree_view {
    unsigned state;
    uint64_t offset, length; /* bytes */
    bool writable;
};

/* The backing, and the contents, must outlive it; `contents` NULL: no files are shown. NULL without
 * memory. */
struct tree *tree_new(struct backing *backing, struct contents *contents);
void tree_free(struct tree *tree);

/* The inode of a name in a folder. -ENOENT, -ENOTDIR, -ENOMEM. */
int tree_lookup(struct tree *tree, struct access *access, uint64_t folder, const char *name,
                uint64_t *inode);
/* The folder's name of that number, counted from 0, and its inode; -ENOENT behind the last one. */
int tree_list(struct tree *tree, struct access *access, uint64_t folder, uint64_t number,
              char name[TREE_NAME_BYTES], uint64_t *inode);
bool tree_is_folder(const struct tree *tree, uint64_t inode);
/* -ENOENT. */
int tree_attributes(struct tree *tree, struct access *access, uint64_t inode, struct stat *out);
/* -ENOENT: the partition is no more; -EISDIR: it is no drive or partition. */
int tree_view(struct tree *tree, struct access *access, uint64_t inode, struct tree_view *out);
/* Its path from the mount's root, for messages. */
void tree_path(const struct tree *tree, uint64_t inode, char *text, size_t bytes);
/* State 0 has been written to. */
void tree_changed(struct tree *tree);

#endif
