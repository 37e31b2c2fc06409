/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copying files out of a file system on a drive: their content with its holes, permissions, and the
 * time of their last change. Owners are not kept, nor are set-user-id and set-group-id bits, which
 * would mean somebody else here; devices, pipes and sockets are left out and counted.
 *
 * What is copied was made by a guest. Nothing is ever written through a name that was there before:
 * every file, folder and link is new, within a folder that this made.
 */
#ifndef TOOLS_COPYFILES_H
#define TOOLS_COPYFILES_H

#include "lookin.h"
#include "progress.h"

struct copyfiles {
    struct lookin *in;
    bool quiet;
    uint64_t left_out; /* devices, pipes, sockets */
    /* Its own: */
    bool is_full; /* the disk that is copied to: there is no use in going on */
    struct progress progress;
    uint8_t *piece;
    void *seen; /* folders, as a tree of inode numbers */
};

/* All return an exit status, having reported. copyfiles_end() is due after copyfiles_begin(). */
int copyfiles_begin(struct copyfiles *copy, struct lookin *in, bool quiet);
void copyfiles_end(struct copyfiles *copy);

/* A regular file to standard output. */
int copyfiles_to_stdout(struct copyfiles *copy, uint32_t inode);
/* A regular file to a new one; `may_replace`: also in place of an old one. */
int copyfiles_to_file(struct copyfiles *copy, uint32_t inode, const char *path, bool may_replace);
/* A folder and all in it to a new one. What cannot be read is reported and left out, and makes it
 * fail in the end. */
int copyfiles_to_folder(struct copyfiles *copy, uint32_t inode, const char *path);

#endif
