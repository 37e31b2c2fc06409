/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How much each side may send before the other has taken it: VIRTIO 1.2, section 5.10.6.3. Counts
 * are of a connection's bytes since its beginning, modulo 2^32.
 *
 * What a guest says of itself need not be true. It can only make us send too little, or more than
 * it can take, into buffers that it gave: both are its own loss.
 */
#ifndef VMM_VSOCK_CREDIT_H
#define VMM_VSOCK_CREDIT_H

#include <stdbool.h>
#include <stdint.h>

/* What we hold of a connection at most, and so what a guest is told that it may send. */
#define VSOCK_BUFFER_BYTES 65536u

struct vsock_credit {
    uint32_t sent;         /* to the guest */
    uint32_t alloc, taken; /* the guest's last words: its buffer, and what has left it */
    uint32_t forwarded;    /* of the guest's, what has left our buffer */
    uint32_t told;         /* `forwarded` as the guest last heard of it */
};

/* Bytes that the guest takes now. */
static inline uint32_t vsock_credit_left(const struct vsock_credit *credit)
{
    uint32_t under_way = credit->sent - credit->taken;

    return under_way < credit->alloc ? credit->alloc - under_way : 0;
}

/*
 * Whether it is time to tell the guest that it may go on. A guest that has sent all it may has at
 * least that much to hear when our buffer has become empty, so that it never waits in vain.
 */
static inline bool vsock_credit_is_news(const struct vsock_credit *credit)
{
    return credit->forwarded - credit->told >= VSOCK_BUFFER_BYTES / 4;
}

#endif
