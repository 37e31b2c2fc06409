/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file that is there whole or not at all: written under another name, renamed when durable.
 */
#ifndef TOOLS_OUTFILE_H
#define TOOLS_OUTFILE_H

#include "vdisk/error.h"

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

struct outfile {
    const char *final_path;
    bool may_replace;
    bool has_directory;
    char path[PATH_MAX];      /* where it is now */
    char directory[PATH_MAX]; /* of its own, if it has one */
    int fd;                   /* for writing */
};

/*
 * Makes DEST.part (mode 0600), which must not exist; nor may DEST, without may_replace. With
 * `own_directory` DEST.part is a directory and the file in it has its final name, for formats that
 * keep the name in the content. Then outfile_finish() or outfile_discard().
 */
int outfile_open(struct outfile *file, const char *path, bool may_replace, bool own_directory,
                 struct vdisk_error *error);

/* Makes it durable and gives it its name; what fails is removed. */
int outfile_finish(struct outfile *file, struct vdisk_error *error);

void outfile_discard(struct outfile *file);

#endif
