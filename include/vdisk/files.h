/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of an image (SPEC.md 2), for who writes a backend of io.h: names, lock, parts, and
 * what is still to be synced. Nothing here transfers data. One thread uses it at a time.
 */
#ifndef VDISK_FILES_H
#define VDISK_FILES_H

#include "vdisk/io.h"

struct vdisk_files;

/* As much of a range as lies in one file. */
struct vdisk_piece {
    int fd;          /* -1: no such file; it reads as zeros */
    uint64_t offset; /* in the file, bytes */
    uint64_t length; /* bytes */
};

/* As vdisk_io_plain_open (io.h), without an io. */
int vdisk_files_open(const char *path, int flags, struct vdisk_files **out,
                     struct vdisk_error *error);
void vdisk_files_close(struct vdisk_files *files);
/* As vdisk_io_ops.set_split. */
int vdisk_files_set_split(struct vdisk_files *files, uint64_t split_bytes, uint32_t part_set);

/* The beginning of a range. For a change a file is made where there is none, and counts as changed.
 * May open or make a file. -EFBIG past the last part there can be, -EROFS, -errno. */
int vdisk_files_piece(struct vdisk_files *files, uint64_t offset, uint64_t length, bool change,
                      struct vdisk_piece *piece);
/* How much of a range, from its beginning, lies before the end of the last file's part: there is
 * nothing to punch after it. */
uint64_t vdisk_files_span(const struct vdisk_files *files, uint64_t offset, uint64_t length);
/* Length of the image in bytes: 0 or -errno. */
int vdisk_files_size(struct vdisk_files *files, uint64_t *bytes);
/* Cuts or extends; a block device must be long enough. 0, -errno. */
int vdisk_files_truncate(struct vdisk_files *files, uint64_t length);
/* With VDISK_OPEN_DIRECT: writes part 0 through the page cache; -1 where there is none. */
int vdisk_files_cached(const struct vdisk_files *files);
bool vdisk_files_read_only(const struct vdisk_files *files);

/* For a sync: the file of the first changed part from *part on, from then on not changed; *part is
 * set behind it. -1: none is left. */
int vdisk_files_take_changed(struct vdisk_files *files, unsigned *part);
/* Makes new and removed names durable, after the files are. 0 or -errno. */
int vdisk_files_sync_names(struct vdisk_files *files);
/* Removes every part that was made by this (after a failed create). */
void vdisk_files_remove(struct vdisk_files *files);

#endif
