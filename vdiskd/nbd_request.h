/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests and replies of NBD's transmission phase, as bytes: functions on buffers.
 */
#ifndef VDISKD_NBD_REQUEST_H
#define VDISKD_NBD_REQUEST_H

#include "nbd_proto.h"

#include <stdbool.h>
#include <stddef.h>

enum nbd_mode {
    NBD_SIMPLE,
    NBD_STRUCTURED,
    NBD_EXTENDED, /* extended headers; includes structured replies */
};

struct nbd_request {
    uint16_t flags, command;
    uint64_t cookie;
    uint64_t offset;
    uint64_t length;  /* what the command is about */
    uint64_t payload; /* bytes that follow the header */
};

/* What a connection has agreed upon. */
struct nbd_terms {
    enum nbd_mode mode;
    bool read_only;
    unsigned contexts;
    uint64_t size; /* of the drive, in bytes */
};

size_t nbd_request_bytes(enum nbd_mode mode);
/* False: not a request; nothing that follows can be understood. For BLOCK_STATUS with a payload,
 * length is to be filled in from that (nbd_status_payload_parse). */
bool nbd_request_parse(enum nbd_mode mode, const uint8_t *header, struct nbd_request *request);
/* Whether it may be carried out: 0 or an NBD_E. BLOCK_STATUS with a payload: once length is known.
 */
uint32_t nbd_request_check(const struct nbd_request *request, const struct nbd_terms *terms);

/* Length and context numbers (at most NBD_CONTEXTS_MAX) of a BLOCK_STATUS request's payload.
 * False: malformed. */
bool nbd_status_payload_parse(const uint8_t *payload, size_t length, uint64_t *effect,
                              uint32_t ids[static NBD_CONTEXTS_MAX], unsigned *count);

/* What the wire has for a result of vdisk.h. `fast_zero`: ENOTSUP may be said. */
uint32_t nbd_error_code(int result, bool fast_zero);

#define NBD_REPLY_HEADER_MAX 48u
/* Each returns how many bytes it has put. */
size_t nbd_chunk_encode(uint8_t *out, enum nbd_mode mode, const struct nbd_request *request,
                        unsigned flags, unsigned type, uint64_t length);
/* The reply to a request that failed (NBD_E) or ended without data (0). */
size_t nbd_reply_encode(uint8_t out[static NBD_REPLY_HEADER_MAX], enum nbd_mode mode,
                        const struct nbd_request *request, uint32_t error);
/* The reply to a READ: the header; data of request->length follows, unless it is a hole. */
size_t nbd_read_reply_encode(uint8_t out[static NBD_REPLY_HEADER_MAX], enum nbd_mode mode,
                             const struct nbd_request *request, bool is_hole);

#endif
