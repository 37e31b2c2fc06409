/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copying files and folders out; see copyfiles.h.
 */
#include "copyfiles.h"

#include "ext_listing.h"
#include "interrupt.h"
#include "outfile.h"
#include "report.h"
#include "sink.h"

#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE_BYTES (UINT64_C(1) << 20)
#define DEPTH_MAX   500u /* folders within each other; each has a descriptor */

/* A folder that is being filled. */
struct folder {
    int fd;
    unsigned depth;
    const char *path; /* for messages */
};

int copyfiles_begin(struct copyfiles *copy, struct lookin *in, bool quiet)
{
    *copy = (struct copyfiles){.in = in, .quiet = quiet};
    copy->piece = malloc(PIECE_BYTES);
    if (!copy->piece)
        return report(in->operand, -ENOMEM, NULL);
    interrupt_catch();
    return STATUS_DONE;
}

void copyfiles_end(struct copyfiles *copy)
{
    progress_clear(&copy->progress);
    tdestroy(copy->seen, free);
    free(copy->piece);
    *copy = (struct copyfiles){.in = NULL};
}

/* A line on standard error, clear of the bar. */
static int fail(struct copyfiles *copy, const char *path, int code)
{
    progress_clear(&copy->progress);
    return code == -ECANCELED ? report(path, code, NULL) : lookin_fail(copy->in, path, code);
}

static int fail_here(struct copyfiles *copy, const char *path, int code,
                     const struct vdisk_error *error)
{
    progress_clear(&copy->progress);
    copy->is_full = copy->is_full || code == -ENOSPC || code == -EDQUOT;
    return report(path, code, error);
}

/* --- content ------------------------------------------------------------------------------ */

/* *theirs: it is the drive's error, not one of the sink. */
static int copy_data(struct copyfiles *copy, uint32_t inode, uint64_t offset, uint64_t length,
                     struct sink *sink, bool *theirs)
{
    struct ext_files *files = copy->in->found.files;

    while (length > 0) {
        uint64_t step = length < PIECE_BYTES ? length : PIECE_BYTES;
        int64_t got = ext_files_read(files, inode, offset, copy->piece, step);
        int result;

        *theirs = true;
        if (got <= 0)
            return got < 0 ? (int)got : VDISK_E_MALFORMED;
        *theirs = false;
        result = sink->ops->data(sink, offset, copy->piece, (uint64_t)got);
        if (result)
            return result;
        if (interrupt_pending())
            return -ECANCELED;
        offset += (uint64_t)got;
        length -= (uint64_t)got;
    }
    return 0;
}

/* Reports. */
static int copy_content(struct copyfiles *copy, uint32_t inode, uint64_t size, struct sink *sink,
                        const char *path)
{
    uint64_t offset = 0;
    int result = 0;
    bool theirs = false;

    while (result == 0 && offset < size) {
        uint64_t length = 0;
        bool is_hole = false;

        theirs = true;
        result = ext_files_range(copy->in->found.files, inode, offset, &length, &is_hole);
        if (result)
            break;
        theirs = false;
        if (is_hole)
            result = sink->ops->zeros(sink, offset, length);
        else
            result = copy_data(copy, inode, offset, length, sink, &theirs);
        if (interrupt_pending())
            result = -ECANCELED;
        offset += length;
        progress_update(&copy->progress, offset, size);
    }
    if (result == 0)
        return STATUS_DONE;
    return theirs ? fail(copy, path, result) : fail_here(copy, sink->name, result, &sink->error);
}

int copyfiles_to_stdout(struct copyfiles *copy, uint32_t inode)
{
    const char *path = copy->in->operand;
    struct stat status;
    struct sink sink;
    int result = ext_files_stat(copy->in->found.files, inode, &status);

    if (result)
        return fail(copy, path, result);
    sink_stream(&sink, "standard output", STDOUT_FILENO);
    return copy_content(copy, inode, (uint64_t)status.st_size, &sink, path);
}

/* --- a file ------------------------------------------------------------------------------- */

/* Permissions and time, once the content is there. */
static int finish(int fd, const struct stat *status)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, status->st_mtim};
    mode_t keep = S_ISDIR(status->st_mode) ? 01777 : 0777;

    return fchmod(fd, status->st_mode & keep) < 0 || futimens(fd, times) < 0 ? -errno : 0;
}

/* Into an empty file. Reports. */
static int fill(struct copyfiles *copy, uint32_t inode, const struct stat *status, int fd,
                const char *path)
{
    struct sink sink;
    int result;

    if (ftruncate(fd, status->st_size) < 0)
        return fail_here(copy, path, -errno, NULL);
    sink_file(&sink, path, fd);
    result = copy_content(copy, inode, (uint64_t)status->st_size, &sink, path);
    if (result != STATUS_DONE)
        return result;
    result = finish(fd, status);
    return result ? fail_here(copy, path, result, NULL) : STATUS_DONE;
}

int copyfiles_to_file(struct copyfiles *copy, uint32_t inode, const char *path, bool may_replace)
{
    struct vdisk_error error = {0};
    struct outfile file;
    struct stat status;
    int result = ext_files_stat(copy->in->found.files, inode, &status);

    if (result)
        return fail(copy, copy->in->operand, result);
    result = outfile_open(&file, path, may_replace, false, &error);
    if (result)
        return report(path, result, &error);
    progress_begin(&copy->progress, "copy", copy->quiet);
    result = fill(copy, inode, &status, file.fd, path);
    progress_clear(&copy->progress);
    if (result != STATUS_DONE) {
        outfile_discard(&file);
        return result;
    }
    result = outfile_finish(&file, &error);
    return result ? report(path, result, &error) : STATUS_DONE;
}

/* --- a folder ----------------------------------------------------------------------------- */

static int compare_inodes(const void *a, const void *b)
{
    const uint32_t *x = a, *y = b;

    return (*x > *y) - (*x < *y);
}

/* A folder has one name; one that is met again leads around in a circle. 0, -ENOMEM, or
 * VDISK_E_MALFORMED. */
static int see(struct copyfiles *copy, uint32_t inode)
{
    uint32_t *number = malloc(sizeof(*number));
    uint32_t **found;

    if (!number)
        return -ENOMEM;
    *number = inode;
    found = tsearch(number, &copy->seen, compare_inodes);
    if (found && *found == number)
        return 0;
    free(number);
    return found ? VDISK_E_MALFORMED : -ENOMEM;
}

static int copy_file(struct copyfiles *copy, uint32_t inode, const struct stat *status,
                     const struct folder *folder, const char *name, const char *path)
{
    int result,
        fd = openat(folder->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

    if (fd < 0)
        return fail_here(copy, path, -errno, NULL);
    result = fill(copy, inode, status, fd, path);
    if (close(fd) < 0 && result == STATUS_DONE)
        result = fail_here(copy, path, -errno, NULL);
    if (result != STATUS_DONE)
        unlinkat(folder->fd, name, 0);
    return result;
}

static int copy_link(struct copyfiles *copy, uint32_t inode, const struct stat *status,
                     const struct folder *folder, const char *name, const char *path)
{
    const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, status->st_mtim};
    char *target = malloc(EXT_FILES_PATH_MAX);
    int result;

    if (!target)
        return fail_here(copy, path, -ENOMEM, NULL);
    result = ext_files_readlink(copy->in->found.files, inode, target);
    if (result)
        result = fail(copy, path, result);
    else if (symlinkat(target, folder->fd, name) < 0)
        result = fail_here(copy, path, -errno, NULL);
    else /* no harm if it cannot be had */
        (void)utimensat(folder->fd, name, times, AT_SYMLINK_NOFOLLOW);
    free(target);
    return result;
}

static int copy_folder(struct copyfiles *copy, uint32_t inode, const struct stat *status,
                       const struct folder *parent, const char *name, const char *path);

static int copy_entry(struct copyfiles *copy, const struct ext_listing_entry *entry,
                      const struct folder *folder)
{
    struct stat status;
    char *path;
    int result;

    if (asprintf(&path, "%s/%s", folder->path, entry->name) < 0)
        return fail_here(copy, folder->path, -ENOMEM, NULL);
    result = ext_files_stat(copy->in->found.files, entry->inode, &status);
    if (result)
        result = fail(copy, path, result);
    else if (S_ISREG(status.st_mode))
        result = copy_file(copy, entry->inode, &status, folder, entry->name, path);
    else if (S_ISDIR(status.st_mode))
        result = copy_folder(copy, entry->inode, &status, folder, entry->name, path);
    else if (S_ISLNK(status.st_mode))
        result = copy_link(copy, entry->inode, &status, folder, entry->name, path);
    else
        copy->left_out++;
    free(path);
    return result;
}

static int copy_entries(struct copyfiles *copy, uint32_t inode, const struct folder *folder)
{
    struct ext_listing listing;
    int status = STATUS_DONE;
    int result = ext_listing_read(copy->in->found.files, inode, &listing);

    if (result)
        return fail(copy, folder->path, result);
    for (size_t i = 0; i < listing.count && !copy->is_full && !interrupt_pending(); i++) {
        int one = copy_entry(copy, &listing.entry[i], folder);

        status = status == STATUS_DONE ? one : status;
    }
    ext_listing_free(&listing);
    return status;
}

static int copy_folder(struct copyfiles *copy, uint32_t inode, const struct stat *status,
                       const struct folder *parent, const char *name, const char *path)
{
    struct folder folder = {.depth = parent->depth + 1, .path = path};
    int finished, result = folder.depth > DEPTH_MAX ? VDISK_E_LIMIT : see(copy, inode);

    if (result)
        return fail(copy, path, result);
    if (mkdirat(parent->fd, name, 0700) < 0)
        return fail_here(copy, path, -errno, NULL);
    folder.fd = openat(parent->fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (folder.fd < 0)
        return fail_here(copy, path, -errno, NULL);
    result = copy_entries(copy, inode, &folder);
    finished = finish(folder.fd, status);
    if (finished && result == STATUS_DONE)
        result = fail_here(copy, path, finished, NULL);
    close(folder.fd);
    return result;
}

int copyfiles_to_folder(struct copyfiles *copy, uint32_t inode, const char *path)
{
    const struct folder here = {.fd = AT_FDCWD};
    struct stat status;
    int result = ext_files_stat(copy->in->found.files, inode, &status);

    if (result)
        return fail(copy, copy->in->operand, result);
    result = copy_folder(copy, inode, &status, &here, path, path);
    if (interrupt_pending() && result == STATUS_DONE)
        result = fail(copy, path, -ECANCELED);
    return result;
}
