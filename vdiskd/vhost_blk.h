/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of virtio-blk (VIRTIO 1.2, 5.2.6) as they lie in a chain: 16 bytes of header, data, and
 * as the last writable byte the status. With VERSION_1 the division into descriptors means nothing.
 *
 * Only the chain decides what is read and written where; what is parsed are copies.
 */
#ifndef VDISKD_VHOST_BLK_H
#define VDISKD_VHOST_BLK_H

#include "vring.h"

#include <linux/virtio_blk.h>

#define VHOST_BLK_SECTOR      512u
#define VHOST_BLK_RANGES_MAX  64u        /* of a discard or write-zeroes */
#define VHOST_BLK_SECTORS_MAX (1u << 22) /* of such a range: 2 GiB */
#define VHOST_BLK_SEGMENTS    254u       /* of data, what seg_max offers */

enum vhost_blk_kind {
    VHOST_BLK_READ,
    VHOST_BLK_WRITE,
    VHOST_BLK_FLUSH,
    VHOST_BLK_GET_ID,
    VHOST_BLK_DISCARD,
    VHOST_BLK_ZEROES,
};

struct vhost_blk_limits {
    uint64_t size; /* bytes of the drive */
    bool read_only;
    bool flush, discard, zeroes; /* negotiated */
};

struct vhost_blk_range {
    uint64_t offset, length; /* bytes */
    bool unmap;              /* ZEROES: space may be given back */
};

struct vhost_blk_request {
    enum vhost_blk_kind kind;
    uint64_t offset, length; /* READ, WRITE, and length of GET_ID: bytes */
    unsigned ranges;         /* DISCARD, ZEROES */
    struct vhost_blk_range range[VHOST_BLK_RANGES_MAX];
};

/*
 * 0, and *status is VIRTIO_BLK_S_OK: to be done; another *status is the answer. -EPROTO: a chain
 * that has no room for a header or a status, or lies outside of memory: nothing can be answered,
 * the device needs a reset.
 */
int vhost_blk_parse(struct vhost_blk_request *request, const struct vring_chain *chain,
                    const struct vhost_memory *memory, const struct vhost_blk_limits *limits,
                    uint8_t *status);

/* Data of a READ or GET_ID, `at` bytes into it. -EFAULT. */
int vhost_blk_fill(struct vhost_memory *memory, const struct vring_chain *chain, uint64_t at,
                   const void *data, size_t length);
/* Data of a WRITE. -EFAULT. */
int vhost_blk_take(const struct vhost_memory *memory, const struct vring_chain *chain, uint64_t at,
                   void *data, size_t length);
/* The status; *written is what the used ring says. -EFAULT. */
int vhost_blk_answer(struct vhost_memory *memory, const struct vring_chain *chain, uint8_t status,
                     uint32_t *written);

struct vhost_blk_device {
    uint64_t size;          /* bytes */
    uint64_t cluster_bytes; /* what is best written at once */
    uint16_t queues;
    bool write_back;
};
/* The configuration space. */
void vhost_blk_config(struct virtio_blk_config *config, const struct vhost_blk_device *device);
/* 20 bytes in hexadecimal, all of them used; of the 16 bytes of an id the first 10. */
void vhost_blk_serial(char serial[VIRTIO_BLK_ID_BYTES], const uint8_t id[16]);

#endif
