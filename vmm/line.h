/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An interrupt of the guest that comes by edges: an eventfd that KVM watches (irqfd), so that any
 * thread, or another process, raises it without the VMM.
 */
#ifndef VMM_LINE_H
#define VMM_LINE_H

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct vm_line {
    int fd;
};

/* -errno. */
static inline int vm_line_new(struct vm_line *line)
{
    line->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return line->fd < 0 ? -errno : 0;
}

static inline void vm_line_free(struct vm_line *line)
{
    if (line->fd >= 0)
        close(line->fd);
    line->fd = -1;
}

/* By any thread. A full counter is a pulse that is already on its way. */
static inline void vm_line_pulse(const struct vm_line *line)
{
    const uint64_t one = 1;
    ssize_t written = write(line->fd, &one, sizeof(one));

    (void)written;
}

#endif
