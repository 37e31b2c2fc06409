/* SPDX-License-Identifier: Apache-2.0 */
/* See background.h. */
#include "background.h"

#include "options.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The exit status of who waits. */
static int await(int told, pid_t pid)
{
    unsigned char status;
    int ended;
    ssize_t got;

    do
        got = read(told, &status, 1);
    while (got < 0 && errno == EINTR);
    close(told);
    if (got == 1)
        return status;
    while (waitpid(pid, &ended, 0) < 0) {
        if (errno != EINTR)
            return STATUS_FAILED;
    }
    if (WIFSIGNALED(ended))
        return report_text(NULL, -EIO, "the server was ended by the signal `%s`",
                           strsignal(WTERMSIG(ended)));
    return WEXITSTATUS(ended);
}

int background_begin(struct background *background)
{
    int ends[2];
    pid_t pid;

    background->null = open("/dev/null", O_RDWR | O_CLOEXEC); /* later it may not be reached */
    if (background->null < 0 || pipe2(ends, O_CLOEXEC))
        return report(NULL, -errno, NULL);
    pid = fork();
    if (pid < 0)
        return report(NULL, -errno, NULL);
    if (pid > 0) {
        close(ends[1]);
        return await(ends[0], pid);
    }
    close(ends[0]);
    background->told = ends[1];
    return OPTIONS_GO_ON;
}

void background_apart(const struct background *background)
{
    if (background->told >= 0)
        (void)setsid();
}

void background_up(struct background *background, int log)
{
    const unsigned char done = STATUS_DONE;
    int null = background->null;

    if (background->told < 0)
        return;
    (void)dup2(null, STDIN_FILENO);
    (void)dup2(null, STDOUT_FILENO);
    (void)dup2(log >= 0 ? log : null, STDERR_FILENO);
    close(null);
    (void)!write(background->told, &done, 1); /* or nobody waits any more */
    close(background->told);
    background->told = -1;
}
