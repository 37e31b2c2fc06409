/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel asks for (server_impl.h): libfuse's low-level operations.
 *
 * Data that does not verify is never given out. In the page cache a read is all or nothing, since
 * the kernel takes a short one for the end of the file; it then asks for each page by itself. Past
 * the page cache a read ends before the bad block.
 */
#include "server_impl.h"

#include "extents.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK             4096u
#define FOR_LONG          86400.0 /* seconds that the kernel may keep what does not change */
#define FOR_SHORT         1.0
#define BACKGROUND        64u /* read-ahead requests under way */
#define READDIR_BYTES_MAX (64u << 10)
#define LINK_BYTES        16u

/* An open file. */
struct handle {
    uint64_t inode;
    struct tree_view view;
    bool direct;
    char *text; /* of info.json */
};

/* Files within file systems have none, which is as one of an empty drive that nobody may write. */
static struct handle *handle_of(const struct fuse_file_info *file)
{
    static struct handle none;

    return file->fh ? (struct handle *)(uintptr_t)file->fh : &none;
}

/* As an errno, for the kernel. */
static int number_of(int result)
{
    if (result > -1000)
        return -result;
    return result == VDISK_E_LIMIT ? ENOSPC : EIO;
}

static void fail(fuse_req_t request, int result)
{
    (void)fuse_reply_err(request, number_of(result));
}

static struct server *server_of(fuse_req_t request)
{
    return fuse_req_userdata(request);
}

/* ---- failures ---- */

static void log_failure(struct server *server, const char *event, const struct handle *handle,
                        uint64_t offset, uint64_t length, int result)
{
    const struct access *access = server_current()->access;
    char path[TREE_NAME_BYTES + 64], at[24], bytes[24];
    const char *reason = vdisk_strerror(result);

    if (access && access->error.code == result && access->error.text[0])
        reason = access->error.text;
    offset += handle->view.offset;
    if (!server_is_new(server, handle->inode, offset))
        return;
    tree_path(server->tree, handle->inode, path, sizeof(path));
    (void)snprintf(at, sizeof(at), "%llu", (unsigned long long)offset);
    (void)snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)length);
    log_event(LOG_ERROR, event, "drive", server->backing->name, "file", path, "offset", at,
              "length", bytes, "reason", reason, NULL);
}

/* ---- names ---- */

static void keep_for(struct server *server, uint64_t inode, double *seconds)
{
    bool changes = server->backing->writable && inode != TREE_ROOT && inode != TREE_SNAPSHOTS;

    *seconds = changes ? FOR_SHORT : FOR_LONG;
}

static void do_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct server *server = server_of(request);
    struct access *access = server_access();
    struct fuse_entry_param entry = {.generation = 1};
    uint64_t inode;
    int rc;

    if (contents_has(parent)) {
        files_lookup(request, parent, name);
        return;
    }
    rc = access ? tree_lookup(server->tree, access, parent, name, &inode) : -EIO;
    if (rc == 0 && contents_has(inode)) {
        files_entry(request, inode);
        return;
    }
    if (rc == 0)
        rc = tree_attributes(server->tree, access, inode, &entry.attr);
    if (rc) {
        fail(request, rc);
        return;
    }
    entry.ino = inode;
    keep_for(server, inode, &entry.attr_timeout);
    keep_for(server, inode, &entry.entry_timeout);
    (void)fuse_reply_entry(request, &entry);
}

static void do_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
    struct server *server = server_of(request);
    struct access *access = server_access();
    struct stat attributes;
    double seconds;
    int rc;

    (void)file;
    if (contents_has(inode)) {
        files_getattr(request, inode);
        return;
    }
    rc = access ? tree_attributes(server->tree, access, inode, &attributes) : -EIO;
    if (rc) {
        fail(request, rc);
        return;
    }
    keep_for(server, inode, &seconds);
    (void)fuse_reply_attr(request, &attributes, seconds);
}

/* A drive has its size. Times are not kept, which is no error. */
static void do_setattr(fuse_req_t request, fuse_ino_t inode, struct stat *wanted, int which,
                       struct fuse_file_info *file)
{
    struct server *server = server_of(request);
    struct access *access = server_access();
    struct tree_view view = {.length = 0};
    int rc = access ? 0 : -EIO;

    if (contents_has(inode))
        rc = -EROFS;
    if (rc == 0)
        rc = tree_view(server->tree, access, inode, &view);
    if (rc == 0 && (which & (FUSE_SET_ATTR_MODE | FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)))
        rc = -EPERM;
    if (rc == 0 && (which & FUSE_SET_ATTR_SIZE) && (uint64_t)wanted->st_size != view.length)
        rc = -EINVAL;
    if (rc)
        fail(request, rc);
    else
        do_getattr(request, inode, file);
}

static void do_readlink(fuse_req_t request, fuse_ino_t inode)
{
    char text[LINK_BYTES];

    if (contents_has(inode)) {
        files_readlink(request, inode);
        return;
    }
    if (inode != TREE_SERVER) {
        fail(request, -EINVAL);
        return;
    }
    (void)snprintf(text, sizeof(text), "%ld", (long)getpid());
    (void)fuse_reply_readlink(request, text);
}

/* What the kernel gets to make a list of. */
struct names {
    fuse_req_t request;
    char *text;
    size_t length, room;
    bool plus; /* in the longer form, but without attributes all the same */
};

static int add_name(struct names *names, uint64_t folder, uint64_t number)
{
    struct server *server = server_of(names->request);
    struct access *access = server_access();
    struct fuse_entry_param entry = {.attr.st_mode = S_IFDIR};
    char *to = names->text + names->length;
    size_t room = names->room - names->length, used;
    char name[TREE_NAME_BYTES] = "..";
    uint64_t inode = folder;
    int rc = 0;

    if (number == 0)
        name[1] = 0;
    if (number > 1)
        rc = access ? tree_list(server->tree, access, folder, number - 2, name, &inode) : -EIO;
    if (rc)
        return rc;
    entry.attr.st_ino = inode;
    if (!tree_is_folder(server->tree, inode))
        entry.attr.st_mode = S_IFREG;
    used = names->plus
               ? fuse_add_direntry_plus(names->request, to, room, name, &entry, (off_t)number + 1)
               : fuse_add_direntry(names->request, to, room, name, &entry.attr, (off_t)number + 1);
    if (used > room)
        return -ERANGE;
    names->length += used;
    return 0;
}

static void list(fuse_req_t request, fuse_ino_t folder, size_t size, off_t offset, bool plus)
{
    struct names names = {
        .request = request,
        .room = size < READDIR_BYTES_MAX ? size : READDIR_BYTES_MAX,
        .plus = plus,
    };
    int rc;

    names.text = malloc(names.room);
    rc = names.text ? 0 : -ENOMEM;
    for (uint64_t number = (uint64_t)offset; rc == 0; number++)
        rc = add_name(&names, folder, number);
    if (rc == -ENOENT || rc == -ERANGE) /* the end, or as many as there is room for */
        (void)fuse_reply_buf(request, names.text, names.length);
    else
        fail(request, rc);
    free(names.text);
}

static void do_readdir(fuse_req_t request, fuse_ino_t folder, size_t size, off_t offset,
                       struct fuse_file_info *file)
{
    if (contents_has(folder))
        files_readdir(request, folder, size, offset, file, false);
    else
        list(request, folder, size, offset, false);
}

static void do_readdirplus(fuse_req_t request, fuse_ino_t folder, size_t size, off_t offset,
                           struct fuse_file_info *file)
{
    if (contents_has(folder))
        files_readdir(request, folder, size, offset, file, true);
    else
        list(request, folder, size, offset, true);
}

static void do_opendir(fuse_req_t request, fuse_ino_t folder, struct fuse_file_info *file)
{
    if (contents_has(folder))
        files_opendir(request, folder, file);
    else
        (void)fuse_reply_open(request, file);
}

static void do_releasedir(fuse_req_t request, fuse_ino_t folder, struct fuse_file_info *file)
{
    if (contents_has(folder))
        files_releasedir(request, file);
    else
        (void)fuse_reply_err(request, 0);
}

/* ---- what there is not ---- */

static void refuse_name(fuse_req_t request, fuse_ino_t folder, const char *name)
{
    (void)folder;
    (void)name;
    fail(request, -EROFS);
}

static void refuse_create(fuse_req_t request, fuse_ino_t folder, const char *name, mode_t mode,
                          struct fuse_file_info *file)
{
    (void)mode;
    (void)file;
    refuse_name(request, folder, name);
}

static void refuse_mknod(fuse_req_t request, fuse_ino_t folder, const char *name, mode_t mode,
                         dev_t device)
{
    (void)mode;
    (void)device;
    refuse_name(request, folder, name);
}

static void refuse_mkdir(fuse_req_t request, fuse_ino_t folder, const char *name, mode_t mode)
{
    (void)mode;
    refuse_name(request, folder, name);
}

static void refuse_symlink(fuse_req_t request, const char *target, fuse_ino_t folder,
                           const char *name)
{
    (void)target;
    refuse_name(request, folder, name);
}

static void refuse_link(fuse_req_t request, fuse_ino_t inode, fuse_ino_t folder, const char *name)
{
    (void)inode;
    refuse_name(request, folder, name);
}

static void refuse_rename(fuse_req_t request, fuse_ino_t from, const char *name, fuse_ino_t to,
                          const char *new_name, unsigned flags)
{
    (void)to;
    (void)new_name;
    (void)flags;
    refuse_name(request, from, name);
}

/* ---- open files ---- */

static int open_view(struct server *server, struct access *access, struct handle *handle,
                     struct fuse_file_info *file)
{
    int rc = tree_view(server->tree, access, handle->inode, &handle->view);

    if (rc)
        return rc;
    if (!handle->view.writable && (file->flags & O_ACCMODE) != O_RDONLY)
        return -EROFS;
    handle->direct = handle->view.writable;
    file->direct_io = handle->direct;
    file->keep_cache = !handle->direct;
    return 0;
}

static void do_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
    struct server *server = server_of(request);
    struct access *access = server_access();
    struct handle *handle;
    int rc;

    if (contents_has(inode)) {
        files_open(request, inode, file);
        return;
    }
    handle = calloc(1, sizeof(*handle));
    rc = !access ? -EIO : handle ? 0 : -ENOMEM;
    if (rc == 0) {
        handle->inode = inode;
        if (inode == TREE_INFO)
            rc = access->ops->info(access, &handle->text);
        else
            rc = open_view(server, access, handle, file);
    }
    if (rc) {
        free(handle);
        fail(request, rc);
        return;
    }
    if (handle->text)
        file->direct_io = 1; /* its size may change */
    file->fh = (uintptr_t)handle;
    if (fuse_reply_open(request, file)) { /* who asked is gone */
        free(handle->text);
        free(handle);
    }
}

static void do_release(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
    struct handle *handle = handle_of(file);

    if (!contents_has(inode) && file->fh) {
        free(handle->text);
        free(handle); /* NOLINT(clang-analyzer-unix.Malloc): not the one that is none */
    }
    (void)fuse_reply_err(request, 0);
}

/* ---- reading ---- */

/* How much of a range that cannot be read as a whole can be read from its beginning on. */
static uint64_t readable(struct access *access, const struct tree_view *view, uint64_t offset,
                         uint8_t *data, uint64_t length, int *result)
{
    uint64_t done = 0;

    while (done < length) {
        uint64_t at = view->offset + offset + done;
        uint64_t step = BLOCK - at % BLOCK;

        step = step < length - done ? step : length - done;
        *result = access->ops->read(access, view->state, at, data + done, step);
        if (*result)
            return done;
        done += step;
    }
    *result = 0;
    return done;
}

static void reply_text(fuse_req_t request, const char *text, size_t size, off_t offset)
{
    size_t length = strlen(text), from = (size_t)offset;

    from = from < length ? from : length;
    (void)fuse_reply_buf(request, text + from, size < length - from ? size : length - from);
}

static void do_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset,
                    struct fuse_file_info *file)
{
    struct server *server = server_of(request);
    const struct handle *handle = handle_of(file);
    const struct tree_view *view = &handle->view;
    struct access *access = server_access();
    uint8_t *data = server_current()->buffer;
    uint64_t from = (uint64_t)offset, length = size < SERVER_READ_MAX ? size : SERVER_READ_MAX;
    int rc;

    if (contents_has(inode)) {
        files_read(request, inode, size, offset);
        return;
    }
    if (handle->text) {
        reply_text(request, handle->text, size, offset);
        return;
    }
    if (!access || from >= view->length) {
        (void)(access ? fuse_reply_buf(request, NULL, 0) : fuse_reply_err(request, EIO));
        return;
    }
    length = length < view->length - from ? length : view->length - from;
    rc = access->ops->read(access, view->state, view->offset + from, data, length);
    if (rc) {
        uint64_t good = readable(access, view, from, data, length, &rc);

        if (rc)
            log_failure(server, "read-failed", handle, from + good,
                        length - good < BLOCK ? length - good : BLOCK, rc);
        if (handle->direct && good > 0) {
            length = good;
            rc = 0;
        }
    }
    if (rc)
        fail(request, rc);
    else
        (void)fuse_reply_buf(request, (const char *)data, length);
}

static void do_lseek(fuse_req_t request, fuse_ino_t inode, off_t offset, int whence,
                     struct fuse_file_info *file)
{
    const struct handle *handle = handle_of(file);
    struct access *access = server_access();
    uint64_t found = 0;
    int rc = access && !handle->text ? 0 : -EINVAL;

    if (contents_has(inode)) {
        files_lseek(request, inode, offset, whence);
        return;
    }
    if (whence != SEEK_HOLE && whence != SEEK_DATA)
        rc = -EINVAL;
    if (rc == 0 && (offset < 0 || (uint64_t)offset >= handle->view.length))
        rc = -ENXIO;
    if (rc == 0)
        rc = extents_seek(access, &handle->view, (uint64_t)offset, whence == SEEK_HOLE, &found);
    if (rc)
        fail(request, rc);
    else
        (void)fuse_reply_lseek(request, (off_t)found);
}

/* ---- changing ---- */

/* 0 or what to reply. */
static int change(struct server *server, const struct handle *handle,
                  const struct access_change *wanted)
{
    struct access *access = server_access();
    struct access_change change = *wanted;
    int rc;

    if (!access)
        return -EIO;
    if (!handle->view.writable)
        return -EROFS;
    change.offset += handle->view.offset;
    rc = access->ops->change(access, &change);
    if (change.op != VDISK_FLUSH)
        tree_changed(server->tree);
    if (rc)
        log_failure(server, change.op == VDISK_FLUSH ? "flush-failed" : "write-failed", handle,
                    wanted->offset, wanted->length, rc);
    return rc;
}

struct writing {
    fuse_req_t request;
    uint64_t length;
    bool replied;
};

static void reply_taken(void *opaque)
{
    struct writing *writing = opaque;

    writing->replied = true;
    tree_changed(server_of(writing->request)->tree); /* whoever looks from now on waits for it */
    (void)fuse_reply_write(writing->request, writing->length);
}

/* The data is in this thread's memory, which waits until it is written; others go on meanwhile. */
static void do_write(fuse_req_t request, fuse_ino_t inode, const char *data, size_t size,
                     off_t offset, struct fuse_file_info *file)
{
    const struct handle handle = *handle_of(file); /* once we have replied it may go */
    struct writing writing = {.request = request, .length = size};
    struct access_change wanted = {
        .op = VDISK_WRITE,
        .durable = (file->flags & (O_SYNC | O_DSYNC)) != 0,
        .offset = (uint64_t)offset,
        .data = data,
        .taken = reply_taken,
        .opaque = &writing,
    };
    int rc;

    (void)inode;
    if (wanted.offset >= handle.view.length) {
        fail(request, size ? -ENOSPC : 0);
        return;
    }
    if (writing.length > handle.view.length - wanted.offset)
        writing.length = handle.view.length - wanted.offset;
    wanted.length = writing.length;
    rc = change(server_of(request), &handle, &wanted);
    if (writing.replied)
        return;
    if (rc)
        fail(request, rc);
    else
        reply_taken(&writing);
}

/* On each close of a descriptor. */
static void do_flush(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
    const struct handle *handle = handle_of(file);
    struct access *access = server_access();
    int rc = 0;

    (void)inode;
    if (!server_of(request)->backing->writable)
        rc = -ENOSYS; /* it is not asked for again */
    else if (handle->view.writable && (file->flags & O_ACCMODE) != O_RDONLY)
        rc = access ? access->ops->settle(access) : -EIO;
    fail(request, rc);
}

static void do_fsync(fuse_req_t request, fuse_ino_t inode, int only_data,
                     struct fuse_file_info *file)
{
    const struct handle *handle = handle_of(file);
    const struct access_change wanted = {.op = VDISK_FLUSH};

    (void)inode;
    (void)only_data;
    fail(request, handle->view.writable ? change(server_of(request), handle, &wanted) : 0);
}

static void do_fallocate(fuse_req_t request, fuse_ino_t inode, int mode, off_t offset, off_t length,
                         struct fuse_file_info *file)
{
    const struct handle *handle = handle_of(file);
    bool punches = mode == (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE);
    struct access_change wanted = {
        .op = punches ? VDISK_DISCARD : VDISK_ZERO,
        .durable = (file->flags & (O_SYNC | O_DSYNC)) != 0,
        .offset = (uint64_t)offset,
        .length = (uint64_t)length,
    };
    int rc = 0;

    (void)inode;
    if (!punches && (mode & ~FALLOC_FL_KEEP_SIZE) != FALLOC_FL_ZERO_RANGE) {
        fail(request, -EOPNOTSUPP);
        return;
    }
    if (wanted.offset >= handle->view.length)
        rc = punches ? 0 : -ENOSPC;
    else if (wanted.length > handle->view.length - wanted.offset && !punches)
        rc = -ENOSPC;
    else {
        if (wanted.length > handle->view.length - wanted.offset)
            wanted.length = handle->view.length - wanted.offset;
        rc = change(server_of(request), handle, &wanted);
    }
    fail(request, rc);
}

/* ---- the mount ---- */

static void do_statfs(fuse_req_t request, fuse_ino_t inode)
{
    const struct backing *backing = server_of(request)->backing;
    const struct statvfs numbers = {
        .f_bsize = BLOCK,
        .f_frsize = BLOCK,
        .f_blocks = (fsblkcnt_t)(backing->state[0].size / BLOCK),
        .f_namemax = VDISK_NAME_MAX,
    };

    (void)inode;
    (void)fuse_reply_statfs(request, &numbers);
}

static void do_init(void *opaque, struct fuse_conn_info *connection)
{
    struct server *server = opaque;

    /* Data is encrypted and decrypted, so it comes into our memory: pipes between are a detour. */
    connection->want &=
        ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE);
    connection->max_background = BACKGROUND;
    connection->congestion_threshold = BACKGROUND;
    connection->time_gran = 1;
    if (server->up)
        server->up(server->opaque);
}

const struct fuse_lowlevel_ops operations = {
    .init = do_init,
    .lookup = do_lookup,
    .getattr = do_getattr,
    .setattr = do_setattr,
    .readlink = do_readlink,
    .opendir = do_opendir,
    .readdir = do_readdir,
    .readdirplus = do_readdirplus,
    .releasedir = do_releasedir,
    .create = refuse_create,
    .mknod = refuse_mknod,
    .mkdir = refuse_mkdir,
    .unlink = refuse_name,
    .rmdir = refuse_name,
    .symlink = refuse_symlink,
    .link = refuse_link,
    .rename = refuse_rename,
    .open = do_open,
    .release = do_release,
    .read = do_read,
    .lseek = do_lseek,
    .write = do_write,
    .flush = do_flush,
    .fsync = do_fsync,
    .fallocate = do_fallocate,
    .statfs = do_statfs,
};
