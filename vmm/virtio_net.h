/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A network device: VIRTIO 1.2, section 5.1, with one pair of queues, on a tap or a socket. Limits
 * in bytes a second for each direction; with a VLAN the guest sees untagged frames of it alone.
 */
#ifndef VMM_VIRTIO_NET_H
#define VMM_VIRTIO_NET_H

#include "limit.h"
#include "virtio.h"

struct virtio_net_options {
    const char *name;         /* for people: "net 0"; stays the caller's */
    const char *tap, *socket; /* one of them */
    bool has_mac;             /* else random */
    uint8_t mac[6];
    unsigned vlan;                /* 0: frames pass as they are */
    struct limit_setting in, out; /* bytes a second, seen from the guest */
};

/* The tap is opened now; a socket need not be there yet. -EINVAL: options; else as net_tap_open()
 * and net_socket_open(). */
int virtio_net_new(const struct virtio_net_options *options, const struct vm_memory *memory,
                   struct reactor *reactor, struct virtio_device **out, struct vdisk_error *error);

/* Other limits from now on. By any thread, as are those below. */
void virtio_net_limits(struct virtio_device *device, const struct limit_setting *in,
                       const struct limit_setting *out);

struct virtio_net_direction {
    uint64_t frames, bytes; /* as the guest sees them, without a header of virtio */
    uint64_t drops;         /* frames that were not to be passed, or could not */
};

struct virtio_net_counts {
    struct virtio_net_direction in, out; /* seen from the guest */
    bool is_up;
};

void virtio_net_counts(struct virtio_device *device, struct virtio_net_counts *counts);
/* Its address, given or random. */
void virtio_net_mac(struct virtio_device *device, uint8_t mac[6]);

#endif
