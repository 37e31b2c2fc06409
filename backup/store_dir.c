/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A repository in a directory (SPEC.md B2); see store.h.
 *
 * An object is written to tmp/ and gets its name in sync(), when its bytes are durable: a name
 * never stands for less than the whole. One sync makes many objects durable, and each directory
 * they came into once.
 */
#include "store.h"

#include "report.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PENDING_MAX  64u
#define PATH_BYTES   160u       /* within the repository */
#define EARLY_BYTES  (1u << 20) /* of such objects the disk begins at once */
#define DIRECT_UNIT  4096u
#define PACK_FOLDERS 256u

/* What has changed, to be synced once. */
struct folders {
    bool place[VB_PLACES], trash, pack[PACK_FOLDERS];
};

struct pending {
    enum vb_place place;
    struct vb_id name;
    char path[PATH_BYTES]; /* in tmp/ */
    int fd;
};

struct dir_store {
    struct vb_store store;
    int root;
    pthread_mutex_t mutex; /* of the list */
    pthread_mutex_t sync_mutex;
    struct pending pending[PENDING_MAX];
    unsigned pending_count;
    struct folders moved; /* under the mutex */
};

/* --- names -------------------------------------------------------------------------------- */

static void object_path(char path[static PATH_BYTES], enum vb_place place, const struct vb_id *name,
                        bool trash)
{
    char text[VB_NAME_TEXT_BYTES];

    vb_id_text(text, name);
    if (trash)
        snprintf(path, PATH_BYTES, "trash/%s-%s", vb_place_name(place), text);
    else if (place == VB_CONFIG)
        snprintf(path, PATH_BYTES, "config");
    else if (place == VB_PACKS)
        snprintf(path, PATH_BYTES, "packs/%.2s/%s", text, text);
    else
        snprintf(path, PATH_BYTES, "%s/%s", vb_place_name(place), text);
}

static void random_path(char path[static PATH_BYTES])
{
    struct vb_id random;
    char text[VB_NAME_TEXT_BYTES];

    randombytes_buf(&random, sizeof(random));
    snprintf(path, PATH_BYTES, "tmp/%s", vb_id_text(text, &random));
}

static struct dir_store *of(struct vb_store *store)
{
    return (struct dir_store *)store;
}

/* --- reading ------------------------------------------------------------------------------ */

struct listing {
    enum vb_place place;
    bool trash;
    vb_store_each *each;
    void *opaque;
    bool stopped;
};

static int list_folder(struct dir_store *dir, const char *path, struct listing *listing)
{
    const char *prefix = vb_place_name(listing->place);
    int fd = openat(dir->root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;

    if (!folder) {
        int result = errno == ENOENT ? 0 : -errno;

        if (fd >= 0)
            close(fd);
        return result;
    }
    // cppcheck-suppress readdirCalled ; one stream, one thread
    while (!listing->stopped && (entry = readdir(folder))) {
        const char *text = entry->d_name;
        struct vb_id name;
        struct stat status;

        if (listing->trash) {
            size_t length = strlen(prefix);

            if (strncmp(text, prefix, length) != 0 || text[length] != '-')
                continue;
            text += length + 1;
        }
        if (!vb_id_parse(text, &name) ||
            fstatat(dirfd(folder), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0 ||
            !S_ISREG(status.st_mode))
            continue;
        listing->stopped = !listing->each(listing->opaque, &name, (uint64_t)status.st_size);
    }
    closedir(folder);
    return 0;
}

static int dir_list(struct vb_store *store, enum vb_place place, bool trash, vb_store_each *each,
                    void *opaque)
{
    struct listing listing = {.place = place, .trash = trash, .each = each, .opaque = opaque};
    char path[PATH_BYTES];
    int result = 0;

    if (trash || place != VB_PACKS)
        return list_folder(of(store), trash ? "trash" : vb_place_name(place), &listing);
    for (unsigned i = 0; i < PACK_FOLDERS && result == 0 && !listing.stopped; i++) {
        snprintf(path, sizeof(path), "packs/%02x", i);
        result = list_folder(of(store), path, &listing);
    }
    return result;
}

static int open_object(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                       bool trash)
{
    char path[PATH_BYTES];
    int fd;

    object_path(path, place, name, trash);
    fd = openat(of(store)->root, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0)
        return -errno;
    return fd;
}

static int dir_length(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                      uint64_t *bytes)
{
    struct stat status;
    char path[PATH_BYTES];

    object_path(path, place, name, false);
    if (fstatat(of(store)->root, path, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    if (!S_ISREG(status.st_mode))
        return -ENOENT;
    *bytes = (uint64_t)status.st_size;
    return 0;
}

static int dir_get(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                   uint64_t offset, void *data, size_t bytes)
{
    uint8_t *to = data;
    int result = 0, fd = open_object(store, place, name, false);

    if (fd == -ENOENT && (place == VB_PACKS || place == VB_INDEX_DATA || place == VB_INDEX_TREE))
        fd = open_object(store, place, name, true);
    if (fd < 0)
        return fd;
    while (bytes > 0 && result == 0) {
        ssize_t got = pread(fd, to, bytes, (off_t)offset);

        if (got > 0) {
            to += got;
            bytes -= (size_t)got;
            offset += (uint64_t)got;
        } else if (got == 0) {
            result = -ENODATA;
        } else if (errno != EINTR) {
            result = -errno;
        }
    }
    close(fd);
    return result;
}

static int dir_when(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                    bool trash, int64_t *seconds)
{
    struct stat status;
    char path[PATH_BYTES];

    object_path(path, place, name, trash);
    if (fstatat(of(store)->root, path, &status, AT_SYMLINK_NOFOLLOW) < 0)
        return -errno;
    *seconds = trash ? status.st_ctime : status.st_mtime;
    return 0;
}

/* --- writing ------------------------------------------------------------------------------ */

static int write_all(int fd, const uint8_t *data, size_t bytes)
{
    while (bytes > 0) {
        ssize_t put = write(fd, data, bytes);

        if (put < 0 && errno != EINTR)
            return -errno;
        if (put > 0) {
            data += put;
            bytes -= (size_t)put;
        }
    }
    return 0;
}

/* All but the last bytes of a large object, beside the page cache: it would be copied there only to
 * be read from there by the disk. Returns how many bytes; where that does not work, none. */
static size_t write_direct(struct dir_store *dir, const char *path, const uint8_t *data,
                           size_t bytes)
{
    size_t whole = bytes / DIRECT_UNIT * DIRECT_UNIT, done = 0;
    int fd;

    if (bytes < EARLY_BYTES || (uintptr_t)data % DIRECT_UNIT != 0)
        return 0;
    fd = openat(dir->root, path, O_WRONLY | O_DIRECT | O_CLOEXEC | O_NOFOLLOW);
    while (fd >= 0 && done < whole) {
        ssize_t put = write(fd, data + done, whole - done);

        if (put <= 0 || put % DIRECT_UNIT != 0)
            break;
        done += (size_t)put;
    }
    if (fd >= 0)
        close(fd);
    return done;
}

/* A file in tmp/ with these bytes, open; its path. Or an error, and no file. */
static int write_temporary(struct dir_store *dir, char path[static PATH_BYTES], const void *data,
                           size_t bytes)
{
    const uint8_t *at = data;
    size_t direct;
    int result = 0, fd;

    random_path(path);
    fd = openat(dir->root, path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    direct = write_direct(dir, path, at, bytes);
    if (lseek(fd, (off_t)direct, SEEK_SET) < 0)
        result = -errno;
    if (result == 0)
        result = write_all(fd, at + direct, bytes - direct);
    if (result) {
        unlinkat(dir->root, path, 0);
        close(fd);
        return result;
    }
    if (bytes >= EARLY_BYTES)
        sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    return fd;
}

/* Makes the folder of a pack where it is missing; then packs/ has changed, too. */
static int give_name(struct dir_store *dir, const char *from, const char *to, bool *new_folder)
{
    char folder[PATH_BYTES];
    const char *slash = strrchr(to, '/');

    for (bool made = false;; made = true) {
        if (renameat2(dir->root, from, dir->root, to, RENAME_NOREPLACE) == 0)
            return 0;
        if (errno == EEXIST) /* the same bytes */
            return unlinkat(dir->root, from, 0) < 0 ? -errno : 0;
        if (errno == EINVAL || errno == ENOSYS) /* a file system without that */
            return renameat(dir->root, from, dir->root, to) < 0 ? -errno : 0;
        if (errno != ENOENT || made || !slash)
            return -errno;
        snprintf(folder, sizeof(folder), "%.*s", (int)(slash - to), to);
        if (mkdirat(dir->root, folder, 0700) < 0 && errno != EEXIST)
            return -errno;
        *new_folder = true;
    }
}

static int sync_folder(struct dir_store *dir, const char *path)
{
    int result = 0, fd = openat(dir->root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0)
        return -errno;
    if (fsync(fd) < 0 && errno != EINVAL)
        result = -errno;
    close(fd);
    return result;
}

static int sync_folders(struct dir_store *dir, const struct folders *folders)
{
    char path[PATH_BYTES];
    int result = 0;

    for (unsigned i = 0; i < PACK_FOLDERS && result == 0; i++) {
        snprintf(path, sizeof(path), "packs/%02x", i);
        if (folders->pack[i])
            result = sync_folder(dir, path);
    }
    for (unsigned i = 0; i < VB_PLACES && result == 0; i++) {
        if (folders->place[i])
            result = sync_folder(dir, i == VB_CONFIG ? "." : vb_place_name((enum vb_place)i));
    }
    if (folders->trash && result == 0)
        result = sync_folder(dir, "trash");
    return result;
}

/* With its bytes durable, or not: `result`. */
static int publish(struct dir_store *dir, const struct pending *pending, int result,
                   struct folders *folders)
{
    char path[PATH_BYTES];
    bool new_folder = false;

    close(pending->fd);
    if (result == 0) {
        object_path(path, pending->place, &pending->name, false);
        result = give_name(dir, pending->path, path, &new_folder);
    }
    if (result)
        unlinkat(dir->root, pending->path, 0);
    if (pending->place == VB_PACKS)
        folders->pack[pending->name.b[0]] = true;
    if (pending->place != VB_PACKS || new_folder)
        folders->place[pending->place] = true;
    return result;
}

/* All bytes first, then all names: so the file system writes its own log twice, and not once for
 * each object. */
static int publish_all(struct dir_store *dir, const struct pending *list, unsigned count,
                       struct folders *folders)
{
    int done[PENDING_MAX], result = 0;

    for (unsigned i = 0; i < count; i++)
        sync_file_range(list[i].fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    for (unsigned i = 0; i < count; i++)
        done[i] = fdatasync(list[i].fd) < 0 ? -errno : 0;
    for (unsigned i = 0; i < count; i++) {
        int this_result = publish(dir, &list[i], done[i], folders);

        result = result ? result : this_result;
    }
    return result;
}

static int dir_sync(struct vb_store *store)
{
    struct dir_store *dir = of(store);
    struct pending *list = malloc(sizeof(dir->pending));
    struct folders folders;
    unsigned count;
    int result;

    if (!list)
        return -ENOMEM;
    pthread_mutex_lock(&dir->sync_mutex);
    pthread_mutex_lock(&dir->mutex);
    count = dir->pending_count;
    memcpy(list, dir->pending, count * sizeof(*list));
    dir->pending_count = 0;
    folders = dir->moved;
    memset(&dir->moved, 0, sizeof(dir->moved));
    pthread_mutex_unlock(&dir->mutex);
    result = publish_all(dir, list, count, &folders);
    if (result == 0)
        result = sync_folders(dir, &folders);
    pthread_mutex_unlock(&dir->sync_mutex);
    free(list);
    return result;
}

static int dir_put(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                   const void *data, size_t bytes)
{
    struct dir_store *dir = of(store);
    struct pending pending = {.place = place, .name = *name};

    pending.fd = write_temporary(dir, pending.path, data, bytes);
    if (pending.fd < 0)
        return pending.fd;
    for (;;) {
        int result;

        pthread_mutex_lock(&dir->mutex);
        if (dir->pending_count < PENDING_MAX) {
            dir->pending[dir->pending_count++] = pending;
            pthread_mutex_unlock(&dir->mutex);
            return 0;
        }
        pthread_mutex_unlock(&dir->mutex);
        result = dir_sync(store);
        if (result) {
            close(pending.fd);
            unlinkat(dir->root, pending.path, 0);
            return result;
        }
    }
}

static int dir_replace(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                       const void *data, size_t bytes)
{
    struct dir_store *dir = of(store);
    char from[PATH_BYTES], to[PATH_BYTES];
    int result, fd = write_temporary(dir, from, data, bytes);

    if (fd < 0)
        return fd;
    close(fd);
    object_path(to, place, name, false);
    result = renameat(dir->root, from, dir->root, to) < 0 ? -errno : 0;
    if (result)
        unlinkat(dir->root, from, 0);
    return result;
}

static int move(struct vb_store *store, enum vb_place place, const struct vb_id *name, bool out)
{
    struct dir_store *dir = of(store);
    char usual[PATH_BYTES], trash[PATH_BYTES];
    bool new_folder = false;
    int result;

    object_path(usual, place, name, false);
    object_path(trash, place, name, true);
    result =
        out ? give_name(dir, usual, trash, &new_folder) : give_name(dir, trash, usual, &new_folder);
    if (result)
        return result;
    pthread_mutex_lock(&dir->mutex);
    dir->moved.trash = true;
    if (place == VB_PACKS)
        dir->moved.pack[name->b[0]] = true;
    if (place != VB_PACKS || new_folder)
        dir->moved.place[place] = true;
    pthread_mutex_unlock(&dir->mutex);
    return 0;
}

static int dir_trash(struct vb_store *store, enum vb_place place, const struct vb_id *name)
{
    return move(store, place, name, true);
}

static int dir_untrash(struct vb_store *store, enum vb_place place, const struct vb_id *name)
{
    return move(store, place, name, false);
}

static int dir_remove(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                      bool trash)
{
    char path[PATH_BYTES];

    object_path(path, place, name, trash);
    return unlinkat(of(store)->root, path, 0) < 0 ? -errno : 0;
}

static int dir_tidy(struct vb_store *store, int64_t before)
{
    int fd = openat(of(store)->root, "tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;

    if (!folder) {
        int result = -errno;

        if (fd >= 0)
            close(fd);
        return result;
    }
    // cppcheck-suppress readdirCalled ; one stream, one thread
    while ((entry = readdir(folder))) {
        struct stat status;

        if (fstatat(dirfd(folder), entry->d_name, &status, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISREG(status.st_mode) && status.st_mtime < before)
            unlinkat(dirfd(folder), entry->d_name, 0);
    }
    closedir(folder);
    return 0;
}

/* --- opening, closing --------------------------------------------------------------------- */

static void dir_close(struct vb_store *store)
{
    struct dir_store *dir = of(store);

    for (unsigned i = 0; i < dir->pending_count; i++) {
        close(dir->pending[i].fd);
        unlinkat(dir->root, dir->pending[i].path, 0);
    }
    pthread_mutex_destroy(&dir->mutex);
    pthread_mutex_destroy(&dir->sync_mutex);
    close(dir->root);
    free(dir);
}

static const struct vb_store_ops ops = {
    .list = dir_list,
    .length = dir_length,
    .get = dir_get,
    .put = dir_put,
    .sync = dir_sync,
    .replace = dir_replace,
    .trash = dir_trash,
    .untrash = dir_untrash,
    .remove = dir_remove,
    .when = dir_when,
    .tidy = dir_tidy,
    .close = dir_close,
};

static bool is_empty(int root)
{
    int fd = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *folder = fd < 0 ? NULL : fdopendir(fd);
    const struct dirent *entry;
    bool empty = true;

    if (!folder) {
        if (fd >= 0)
            close(fd);
        return false;
    }
    // cppcheck-suppress readdirCalled ; one stream, one thread
    while ((entry = readdir(folder))) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            empty = false;
    }
    closedir(folder);
    return empty;
}

static int make_folders(int root)
{
    for (unsigned i = VB_KEYS; i < VB_PLACES; i++) {
        if (mkdirat(root, vb_place_name((enum vb_place)i), 0700) < 0)
            return -errno;
    }
    if (mkdirat(root, "trash", 0700) < 0 || mkdirat(root, "tmp", 0700) < 0)
        return -errno;
    return fsync(root) < 0 && errno != EINVAL ? -errno : 0;
}

static int prepare(int root, bool make, struct vdisk_error *error)
{
    struct stat status;
    int result;

    if (!make) {
        if (fstatat(root, "config", &status, 0) < 0)
            return error_set(error, -ENOENT,
                             "is no backup repository; `vdisk backup init` makes one");
        return 0;
    }
    if (!is_empty(root))
        return error_set(error, VDISK_E_EXISTS, "exists already and is not empty");
    result = make_folders(root);
    return result ? error_set(error, result, "%s", vdisk_strerror(result)) : 0;
}

int vb_store_dir_open(const char *path, bool make, struct vb_store **out, struct vdisk_error *error)
{
    struct dir_store *dir;
    int result, root;

    if (make && mkdir(path, 0700) < 0 && errno != EEXIST)
        return error_set(error, -errno, "%s", vdisk_strerror(-errno));
    root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0)
        return error_set(error, -errno, "%s",
                         errno == ENOENT ? "there is no backup repository"
                                         : vdisk_strerror(-errno));
    result = prepare(root, make, error);
    dir = result ? NULL : calloc(1, sizeof(*dir));
    if (!dir) {
        close(root);
        return result ? result : -ENOMEM;
    }
    dir->store.ops = &ops;
    dir->root = root;
    pthread_mutex_init(&dir->mutex, NULL); /* neither can fail on Linux */
    pthread_mutex_init(&dir->sync_mutex, NULL);
    *out = &dir->store;
    return 0;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
    (void)status, (void)walk;
    return type == FTW_DP ? rmdir(path) : unlink(path);
}

void vb_store_dir_discard(const char *path)
{
    nftw(path, remove_one, 8, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}
