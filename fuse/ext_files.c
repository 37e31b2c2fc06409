/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening a file system, its inodes, folders and paths; see ext_files.h.
 */
#include "ext_impl.h"

#include "report.h"

#include <com_err.h>
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#define SUPER_OFFSET    1024u
#define SUPER_BYTES     1024u
#define BLOCK_LOG_MAX   6u                       /* 64 KiB */
#define DESCRIPTORS_MAX (UINT64_C(128) << 20)    /* bytes: file systems of 256 TiB */
#define SIZE_OF_OLD     EXT2_GOOD_OLD_INODE_SIZE /* inodes without the newer times */

/* --- errors ------------------------------------------------------------------------------- */

void ext_begin(struct ext_files *files)
{
    files->io.budget = EXT_IO_BUDGET;
    files->io.error = 0;
}

static int code_of(errcode_t error)
{
    if (error > 0 && error < 256) /* an errno */
        return -(int)error;
    switch (error) {
    case EXT2_ET_NO_MEMORY:
        return -ENOMEM;
    case EXT2_ET_FILE_NOT_FOUND:
        return -ENOENT;
    case EXT2_ET_NO_DIRECTORY:
        return -ENOTDIR;
    case EXT2_ET_UNSUPP_FEATURE:
    case EXT2_ET_RO_UNSUPP_FEATURE:
        return VDISK_E_UNSUPPORTED;
    default:
        return VDISK_E_MALFORMED;
    }
}

int ext_code(struct ext_files *files, errcode_t error)
{
    int code = files->io.error;

    files->io.error = 0;
    if (error == 0)
        return 0;
    if (code == -EINVAL) /* past the end */
        return VDISK_E_MALFORMED;
    code = code ? code : code_of(error);
    return code < 0 ? code : VDISK_E_MALFORMED;
}

static void name_errors(void)
{
    add_error_table(&et_ext2_error_table);
}

/* --- opening ------------------------------------------------------------------------------ */

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* What libext2fs would believe, and make room for. */
static int check_geometry(struct drive *drive, struct vdisk_error *error)
{
    uint8_t super[SUPER_BYTES];
    uint64_t blocks, groups, each = 32;
    uint32_t log, of_group;
    int result;

    if (drive->size < SUPER_OFFSET + SUPER_BYTES)
        return error_set(error, VDISK_E_NOT_FOUND, "there is no ext2, ext3 or ext4 file system");
    result = drive_get(drive, SUPER_OFFSET, super, sizeof(super));
    if (result)
        return error_set(error, result, "%s", vdisk_strerror(result));
    if (super[0x38] != 0x53 || super[0x39] != 0xef)
        return error_set(error, VDISK_E_NOT_FOUND, "there is no ext2, ext3 or ext4 file system");
    blocks = get32(super + 4);
    if (get32(super + 0x60) & EXT4_FEATURE_INCOMPAT_64BIT) {
        blocks |= (uint64_t)get32(super + 0x150) << 32;
        each = (uint64_t)super[0xfe] | (uint64_t)super[0xff] << 8;
    }
    log = get32(super + 0x18);
    of_group = get32(super + 0x20);
    if (log > BLOCK_LOG_MAX || of_group == 0)
        return error_set(error, VDISK_E_MALFORMED, "the superblock of its file system is damaged");
    if (blocks > drive->size >> (10 + log))
        return error_set(error, VDISK_E_MALFORMED, "its file system is longer than what it is on");
    groups = blocks / of_group + 1;
    if (groups * each > DESCRIPTORS_MAX)
        return error_set(error, VDISK_E_LIMIT, "its file system is too large to be read here");
    return 0;
}

static int open_fs(struct ext_files *files, struct vdisk_error *error)
{
    errcode_t failure;

    ext_begin(files);
    failure = ext_io_open_fs(&files->io, &files->fs);
    if (failure) {
        int code = ext_code(files, failure);

        files->fs = NULL;
        error_set(error, code, "its file system does not open: %s",
                  code == VDISK_E_MALFORMED ? error_message(failure) : vdisk_strerror(code));
        return code;
    }
    return 0;
}

static void describe(struct ext_files *files)
{
    struct ext2_super_block *super = files->fs->super;

    files->info.block_bytes = files->fs->blocksize;
    files->info.has_journal = ext2fs_has_feature_journal(super);
    if (super->s_feature_incompat &
            ~(EXT2_FEATURE_INCOMPAT_FILETYPE | EXT3_FEATURE_INCOMPAT_RECOVER |
              EXT2_FEATURE_INCOMPAT_META_BG) ||
        super->s_feature_ro_compat &
            ~(EXT2_FEATURE_RO_COMPAT_SPARSE_SUPER | EXT2_FEATURE_RO_COMPAT_LARGE_FILE))
        files->info.kind = "ext4";
    else
        files->info.kind = files->info.has_journal ? "ext3" : "ext2";
}

static int open_all(struct ext_files *files, struct vdisk_error *error)
{
    bool changed = false;
    int result = check_geometry(files->io.drive, error);

    if (result == 0)
        result = open_fs(files, error);
    if (result)
        return result;
    if (ext2fs_has_feature_journal_needs_recovery(files->fs->super))
        result = ext_take_journal(files, &changed, error);
    if (result == 0 && changed) {
        ext2fs_free(files->fs);
        result = open_fs(files, error);
    }
    if (result == 0)
        describe(files);
    return result;
}

int ext_files_open(struct drive *drive, struct ext_files **out, struct vdisk_error *error)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    struct ext_files *files = calloc(1, sizeof(*files));
    int result;

    if (!files)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    pthread_once(&once, name_errors);
    ext_io_begin(&files->io, drive);
    result = open_all(files, error);
    if (result)
        ext_files_close(files);
    else
        *out = files;
    return result;
}

void ext_files_close(struct ext_files *files)
{
    if (!files)
        return;
    if (files->fs)
        ext2fs_free(files->fs);
    ext_io_end(&files->io);
    free(files);
}

void ext_files_get_info(const struct ext_files *files, struct ext_files_info *info)
{
    *info = files->info;
}

/* --- inodes ------------------------------------------------------------------------------- */

/* Of a folder without that feature the upper half is something else. */
static bool has_whole_size(const struct ext_files *files, const struct ext2_inode_large *inode)
{
    return !LINUX_S_ISDIR(inode->i_mode) || ext2fs_has_feature_largedir(files->fs->super);
}

int ext_inode(struct ext_files *files, uint32_t number, struct ext2_inode_large *inode)
{
    int result;

    memset(inode, 0, sizeof(*inode));
    result = ext_code(files,
                      ext2fs_read_inode_full(files->fs, number, ext_small(inode), sizeof(*inode)));
    if (result == 0 && has_whole_size(files, inode) && EXT2_I_SIZE(inode) > INT64_MAX)
        return VDISK_E_MALFORMED;
    return result;
}

/* The newer inodes have two more bits of the seconds, and nanoseconds. */
static struct timespec get_time(uint32_t seconds, uint32_t extra)
{
    struct timespec time = {
        .tv_sec = (int64_t)(int32_t)seconds + ((int64_t)(extra & 3) << 32),
        .tv_nsec = extra >> 2,
    };

    if (time.tv_nsec > 999999999)
        time.tv_nsec = 0;
    return time;
}

static dev_t get_device(const struct ext2_inode_large *inode)
{
    uint32_t old = inode->i_block[0], number = inode->i_block[1];

    if (old)
        return makedev(old >> 8 & 0xff, old & 0xff);
    return makedev(number >> 8 & 0xfff, (number & 0xff) | (number >> 12 & 0xfff00));
}

static bool has_field(const struct ext_files *files, const struct ext2_inode_large *inode,
                      size_t end)
{
    return EXT2_INODE_SIZE(files->fs->super) > SIZE_OF_OLD &&
           SIZE_OF_OLD + (size_t)inode->i_extra_isize >= end;
}

#define HAS_FIELD(files, inode, field)                                                             \
    has_field(files, inode, offsetof(struct ext2_inode_large, field) + sizeof((inode)->field))

int ext_files_stat(struct ext_files *files, uint32_t inode, struct stat *out)
{
    struct ext2_inode_large found;
    int result;

    ext_begin(files);
    result = ext_inode(files, inode, &found);
    if (result)
        return result;
    memset(out, 0, sizeof(*out));
    out->st_ino = inode;
    out->st_mode = found.i_mode;
    out->st_nlink = found.i_links_count;
    out->st_uid = inode_uid(found);
    out->st_gid = inode_gid(found);
    out->st_size = has_whole_size(files, &found) ? (off_t)EXT2_I_SIZE(&found) : found.i_size;
    out->st_blksize = files->fs->blocksize;
    out->st_blocks = (blkcnt_t)ext2fs_get_stat_i_blocks(files->fs, ext_small(&found));
    out->st_atim =
        get_time(found.i_atime, HAS_FIELD(files, &found, i_atime_extra) ? found.i_atime_extra : 0);
    out->st_mtim =
        get_time(found.i_mtime, HAS_FIELD(files, &found, i_mtime_extra) ? found.i_mtime_extra : 0);
    out->st_ctim =
        get_time(found.i_ctime, HAS_FIELD(files, &found, i_ctime_extra) ? found.i_ctime_extra : 0);
    if (LINUX_S_ISCHR(found.i_mode) || LINUX_S_ISBLK(found.i_mode))
        out->st_rdev = get_device(&found);
    return 0;
}

/* --- folders ------------------------------------------------------------------------------ */

/* A folder whose names can be read. */
static int open_folder(struct ext_files *files, uint32_t number)
{
    struct ext2_inode_large inode;
    int result;

    ext_begin(files);
    result = ext_inode(files, number, &inode);
    if (result)
        return result;
    if (!LINUX_S_ISDIR(inode.i_mode))
        return -ENOTDIR;
    return inode.i_flags & EXT4_ENCRYPT_FL ? -ENOKEY : 0;
}

int ext_files_lookup(struct ext_files *files, uint32_t folder, const char *name, uint32_t *inode)
{
    size_t length = strlen(name);
    ext2_ino_t found = 0;
    int result = open_folder(files, folder);

    if (result)
        return result;
    if (length > EXT_FILES_NAME_MAX)
        return -ENAMETOOLONG;
    result = ext_code(files, ext2fs_lookup(files->fs, folder, name, (int)length, NULL, &found));
    if (result == 0)
        *inode = found;
    return result;
}

struct listing {
    ext_files_entry *each;
    void *opaque;
};

static int take_entry(ext2_ino_t folder, int entry, struct ext2_dir_entry *dirent, int offset,
                      int block_bytes,
                      char *block, /* NOLINT(readability-non-const-parameter): libext2fs' */
                      void *opaque)
{
    static const unsigned char types[] = {DT_UNKNOWN, DT_REG,  DT_DIR,  DT_CHR,
                                          DT_BLK,     DT_FIFO, DT_SOCK, DT_LNK};
    const struct listing *listing = opaque;
    size_t length = (size_t)ext2fs_dirent_name_len(dirent);
    unsigned type = (unsigned)ext2fs_dirent_file_type(dirent);
    char name[EXT_FILES_NAME_MAX + 1];

    (void)folder, (void)entry, (void)offset, (void)block_bytes, (void)block;
    /* A name that no path can have. */
    if (length == 0 || length > EXT_FILES_NAME_MAX || memchr(dirent->name, '/', length) ||
        memchr(dirent->name, '\0', length))
        return 0;
    memcpy(name, dirent->name, length);
    name[length] = '\0';
    type = type < sizeof(types) ? types[type] : DT_UNKNOWN;
    return listing->each(listing->opaque, name, dirent->inode, (unsigned char)type) ? 0
                                                                                    : DIRENT_ABORT;
}

int ext_files_list(struct ext_files *files, uint32_t folder, ext_files_entry *each, void *opaque)
{
    struct listing listing = {.each = each, .opaque = opaque};
    int result = open_folder(files, folder);

    if (result)
        return result;
    return ext_code(files, ext2fs_dir_iterate2(files->fs, folder, 0, NULL, take_entry, &listing));
}

/* --- paths -------------------------------------------------------------------------------- */

struct path {
    char text[EXT_FILES_PATH_MAX]; /* what is left of it */
    uint32_t at;
    unsigned links;
};

/* Takes the first name off. False at the end. */
static bool next_name(struct path *path, char name[EXT_FILES_PATH_MAX], bool *is_last)
{
    const char *from = path->text + strspn(path->text, "/");
    size_t length = strcspn(from, "/");

    memcpy(name, from, length);
    name[length] = '\0';
    *is_last = from[length] == '\0';
    memmove(path->text, from + length, strlen(from + length) + 1);
    return length > 0;
}

/* Goes on with the target in place of the link. */
static int follow_link(struct ext_files *files, struct path *path, uint32_t link, uint32_t folder)
{
    char target[EXT_FILES_PATH_MAX];
    size_t length, rest = strlen(path->text);
    int result;

    if (++path->links > EXT_FILES_LINKS)
        return -ELOOP;
    result = ext_files_readlink(files, link, target);
    if (result)
        return result;
    length = strlen(target);
    if (length + rest >= sizeof(path->text))
        return -ENAMETOOLONG;
    memmove(path->text + length, path->text, rest + 1);
    memcpy(path->text, target, length);
    path->at = target[0] == '/' ? EXT_FILES_ROOT : folder;
    return 0;
}

int ext_files_walk(struct ext_files *files, const char *path, bool follow, uint32_t *inode)
{
    struct path rest = {.at = EXT_FILES_ROOT};
    char name[EXT_FILES_PATH_MAX];
    bool is_last;

    if (strlen(path) >= sizeof(rest.text))
        return -ENAMETOOLONG;
    memcpy(rest.text, path, strlen(path) + 1);
    while (next_name(&rest, name, &is_last)) {
        uint32_t found;
        struct stat status;
        int result = ext_files_lookup(files, rest.at, name, &found);

        if (result == 0)
            result = ext_files_stat(files, found, &status);
        if (result)
            return result;
        if (!S_ISLNK(status.st_mode) || (is_last && !follow)) {
            if (!is_last && !S_ISDIR(status.st_mode)) /* a file with a '/' behind it */
                return -ENOTDIR;
            rest.at = found;
            continue;
        }
        result = follow_link(files, &rest, found, rest.at);
        if (result)
            return result;
    }
    *inode = rest.at;
    return 0;
}
