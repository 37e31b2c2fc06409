/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The files of an ext2, ext3 or ext4 file system on a drive, for reading, by libext2fs.
 *
 * A journal that was not empty is taken into account as a mount would, in memory; nothing is ever
 * written. Encrypted files and folders (fscrypt) stay closed: -ENOKEY.
 *
 * A file system is used by one thread at a time; libext2fs allows several of them in several
 * threads. Errors are -errno, or VDISK_E_*: VDISK_E_MALFORMED for structures that break their
 * bounds or checksums, and those of the drive.
 */
#ifndef FUSE_EXT_FILES_H
#define FUSE_EXT_FILES_H

#include "drive.h"

#include "vdisk/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#define EXT_FILES_ROOT     2u /* the inode */
#define EXT_FILES_NAME_MAX 255u
#define EXT_FILES_PATH_MAX 4096u
#define EXT_FILES_LINKS    40u /* symbolic links on one path */

struct ext_files;

/* How it was found; the journal's part is of interest to who must be told. */
struct ext_files_info {
    const char *kind; /* "ext2", "ext3" or "ext4", by its features */
    uint32_t block_bytes;
    bool has_journal;
    uint32_t replayed;     /* transactions */
    bool journal_is_cut;   /* it ended with one that is damaged: left out */
    bool has_fast_commits; /* later than the last transaction: left out */
};

/* The drive stays the caller's and must outlive it. Errors: also VDISK_E_UNSUPPORTED (features),
 * and VDISK_E_NOT_FOUND: there is no such file system. */
int ext_files_open(struct drive *drive, struct ext_files **out, struct vdisk_error *error);
/* NULL is allowed. */
void ext_files_close(struct ext_files *files);
void ext_files_get_info(const struct ext_files *files, struct ext_files_info *info);

/* The inode's number, mode, links, owner, sizes, times and device; st_blksize is the block size. */
int ext_files_stat(struct ext_files *files, uint32_t inode, struct stat *out);

/* The inode of a name within a folder; -ENOENT, -ENOTDIR. */
int ext_files_lookup(struct ext_files *files, uint32_t folder, const char *name, uint32_t *inode);

/* The inode of a path, from the root on, with or without a leading '/'. Symbolic links are followed
 * within the file system; that at the end only with `follow`. -ENOENT, -ENOTDIR, -ELOOP,
 * -ENAMETOOLONG. */
int ext_files_walk(struct ext_files *files, const char *path, bool follow, uint32_t *inode);

/* Names are as they are: any bytes but '/' and NUL, 1 to 255 of them; "." and ".." come too. `type`
 * is a DT_ number, DT_UNKNOWN where the folder does not tell. False ends it. */
typedef bool ext_files_entry(void *opaque, const char *name, uint32_t inode, unsigned char type);
int ext_files_list(struct ext_files *files, uint32_t folder, ext_files_entry *each, void *opaque);

/* Reads up to `length` bytes of a regular file, less only at its end. Returns how many, or an
 * error. */
int64_t ext_files_read(struct ext_files *files, uint32_t inode, uint64_t offset, void *data,
                       uint64_t length);

/*
 * Where the data of a range is, for who reads it beside other threads: `count` pieces of the drive
 * (of at most so many), one behind the other, and how much of the range they are. That is 0 at the
 * end of the file, and -EOPNOTSUPP where ext_files_read() must do it: the data is not on the drive
 * as it is in the file.
 */
#define EXT_PIECE_ZEROS UINT64_MAX /* as an offset: nothing to read */
struct ext_piece {
    uint64_t offset, length; /* bytes; within the drive */
};
int64_t ext_files_plan(struct ext_files *files, uint32_t inode, uint64_t offset, uint64_t length,
                       struct ext_piece *pieces, unsigned *count);

/* How far, from `offset` on, the file goes on being a hole, or not; at most up to its end. Blocks
 * that are allocated and were never written count as a hole. */
int ext_files_range(struct ext_files *files, uint32_t inode, uint64_t offset, uint64_t *length,
                    bool *is_hole);

/* The target of a symbolic link, with a NUL. */
int ext_files_readlink(struct ext_files *files, uint32_t inode, char target[EXT_FILES_PATH_MAX]);

#endif
