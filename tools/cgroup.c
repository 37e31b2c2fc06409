/* SPDX-License-Identifier: Apache-2.0 */
/* See cgroup.h; Linux's Documentation/admin-guide/cgroup-v2.rst. */
#include "cgroup.h"

#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define ROOT           "/sys/fs/cgroup"
#define MAGIC          0x63677270 /* of cgroup2's file system */
#define PERIOD_USEC    100000u
#define REMOVE_TRIES   200u
#define REMOVE_STEP_NS 10000000

static int put(const char *folder, const char *name, const char *text)
{
    char path[CGROUP_PATH_BYTES + 64];
    int fd, rc = 0;

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (write(fd, text, strlen(text)) != (ssize_t)strlen(text))
        rc = errno ? -errno : -EIO;
    close(fd);
    return rc;
}

/* The group that ours is in: /proc/self/cgroup has a line 0::/PATH. */
static int find_parent(char path[CGROUP_PATH_BYTES], struct vdisk_error *error)
{
    char line[CGROUP_PATH_BYTES - sizeof(ROOT)] = "";
    FILE *file = fopen("/proc/self/cgroup", "re");
    bool found = false;
    char *slash;

    while (file && !found && fgets(line, sizeof(line), file))
        found = strncmp(line, "0::/", 4) == 0 && strchr(line, '\n');
    if (file)
        fclose(file);
    if (!found)
        return error_set(error, -ENOENT, "this process is in no cgroup of version 2");
    *strchr(line, '\n') = 0;
    slash = strrchr(line, '/');
    *slash = 0;
    (void)snprintf(path, CGROUP_PATH_BYTES, "%s%s", ROOT, slash == line + 3 ? "" : line + 3);
    return 0;
}

/* What groups below may limit, as far as it is wanted. */
static int hand_down(const char *folder, const struct cgroup_limits *limits)
{
    int rc = 0;

    if (limits->cpu_percent || limits->weight)
        rc = put(folder, "cgroup.subtree_control", "+cpu");
    if (rc == 0 && limits->memory)
        rc = put(folder, "cgroup.subtree_control", "+memory");
    return rc;
}

static int make_folder(const char *path)
{
    return mkdir(path, 0755) && errno != EEXIST ? -errno : 0;
}

static int set_limits(const char *path, const struct cgroup_limits *limits)
{
    char text[64];
    int rc = 0;

    if (limits->cpu_percent) {
        (void)snprintf(text, sizeof(text), "%llu %u",
                       (unsigned long long)limits->cpu_percent * (PERIOD_USEC / 100), PERIOD_USEC);
        rc = put(path, "cpu.max", text);
    }
    if (rc == 0 && limits->cpu_burst) {
        (void)snprintf(text, sizeof(text), "%llu",
                       (unsigned long long)limits->cpu_burst * (PERIOD_USEC / 100));
        rc = put(path, "cpu.max.burst", text);
    }
    if (rc == 0 && limits->weight) {
        (void)snprintf(text, sizeof(text), "%u", limits->weight);
        rc = put(path, "cpu.weight", text);
    }
    if (rc == 0 && limits->memory) {
        (void)snprintf(text, sizeof(text), "%llu", (unsigned long long)limits->memory);
        rc = put(path, "memory.max", text);
    }
    return rc;
}

int cgroup_make(const char *name, const struct cgroup_limits *limits, char path[CGROUP_PATH_BYTES],
                struct vdisk_error *error)
{
    char parent[CGROUP_PATH_BYTES] = ROOT "/vdisk";
    struct statfs about;
    int rc = 0;

    if (statfs(ROOT, &about) || about.f_type != MAGIC)
        return error_set(error, -ENOTSUP, "there is no cgroup of version 2 at " ROOT);
    if (geteuid() == 0) {
        rc = hand_down(ROOT, limits);
        if (rc == 0)
            rc = make_folder(parent);
    } else {
        rc = find_parent(parent, error);
        if (rc)
            return rc;
    }
    if (strlen(parent) + strlen(name) + 8 > CGROUP_PATH_BYTES)
        return error_set(error, -ENAMETOOLONG, "%s: too long a path", parent);
    (void)snprintf(path, CGROUP_PATH_BYTES, "%s/%s%s", parent, geteuid() == 0 ? "" : "vdisk-",
                   name);
    if (rc == 0)
        rc = hand_down(parent, limits);
    if (rc == 0)
        rc = make_folder(path);
    if (rc == 0) {
        rc = set_limits(path, limits);
        if (rc)
            cgroup_remove(path);
    }
    if (rc)
        return error_set(error, rc, "%s: the system gives no such control over groups (%s)", parent,
                         vdisk_strerror(rc));
    return 0;
}

int cgroup_enter(const char *path)
{
    return put(path, "cgroup.procs", "0");
}

/* What the kernel did for a guest that was killed ends a little after it. */
void cgroup_remove(const char *path)
{
    const struct timespec step = {.tv_nsec = REMOVE_STEP_NS};

    for (unsigned i = 0; i < REMOVE_TRIES && rmdir(path) && errno == EBUSY; i++)
        (void)nanosleep(&step, NULL);
}
