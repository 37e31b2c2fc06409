/* SPDX-License-Identifier: Apache-2.0 */
/* See contents.h. */
#include "contents.h"

#include "log.h"
#include "probe.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPEN_MAX_FS 32u
#define FS_MAX      (1u << 20)

struct contents_fs {
    pthread_mutex_t mutex;
    uint32_t number;
    struct tree_view view;
    char name[TREE_NAME_BYTES + 32];
    struct drive drive;
    struct access *access;   /* of whoever holds the mutex */
    struct ext_files *files; /* NULL: not open */
    int absent;              /* there is none that can be read here: why not */
    uint64_t used;           /* when, in uses of all */
    struct contents *of;
};

struct contents {
    struct backing *backing;
    pthread_mutex_t mutex; /* of all below; taken inside of that of a file system, and alone */
    struct contents_fs **fs;
    uint32_t count;
    unsigned open;
    uint64_t uses;
};

struct contents *contents_new(struct backing *backing)
{
    struct contents *contents = calloc(1, sizeof(*contents));

    if (!contents)
        return NULL;
    contents->backing = backing;
    pthread_mutex_init(&contents->mutex, NULL);
    return contents;
}

void contents_free(struct contents *contents)
{
    if (!contents)
        return;
    for (uint32_t i = 0; i < contents->count; i++) {
        ext_files_close(contents->fs[i]->files);
        pthread_mutex_destroy(&contents->fs[i]->mutex);
        free(contents->fs[i]);
    }
    free(contents->fs);
    pthread_mutex_destroy(&contents->mutex);
    free(contents);
}

static int read_view(struct drive *drive, uint64_t offset, void *data, uint64_t length)
{
    const struct contents_fs *fs = drive->owner;

    return fs->access->ops->read(fs->access, fs->view.state, fs->view.offset + offset, data,
                                 length);
}

/* ---- the list ---- */

/* With the list locked. NULL without memory. */
static struct contents_fs *add(struct contents *contents, const struct tree_view *view,
                               const char *name)
{
    struct contents_fs *fs = calloc(1, sizeof(*fs)), **more;

    more = contents->count < FS_MAX
               ? reallocarray(contents->fs, contents->count + 1u, sizeof(*more))
               : NULL;
    if (more)
        contents->fs = more;
    if (!more || !fs) {
        free(fs);
        return NULL;
    }
    pthread_mutex_init(&fs->mutex, NULL);
    fs->number = contents->count;
    fs->of = contents;
    fs->view = *view;
    fs->drive = (struct drive){.size = view->length, .read = read_view, .owner = fs};
    (void)snprintf(fs->name, sizeof(fs->name), "%s", name);
    contents->fs[contents->count++] = fs;
    return fs;
}

static struct contents_fs *find(struct contents *contents, const struct tree_view *view,
                                const char *name)
{
    struct contents_fs *found = NULL;

    pthread_mutex_lock(&contents->mutex);
    for (uint32_t i = 0; i < contents->count && !found; i++) {
        const struct tree_view *other = &contents->fs[i]->view;

        if (other->state == view->state && other->offset == view->offset &&
            other->length == view->length)
            found = contents->fs[i];
    }
    if (!found)
        found = add(contents, view, name);
    pthread_mutex_unlock(&contents->mutex);
    return found;
}

static struct contents_fs *get(struct contents *contents, uint64_t number)
{
    struct contents_fs *found = NULL;

    pthread_mutex_lock(&contents->mutex);
    if (number < contents->count)
        found = contents->fs[number];
    pthread_mutex_unlock(&contents->mutex);
    return found;
}

/* ---- open ones ---- */

/* Closes the one that was not used for longest, if it is not in use now. With the list locked. */
static void close_one(struct contents *contents, const struct contents_fs *but)
{
    struct contents_fs *oldest = NULL;

    for (uint32_t i = 0; i < contents->count; i++) {
        struct contents_fs *fs = contents->fs[i];

        if (fs == but || (oldest && fs->used >= oldest->used) || pthread_mutex_trylock(&fs->mutex))
            continue;
        if (fs->files) {
            if (oldest)
                pthread_mutex_unlock(&oldest->mutex);
            oldest = fs;
        } else {
            pthread_mutex_unlock(&fs->mutex);
        }
    }
    if (!oldest)
        return;
    ext_files_close(oldest->files);
    oldest->files = NULL;
    contents->open--;
    pthread_mutex_unlock(&oldest->mutex);
}

static void tell(const struct contents_fs *fs, const char *event, const char *reason)
{
    log_event(LOG_WARNING, event, "drive", fs->of->backing->name, "file", fs->name, "reason",
              reason, NULL);
}

static void tell_what_is_missing(const struct contents_fs *fs)
{
    struct ext_files_info info;

    ext_files_get_info(fs->files, &info);
    if (info.journal_is_cut)
        tell(fs, "journal-damaged", "files are as they were before its first damaged transaction");
    else if (info.has_fast_commits)
        tell(fs, "fast-commits", "files are as they were at the last full commit");
}

static int open_fs(struct contents_fs *fs)
{
    struct contents *contents = fs->of;
    struct vdisk_error error = {.code = 0};
    int rc = ext_files_open(&fs->drive, &fs->files, &error);

    if (rc == VDISK_E_NOT_FOUND) {
        struct probe probe = {.is_file_system = false};

        rc = probe_drive(&fs->drive, &probe);
        fs->absent = rc ? 0 : probe.is_file_system ? -EMEDIUMTYPE : -ENOENT;
        return rc ? rc : fs->absent;
    }
    if (rc) {
        tell(fs, "files-failed", error.text);
        if (rc == VDISK_E_MALFORMED || rc == VDISK_E_UNSUPPORTED || rc == VDISK_E_LIMIT)
            fs->absent = -ENOENT;
        return rc;
    }
    tell_what_is_missing(fs);
    pthread_mutex_lock(&contents->mutex);
    if (++contents->open > OPEN_MAX_FS)
        close_one(contents, fs);
    pthread_mutex_unlock(&contents->mutex);
    return 0;
}

/* Locks it, open. */
static int enter(struct contents_fs *fs, struct access *access)
{
    int rc = 0;

    pthread_mutex_lock(&fs->mutex);
    fs->access = access;
    if (fs->absent)
        rc = fs->absent;
    else if (!fs->files)
        rc = open_fs(fs);
    if (rc) {
        pthread_mutex_unlock(&fs->mutex);
        return rc;
    }
    pthread_mutex_lock(&fs->of->mutex);
    fs->used = ++fs->of->uses;
    pthread_mutex_unlock(&fs->of->mutex);
    return 0;
}

int contents_root(struct contents *contents, struct access *access, const struct tree_view *view,
                  const char *name, uint64_t *inode)
{
    struct contents_at at = {.fs = find(contents, view, name)};
    int rc;

    if (!at.fs)
        return -ENOMEM;
    rc = enter(at.fs, access);
    if (rc)
        return rc == -ENOMEM || rc == -EMEDIUMTYPE ? rc : -ENOENT; /* it was said why */
    *inode = contents_inode(&at, EXT_FILES_ROOT);
    contents_leave(&at);
    return 0;
}

int contents_enter(struct contents *contents, struct access *access, uint64_t inode,
                   struct contents_at *at)
{
    struct contents_fs *fs = get(contents, inode << 1 >> 33);
    int rc = fs ? enter(fs, access) : -ESTALE;

    if (rc)
        return rc;
    *at = (struct contents_at){
        .fs = fs,
        .files = fs->files,
        .inode = (uint32_t)inode,
        .view = fs->view,
        .name = fs->name,
    };
    return 0;
}

void contents_leave(struct contents_at *at)
{
    pthread_mutex_unlock(&at->fs->mutex);
}

uint64_t contents_inode(const struct contents_at *at, uint32_t inode)
{
    return UINT64_C(1) << 63 | (uint64_t)at->fs->number << 32 | inode;
}
