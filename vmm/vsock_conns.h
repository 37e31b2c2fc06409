/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connections of a vsock device: packets of the guest on one side, Unix sockets in a folder on
 * the other, as Firecracker and cloud-hypervisor have them. Knows nothing of queues.
 *
 * - The guest connects to port P of the host (CID 2): FOLDER/vsock_P is connected to.
 * - A host's program connects to FOLDER/vsock, sends "CONNECT P\n", gets "OK N\n", and from then on
 *   talks to who listens at the guest's port P; N is the port that the guest sees at the other end.
 *
 * At most VSOCK_CONNS_MAX at a time, each with a bounded buffer; none waits for another. All
 * functions are called by the reactor's thread with the owner's lock held, but for what says
 * otherwise.
 */
#ifndef VMM_VSOCK_CONNS_H
#define VMM_VSOCK_CONNS_H

#include "reactor.h"
#include "vsock_packet.h"

#include <stdbool.h>

#define VSOCK_CONNS_MAX 256u
#define VSOCK_LISTENER  "vsock" /* in the folder */

struct vsock_conns;

struct vsock_conns_options {
    struct reactor *reactor;
    const char *folder; /* copied */
    uint64_t cid;       /* of the guest */
    /* Nanoseconds for a host's program to say which port it wants; 0: two seconds. */
    int64_t handshake_timeout;
    /* Nanoseconds for the guest to answer a request, or the end of a connection; 0: ten seconds. */
    int64_t answer_timeout;
    /* Called around what happens on the host's side: to take the lock, and to look for packets that
     * have come up and let it go. */
    void (*enter)(void *opaque);
    void (*leave)(void *opaque);
    void *opaque;
};

/* Listens. Nobody is let in yet. -EINVAL, -ENAMETOOLONG, -EADDRINUSE, -errno. No lock is needed. */
int vsock_conns_new(const struct vsock_conns_options *options, struct vsock_conns **out,
                    struct vdisk_error *error);
/* Ends all and removes the socket; steps the reactor. Without the lock, and neither enter() nor
 * leave() are called any more. NULL is allowed. */
void vsock_conns_free(struct vsock_conns *conns);

/* Whether programs of the host are let in. By any thread. */
void vsock_conns_admit(struct vsock_conns *conns, bool admit);
/* All connections end, and the guest has heard of none. By any thread. */
void vsock_conns_reset(struct vsock_conns *conns);

/* ---- packets ---- */

/* Whether one of the guest can be taken now: false while too many answers wait for it. */
bool vsock_conns_can_take(const struct vsock_conns *conns);
/* Takes one that the guest has sent. `data`: as the header says; not looked at if that is more than
 * VSOCK_BUFFER_BYTES. */
void vsock_conns_take(struct vsock_conns *conns, const struct vsock_header *header,
                      const uint8_t *data);
/* Whether there is one for the guest; then vsock_conns_next() gives one, with `room` bytes of data
 * at most, 1 or more. */
bool vsock_conns_has_packet(struct vsock_conns *conns);
void vsock_conns_next(struct vsock_conns *conns, struct vsock_header *header, uint8_t *data,
                      uint32_t room);

#endif
