/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Helper programs; see child.h.
 */
#include "child.h"

#include "interrupt.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define TERM_TRIES 100 /* of 50 ms: then it is killed */
#define STEP_MS    50

static void pause_ms(long milliseconds)
{
    const struct timespec step = {.tv_nsec = milliseconds * 1000000};

    nanosleep(&step, NULL);
}

/* Between fork and exec: nothing but what a signal handler may call. */
static void become(char *const argv[], int output, int complaints, int verdict, pid_t parent)
{
    struct sigaction normal = {.sa_handler = SIG_DFL};
    int input = open("/dev/null", O_RDWR);
    int number;

    sigaction(SIGPIPE, &normal, NULL);
    setpgid(0, 0); /* Ctrl-C is for us; we end it when we are done with it */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() == parent && dup2(input, STDIN_FILENO) >= 0 &&
        dup2(output >= 0 ? output : input, STDOUT_FILENO) >= 0 &&
        dup2(complaints, STDERR_FILENO) >= 0)
        execvp(argv[0], argv);
    number = errno;
    if (write(verdict, &number, sizeof(number)) < 0)
        _exit(126);
    _exit(127);
}

static void close_pipe(int ends[2])
{
    for (int i = 0; i < 2; i++) {
        if (ends[i] >= 0)
            close(ends[i]);
    }
}

static int not_started(struct vdisk_error *error, const char *program, int number)
{
    if (number == ENOENT)
        return error_set(error, -ENOENT, "needs %s, which is not installed (package qemu-utils)",
                         program);
    return error_set(error, -number, "%s does not start: %s", program, vdisk_strerror(-number));
}

int child_start(struct child *child, char *const argv[], bool wants_output,
                struct vdisk_error *error)
{
    int output[2] = {-1, -1}, complaints[2] = {-1, -1}, verdict[2] = {-1, -1};
    pid_t parent = getpid(), pid;
    int number = 0;

    *child = (struct child){.output = -1, .complaints = -1};
    snprintf(child->program, sizeof(child->program), "%s", argv[0]);
    if (pipe2(complaints, O_CLOEXEC) < 0 || pipe2(verdict, O_CLOEXEC) < 0 ||
        (wants_output && pipe2(output, O_CLOEXEC) < 0)) {
        number = errno;
        goto fail;
    }
    pid = fork();
    if (pid < 0) {
        number = errno;
        goto fail;
    }
    if (pid == 0)
        become(argv, output[1], complaints[1], verdict[1], parent);
    close(verdict[1]);
    verdict[1] = -1;
    /* Closed by the exec that succeeds. */
    while (read(verdict[0], &number, sizeof(number)) < 0 && errno == EINTR)
        ;
    if (number) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        goto fail;
    }
    close(verdict[0]);
    close(complaints[1]);
    if (output[1] >= 0)
        close(output[1]);
    child->pid = pid;
    child->output = output[0];
    child->complaints = complaints[0];
    fcntl(child->complaints, F_SETFL, O_NONBLOCK);
    return 0;
fail:
    close_pipe(output);
    close_pipe(complaints);
    close_pipe(verdict);
    return not_started(error, argv[0], number);
}

static void forget(struct child *child)
{
    if (child->output >= 0)
        close(child->output);
    if (child->complaints >= 0)
        close(child->complaints);
    *child = (struct child){.output = -1, .complaints = -1};
}

bool child_has_ended(struct child *child)
{
    siginfo_t info = {0};

    return waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid != 0;
}

/* The first line of what it complained of, without its own name. */
static void read_complaint(struct child *child, char text[CHILD_COMPLAINT_BYTES])
{
    ssize_t got = read(child->complaints, text, CHILD_COMPLAINT_BYTES - 1);
    size_t name_length = strlen(child->program);

    text[got > 0 ? got : 0] = '\0';
    text[strcspn(text, "\n")] = '\0';
    if (strncmp(text, child->program, name_length) == 0 && text[name_length] == ':')
        memmove(text, text + name_length + 1, strlen(text + name_length + 1) + 1);
}

int child_wait(struct child *child, struct vdisk_error *error)
{
    char program[CHILD_NAME_BYTES];
    char complaint[CHILD_COMPLAINT_BYTES];
    int status = 0;

    while (!child_has_ended(child)) {
        if (interrupt_pending()) {
            child_kill(child);
            return error_set(error, -ECANCELED, "interrupted");
        }
        pause_ms(STEP_MS / 10);
    }
    while (waitpid(child->pid, &status, 0) < 0 && errno == EINTR)
        ;
    read_complaint(child, complaint);
    memcpy(program, child->program, sizeof(program));
    forget(child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return 0;
    return error_set(error, -EIO, "%s failed:%s%s", program, complaint[0] == ' ' ? "" : " ",
                     complaint[0] ? complaint : "it does not say why");
}

void child_kill(struct child *child)
{
    if (child->pid == 0)
        return;
    kill(child->pid, SIGTERM);
    for (int i = 0; i < TERM_TRIES && !child_has_ended(child); i++)
        pause_ms(STEP_MS);
    if (!child_has_ended(child))
        kill(child->pid, SIGKILL);
    while (waitpid(child->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    forget(child);
}

/* All of it, so that the child does not block; what does not fit is dropped. */
static int take_output(struct child *child, char *output, size_t size)
{
    size_t length = 0;
    char rest[512] = "";

    for (;;) {
        bool fits = length + 1 < size;
        int result = interrupt_wait_fd(child->output, POLLIN, -1);
        ssize_t got;

        if (result)
            return result;
        got = read(child->output, fits ? output + length : rest,
                   fits ? size - length - 1 : sizeof(rest));
        if (got < 0 && errno != EINTR)
            return -errno;
        if (got == 0)
            break;
        if (got > 0 && fits)
            length += (size_t)got;
    }
    output[length] = '\0';
    return 0;
}

int child_run(char *const argv[], char *output, size_t size, struct vdisk_error *error)
{
    struct child child;
    int result = child_start(&child, argv, output != NULL, error);

    if (result)
        return result;
    if (output) {
        result = take_output(&child, output, size);
        if (result) {
            child_kill(&child);
            return error_set(error, result, "%s", vdisk_strerror(result));
        }
    }
    return child_wait(&child, error);
}
