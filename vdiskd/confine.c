/* SPDX-License-Identifier: Apache-2.0 */
/*
 * User, privileges and the file system; see confine.h. The system calls are in confine_syscalls.c.
 */
#include "confine.h"

#include "report.h"
#include "sizes.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/landlock.h>
#include <pwd.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef LANDLOCK_ACCESS_FS_REFER
#define LANDLOCK_ACCESS_FS_REFER (1ULL << 13)
#endif
#ifndef LANDLOCK_ACCESS_FS_TRUNCATE
#define LANDLOCK_ACCESS_FS_TRUNCATE (1ULL << 14)
#endif
#ifndef LANDLOCK_ACCESS_FS_IOCTL_DEV
#define LANDLOCK_ACCESS_FS_IOCTL_DEV (1ULL << 15)
#endif

/* Rights on a file itself; all others are about folders. */
#define FILE_RIGHTS                                                                                \
    (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE |  \
     LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_IOCTL_DEV)
#define READ_RIGHTS (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define WRITE_RIGHTS                                                                               \
    (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE | LANDLOCK_ACCESS_FS_MAKE_REG |   \
     LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_DIR | \
     LANDLOCK_ACCESS_FS_REMOVE_DIR)
#define FIRST_RIGHTS ((LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1) /* all of version 1 */

int confine_dumps(struct vdisk_error *error)
{
    const struct rlimit none = {0, 0};

    if (setrlimit(RLIMIT_CORE, &none) || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
        return error_set(error, -errno, "core dumps cannot be switched off: %s",
                         vdisk_strerror(-errno));
    return 0;
}

int confine_find_user(const char *user, uid_t *uid, gid_t *gid, struct vdisk_error *error)
{
    const struct passwd *entry = getpwnam(user);
    uint64_t number;

    if (!entry && sizes_parse_number(user, &number) && number < UINT32_MAX) {
        entry = getpwuid((uid_t)number);
        if (!entry) { /* a number needs no entry; its group is then the same */
            *uid = (uid_t)number;
            *gid = (gid_t)number;
            return 0;
        }
    }
    if (!entry)
        return error_set(error, VDISK_E_NOT_FOUND, "there is no user `%s`", user);
    *uid = entry->pw_uid;
    *gid = entry->pw_gid;
    return 0;
}

/* Root's memory is all locked (lockedmem.h), and a user's limit would let nothing more be had. */
static void keep_memory_locked(void)
{
    const struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY};

    if (setrlimit(RLIMIT_MEMLOCK, &none))
        (void)mlockall(MCL_CURRENT | MCL_ONFAULT); /* at least what is there now */
}

int confine_user(const char *user, struct vdisk_error *error)
{
    uid_t uid = (uid_t)-1;
    gid_t gid = (gid_t)-1;
    int rc;

    if (!user)
        return 0;
    rc = confine_find_user(user, &uid, &gid, error);
    if (rc)
        return rc;
    if (geteuid() != 0) {
        if (uid != geteuid())
            return error_set(error, -EPERM, "only root can become the user `%s`", user);
        return 0;
    }
    keep_memory_locked();
    if (setgroups(0, NULL) || setresgid(gid, gid, gid) || setresuid(uid, uid, uid))
        return error_set(error, -errno, "the process cannot become the user `%s`: %s", user,
                         vdisk_strerror(-errno));
    /* setresuid() may succeed and change nothing only by a bug; the price of that is too high. */
    if (uid != 0 && (setuid(0) == 0 || getuid() != uid || geteuid() != uid || getgid() != gid))
        return error_set(error, -EPERM, "the process could become root again");
    /* Changing the user made it dumpable according to the system's taste. */
    return confine_dumps(error);
}

int confine_privileges(struct vdisk_error *error)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return error_set(error, -errno, "privileges cannot be given up: %s",
                         vdisk_strerror(-errno));
    return 0;
}

char *confine_folder(const char *file)
{
    const char *slash = strrchr(file, '/');

    if (!slash)
        return strdup(".");
    return slash == file ? strdup("/") : strndup(file, (size_t)(slash - file));
}

static uint64_t rights_at(const struct confine_path *path)
{
    if (path->only_logs)
        return LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_WRITE_FILE |
               LANDLOCK_ACCESS_FS_READ_DIR;
    if (path->only_remove)
        return LANDLOCK_ACCESS_FS_REMOVE_FILE;
    if (path->only_socket)
        return LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_SOCK;
    return READ_RIGHTS | (path->may_write ? WRITE_RIGHTS : 0);
}

/* What this version of Landlock can forbid. */
static uint64_t rights_of(long version)
{
    uint64_t rights = FIRST_RIGHTS;

    if (version >= 2)
        rights |= LANDLOCK_ACCESS_FS_REFER;
    if (version >= 3)
        rights |= LANDLOCK_ACCESS_FS_TRUNCATE;
    if (version >= 5)
        rights |= LANDLOCK_ACCESS_FS_IOCTL_DEV;
    return rights;
}

static int allow_path(int rules, uint64_t handled, const struct confine_path *path,
                      struct vdisk_error *error)
{
    struct landlock_path_beneath_attr beneath = {
        .allowed_access = rights_at(path),
        .parent_fd = open(path->path, O_PATH | O_CLOEXEC),
    };
    struct stat status;
    int rc = 0;

    if (beneath.parent_fd < 0)
        return error_set(error, -errno, "%s: %s", path->path, vdisk_strerror(-errno));
    if (fstat(beneath.parent_fd, &status) == 0 && !S_ISDIR(status.st_mode))
        beneath.allowed_access &= FILE_RIGHTS;
    beneath.allowed_access &= handled;
    if (syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0))
        rc = error_set(error, -errno, "access to %s cannot be kept: %s", path->path,
                       vdisk_strerror(-errno));
    close(beneath.parent_fd);
    return rc;
}

int confine_files(const struct confine_path *paths, unsigned count, struct vdisk_error *error)
{
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    struct landlock_ruleset_attr attributes = {0};
    int rc = 0;

    if (version < 0 && (errno == ENOSYS || errno == EOPNOTSUPP))
        return 1;
    if (version < 0)
        return error_set(error, -errno, "Landlock does not answer: %s", vdisk_strerror(-errno));
    attributes.handled_access_fs = rights_of(version);
    int rules = (int)syscall(SYS_landlock_create_ruleset, &attributes,
                             sizeof(attributes.handled_access_fs), 0);
    if (rules < 0)
        return error_set(error, -errno, "Landlock takes no rules: %s", vdisk_strerror(-errno));
    for (unsigned i = 0; i < count && rc == 0; i++)
        rc = allow_path(rules, attributes.handled_access_fs, &paths[i], error);
    if (rc == 0 && syscall(SYS_landlock_restrict_self, rules, 0))
        rc = error_set(error, -errno, "the file system cannot be confined: %s",
                       vdisk_strerror(-errno));
    close(rules);
    return rc;
}
