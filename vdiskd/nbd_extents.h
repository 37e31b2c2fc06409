/* SPDX-License-Identifier: Apache-2.0 */
/* Ranges of a drive, for BLOCK_STATUS: the answer under construction. */
#ifndef VDISKD_NBD_EXTENTS_H
#define VDISKD_NBD_EXTENTS_H

#include "nbd_request.h"

/* A run of descriptors from `offset` on; neighbours of one state are one, none is empty. */
struct nbd_extents {
    struct nbd_extent {
        uint64_t length;
        uint32_t state;
    } * list;
    unsigned count, room, cap;
    uint64_t offset, at, end;
    int result; /* -ENOMEM once memory was short */
};

/* At most `cap` descriptors of the range, which is not empty. */
void nbd_extents_begin(struct nbd_extents *extents, uint64_t offset, uint64_t length, unsigned cap);
/* The state of the next `length` bytes; what is past the end is dropped. False: no more is wanted.
 */
bool nbd_extents_add(struct nbd_extents *extents, uint64_t length, uint32_t state);
void nbd_extents_free(struct nbd_extents *extents);
/* Bytes of the chunk, with its header. */
size_t nbd_extents_bytes(const struct nbd_extents *extents, enum nbd_mode mode);
/* Puts that many. */
void nbd_extents_encode(const struct nbd_extents *extents, uint8_t *out, enum nbd_mode mode,
                        const struct nbd_request *request, uint32_t context, bool is_last);

#endif
