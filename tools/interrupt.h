/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Ending tidily on SIGINT, SIGTERM and SIGHUP.
 *
 * A command that has something to clean up calls interrupt_catch() and looks at
 * interrupt_pending() in its loops; blocking calls then end with EINTR. main() lets the signal
 * take its usual effect when the command has returned. The third signal does so at once.
 */
#ifndef TOOLS_INTERRUPT_H
#define TOOLS_INTERRUPT_H

#include <stdbool.h>

void interrupt_catch(void);
bool interrupt_pending(void);
/* From now on it is as if a signal had come. From any thread. */
void interrupt_request(void);
/* Raises the signal that was caught, if any; may not return. */
void interrupt_resume(void);

/* Waits until `fd` is ready for `events` (poll.h). 0, -ECANCELED after a signal, -ETIMEDOUT after
 * `timeout_ms` (negative: never), -errno. */
int interrupt_wait_fd(int fd, short events, int timeout_ms);

#endif
