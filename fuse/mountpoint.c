/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See mountpoint.h. fusermount3 is handed one end of a pair of sockets, by the environment variable
 * _FUSE_COMMFD, and sends /dev/fuse through it.
 *
 * Its option auto_unmount would take away what is left of a mount, but in Debian 12 it does not for
 * who has no rights (it looks as root, whom the kernel does not let in). So a process of ours waits
 * for the end of the one that serves: a shell, since it should know nothing that we know.
 */
#include "mountpoint.h"

#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROGRAM         "fusermount3"
#define COMPLAINT_BYTES 256u
#define READ_AHEAD_KIB  4096u /* several requests under way */
#define SOURCE_BYTES    256u
#define OPTIONS_BYTES   (2 * SOURCE_BYTES + 80u)

/* ---- the kernel's list ---- */

/* Whole, without symbolic links, also where a dead mount is in the way of looking. -errno. */
static int resolve(const char *folder, char path[PATH_MAX])
{
    char parent[PATH_MAX], *slash;
    const char *name;
    size_t length = strlen(folder);

    if (realpath(folder, path))
        return 0;
    if (errno != ENOTCONN && errno != EACCES)
        return -errno;
    while (length > 1 && folder[length - 1] == '/')
        length--;
    if (length >= sizeof(parent))
        return -ENAMETOOLONG;
    memcpy(parent, folder, length);
    parent[length] = 0;
    slash = strrchr(parent, '/');
    name = slash ? slash + 1 : parent;
    name = folder + (name - parent);
    if (slash)
        slash[slash == parent] = 0;
    if (!realpath(slash ? parent : ".", path))
        return -errno;
    length -= (size_t)(name - folder);
    size_t at = strlen(path);
    if (at + 1 + length >= PATH_MAX)
        return -ENAMETOOLONG;
    if (path[at - 1] != '/')
        path[at++] = '/';
    memcpy(path + at, name, length);
    path[at + length] = 0;
    return 0;
}

/* Spaces and the like are octal there. */
static void unescape(char *text)
{
    char *to = text;

    for (const char *at = text; *at;) {
        if (at[0] == '\\' && at[1] && at[2] && at[3]) {
            const char digits[] = {at[1], at[2], at[3], 0};

            *to++ = (char)strtoul(digits, NULL, 8);
            at += 4;
        } else {
            *to++ = *at++;
        }
    }
    *to = 0;
}

/* A line of mountinfo: whether it is of this path; *is_ours is set then. *point is the path that it
 * is of, or NULL. */
static bool look_at(char *line, const char *path, bool *is_ours, char **point_out)
{
    char *at = line, *point, *type;

    for (unsigned i = 0; i < 4 && at; i++)
        at = strchr(at, ' ') ? strchr(at, ' ') + 1 : NULL;
    point = at;
    type = at ? strstr(at, " - ") : NULL;
    at = at ? strchr(at, ' ') : NULL;
    *point_out = NULL;
    if (!at || !type)
        return false;
    *at = 0;
    unescape(point);
    *point_out = point;
    if (strcmp(point, path) != 0)
        return false;
    *is_ours = strncmp(type + 3, MOUNTPOINT_TYPE " ", sizeof(MOUNTPOINT_TYPE)) == 0;
    return true;
}

int mountpoint_is_used(const char *folder)
{
    char path[PATH_MAX], *line = NULL;
    bool is_ours = false;
    size_t room = 0;
    int rc = resolve(folder, path);
    char *point;
    FILE *list;

    if (rc)
        return rc;
    list = fopen("/proc/self/mountinfo", "re");
    if (!list)
        return -errno;
    while (getline(&line, &room, list) > 0)
        (void)look_at(line, path, &is_ours, &point); /* the last one is on top */
    free(line);
    (void)fclose(list);
    return is_ours;
}

pid_t mountpoint_server(const char *folder)
{
    char path[PATH_MAX], text[16], *end;
    ssize_t length;
    long pid;

    (void)snprintf(path, sizeof(path), "%s/" MOUNTPOINT_SERVER, folder);
    length = readlink(path, text, sizeof(text) - 1);
    if (length <= 0)
        return 0;
    text[length] = 0;
    pid = strtol(text, &end, 10);
    return *end == 0 && pid > 0 && pid <= INT_MAX ? (pid_t)pid : 0;
}

/* ---- fusermount3 ---- */

struct helper {
    pid_t pid;
    int complaints; /* what it writes to standard error */
};

/* Between fork and exec. */
static void become(char *const argv[], int complaints, int channel)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    char number[16];

    if (channel >= 0) {
        (void)fcntl(channel, F_SETFD, 0);
        (void)snprintf(number, sizeof(number), "%d", channel);
        (void)setenv("_FUSE_COMMFD", number, 1);
    }
    if (dup2(null, STDIN_FILENO) >= 0 && dup2(null, STDOUT_FILENO) >= 0 &&
        dup2(complaints, STDERR_FILENO) >= 0)
        execvp(argv[0], argv);
    if (errno == ENOENT)
        (void)dprintf(STDERR_FILENO, "is not installed (package fuse3)\n");
    else
        (void)dprintf(STDERR_FILENO, "does not start: %s\n", vdisk_strerror(-errno));
    _exit(127);
}

static int start(struct helper *helper, char *const argv[], int channel)
{
    int ends[2];

    *helper = (struct helper){.complaints = -1};
    if (pipe2(ends, O_CLOEXEC))
        return -errno;
    helper->pid = fork();
    if (helper->pid == 0)
        become(argv, ends[1], channel);
    close(ends[1]);
    if (helper->pid < 0) {
        int rc = -errno;

        close(ends[0]);
        return rc;
    }
    helper->complaints = ends[0];
    return 0;
}

/* Of one that ends; its exit status, or -errno, and the first line of what it said. */
static int await(struct helper *helper, char said[COMPLAINT_BYTES])
{
    const char *const own = PROGRAM ": ";
    size_t length = 0;
    int status = 0;
    ssize_t got;

    while (length < COMPLAINT_BYTES - 1 &&
           ((got = read(helper->complaints, said + length, COMPLAINT_BYTES - 1 - length)) > 0 ||
            (got < 0 && errno == EINTR)))
        length += got > 0 ? (size_t)got : 0;
    said[length] = 0;
    said[strcspn(said, "\n")] = 0;
    if (strncmp(said, own, strlen(own)) == 0)
        memmove(said, said + strlen(own), strlen(said) - strlen(own) + 1);
    close(helper->complaints);
    while (waitpid(helper->pid, &status, 0) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -EIO;
}

/* ---- mounting ---- */

/* A comma in it would end it; what is too long is cut. */
static void put_source(char *to, const char *source)
{
    unsigned length = 0;

    for (; *source && length < SOURCE_BYTES; source++, length++) {
        if (*source == ',' || *source == '\\')
            *to++ = '\\';
        *to++ = *source;
    }
    *to = 0;
}

static int receive_device(int channel, int *device)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    char byte;
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    const struct cmsghdr *header;
    ssize_t got;

    do
        got = recvmsg(channel, &message, MSG_CMSG_CLOEXEC);
    while (got < 0 && errno == EINTR);
    header = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    if (!header || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof(int)))
        return -EPERM;
    memcpy(device, CMSG_DATA(header), sizeof(int));
    return 0;
}

static int run_mount(const char *folder, const char *options, int *device,
                     struct vdisk_error *error)
{
    char *const argv[] = {
        PROGRAM, "-o", (char *)(uintptr_t)options, "--", (char *)(uintptr_t)folder, NULL};
    char said[COMPLAINT_BYTES];
    struct helper helper;
    int ends[2], rc;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return error_set(error, -errno, "%s", vdisk_strerror(-errno));
    rc = start(&helper, argv, ends[1]);
    close(ends[1]);
    if (rc) {
        close(ends[0]);
        return error_set(error, rc, "%s", vdisk_strerror(rc));
    }
    rc = receive_device(ends[0], device);
    close(ends[0]);
    (void)await(&helper, said);
    if (rc == 0)
        return 0;
    return error_set(error, rc, "%s %s%s", PROGRAM,
                     said[0] == 'i' || said[0] == 'd' ? "" : "says: ",
                     said[0] ? said : "gives no reason for not mounting");
}

/* A folder of a mount that is dead cannot be listed. It lets go of all that is ours. */
static void become_keeper(const char *path, int end)
{
    static const char script[] =
        "read -r _; ls \"$1\" >/dev/null 2>&1 || exec " PROGRAM " -u -z -q -- \"$1\"";
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

    (void)setsid();
    if (chdir("/") == 0 && dup2(end, STDIN_FILENO) >= 0 && dup2(null, STDOUT_FILENO) >= 0 &&
        dup2(null, STDERR_FILENO) >= 0)
        execl("/bin/sh", "vdisk-fuse", "-c", script, "vdisk-fuse", path, (char *)NULL);
    _exit(127);
}

/* Starts it; it reads the end of a pipe, whose other end is open as long as this process lives. */
static int keep(const char *path, struct vdisk_error *error)
{
    int ends[2];
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC))
        return error_set(error, -errno, "%s", vdisk_strerror(-errno));
    pid = fork();
    if (pid == 0)
        become_keeper(path, ends[0]);
    close(ends[0]);
    if (pid < 0)
        close(ends[1]);
    return pid < 0 ? error_set(error, -EAGAIN, "%s", vdisk_strerror(-EAGAIN)) : 0;
}

/* What the kernel knows of the folder it may tell all the same; a list it has to ask for. */
static bool is_dead(const char *folder)
{
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool is_dead = fd < 0 && errno == ENOTCONN;

    if (fd >= 0)
        close(fd);
    return is_dead;
}

static int dead(struct vdisk_error *error)
{
    return error_set(error, -ENOTCONN,
                     "a mount whose server has ended is left there; `vdisk umount` takes it away");
}

static int check_folder(const char *folder, struct vdisk_error *error)
{
    struct stat status;
    int used;

    if (stat(folder, &status)) {
        if (errno == ENOTCONN)
            return dead(error);
        if (errno == ENOENT)
            return error_set(error, -ENOENT, "no such file or folder; `mkdir` makes one");
        return error_set(error, -errno, "%s", vdisk_strerror(-errno));
    }
    if (!S_ISDIR(status.st_mode))
        return error_set(error, -ENOTDIR, "is no folder to mount at");
    used = mountpoint_is_used(folder);
    if (used > 0 && is_dead(folder))
        return dead(error);
    if (used > 0)
        return error_set(error, VDISK_E_EXISTS, "a drive is mounted there already");
    return 0;
}

int mountpoint_mount(const char *folder, const char *source, bool writable, int *device,
                     struct vdisk_error *error)
{
    char options[OPTIONS_BYTES], name[2 * SOURCE_BYTES + 1], path[PATH_MAX];
    int rc = check_folder(folder, error);

    if (rc)
        return rc;
    rc = resolve(folder, path); /* the helper takes no links */
    if (rc)
        return error_set(error, rc, "%s", vdisk_strerror(rc));
    rc = keep(path, error);
    if (rc)
        return rc;
    put_source(name, source);
    (void)snprintf(options, sizeof(options), "%s,nosuid,nodev,noexec,subtype=vdisk,fsname=%s",
                   writable ? "rw" : "ro", name);
    return run_mount(path, options, device, error);
}

void mountpoint_read_ahead(const char *folder)
{
    struct stat status;
    char path[64];
    FILE *file;

    if (geteuid() != 0 || stat(folder, &status)) /* waits until the kernel knows its own limit */
        return;
    (void)snprintf(path, sizeof(path), "/sys/class/bdi/%u:%u/read_ahead_kb", major(status.st_dev),
                   minor(status.st_dev));
    file = fopen(path, "we");
    if (!file)
        return;
    (void)fprintf(file, "%u\n", READ_AHEAD_KIB);
    (void)fclose(file);
}

/* ---- taking away ---- */

/* What was mounted last below the path: 1, 0, or -errno. */
static int last_below(const char *path, char below[PATH_MAX])
{
    FILE *list = fopen("/proc/self/mountinfo", "re");
    char *line = NULL, *point;
    size_t room = 0, length = strlen(path);
    bool is_ours;
    int found = 0;

    if (!list)
        return -errno;
    while (getline(&line, &room, list) > 0) {
        (void)look_at(line, path, &is_ours, &point);
        if (point && strncmp(point, path, length) == 0 && point[length] == '/' &&
            strlen(point) < PATH_MAX) {
            memcpy(below, point, strlen(point) + 1);
            found = 1;
        }
    }
    free(line);
    (void)fclose(list);
    return found;
}

/* The kernel's own mounts in files/ (kernel_mount.h). 0 or -errno. */
static int unmount_below(const char *path)
{
    char point[PATH_MAX];
    int rc;

    while ((rc = last_below(path, point)) > 0) {
        if (umount2(point, UMOUNT_NOFOLLOW))
            return -errno;
    }
    return rc;
}

static int unmounted(int rc, struct vdisk_error *error)
{
    if (rc == -EBUSY)
        return error_set(error, VDISK_E_IN_USE,
                         "files or folders of it are open (`fuser -vm` tells whose)");
    return error_set(error, rc, "%s", vdisk_strerror(rc));
}

int mountpoint_unmount(const char *folder, struct vdisk_error *error)
{
    char said[COMPLAINT_BYTES], path[PATH_MAX];
    char *const argv[] = {PROGRAM, "-u", "--", path, NULL};
    struct helper helper;
    int rc = resolve(folder, path);

    if (rc)
        return error_set(error, rc, "%s", vdisk_strerror(rc));
    if (geteuid() == 0) {
        rc = unmount_below(path);
        if (rc == 0 && umount2(path, UMOUNT_NOFOLLOW))
            rc = -errno;
        return rc ? unmounted(rc, error) : 0;
    }
    rc = start(&helper, argv, -1);
    if (rc)
        return error_set(error, rc, "%s", vdisk_strerror(rc));
    rc = await(&helper, said);
    if (rc == 0)
        return 0;
    if (strstr(said, "busy"))
        return unmounted(-EBUSY, error);
    return error_set(error, -EPERM, "%s: %s", PROGRAM, said[0] ? said : "gives no reason");
}
