/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See terminal.h.
 *
 * A terminal that another job uses now is not touched: the shell has put it in order for that.
 */
#include "terminal.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <termios.h>
#include <unistd.h>

static const int numbers[] = {
    SIGHUP,    SIGINT,  SIGQUIT, SIGILL,  SIGTRAP, SIGABRT, SIGBUS,    SIGFPE,
    SIGUSR1,   SIGSEGV, SIGUSR2, SIGPIPE, SIGALRM, SIGTERM, SIGXCPU,   SIGXFSZ,
    SIGVTALRM, SIGPROF, SIGIO,   SIGPWR,  SIGSYS,  SIGTSTP, SIGSTKFLT,
};

#define NUMBERS (sizeof(numbers) / sizeof(numbers[0]))

/* Written while `raw` is false, and read by handlers while it is true. */
static struct {
    atomic_bool raw;
    int fd;
    struct termios before, during;
} terminal;

/* In a handler, too. */
static void set(const struct termios *mode)
{
    sigset_t output, mask;
    pid_t foreground = tcgetpgrp(terminal.fd); /* -1: not the terminal of this session */

    if (foreground >= 0 && foreground != getpgrp())
        return;
    sigemptyset(&output);
    sigaddset(&output, SIGTTOU); /* the other job may have come just now */
    pthread_sigmask(SIG_BLOCK, &output, &mask);
    (void)tcsetattr(terminal.fd, TCSANOW, mode);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

/* The signal has its default action again, which it takes when the handler returns. */
static void caught(int number)
{
    int error = errno;

    if (atomic_load(&terminal.raw))
        set(&terminal.before);
    if (number == SIGTSTP) {
        (void)kill(getpid(), SIGSTOP);
    } else {
        (void)signal(number, SIG_DFL);
        (void)raise(number);
    }
    errno = error;
}

static void continued(int number)
{
    int error = errno;

    (void)number;
    if (atomic_load(&terminal.raw))
        set(&terminal.during);
    errno = error;
}

/* Where `from` is the handler, `to` becomes it. */
static void change_handler(int number, void (*from)(int), void (*to)(int))
{
    struct sigaction now, action = {.sa_handler = to, .sa_flags = SA_RESTART};

    sigfillset(&action.sa_mask);
    if (sigaction(number, NULL, &now) == 0 && !(now.sa_flags & SA_SIGINFO) &&
        now.sa_handler == from)
        (void)sigaction(number, &action, NULL);
}

static void set_handlers(bool on)
{
    for (unsigned i = 0; i < NUMBERS; i++)
        change_handler(numbers[i], on ? SIG_DFL : caught, on ? caught : SIG_DFL);
    change_handler(SIGCONT, on ? SIG_DFL : continued, on ? continued : SIG_DFL);
}

int vm_terminal_raw(int fd)
{
    static bool registered;

    if (atomic_load(&terminal.raw))
        return -EBUSY;
    if (tcgetattr(fd, &terminal.before) < 0)
        return -errno;
    if (!registered && atexit(vm_terminal_restore))
        return -ENOMEM;
    registered = true;
    terminal.fd = fd;
    terminal.during = terminal.before;
    cfmakeraw(&terminal.during);
    atomic_store(&terminal.raw, true);
    set_handlers(true);
    if (tcsetattr(fd, TCSANOW, &terminal.during) <
        0) { /* in the background: stops until it is not */
        int result = -errno;

        vm_terminal_restore();
        return result;
    }
    return 0;
}

void vm_terminal_restore(void)
{
    if (!atomic_load(&terminal.raw))
        return;
    set(&terminal.before);
    atomic_store(&terminal.raw, false);
    set_handlers(false);
}
