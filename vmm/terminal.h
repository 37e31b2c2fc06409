/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The user's terminal in raw mode: every key goes through, and nothing is added to what is
 * written. It is as it was before when the process ends, by exit() or by any signal that can be
 * caught, and while it is stopped by SIGTSTP; SIGKILL alone leaves it raw.
 *
 * For that a signal which would end the process is caught where it has its default action, and
 * takes that action afterwards; what the program handles, ignores or blocks is its own affair.
 * There is one terminal in a process. From one thread.
 */
#ifndef VMM_TERMINAL_H
#define VMM_TERMINAL_H

/* Of a descriptor that stays open until vm_terminal_restore(). -errno; -EBUSY: there is one. */
int vm_terminal_raw(int fd);
/* Nothing when there is none. */
void vm_terminal_restore(void);

#endif
