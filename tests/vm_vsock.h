/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's side of a vsock device, by packets, and programs of its host: on one thread, where
 * waiting for either steps the reactor, or with the rig's reactor on its own. What the device must
 * never do (exceed a credit, answer in another's name) fails the test wherever it happens.
 */
#ifndef VM_VSOCK_H
#define VM_VSOCK_H

#include "virtio_vsock.h"
#include "vm_driver.h"
#include "vsock_packet.h"

#define VM_VSOCK_CID   7u
#define VM_VSOCK_RX    32u   /* buffers of the guest */
#define VM_VSOCK_DATA  4096u /* bytes of data in each */
#define VM_VSOCK_QUEUE 64u   /* descriptors of a queue */

enum {
    VM_VSOCK_QUEUE_RX,
    VM_VSOCK_QUEUE_TX,
    VM_VSOCK_QUEUE_EVENT
};

struct vm_vsock {
    struct vm_rig rig;
    struct vm_driver driver;
    struct virtio_device *device;
    struct virtio_vsock_options options;
    char folder[84];
    uint64_t tx_at, rx_at[VM_VSOCK_QUEUE]; /* by head */
    uint8_t data[VM_VSOCK_DATA];           /* of the packet that was received last */
};

/* A connection as the guest knows it. */
struct vm_vsock_end {
    uint32_t guest_port, host_port;
    uint32_t alloc, taken; /* of the guest, as it will say next; taken: also how much came */
    uint32_t said_alloc, said_taken; /* as it said last */
    uint32_t sent, host_alloc, host_taken;
};

/* A device in a folder of its own, without a driver. */
void vm_vsock_open(struct vm_vsock *vsock, bool no_uring);
void vm_vsock_close(struct vm_vsock *vsock);
/* Another device in place of it, which is freed: as the same options make it. */
void vm_vsock_replace(struct vm_vsock *vsock);
/* The driver begins; with buffers for packets and events. */
void vm_vsock_begin(struct vm_vsock *vsock);
void vm_vsock_give_rx(struct vm_vsock *vsock, unsigned count);
uint16_t vm_vsock_give_event(struct vm_vsock *vsock, uint64_t *guest);

/* ---- packets ---- */

/* As the guest sends it to CID 2. */
struct vsock_header vm_vsock_header(const struct vm_vsock_end *end, uint16_t op);
/* Sends it, and waits until it is taken. */
void vm_vsock_send(struct vm_vsock *vsock, const struct vsock_header *header, const void *data);
/* The same for `length` bytes as they are. */
void vm_vsock_send_bytes(struct vm_vsock *vsock, const void *bytes, uint32_t length);
void vm_vsock_say(struct vm_vsock *vsock, struct vm_vsock_end *end, uint16_t op, uint32_t flags);
void vm_vsock_write(struct vm_vsock *vsock, struct vm_vsock_end *end, const void *data,
                    uint32_t length);
/* Bytes that the guest may send. */
uint32_t vm_vsock_credit(const struct vm_vsock_end *end);
/* Whether one is there. */
bool vm_vsock_has_packet(const struct vm_vsock *vsock);
/* Waits for the next; its buffer is given again. */
struct vsock_header vm_vsock_receive(struct vm_vsock *vsock);
/* Waits for the next, which must be of that connection; what it says of credit is noted. */
struct vsock_header vm_vsock_next(struct vm_vsock *vsock, struct vm_vsock_end *end);
/* The same, of that kind. */
struct vsock_header vm_vsock_expect(struct vm_vsock *vsock, struct vm_vsock_end *end, uint16_t op);
/* There is none, and none comes of what has happened so far. */
void vm_vsock_expect_quiet(struct vm_vsock *vsock);

/* ---- connections ---- */

/* The guest connects to a port of the host where `listener` is; the program's socket. */
int vm_vsock_connect(struct vm_vsock *vsock, struct vm_vsock_end *end, int listener, uint32_t port,
                     uint32_t guest_port, uint32_t alloc);
/* A program connects to the guest, which accepts; the program's socket. */
int vm_vsock_accept(struct vm_vsock *vsock, struct vm_vsock_end *end, uint32_t guest_port,
                    uint32_t alloc);

/* ---- programs of the host; sockets are non-blocking ---- */

/* Listens at FOLDER/vsock_PORT. */
int vm_vsock_listen(const struct vm_vsock *vsock, uint32_t port);
/* The socket that the next program there has. */
int vm_vsock_program(int listener);
/* Connects to FOLDER/vsock. */
int vm_vsock_dial(const struct vm_vsock *vsock);
void vm_vsock_await(struct vm_vsock *vsock, int fd, short events);
/* Receives exactly so many. */
void vm_vsock_read(struct vm_vsock *vsock, int fd, void *data, size_t length);
void vm_vsock_put(int fd, const void *data, size_t length);
/* Waits for the end: 0, or -errno. */
int vm_vsock_end_of(struct vm_vsock *vsock, int fd);

/* ---- what tests have in common ---- */

#define VM_VSOCK_PATTERN ((1u << 20) + 4096)
extern uint8_t vm_vsock_pattern[VM_VSOCK_PATTERN]; /* data that shows where it is from */

/* Open in this process. */
unsigned vm_vsock_descriptors(void);
/* The guest and the program on `fd` exchange some bytes. */
void vm_vsock_expect_alive(struct vm_vsock *vsock, struct vm_vsock_end *end, int fd);
/* Fills the program's socket and the device's buffer, until the guest may not go on. */
void vm_vsock_fill(struct vm_vsock *vsock, struct vm_vsock_end *end);

#endif
