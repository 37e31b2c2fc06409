/* SPDX-License-Identifier: Apache-2.0 */
/* Tags of 802.1Q in frames: after both addresses, 4 bytes. */
#ifndef VMM_NET_VLAN_H
#define VMM_NET_VLAN_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NET_TAG_BYTES 4u
#define NET_VLAN_MAX  4094u

/* A frame of NET_FRAME_MIN bytes at least. Whether it has a tag, of a customer or a provider. */
bool net_vlan_is_tagged(const uint8_t *frame);
/* Its VLAN; 0: it has no tag of 802.1Q, or one of a priority only. */
unsigned net_vlan_of(const uint8_t *frame, size_t length);

/* The frame begins NET_TAG_BYTES earlier then, where there is room. What the header says of places
 * in it moves along. False: it cannot. */
bool net_vlan_add(struct virtio_net_hdr_v1 *header, uint8_t *frame, unsigned id);
/* The frame, which has a tag, begins NET_TAG_BYTES later then. False: the header says nonsense. */
bool net_vlan_remove(struct virtio_net_hdr_v1 *header, uint8_t *frame);

#endif
