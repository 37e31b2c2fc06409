/* SPDX-License-Identifier: Apache-2.0 */
/* Freezing and thawing; see freeze.h. */
#include "freeze.h"

#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THAW_FAILED  1
#define THAWED_EARLY 2
#define PAUSE_MS     20

static int64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* --- a hook ------------------------------------------------------------------------------------
 */

/* In a child: the hook, in a group of its own, with no signal blocked or ignored. */
static void become(const char *hook)
{
    sigset_t none;

    setpgid(0, 0);
    dup2(STDERR_FILENO, STDOUT_FILENO); /* what we print may be for a program */
    for (int i = 1; i < NSIG; i++)
        signal(i, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execl("/bin/sh", "sh", "-c", hook, (char *)NULL);
    _exit(127);
}

/* 0, -EIO (it failed), -ETIMEDOUT (it was ended), -errno. */
static int run(const char *hook, int64_t timeout_ms)
{
    int64_t end = now_ms() + timeout_ms;
    pid_t pid = fork();

    if (pid < 0)
        return -errno;
    if (pid == 0)
        become(hook);
    for (;;) {
        int status;
        pid_t got = waitpid(pid, &status, WNOHANG);

        if (got == pid)
            return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
        if (got < 0 && errno != EINTR)
            return -errno;
        if (now_ms() >= end) {
            kill(-pid, SIGKILL);
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            return -ETIMEDOUT;
        }
        poll(NULL, 0, PAUSE_MS);
    }
}

/* --- the guard -------------------------------------------------------------------------------- */

/* Freezes and says how that went; then sleeps until there is something to thaw for. */
static void guard(int talk, const char *freeze_hook, const char *thaw_hook)
{
    struct pollfd poll_fd = {.fd = talk, .events = POLLIN};
    sigset_t all;
    int64_t end;
    int frozen, ready;

    setsid(); /* not of those that a terminal or a service manager ends with us */
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    frozen = run(freeze_hook, FREEZE_TIMEOUT_S * INT64_C(1000));
    end = now_ms() + FREEZE_LONGEST_S * INT64_C(1000);
    if (write(talk, &frozen, sizeof(frozen)) != sizeof(frozen)) /* nobody is there any more */
        frozen = -EPIPE;
    ready = 1;
    while (frozen == 0) {
        int64_t left = end - now_ms();

        ready = poll(&poll_fd, 1, left > 0 ? (int)left : 0);
        if (ready >= 0 || errno != EINTR)
            break;
    }
    if (run(thaw_hook, FREEZE_TIMEOUT_S * INT64_C(1000)))
        _exit(THAW_FAILED);
    _exit(ready == 0 ? THAWED_EARLY : 0);
}

static int start_guard(struct freeze *freeze, const char *freeze_hook, const char *thaw_hook)
{
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return -errno;
    freeze->guard = fork();
    if (freeze->guard == 0) {
        close(ends[1]);
        guard(ends[0], freeze_hook, thaw_hook);
    }
    close(ends[0]);
    if (freeze->guard < 0) {
        int result = -errno;

        close(ends[1]);
        return result;
    }
    freeze->talk = ends[1];
    return 0;
}

/* --- ours ------------------------------------------------------------------------------------- */

int freeze_begin(struct freeze *freeze, const char *freeze_hook, const char *thaw_hook,
                 struct vdisk_error *error)
{
    struct vdisk_error ignored = {0};
    int result, frozen = -EIO;

    *freeze = (struct freeze){.talk = -1};
    result = start_guard(freeze, freeze_hook, thaw_hook);
    if (result)
        return error_set(error, result, "no process for the hooks: %s", vdisk_strerror(result));
    while (read(freeze->talk, &frozen, sizeof(frozen)) < 0 && errno == EINTR)
        ;
    if (frozen == 0)
        return 0;
    freeze_end(freeze, &ignored);
    return error_set(error, frozen, "the freeze hook %s; no backup was made",
                     frozen == -ETIMEDOUT ? "took too long, and was ended" : "failed");
}

int freeze_end(struct freeze *freeze, struct vdisk_error *error)
{
    int status = 0;

    if (freeze->talk < 0)
        return 0;
    close(freeze->talk); /* that is the word */
    freeze->talk = -1;
    while (waitpid(freeze->guard, &status, 0) < 0) {
        if (errno != EINTR)
            return error_set(error, -EIO, "nobody knows whether the thaw hook has run");
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == THAWED_EARLY)
        return error_set(error, -ETIMEDOUT,
                         "it took so long that the thaw hook was run before the snapshot");
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return error_set(error, -EIO, "the thaw hook failed");
    return 0;
}
