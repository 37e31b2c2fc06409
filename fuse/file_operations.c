/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel asks of files within file systems (server_impl.h), which never change.
 *
 * The lock of a file system is held while its structures are looked at, not while data is read, so
 * that many may read at once.
 */
#include "server_impl.h"

#include "ext_listing.h"
#include "log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FOR_LONG          86400.0
#define PIECES_MAX        64u
#define READDIR_BYTES_MAX (64u << 10)
#define SEEK_STEPS_MAX    (1u << 20)

/* An open folder. */
struct folder_handle {
    struct ext_listing listing;
};

static struct server *server_of(fuse_req_t request)
{
    return fuse_req_userdata(request);
}

/* As an errno, for the kernel. */
static int number_of(int result)
{
    if (result > -1000)
        return -result;
    return result == VDISK_E_MALFORMED ? EUCLEAN : EIO;
}

/* Whether it is the drive that has failed, or its file system is damaged: not what was asked for.
 */
static bool is_failure(int result)
{
    return result < -1000 || result == -EIO || result == -ENOMEM;
}

static void log_failure(struct server *server, const char *name, uint32_t inode, int result)
{
    const struct access *access = server_current()->access;
    const char *reason = vdisk_strerror(result);
    char number[16];

    if (access && access->error.code == result && access->error.text[0])
        reason = access->error.text;
    if (!server_is_new(server, UINT64_C(1) << 63 | inode, (uint64_t)(int64_t)result))
        return;
    (void)snprintf(number, sizeof(number), "%u", inode);
    log_event(LOG_ERROR, "read-failed", "drive", server->backing->name, "file", name, "inode",
              number, "reason", reason, NULL);
}

/* 0 with the file system locked; otherwise the request is answered. */
static int enter(fuse_req_t request, uint64_t inode, struct contents_at *at)
{
    struct access *access = server_access();
    int rc = access ? contents_enter(server_of(request)->contents, access, inode, at) : -EIO;

    if (rc)
        (void)fuse_reply_err(request, number_of(rc));
    return rc;
}

/* Unlocks and answers. */
static void fail(fuse_req_t request, struct contents_at *at, int result)
{
    const char *name = at->name;
    uint32_t inode = at->inode;

    contents_leave(at);
    if (is_failure(result))
        log_failure(server_of(request), name, inode, result);
    (void)fuse_reply_err(request, number_of(result));
}

static int describe(struct contents_at *at, uint32_t inode, struct fuse_entry_param *entry)
{
    int rc = ext_files_stat(at->files, inode, &entry->attr);

    entry->generation = 1;
    entry->ino = contents_inode(at, inode);
    entry->attr.st_ino = entry->ino;
    entry->attr_timeout = entry->entry_timeout = FOR_LONG;
    return rc;
}

/* ---- names ---- */

void files_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry = {.ino = 0};
    struct contents_at at;
    uint32_t inode;
    int rc;

    if (enter(request, parent, &at))
        return;
    rc = ext_files_lookup(at.files, at.inode, name, &inode);
    if (rc == 0)
        rc = describe(&at, inode, &entry);
    if (rc) {
        fail(request, &at, rc);
        return;
    }
    contents_leave(&at);
    (void)fuse_reply_entry(request, &entry);
}

static int describe_for(fuse_req_t request, fuse_ino_t inode, struct fuse_entry_param *entry)
{
    struct contents_at at;
    int rc = enter(request, inode, &at);

    if (rc)
        return rc;
    rc = describe(&at, at.inode, entry);
    if (rc)
        fail(request, &at, rc);
    else
        contents_leave(&at);
    return rc;
}

void files_entry(fuse_req_t request, fuse_ino_t inode)
{
    struct fuse_entry_param entry = {.ino = 0};

    if (describe_for(request, inode, &entry) == 0)
        (void)fuse_reply_entry(request, &entry);
}

void files_getattr(fuse_req_t request, fuse_ino_t inode)
{
    struct fuse_entry_param entry = {.ino = 0};

    if (describe_for(request, inode, &entry) == 0)
        (void)fuse_reply_attr(request, &entry.attr, FOR_LONG);
}

void files_readlink(fuse_req_t request, fuse_ino_t inode)
{
    char target[EXT_FILES_PATH_MAX];
    struct contents_at at;
    int rc;

    if (enter(request, inode, &at))
        return;
    rc = ext_files_readlink(at.files, at.inode, target);
    if (rc) {
        fail(request, &at, rc);
        return;
    }
    contents_leave(&at);
    (void)fuse_reply_readlink(request, target);
}

/* ---- folders ---- */

void files_opendir(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
    struct folder_handle *handle = calloc(1, sizeof(*handle));
    struct contents_at at;
    int rc;

    if (!handle) {
        (void)fuse_reply_err(request, ENOMEM);
        return;
    }
    if (enter(request, inode, &at)) {
        free(handle);
        return;
    }
    rc = ext_listing_read(at.files, at.inode, &handle->listing);
    if (rc) {
        free(handle);
        fail(request, &at, rc);
        return;
    }
    contents_leave(&at);
    file->fh = (uintptr_t)handle;
    file->cache_readdir = 1;
    file->keep_cache = 1;
    if (fuse_reply_open(request, file)) { /* who asked is gone */
        ext_listing_free(&handle->listing);
        free(handle);
    }
}

void files_releasedir(fuse_req_t request, struct fuse_file_info *file)
{
    struct folder_handle *handle = (struct folder_handle *)(uintptr_t)file->fh;

    ext_listing_free(&handle->listing);
    free(handle);
    (void)fuse_reply_err(request, 0);
}

struct names {
    fuse_req_t request;
    char *text;
    size_t length, room;
    bool plus; /* with attributes */
};

/* Number 0 and 1 are "." and "..", which the kernel knows better. False: there is no room. */
static bool add_name(struct names *names, struct contents_at *at, const struct ext_listing *listing,
                     uint64_t number)
{
    struct fuse_entry_param entry = {.attr.st_mode = S_IFDIR};
    const char *name = number == 0 ? "." : "..";
    size_t left = names->room - names->length, used;

    entry.attr.st_ino = contents_inode(at, at->inode);
    if (number >= 2) {
        const struct ext_listing_entry *listed = &listing->entry[number - 2];

        name = listed->name;
        /* Those that are damaged have a name as well. */
        if (!names->plus || describe(at, listed->inode, &entry)) {
            entry.ino = 0;
            entry.attr.st_mode = DTTOIF(listed->type);
            entry.attr.st_ino = contents_inode(at, listed->inode);
        }
    }
    used = names->plus ? fuse_add_direntry_plus(names->request, names->text + names->length, left,
                                                name, &entry, (off_t)number + 1)
                       : fuse_add_direntry(names->request, names->text + names->length, left, name,
                                           &entry.attr, (off_t)number + 1);
    if (used > left)
        return false;
    names->length += used;
    return true;
}

void files_readdir(fuse_req_t request, fuse_ino_t folder, size_t size, off_t offset,
                   struct fuse_file_info *file, bool plus)
{
    const struct folder_handle *handle = (struct folder_handle *)(uintptr_t)file->fh;
    struct names names = {
        .request = request,
        .room = size < READDIR_BYTES_MAX ? size : READDIR_BYTES_MAX,
        .plus = plus,
    };
    struct contents_at at;

    names.text = malloc(names.room);
    if (!names.text) {
        (void)fuse_reply_err(request, ENOMEM);
        return;
    }
    if (enter(request, folder, &at) == 0) {
        for (uint64_t number = (uint64_t)offset; number < handle->listing.count + 2; number++) {
            if (!add_name(&names, &at, &handle->listing, number))
                break;
        }
        contents_leave(&at);
        (void)fuse_reply_buf(request, names.text, names.length);
    }
    free(names.text);
}

/* ---- files ---- */

void files_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
    struct fuse_entry_param entry = {.ino = 0};

    if (describe_for(request, inode, &entry))
        return;
    if ((file->flags & O_ACCMODE) != O_RDONLY) {
        (void)fuse_reply_err(request, EROFS);
        return;
    }
    file->keep_cache = 1;
    (void)fuse_reply_open(request, file);
}

static int read_pieces(const struct contents_at *at, const struct ext_piece *pieces, unsigned count,
                       uint8_t *to)
{
    struct access *access = server_access();
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < count; i++) {
        if (pieces[i].offset == EXT_PIECE_ZEROS)
            memset(to, 0, pieces[i].length);
        else
            rc = access->ops->read(access, at->view.state, at->view.offset + pieces[i].offset, to,
                                   pieces[i].length);
        to += pieces[i].length;
    }
    return rc;
}

/* As much as one plan takes; 0 at the end of the file. Answers when there is nothing to enter. */
static int64_t read_some(fuse_req_t request, struct contents_at *at, uint64_t inode,
                         uint64_t offset, uint64_t length, uint8_t *to, bool *answered)
{
    struct ext_piece pieces[PIECES_MAX];
    unsigned count = PIECES_MAX;
    int64_t got;
    int rc = enter(request, inode, at);

    *answered = rc != 0;
    if (rc)
        return rc;
    got = ext_files_plan(at->files, at->inode, offset, length, pieces, &count);
    if (got == -EOPNOTSUPP) {
        got = ext_files_read(at->files, at->inode, offset, to, length);
        count = 0;
    }
    contents_leave(at);
    if (got > 0)
        rc = read_pieces(at, pieces, count, to);
    return rc ? rc : got;
}

void files_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset)
{
    uint64_t done = 0, length = size < SERVER_READ_MAX ? size : SERVER_READ_MAX;
    uint8_t *data = server_current()->buffer;
    struct contents_at at;
    bool answered = false;
    int64_t got = 1;

    while (got > 0 && done < length) {
        got = read_some(request, &at, inode, (uint64_t)offset + done, length - done, data + done,
                        &answered);
        if (got > 0)
            done += (uint64_t)got;
    }
    if (answered)
        return;
    if (got < 0) { /* all or nothing: a short answer would be the end of the file */
        if (is_failure((int)got))
            log_failure(server_of(request), at.name, at.inode, (int)got);
        (void)fuse_reply_err(request, number_of((int)got));
        return;
    }
    (void)fuse_reply_buf(request, (const char *)data, done);
}

/* Goes from range to range; the kernel may ask for the end of a file of many. */
static int seek(struct contents_at *at, uint64_t offset, bool for_hole, uint64_t *found)
{
    for (unsigned i = 0; i < SEEK_STEPS_MAX; i++) {
        uint64_t length;
        bool is_hole;
        int rc = ext_files_range(at->files, at->inode, offset, &length, &is_hole);

        if (rc == -ENXIO && for_hole && i > 0)
            rc = 0; /* the end is one */
        else if (rc == 0 && is_hole != for_hole) {
            offset += length;
            continue;
        }
        *found = offset;
        return rc;
    }
    *found = offset; /* as if there were data here */
    return for_hole ? -EFBIG : 0;
}

void files_lseek(fuse_req_t request, fuse_ino_t inode, off_t offset, int whence)
{
    struct contents_at at;
    uint64_t found;
    int rc = -EINVAL;

    if (enter(request, inode, &at))
        return;
    if (whence == SEEK_HOLE || whence == SEEK_DATA)
        rc = seek(&at, (uint64_t)offset, whence == SEEK_HOLE, &found);
    if (rc) {
        fail(request, &at, rc);
        return;
    }
    contents_leave(&at);
    (void)fuse_reply_lseek(request, (off_t)found);
}
