/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the daemon gives up after start-up: its user, new privileges, core dumps, the file system
 * beyond its images, and the system calls that it does not need. Each is a function of its own,
 * called once, in this order:
 *
 *     confine_dumps, confine_user, confine_privileges, confine_files, confine_syscalls
 *
 * The last two bind the calling thread and those that it makes later: they come before any thread.
 * What fails leaves the process as it was, unless it says otherwise; a daemon should then end.
 */
#ifndef VDISKD_CONFINE_H
#define VDISKD_CONFINE_H

#include "vdisk/error.h"

#include <stdbool.h>
#include <sys/types.h>

/* No core dumps, and no tracing by others of the same user. -errno. */
int confine_dumps(struct vdisk_error *error);

/* A name or a number, and its first group. VDISK_E_NOT_FOUND. */
int confine_find_user(const char *user, uid_t *uid, gid_t *gid, struct vdisk_error *error);

/*
 * When root: becomes `user` (a name or a number) with its first group and no other, for good. When
 * not root, or `user` is NULL: nothing, but -EPERM when the user is another than we are. -errno;
 * VDISK_E_NOT_FOUND. After a failure some of it may be done.
 */
int confine_user(const char *user, struct vdisk_error *error);

/* No program that is executed has more rights than we have. -errno. */
int confine_privileges(struct vdisk_error *error);

struct confine_path {
    const char *path; /* a folder, or a file */
    bool may_write;   /* also make, rename and remove files in it */
    bool only_remove; /* files and sockets in it, and nothing else */
    bool only_logs;   /* files are made and written in it, and none is read */
    bool only_socket; /* sockets are made and removed in it, and nothing else */
};

/* The folder that a file is in, to be freed; NULL without memory. */
char *confine_folder(const char *file);

/*
 * By Landlock: nothing of the file system but what lies beneath the paths; what is open stays open.
 * Returns 0, 1 where the kernel has no Landlock (nothing is confined), or -errno. Needs
 * confine_privileges() before, or CAP_SYS_ADMIN.
 */
int confine_files(const struct confine_path *paths, unsigned count, struct vdisk_error *error);

struct confine_calls {
    bool only_local; /* no sockets but Unix' */
    const unsigned long *ioctls;
    unsigned ioctl_count;
};

/* By seccomp: a system call that a process which serves does not need ends the process with
 * SIGSYS; execve, ptrace, mount and the like are among them. Of ioctl() there is only what files
 * and sockets need, and the requests of `calls`; NULL: none. -errno. */
int confine_syscalls(const struct confine_calls *calls, struct vdisk_error *error);

#endif
