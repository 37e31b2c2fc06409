/* SPDX-License-Identifier: Apache-2.0 */
/* See net_vlan.h. */
#include "net_vlan.h"

#include "net_link.h"

#include <endian.h>
#include <string.h>

#define ADDRESSES 12u
#define VID_MASK  0xfffu

static unsigned load16(const uint8_t *from)
{
    return (unsigned)from[0] << 8 | from[1];
}

bool net_vlan_is_tagged(const uint8_t *frame)
{
    unsigned type = load16(frame + ADDRESSES);

    return type == 0x8100 || type == 0x88a8 || type == 0x9100;
}

unsigned net_vlan_of(const uint8_t *frame, size_t length)
{
    if (length < NET_FRAME_MIN + NET_TAG_BYTES || load16(frame + ADDRESSES) != 0x8100)
        return 0;
    return load16(frame + ADDRESSES + 2) & VID_MASK;
}

/* Places in a frame are counted from its begin; none is to be within the addresses and the type. */
static bool move_places(struct virtio_net_hdr_v1 *header, int by)
{
    int start = le16toh(header->csum_start) + by, length = le16toh(header->hdr_len) + by;

    if (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) {
        if (start < (int)NET_FRAME_MIN || start > UINT16_MAX)
            return false;
        header->csum_start = htole16((uint16_t)start);
    }
    /* Only a hint, and 0 when there is none. */
    if (header->hdr_len != 0)
        header->hdr_len = htole16(length < 0 || length > UINT16_MAX ? 0 : (uint16_t)length);
    return true;
}

bool net_vlan_add(struct virtio_net_hdr_v1 *header, uint8_t *frame, unsigned id)
{
    const uint8_t tag[NET_TAG_BYTES] = {0x81, 0, (uint8_t)(id >> 8), (uint8_t)id};

    if (!move_places(header, NET_TAG_BYTES))
        return false;
    memmove(frame - NET_TAG_BYTES, frame, ADDRESSES);
    memcpy(frame - NET_TAG_BYTES + ADDRESSES, tag, NET_TAG_BYTES);
    return true;
}

bool net_vlan_remove(struct virtio_net_hdr_v1 *header, uint8_t *frame)
{
    if (!move_places(header, -(int)NET_TAG_BYTES))
        return false;
    memmove(frame + NET_TAG_BYTES, frame, ADDRESSES);
    return true;
}
