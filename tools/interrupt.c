/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one signal handler of the tools; see interrupt.h.
 */
#include "interrupt.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>

/* A worker thread may be the one that gets the signal, so a wait looks again this often. */
#define LOOK_AGAIN_MS 200

static volatile sig_atomic_t caught_signal;
static volatile sig_atomic_t caught_count;

static void catch (int number)
{
    caught_signal = number;
    caught_count = caught_count + 1;
    if (caught_count >= 3) {
        signal(number, SIG_DFL);
        raise(number);
    }
}

void interrupt_catch(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = catch};

    sigemptyset(&action.sa_mask);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        struct sigaction before;

        /* Whoever runs us under nohup means it. */
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
    }
}

bool interrupt_pending(void)
{
    return caught_signal != 0;
}

void interrupt_request(void)
{
    caught_signal = SIGTERM;
}

void interrupt_resume(void)
{
    int number = caught_signal;

    if (number == 0)
        return;
    signal(number, SIG_DFL);
    raise(number);
}

int interrupt_wait_fd(int fd, short events, int timeout_ms)
{
    struct pollfd wanted = {.fd = fd, .events = events};

    for (;;) {
        int step = LOOK_AGAIN_MS;
        int ready;

        if (interrupt_pending())
            return -ECANCELED;
        if (timeout_ms >= 0 && timeout_ms < step)
            step = timeout_ms;
        ready = poll(&wanted, 1, step);
        if (ready > 0)
            return 0;
        if (ready < 0 && errno != EINTR)
            return -errno;
        if (timeout_ms >= 0) {
            timeout_ms -= step;
            if (timeout_ms <= 0)
                return -ETIMEDOUT;
        }
    }
}
