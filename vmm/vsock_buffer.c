/* SPDX-License-Identifier: Apache-2.0 */
/* A ring of bytes: see vsock_buffer.h. */
#include "vsock_buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int vsock_buffer_add(struct vsock_buffer *buffer, const uint8_t *data, uint32_t length)
{
    uint32_t at, first;

    if (length > VSOCK_BUFFER_BYTES - buffer->length)
        return -ENOSPC;
    if (length == 0)
        return 0;
    if (!buffer->bytes) {
        buffer->bytes = malloc(VSOCK_BUFFER_BYTES);
        if (!buffer->bytes)
            return -ENOMEM;
    }
    at = (buffer->begin + buffer->length) % VSOCK_BUFFER_BYTES;
    first = VSOCK_BUFFER_BYTES - at < length ? VSOCK_BUFFER_BYTES - at : length;
    memcpy(buffer->bytes + at, data, first);
    memcpy(buffer->bytes, data + first, length - first);
    buffer->length += length;
    return 0;
}

unsigned vsock_buffer_peek(const struct vsock_buffer *buffer, struct iovec vectors[static 2])
{
    uint32_t to_end = VSOCK_BUFFER_BYTES - buffer->begin;

    if (buffer->length == 0)
        return 0;
    vectors[0] = (struct iovec){buffer->bytes + buffer->begin, buffer->length};
    if (buffer->length <= to_end)
        return 1;
    vectors[0].iov_len = to_end;
    vectors[1] = (struct iovec){buffer->bytes, buffer->length - to_end};
    return 2;
}

void vsock_buffer_drop(struct vsock_buffer *buffer, uint32_t length)
{
    buffer->begin = (buffer->begin + length) % VSOCK_BUFFER_BYTES;
    buffer->length -= length;
    if (buffer->length == 0) {
        free(buffer->bytes);
        *buffer = (struct vsock_buffer){0};
    }
}
