/* SPDX-License-Identifier: Apache-2.0 */
/* A network namespace of the test's own, with taps, and who looks at them from the host's side. */
#ifndef VM_NETNS_H
#define VM_NETNS_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* NULL, or why it is not to be had. The process stays in it; it has one thread yet. */
const char *vm_netns_enter(void);

/*
 * A persistent tap, which is still down: the kernel passes frames at once if it is set up after it
 * was opened by who serves it, and a second later if before. `flags` besides IFF_TAP:
 * IFF_MULTI_QUEUE. Of that user; -1: of none. False: there is
 * no such user in the namespace, and no tap.
 */
bool vm_netns_make_tap(const char *name, short flags, int owner);
void vm_netns_remove(const char *name);
bool vm_netns_exists(const char *name);
void vm_netns_set_up(const char *name, bool up);
bool vm_netns_is_up(const char *name);
void vm_netns_set_mtu(const char *name, int mtu);
/* This thread's right to change networks. */
void vm_netns_set_right(bool on);

struct vm_netns_frame {
    struct virtio_net_hdr header; /* with_header */
    unsigned vlan;                /* which the kernel took out of it; 0: none */
    size_t length;
    uint8_t bytes[66000];
};

/* A socket that sends frames to who has opened the tap, and receives theirs. */
int vm_netns_packets(const char *name, bool with_header);
/* NULL: no header. */
void vm_netns_send(int fd, const struct virtio_net_hdr *header, const uint8_t *frame,
                   size_t length);
/* False: there is none now. */
bool vm_netns_receive(int fd, bool with_header, struct vm_netns_frame *frame);

#endif
