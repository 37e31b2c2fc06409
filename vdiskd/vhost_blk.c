/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of virtio-blk.
 */
#include "vhost_blk.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

/* [sector, sector + bytes) on the drive; bytes is of whole sectors. */
static bool within(uint64_t sector, uint64_t bytes, uint64_t size, uint64_t *offset)
{
    return !__builtin_mul_overflow(sector, VHOST_BLK_SECTOR, offset) && *offset <= size &&
           bytes <= size - *offset && bytes % VHOST_BLK_SECTOR == 0;
}

static uint8_t parse_data(struct vhost_blk_request *request, uint64_t sector, uint64_t length,
                          const struct vhost_blk_limits *limits)
{
    request->length = length;
    return within(sector, length, limits->size, &request->offset) ? VIRTIO_BLK_S_OK
                                                                  : VIRTIO_BLK_S_IOERR;
}

/* The ranges of a discard or of zeroes. */
static int parse_ranges(struct vhost_blk_request *request, const struct vring_chain *chain,
                        const struct vhost_memory *memory, const struct vhost_blk_limits *limits,
                        uint8_t *status)
{
    uint64_t bytes = chain->readable_bytes - sizeof(struct virtio_blk_outhdr);
    struct virtio_blk_discard_write_zeroes wire;
    uint32_t known = request->kind == VHOST_BLK_ZEROES ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;

    *status = VIRTIO_BLK_S_IOERR;
    if (bytes == 0 || bytes % sizeof(wire) || bytes / sizeof(wire) > VHOST_BLK_RANGES_MAX)
        return 0;
    request->ranges = (unsigned)(bytes / sizeof(wire));
    for (unsigned i = 0; i < request->ranges; i++) {
        struct vhost_blk_range *range = &request->range[i];

        if (vring_chain_read(memory, chain->segment, chain->readable,
                             sizeof(struct virtio_blk_outhdr) + i * sizeof(wire), &wire,
                             sizeof(wire)))
            return -EPROTO;
        uint32_t sectors = le32toh(wire.num_sectors), flags = le32toh(wire.flags);

        range->length = (uint64_t)sectors * VHOST_BLK_SECTOR;
        range->unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
        if (flags & ~known) {
            *status = VIRTIO_BLK_S_UNSUPP;
            return 0;
        }
        if (sectors > VHOST_BLK_SECTORS_MAX ||
            !within(le64toh(wire.sector), range->length, limits->size, &range->offset))
            return 0;
    }
    *status = VIRTIO_BLK_S_OK;
    return 0;
}

/* False: not one that we know or that was negotiated. */
static bool find_kind(uint32_t type, const struct vhost_blk_limits *limits,
                      enum vhost_blk_kind *kind)
{
    switch (type) {
    case VIRTIO_BLK_T_IN:
        *kind = VHOST_BLK_READ;
        return true;
    case VIRTIO_BLK_T_OUT:
        *kind = VHOST_BLK_WRITE;
        return true;
    case VIRTIO_BLK_T_FLUSH:
        *kind = VHOST_BLK_FLUSH;
        return limits->flush;
    case VIRTIO_BLK_T_GET_ID:
        *kind = VHOST_BLK_GET_ID;
        return true;
    case VIRTIO_BLK_T_DISCARD:
        *kind = VHOST_BLK_DISCARD;
        return limits->discard;
    case VIRTIO_BLK_T_WRITE_ZEROES:
        *kind = VHOST_BLK_ZEROES;
        return limits->zeroes;
    default:
        return false;
    }
}

int vhost_blk_parse(struct vhost_blk_request *request, const struct vring_chain *chain,
                    const struct vhost_memory *memory, const struct vhost_blk_limits *limits,
                    uint8_t *status)
{
    struct virtio_blk_outhdr header;

    request->offset = request->length = 0;
    request->ranges = 0;
    if (chain->readable_bytes < sizeof(header) || chain->writable_bytes < 1 ||
        vring_chain_read(memory, chain->segment, chain->readable, 0, &header, sizeof(header)))
        return -EPROTO;
    uint64_t sector = le64toh(header.sector);

    *status = VIRTIO_BLK_S_UNSUPP;
    if (!find_kind(le32toh(header.type), limits, &request->kind))
        return 0;
    *status = VIRTIO_BLK_S_OK;
    switch (request->kind) {
    case VHOST_BLK_READ:
        *status = parse_data(request, sector, chain->writable_bytes - 1, limits);
        return 0;
    case VHOST_BLK_GET_ID:
        request->length = chain->writable_bytes - 1 < VIRTIO_BLK_ID_BYTES
                              ? chain->writable_bytes - 1
                              : VIRTIO_BLK_ID_BYTES;
        return 0;
    case VHOST_BLK_FLUSH:
        return 0;
    case VHOST_BLK_WRITE:
    case VHOST_BLK_DISCARD:
    case VHOST_BLK_ZEROES:
        break;
    }
    *status = VIRTIO_BLK_S_IOERR;
    if (limits->read_only)
        return 0;
    if (request->kind != VHOST_BLK_WRITE)
        return parse_ranges(request, chain, memory, limits, status);
    *status = parse_data(request, sector, chain->readable_bytes - sizeof(header), limits);
    return 0;
}

int vhost_blk_fill(struct vhost_memory *memory, const struct vring_chain *chain, uint64_t at,
                   const void *data, size_t length)
{
    /* Never over the status. */
    if (at > chain->writable_bytes - 1 || length > chain->writable_bytes - 1 - at)
        return -EFAULT;
    return vring_chain_write(memory, chain->segment + chain->readable, chain->writable, at, data,
                             length)
               ? -EFAULT
               : 0;
}

int vhost_blk_take(const struct vhost_memory *memory, const struct vring_chain *chain, uint64_t at,
                   void *data, size_t length)
{
    return vring_chain_read(memory, chain->segment, chain->readable,
                            sizeof(struct virtio_blk_outhdr) + at, data, length)
               ? -EFAULT
               : 0;
}

int vhost_blk_answer(struct vhost_memory *memory, const struct vring_chain *chain, uint8_t status,
                     uint32_t *written)
{
    /* A driver may trust as many bytes as this says, from the first: none of a request that
     * failed. */
    *written = status == VIRTIO_BLK_S_OK ? (uint32_t)chain->writable_bytes : 1;
    return vring_chain_write(memory, chain->segment + chain->readable, chain->writable,
                             chain->writable_bytes - 1, &status, 1)
               ? -EFAULT
               : 0;
}

void vhost_blk_config(struct virtio_blk_config *config, const struct vhost_blk_device *device)
{
    memset(config, 0, sizeof(*config));
    config->capacity = htole64(device->size / VHOST_BLK_SECTOR);
    config->seg_max = htole32(VHOST_BLK_SEGMENTS);
    config->blk_size = htole32(VHOST_BLK_SECTOR);
    config->physical_block_exp = 3; /* 4096 */
    config->min_io_size = htole16(4096 / VHOST_BLK_SECTOR);
    config->opt_io_size = htole32((uint32_t)(device->cluster_bytes / VHOST_BLK_SECTOR));
    config->wce = device->write_back;
    config->num_queues = htole16(device->queues);
    config->max_discard_sectors = htole32(VHOST_BLK_SECTORS_MAX);
    config->max_discard_seg = htole32(VHOST_BLK_RANGES_MAX);
    config->discard_sector_alignment = htole32(4096 / VHOST_BLK_SECTOR);
    config->max_write_zeroes_sectors = htole32(VHOST_BLK_SECTORS_MAX);
    config->max_write_zeroes_seg = htole32(VHOST_BLK_RANGES_MAX);
    config->write_zeroes_may_unmap = 1;
}

void vhost_blk_serial(char serial[VIRTIO_BLK_ID_BYTES], const uint8_t id[16])
{
    static const char digits[] = "0123456789abcdef";

    for (unsigned i = 0; i < VIRTIO_BLK_ID_BYTES / 2; i++) {
        serial[2 * i] = digits[id[i] >> 4];
        serial[2 * i + 1] = digits[id[i] & 15];
    }
}
