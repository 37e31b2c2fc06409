/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file systems of a mount, for `files/`: opened when they are first asked for, and again after
 * they were closed because too many are open.
 *
 * An inode of a file is, from the top: a bit that is always set, the number of its file system in
 * the order in which they were found, and 32 bits of its inode in there.
 *
 * Used by any thread. A file system has a lock, which is held from contents_enter() to
 * contents_leave() and is enough for all but data, which should be read without it.
 */
#ifndef FUSE_CONTENTS_H
#define FUSE_CONTENTS_H

#include "ext_files.h"
#include "tree.h"

struct contents;
struct contents_fs;

/* NULL without memory. */
struct contents *contents_new(struct backing *backing);
void contents_free(struct contents *contents); /* NULL is allowed */

static inline bool contents_has(uint64_t inode)
{
    return inode >> 63;
}

/* The root folder of the file system that is on a view, which is `name` for messages. -ENOENT:
 * there is none, or it cannot be read; -EMEDIUMTYPE: it is of a kind that is not read here;
 * -ENOMEM. */
int contents_root(struct contents *contents, struct access *access, const struct tree_view *view,
                  const char *name, uint64_t *inode);

/* Where an inode is. After success contents_leave() is due. */
struct contents_at {
    struct contents_fs *fs;
    struct ext_files *files;
    uint32_t inode;
    struct tree_view view; /* what the file system is on */
    const char *name;
};
int contents_enter(struct contents *contents, struct access *access, uint64_t inode,
                   struct contents_at *at);
void contents_leave(struct contents_at *at);

/* The inode, in the mount, of another one of that file system. */
uint64_t contents_inode(const struct contents_at *at, uint32_t inode);

#endif
