/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's driver of a network device, on vm_driver.h, and who is at the other end of its socket.
 * Frames carry a number, from which all their bytes follow.
 */
#ifndef VM_NET_GUEST_H
#define VM_NET_GUEST_H

#include "virtio_net.h"
#include "vm_driver.h"

#include <linux/virtio_net.h>

#define VM_NET_SIZE      256u /* descriptors of a queue */
#define VM_NET_FRAME_MAX 65553u
#define VM_NET_HEADER    12u
#define VM_NET_SLOT      16384u  /* bytes; larger frames get memory of their own */
#define VM_NET_TYPE      0x88b5u /* of Ethernet, for experiments */
#define VM_NET_BIT(x)    (UINT64_C(1) << (x))

/* A frame of 14 bytes or more: addresses, type, and bytes that follow from its number. */
void vm_net_frame(uint8_t *frame, size_t length, unsigned number);

struct vm_net_guest {
    struct vm_rig *rig;
    struct vm_driver driver;
    uint32_t buffer_bytes;
    uint64_t in_at[VM_NET_SIZE]; /* by head */
    uint64_t out_at;             /* a place for each head */
    unsigned sent, reaped;
};

/* On the device, which is the guest's from now on. */
void vm_net_guest_open(struct vm_net_guest *guest, struct vm_rig *rig,
                       const struct virtio_net_options *options);
void vm_net_guest_close(struct vm_net_guest *guest);
/* Resets it, and begins with buffers of that size, of which there are none yet. */
void vm_net_guest_begin(struct vm_net_guest *guest, uint64_t features, uint32_t buffer_bytes);
/* Gives it so many buffers. */
void vm_net_guest_post(struct vm_net_guest *guest, unsigned count);

/* Sends a frame, with a header of zeros when NULL, and does not wait. */
void vm_net_guest_send(struct vm_net_guest *guest, const struct virtio_net_hdr_v1 *header,
                       const uint8_t *frame, size_t length);
/* How many more of these have been used by now. */
unsigned vm_net_guest_reap(struct vm_net_guest *guest);
/* The next frame that was received: its bytes; 0: none. */
size_t vm_net_guest_take(struct vm_net_guest *guest, struct virtio_net_hdr_v1 *header,
                         uint8_t *frame);
/* The same, and waits. */
size_t vm_net_guest_receive(struct vm_net_guest *guest, struct virtio_net_hdr_v1 *header,
                            uint8_t *frame);
/* Waits for a frame of that number and length. */
void vm_net_guest_expect(struct vm_net_guest *guest, size_t length, unsigned number);
/* Waits until the link, as the driver is told, is up or down. */
void vm_net_guest_await_link(struct vm_net_guest *guest, bool up);
struct virtio_net_counts vm_net_guest_counts(struct vm_net_guest *guest);

/* ---- the other end of a socket ---- */

struct vm_net_peer {
    struct vm_rig *rig;
    int listening, fd;
};

void vm_net_peer_listen(struct vm_net_peer *peer, struct vm_rig *rig, const char *path);
/* Waits for the device to connect. */
void vm_net_peer_accept(struct vm_net_peer *peer);
void vm_net_peer_hang_up(struct vm_net_peer *peer);
void vm_net_peer_close(struct vm_net_peer *peer);
/* False: there is no room for it now. */
bool vm_net_peer_try_send(struct vm_net_peer *peer, const uint8_t *frame, size_t length);
void vm_net_peer_send(struct vm_net_peer *peer, size_t length, unsigned number);
/* The next frame: its bytes; 0: none now. */
size_t vm_net_peer_take(struct vm_net_peer *peer, uint8_t *frame);
/* Waits for a frame of that number and length. */
void vm_net_peer_expect(struct vm_net_peer *peer, size_t length, unsigned number);

#endif
