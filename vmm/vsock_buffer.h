/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that a guest has sent and a host's program has not yet taken: VSOCK_BUFFER_BYTES at most,
 * in memory only while there are any. */
#ifndef VMM_VSOCK_BUFFER_H
#define VMM_VSOCK_BUFFER_H

#include "vsock_credit.h"

#include <stddef.h>
#include <sys/uio.h>

struct vsock_buffer { /* zeroed: empty */
    uint8_t *bytes;
    uint32_t begin, length;
};

/* Adds all of it. -ENOSPC, -ENOMEM. */
int vsock_buffer_add(struct vsock_buffer *buffer, const uint8_t *data, uint32_t length);
/* What comes next, in order: how many vectors. */
unsigned vsock_buffer_peek(const struct vsock_buffer *buffer, struct iovec vectors[static 2]);
/* The first `length` bytes, which are there, are done with. */
void vsock_buffer_drop(struct vsock_buffer *buffer, uint32_t length);
static inline void vsock_buffer_clear(struct vsock_buffer *buffer)
{
    vsock_buffer_drop(buffer, buffer->length);
}

#endif
