/* SPDX-License-Identifier: Apache-2.0 */
/* See rundir.h. */
#include "rundir.h"

#include "report.h"
#include "sizes.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define AWAIT_STEP_MS 10

static bool is_name(const char *name)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";

    return name[0] && name[0] != '.' && strlen(name) <= RUNDIR_NAME_MAX &&
           strspn(name, letters) == strlen(name);
}

/* The folder for all of them. */
static int find_base(char path[RUNDIR_BYTES], struct vdisk_error *error)
{
    const char *runtime = geteuid() == 0 ? "/run" : getenv("XDG_RUNTIME_DIR");

    if (!runtime || runtime[0] != '/')
        return error_set(error, -ENOENT,
                         "XDG_RUNTIME_DIR is not set: there is no place for "
                         "sockets of a guest");
    if (snprintf(path, RUNDIR_BYTES, "%s/vdisk", runtime) + RUNDIR_NAME_MAX + 2 > RUNDIR_BYTES)
        return error_set(error, -ENAMETOOLONG, "%s: too long a path for sockets", runtime);
    return 0;
}

int rundir_find(const char *name, char path[RUNDIR_BYTES], struct vdisk_error *error)
{
    int rc;

    if (!is_name(name))
        return error_set(error, -EINVAL, "%s: a guest's name is up to %d letters, digits and `-_.`",
                         name, RUNDIR_NAME_MAX);
    rc = find_base(path, error);
    if (rc == 0) {
        size_t length = strlen(path);

        (void)snprintf(path + length, RUNDIR_BYTES - length, "/%s", name);
    }
    return rc;
}

static int find_user(const char *user, uid_t *uid, struct vdisk_error *error)
{
    const struct passwd *entry = user ? getpwnam(user) : NULL;
    uint64_t number;

    *uid = entry ? entry->pw_uid : geteuid();
    if (!user || entry)
        return 0;
    if (!sizes_parse_number(user, &number) || number >= UINT32_MAX)
        return error_set(error, VDISK_E_NOT_FOUND, "there is no user `%s`", user);
    *uid = (uid_t)number;
    return 0;
}

/* A folder that is there must be a folder, and of who will use it, or ours; root's all lie where
 * only root makes any, so one of a user before is as good. */
static int make(const char *path, uid_t uid, struct vdisk_error *error)
{
    struct stat status;

    if (mkdir(path, 0700) && errno != EEXIST)
        return error_set(error, -errno, "%s: %s", path, vdisk_strerror(-errno));
    if (lstat(path, &status))
        return error_set(error, -errno, "%s: %s", path, vdisk_strerror(-errno));
    if (!S_ISDIR(status.st_mode) || status.st_mode & 022 ||
        (geteuid() != 0 && status.st_uid != geteuid() && status.st_uid != uid))
        return error_set(error, -EPERM, "%s: must be a folder of yours that others cannot change",
                         path);
    if (status.st_uid != uid && lchown(path, uid, (gid_t)-1))
        return error_set(error, -errno, "%s: %s", path, vdisk_strerror(-errno));
    return 0;
}

/* Whoever gives it removes the lock file: it must be the one that is at the path now. */
static int take_lock(const char *path, int *out, struct vdisk_error *error)
{
    for (;;) {
        struct stat opened, there;
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0)
            return error_set(error, -errno, "%s: %s", path, vdisk_strerror(-errno));
        if (flock(fd, LOCK_EX | LOCK_NB)) {
            int rc = -errno;

            close(fd);
            if (rc == -EWOULDBLOCK)
                return error_set(error, VDISK_E_IN_USE, "a guest of this name is running");
            return error_set(error, rc, "%s: %s", path, vdisk_strerror(rc));
        }
        if (fstat(fd, &opened) == 0 && stat(path, &there) == 0 && opened.st_ino == there.st_ino) {
            *out = fd;
            return 0;
        }
        close(fd);
    }
}

/* One level of folders is all there is. */
static void clear(int folder, bool is_top)
{
    DIR *dir = fdopendir(folder);
    struct dirent *entry;

    while (dir && (entry = readdir(dir)) != NULL) {
        int inner;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
            strcmp(entry->d_name, "lock") == 0)
            continue;
        if (unlinkat(folder, entry->d_name, 0) == 0 || !is_top)
            continue;
        inner = openat(folder, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (inner >= 0)
            clear(inner, false);
        (void)unlinkat(folder, entry->d_name, AT_REMOVEDIR);
    }
    if (dir)
        closedir(dir);
    else
        close(folder);
}

static void empty(const char *path)
{
    int folder = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (folder >= 0)
        clear(folder, true);
}

int rundir_take(const char *name, const char *user, struct rundir *out, struct vdisk_error *error)
{
    uid_t uid;
    char path[RUNDIR_BYTES + 8] = "";
    struct rundir dir = {.lock = -1};
    int rc = rundir_find(name, dir.path, error);

    if (rc == 0)
        rc = find_user(user, &uid, error);
    if (rc == 0)
        rc = find_base(path, error);
    /* Root's folder for all is to be passed through by other users' programs. */
    if (rc == 0)
        rc = make(path, geteuid(), error);
    if (rc == 0 && geteuid() == 0 && chmod(path, 0711))
        rc = error_set(error, -errno, "%s: %s", path, vdisk_strerror(-errno));
    if (rc == 0)
        rc = make(dir.path, uid, error);
    if (rc)
        return rc;
    (void)snprintf(path, sizeof(path), "%s/lock", dir.path);
    rc = take_lock(path, &dir.lock, error);
    if (rc)
        return rc;
    empty(dir.path); /* of one that was killed */
    *out = dir;
    return 0;
}

bool rundir_await(const char *path, int seconds)
{
    const struct timespec step = {0, AWAIT_STEP_MS * 1000000L};
    char lock[RUNDIR_BYTES + 8];
    int fd, tries = seconds * 1000 / AWAIT_STEP_MS;
    bool is_free;

    (void)snprintf(lock, sizeof(lock), "%s/lock", path);
    fd = open(lock, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return errno == ENOENT;
    while (!(is_free = flock(fd, LOCK_SH | LOCK_NB) == 0) && tries-- > 0)
        (void)nanosleep(&step, NULL);
    close(fd);
    return is_free;
}

void rundir_give(struct rundir *dir)
{
    char path[RUNDIR_BYTES + 8];

    empty(dir->path);
    (void)snprintf(path, sizeof(path), "%s/lock", dir->path);
    (void)unlink(path);
    (void)rmdir(dir->path);
    close(dir->lock);
}
