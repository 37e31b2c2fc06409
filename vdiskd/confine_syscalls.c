/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The system calls of a daemon that serves; see confine.h.
 *
 * The list is by names, so that those which an architecture does not have are left out. What
 * io_uring does is not seen by seccomp: it has restrictions of its own (reactor_uring.c).
 */
#include "confine.h"

#include "report.h"

#include <errno.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>

static const char *const allowed[] = {
    /* files */
    "read",
    "write",
    "readv",
    "writev",
    "pread64",
    "pwrite64",
    "preadv",
    "pwritev",
    "preadv2",
    "pwritev2",
    "open",
    "openat",
    "openat2",
    "close",
    "close_range",
    "lseek",
    "stat",
    "fstat",
    "lstat",
    "newfstatat",
    "statx",
    "statfs",
    "fstatfs",
    "access",
    "faccessat",
    "faccessat2",
    "ftruncate",
    "fallocate",
    "fsync",
    "fdatasync",
    "sync_file_range",
    "flock",
    "fcntl",
    "dup",
    "dup2",
    "dup3",
    "pipe",
    "pipe2",
    "getdents64",
    "readlink",
    "readlinkat",
    "rename",
    "renameat",
    "renameat2",
    "unlink",
    "unlinkat",
    "mkdir",
    "mkdirat",
    "fchmod",
    "fchmodat",
    "umask",
    "getcwd",
    "copy_file_range",
    "fadvise64",
    "name_to_handle_at",
    /* sockets; no new kinds of them, see below */
    "bind",
    "listen",
    "accept",
    "accept4",
    "connect",
    "shutdown",
    "recvmsg",
    "recvfrom",
    "recvmmsg",
    "sendmsg",
    "sendto",
    "sendmmsg",
    "getsockopt",
    "setsockopt",
    "getsockname",
    "getpeername",
    "socketpair",
    /* waiting */
    "poll",
    "ppoll",
    "select",
    "pselect6",
    "epoll_create1",
    "epoll_ctl",
    "epoll_wait",
    "epoll_pwait",
    "epoll_pwait2",
    "eventfd2",
    "timerfd_create",
    "timerfd_settime",
    "timerfd_gettime",
    "signalfd4",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "nanosleep",
    "clock_nanosleep",
    "clock_gettime",
    "clock_getres",
    "gettimeofday",
    "time",
    "restart_syscall",
    /* memory */
    "brk",
    "munmap",
    "mremap",
    "madvise",
    "mlock",
    "mlock2",
    "munlock",
    "mlockall",
    "munlockall",
    "mincore",
    "memfd_create",
    "membarrier",
    /* threads and signals */
    "futex",
    "futex_waitv",
    "clone",
    "clone3",
    "set_robust_list",
    "get_robust_list",
    "rseq",
    "set_tid_address",
    "gettid",
    "getpid",
    "getppid",
    "tgkill",
    "exit",
    "exit_group",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "rt_sigtimedwait",
    "rt_sigpending",
    "sigaltstack",
    "sched_yield",
    "sched_getaffinity",
    "sched_setaffinity",
    "getcpu",
    "arch_prctl",
    /* about ourselves */
    "getuid",
    "geteuid",
    "getgid",
    "getegid",
    "getrandom",
    "getrusage",
    "getrlimit",
    "prlimit64",
    "sysinfo",
    "uname",
    "times",
    "getresuid",
    "getresgid",
    "getgroups",
    "capget",
};

static int allow_named(scmp_filter_ctx filter)
{
    for (unsigned i = 0; i < sizeof(allowed) / sizeof(*allowed); i++) {
        int number = seccomp_syscall_resolve_name(allowed[i]);
        int rc;

        if (number == __NR_SCMP_ERROR || number < 0)
            continue;
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, number, 0);
        if (rc)
            return rc;
    }
    return 0;
}

/* Where only some of what a call does is needed. */
static int allow_partly(scmp_filter_ctx filter, const struct confine_calls *calls)
{
    static const unsigned families[] = {AF_UNIX, AF_INET, AF_INET6};
    static const unsigned controls[] = {FIONBIO, FIONREAD, FIOCLEX, TCGETS}; /* isatty() */
    static const int processes[] = {PR_SET_NAME, PR_GET_NAME, PR_GET_DUMPABLE, PR_SET_VMA};
    int rc = 0;

    for (unsigned i = 0; i < (calls->only_local ? 1u : 3u) && rc == 0; i++)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
                              SCMP_A0(SCMP_CMP_EQ, families[i], 0));
    for (unsigned i = 0; i < 4 && rc == 0; i++)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                              SCMP_A1(SCMP_CMP_EQ, controls[i], 0));
    for (unsigned i = 0; i < 4 && rc == 0; i++)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
                              SCMP_A0(SCMP_CMP_EQ, (unsigned)processes[i], 0));
    for (unsigned i = 0; i < calls->ioctl_count && rc == 0; i++)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                              SCMP_A1(SCMP_CMP_EQ, calls->ioctls[i], 0));
    /* No memory that is code. */
    if (rc == 0)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    if (rc == 0)
        rc = seccomp_rule_add(filter, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
                              SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
    return rc;
}

int confine_syscalls(const struct confine_calls *calls, struct vdisk_error *error)
{
    static const struct confine_calls none = {.ioctls = NULL};

    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_KILL_PROCESS);
    int rc;

    if (!calls)
        calls = &none;
    if (!filter)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    rc = allow_named(filter);
    if (rc == 0)
        rc = allow_partly(filter, calls);
    /* A thread that is there already would go on unconfined. */
    if (rc == 0)
        rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (rc == 0)
        rc = seccomp_load(filter);
    seccomp_release(filter);
    if (rc)
        return error_set(error, rc, "the system calls cannot be confined: %s", vdisk_strerror(rc));
    return 0;
}
