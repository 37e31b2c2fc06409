/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small NBD client (the NBD project's doc/proto.md): fixed newstyle, structured replies, metadata
 * contexts, requests in a pipeline. No TLS.
 *
 * Used by one thread. After a failure of the connection every call fails; nbd_client_error() says
 * why. Waiting ends with -ECANCELED after a signal (interrupt.h).
 */
#ifndef TOOLS_NBD_CLIENT_H
#define TOOLS_NBD_CLIENT_H

#include "nbd_uri.h"

#include "vdisk/error.h"

#include <stdbool.h>
#include <stdint.h>

#define NBD_CLIENT_IN_FLIGHT   16u
#define NBD_CLIENT_REQUEST_MAX (UINT32_C(1) << 20) /* every server takes that much */

#define NBD_CONTEXTS_MAX       2u
#define NBD_CONTEXT_ALLOCATION "base:allocation"
#define NBD_STATE_HOLE         (1u << 0)
#define NBD_STATE_ZERO         (1u << 1)
#define NBD_CONTEXT_BITMAP     "qemu:dirty-bitmap:" /* and its name */
#define NBD_STATE_DIRTY        (1u << 0)

struct nbd_client;

/* The caller's, untouched from nbd_client_read() until is_done. */
struct nbd_read {
    uint64_t offset;
    uint32_t length; /* up to NBD_CLIENT_REQUEST_MAX */
    void *data;
    int result; /* 0 or -errno */
    bool is_done;
};

/* Connects, negotiates the contexts (NULL: none; it is no error if the server has one not) and
 * opens the export. 0 or an error with its sentence. */
int nbd_client_open(const struct nbd_address *address,
                    const char *const context[static NBD_CONTEXTS_MAX], struct nbd_client **client,
                    struct vdisk_error *error);
/* Says goodbye and frees; reads in flight are given up. NULL is allowed. */
void nbd_client_close(struct nbd_client *client);

uint64_t nbd_client_size(const struct nbd_client *client); /* bytes */
bool nbd_client_is_read_only(const struct nbd_client *client);
/* Several connections see the same, and the server takes them. */
bool nbd_client_may_be_several(const struct nbd_client *client);
/* The nth of those asked for. */
bool nbd_client_has_context(const struct nbd_client *client, unsigned n);
const struct vdisk_error *nbd_client_error(const struct nbd_client *client);

/* Sends the request; with NBD_CLIENT_IN_FLIGHT of them under way waits first. */
int nbd_client_read(struct nbd_client *client, struct nbd_read *read);
/* Waits for the next reply and takes it in. 0 also when that was about a read that failed. */
int nbd_client_wait(struct nbd_client *client);

/* Sends data, up to NBD_CLIENT_REQUEST_MAX; `data` is free again when it returns. An error may be
 * of an earlier write. */
int nbd_client_write(struct nbd_client *client, uint64_t offset, const void *data, uint32_t length);
/* Waits for every write and makes them durable. */
int nbd_client_flush(struct nbd_client *client);

/* A range's state, raw, as the server sends it; false ends the answer. */
typedef bool nbd_state_callback(void *opaque, uint64_t offset, uint64_t length, uint32_t state);

/* Asks for the nth context's state from offset on; the answer may be shorter than the range. */
int nbd_client_state(struct nbd_client *client, unsigned n, uint64_t offset, uint32_t length,
                     nbd_state_callback *each, void *opaque);

#endif
