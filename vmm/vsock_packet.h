/* SPDX-License-Identifier: Apache-2.0 */
/* Packets of virtio-vsock: VIRTIO 1.2, section 5.10.6. Their data follows the header. */
#ifndef VMM_VSOCK_PACKET_H
#define VMM_VSOCK_PACKET_H

#include <endian.h>
#include <linux/virtio_vsock.h>
#include <stdint.h>
#include <string.h>

#define VSOCK_HEADER_BYTES 44u
#define VSOCK_HOST_CID     2u
#define VSOCK_SHUTDOWN_ALL (VIRTIO_VSOCK_SHUTDOWN_RCV | VIRTIO_VSOCK_SHUTDOWN_SEND)

struct vsock_header {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port;
    uint32_t length; /* of the data */
    uint16_t type, op;
    uint32_t flags;
    uint32_t buf_alloc, fwd_cnt; /* vsock_credit.h */
};

_Static_assert(sizeof(struct virtio_vsock_hdr) == VSOCK_HEADER_BYTES, "a header has 44 bytes");

static inline void vsock_header_decode(struct vsock_header *header,
                                       const uint8_t bytes[static VSOCK_HEADER_BYTES])
{
    struct virtio_vsock_hdr raw;

    memcpy(&raw, bytes, sizeof(raw));
    *header = (struct vsock_header){
        .src_cid = le64toh(raw.src_cid),
        .dst_cid = le64toh(raw.dst_cid),
        .src_port = le32toh(raw.src_port),
        .dst_port = le32toh(raw.dst_port),
        .length = le32toh(raw.len),
        .type = le16toh(raw.type),
        .op = le16toh(raw.op),
        .flags = le32toh(raw.flags),
        .buf_alloc = le32toh(raw.buf_alloc),
        .fwd_cnt = le32toh(raw.fwd_cnt),
    };
}

static inline void vsock_header_encode(const struct vsock_header *header,
                                       uint8_t bytes[static VSOCK_HEADER_BYTES])
{
    const struct virtio_vsock_hdr raw = {
        .src_cid = htole64(header->src_cid),
        .dst_cid = htole64(header->dst_cid),
        .src_port = htole32(header->src_port),
        .dst_port = htole32(header->dst_port),
        .len = htole32(header->length),
        .type = htole16(header->type),
        .op = htole16(header->op),
        .flags = htole32(header->flags),
        .buf_alloc = htole32(header->buf_alloc),
        .fwd_cnt = htole32(header->fwd_cnt),
    };

    memcpy(bytes, &raw, sizeof(raw));
}

#endif
