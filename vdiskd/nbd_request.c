/* SPDX-License-Identifier: Apache-2.0 */
/* Requests and replies of NBD's transmission phase. A request is judged in one place. */
#include "nbd_request.h"

#include "vdisk/error.h"

#include <errno.h>

size_t nbd_request_bytes(enum nbd_mode mode)
{
    return mode == NBD_EXTENDED ? NBD_EXTENDED_REQUEST_BYTES : NBD_REQUEST_BYTES;
}

bool nbd_request_parse(enum nbd_mode mode, const uint8_t *header, struct nbd_request *request)
{
    bool extended = mode == NBD_EXTENDED;
    uint32_t magic = extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC;

    request->flags = nbd_get16(header + 4);
    request->command = nbd_get16(header + 6);
    request->cookie = nbd_get64(header + 8);
    request->offset = nbd_get64(header + 16);
    request->length = extended ? nbd_get64(header + 24) : nbd_get32(header + 24);
    request->payload = 0;
    /* A write has its data with it even where the flag was forgotten. */
    if (request->command == NBD_CMD_WRITE ||
        (extended && (request->flags & NBD_CMD_FLAG_PAYLOAD_LEN)))
        request->payload = request->length;
    return nbd_get32(header) == magic;
}

static unsigned allowed_flags(const struct nbd_request *request, const struct nbd_terms *terms)
{
    bool extended = terms->mode == NBD_EXTENDED;

    switch (request->command) {
    case NBD_CMD_READ:
        return NBD_CMD_FLAG_FUA | (terms->mode == NBD_SIMPLE ? 0 : NBD_CMD_FLAG_DF);
    case NBD_CMD_WRITE:
        return NBD_CMD_FLAG_FUA | (extended ? NBD_CMD_FLAG_PAYLOAD_LEN : 0);
    case NBD_CMD_WRITE_ZEROES:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO;
    case NBD_CMD_BLOCK_STATUS:
        return NBD_CMD_FLAG_FUA | NBD_CMD_FLAG_REQ_ONE | (extended ? NBD_CMD_FLAG_PAYLOAD_LEN : 0);
    default:
        return NBD_CMD_FLAG_FUA;
    }
}

uint32_t nbd_request_check(const struct nbd_request *request, const struct nbd_terms *terms)
{
    bool is_write = request->command == NBD_CMD_WRITE || request->command == NBD_CMD_WRITE_ZEROES;
    bool is_change = is_write || request->command == NBD_CMD_TRIM;

    if (request->command > NBD_CMD_BLOCK_STATUS || request->command == NBD_CMD_DISC)
        return NBD_EINVAL;
    if (request->flags & ~allowed_flags(request, terms))
        return NBD_EINVAL;
    if (is_change && terms->read_only)
        return NBD_EPERM;
    if (request->command == NBD_CMD_FLUSH)
        return request->offset || request->length ? NBD_EINVAL : 0;
    if (request->command == NBD_CMD_BLOCK_STATUS && (terms->contexts == 0 || request->length == 0))
        return NBD_EINVAL;
    if ((request->command == NBD_CMD_READ || request->command == NBD_CMD_WRITE) &&
        request->length > NBD_PAYLOAD_MAX)
        return request->flags & NBD_CMD_FLAG_DF ? NBD_EOVERFLOW : NBD_EINVAL;
    if (request->offset > terms->size || request->length > terms->size - request->offset)
        return is_write ? NBD_ENOSPC : NBD_EINVAL;
    return 0;
}

bool nbd_status_payload_parse(const uint8_t *payload, size_t length, uint64_t *effect,
                              uint32_t ids[static NBD_CONTEXTS_MAX], unsigned *count)
{
    if (length < 8 || length % 4 != 0 || (length - 8) / 4 > NBD_CONTEXTS_MAX)
        return false;
    *effect = nbd_get64(payload);
    *count = (unsigned)(length - 8) / 4;
    for (unsigned i = 0; i < *count; i++)
        ids[i] = nbd_get32(payload + 8 + (size_t)4 * i);
    return true;
}

uint32_t nbd_error_code(int result, bool fast_zero)
{
    switch (result) {
    case 0:
        return 0;
    case -EPERM:
    case -EACCES:
    case -EROFS:
        return NBD_EPERM;
    case -ENOMEM:
        return NBD_ENOMEM;
    case -EINVAL:
        return NBD_EINVAL;
    case -ENOSPC:
    case -EDQUOT:
    case -EFBIG:
    case VDISK_E_LIMIT:
        return NBD_ENOSPC;
    case -EOVERFLOW:
        return NBD_EOVERFLOW;
    case -ESHUTDOWN:
    case -ECANCELED:
        return NBD_ESHUTDOWN;
    case -EOPNOTSUPP:
        return fast_zero ? NBD_ENOTSUP : NBD_EINVAL;
    default:
        return NBD_EIO;
    }
}

size_t nbd_chunk_encode(uint8_t *out, enum nbd_mode mode, const struct nbd_request *request,
                        unsigned flags, unsigned type, uint64_t length)
{
    bool extended = mode == NBD_EXTENDED;

    nbd_put32(out, extended ? NBD_EXTENDED_CHUNK_MAGIC : NBD_CHUNK_MAGIC);
    nbd_put16(out + 4, (uint16_t)flags);
    nbd_put16(out + 6, (uint16_t)type);
    nbd_put64(out + 8, request->cookie);
    if (!extended) {
        nbd_put32(out + 16, (uint32_t)length);
        return NBD_CHUNK_BYTES;
    }
    nbd_put64(out + 16, request->offset);
    nbd_put64(out + 24, length);
    return NBD_EXTENDED_CHUNK_BYTES;
}

static size_t simple_reply(uint8_t *out, const struct nbd_request *request, uint32_t error)
{
    nbd_put32(out, NBD_SIMPLE_REPLY_MAGIC);
    nbd_put32(out + 4, error);
    nbd_put64(out + 8, request->cookie);
    return NBD_SIMPLE_REPLY_BYTES;
}

size_t nbd_reply_encode(uint8_t out[static NBD_REPLY_HEADER_MAX], enum nbd_mode mode,
                        const struct nbd_request *request, uint32_t error)
{
    bool must_be_chunk =
        request->command == NBD_CMD_READ || request->command == NBD_CMD_BLOCK_STATUS;
    size_t length;

    if (mode == NBD_SIMPLE || (mode == NBD_STRUCTURED && !must_be_chunk))
        return simple_reply(out, request, error);
    if (!error)
        return nbd_chunk_encode(out, mode, request, NBD_CHUNK_DONE, NBD_CHUNK_NONE, 0);
    length = nbd_chunk_encode(out, mode, request, NBD_CHUNK_DONE, NBD_CHUNK_ERROR, 6);
    nbd_put32(out + length, error);
    nbd_put16(out + length + 4, 0); /* no words */
    return length + 6;
}

size_t nbd_read_reply_encode(uint8_t out[static NBD_REPLY_HEADER_MAX], enum nbd_mode mode,
                             const struct nbd_request *request, bool is_hole)
{
    size_t length;

    if (mode == NBD_SIMPLE)
        return simple_reply(out, request, 0);
    length = nbd_chunk_encode(out, mode, request, NBD_CHUNK_DONE,
                              is_hole ? NBD_CHUNK_OFFSET_HOLE : NBD_CHUNK_OFFSET_DATA,
                              is_hole ? 12 : 8 + request->length);
    nbd_put64(out + length, request->offset);
    length += 8;
    if (is_hole) {
        nbd_put32(out + length, (uint32_t)request->length);
        length += 4;
    }
    return length;
}
