/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NBD client's requests and replies; see nbd_client.h.
 *
 * A request has an entry in `pending` from when it is sent until its reply has come whole. The
 * server is not trusted: a reply must name such an entry, and what it brings must lie within what
 * was asked for and be all of it.
 */
#include "nbd_client.h"

#include "nbd_internal.h"
#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define HANDSHAKE_TIMEOUT_MS 30000
#define MESSAGE_BYTES        256u
#define STATES_AT_ONCE       64u

uint64_t nbd_client_size(const struct nbd_client *client)
{
    return client->size;
}

bool nbd_client_is_read_only(const struct nbd_client *client)
{
    return client->flags & NBD_READ_ONLY;
}

bool nbd_client_may_be_several(const struct nbd_client *client)
{
    return client->flags & NBD_CAN_MULTI_CONN;
}

bool nbd_client_has_context(const struct nbd_client *client, unsigned n)
{
    return client->has_context[n];
}

const struct vdisk_error *nbd_client_error(const struct nbd_client *client)
{
    return &client->error;
}

/* --- replies ------------------------------------------------------------------------------ */

/* The protocol's numbers are those of Linux; others a server must not send. */
static int errno_of(uint32_t error)
{
    switch (error) {
    case EPERM:
    case EIO:
    case ENOMEM:
    case EINVAL:
    case ENOSPC:
    case EOVERFLOW:
    case ENOTSUP:
    case ESHUTDOWN:
        return -(int)error;
    default:
        return -EIO;
    }
}

static struct nbd_pending *find(struct nbd_client *client, uint64_t handle)
{
    for (unsigned i = 0; i < NBD_CLIENT_IN_FLIGHT; i++) {
        if (client->pending[i].in_use && client->pending[i].handle == handle)
            return &client->pending[i];
    }
    return NULL;
}

static void note_failure(struct nbd_client *client, struct nbd_pending *pending, int code,
                         const char *message)
{
    if (pending->result)
        return; /* the first reason is the best */
    pending->result = code;
    error_set(&client->error, code, "the server answers: %s%s%s", vdisk_strerror(code),
              message[0] ? ", " : "", message);
}

static int finish(struct nbd_client *client, struct nbd_pending *pending)
{
    struct nbd_read *read = pending->read;

    if (pending->result == 0 && read && pending->covered != pending->length)
        return nbd_socket_violation(client, "a read is answered in part only");
    if (read) {
        read->result = pending->result;
        read->is_done = true;
    } else if (pending->result && client->failure == 0) {
        client->failure = pending->result;
    }
    pending->in_use = false;
    client->in_flight--;
    return 0;
}

static int receive_simple(struct nbd_client *client)
{
    uint8_t rest[12];
    struct nbd_pending *pending;
    uint32_t error;
    int result = nbd_socket_receive(client, rest, sizeof(rest));

    if (result)
        return result;
    error = get_be32(rest);
    pending = find(client, get_be64(rest + 4));
    if (!pending)
        return nbd_socket_violation(client, "a reply to nothing");
    if (error) {
        note_failure(client, pending, errno_of(error), "");
    } else if (pending->command == NBD_COMMAND_READ) {
        if (client->structured)
            return nbd_socket_violation(client, "a simple reply to a read");
        result = nbd_socket_receive(client, pending->read->data, pending->length);
        if (result)
            return result;
        pending->covered = pending->length;
    }
    return finish(client, pending);
}

/* Where a chunk of a read belongs; NULL when it is not within the read. */
static uint8_t *place(struct nbd_pending *pending, uint64_t offset, uint64_t length)
{
    if (pending->command != NBD_COMMAND_READ || length == 0 || offset < pending->offset ||
        offset - pending->offset > pending->length ||
        length > pending->length - (offset - pending->offset) ||
        length > pending->length - pending->covered)
        return NULL;
    pending->covered += (uint32_t)length;
    return (uint8_t *)pending->read->data + (offset - pending->offset);
}

static int receive_data(struct nbd_client *client, struct nbd_pending *pending, uint32_t length)
{
    uint8_t offset[8];
    uint8_t *to;
    int result;

    if (length < sizeof(offset))
        return nbd_socket_violation(client, "data without an offset");
    result = nbd_socket_receive(client, offset, sizeof(offset));
    if (result)
        return result;
    length -= (uint32_t)sizeof(offset);
    to = place(pending, get_be64(offset), length);
    if (!to)
        return nbd_socket_violation(client, "data that was not asked for");
    return nbd_socket_receive(client, to, length);
}

static int receive_hole(struct nbd_client *client, struct nbd_pending *pending, uint32_t length)
{
    uint8_t hole[12];
    uint8_t *to;
    int result;

    if (length != sizeof(hole))
        return nbd_socket_violation(client, "a hole of a wrong form");
    result = nbd_socket_receive(client, hole, sizeof(hole));
    if (result)
        return result;
    to = place(pending, get_be64(hole), get_be32(hole + 8));
    if (!to)
        return nbd_socket_violation(client, "a hole that was not asked for");
    memset(to, 0, get_be32(hole + 8));
    return 0;
}

static int take_state(struct nbd_client *client, struct nbd_pending *pending, const uint8_t *from)
{
    uint32_t length = get_be32(from), state = get_be32(from + 4);

    if (length == 0)
        return nbd_socket_violation(client, "a range of no length");
    if (pending->state &&
        !pending->state(pending->opaque, pending->offset + pending->covered, length, state))
        pending->state = NULL;
    /* The last one may reach beyond what was asked for, but none begins there. */
    if (length >= pending->length - pending->covered)
        pending->state = NULL;
    else
        pending->covered += length;
    return 0;
}

static int receive_states(struct nbd_client *client, struct nbd_pending *pending, uint32_t length)
{
    uint8_t states[STATES_AT_ONCE * 8];
    uint8_t id[4];
    int result;

    if (pending->command != NBD_COMMAND_STATE || length < 12 || length % 8 != 4)
        return nbd_socket_violation(client, "a state that was not asked for");
    result = nbd_socket_receive(client, id, sizeof(id));
    length -= (uint32_t)sizeof(id);
    if (result == 0 && get_be32(id) != client->context_id[pending->context])
        return nbd_socket_skip(client, length);
    while (result == 0 && length > 0) {
        uint32_t piece = length < sizeof(states) ? length : (uint32_t)sizeof(states);

        result = nbd_socket_receive(client, states, piece);
        for (uint32_t at = 0; result == 0 && at < piece; at += 8)
            result = take_state(client, pending, states + at);
        length -= piece;
    }
    return result;
}

static int receive_failure(struct nbd_client *client, struct nbd_pending *pending, uint32_t length)
{
    uint8_t header[6];
    char message[MESSAGE_BYTES] = "";
    uint32_t kept;
    int result;

    if (length < sizeof(header))
        return nbd_socket_violation(client, "an error of a wrong form");
    result = nbd_socket_receive(client, header, sizeof(header));
    if (result)
        return result;
    length -= (uint32_t)sizeof(header);
    kept = get_be16(header + 4);
    if (kept > length)
        return nbd_socket_violation(client, "an error of a wrong form");
    if (kept > sizeof(message) - 1)
        kept = sizeof(message) - 1;
    result = nbd_socket_receive(client, message, kept);
    if (result == 0)
        result = nbd_socket_skip(client, length - kept);
    if (result == 0)
        note_failure(client, pending, errno_of(get_be32(header)), message);
    return result;
}

static int receive_chunk(struct nbd_client *client)
{
    uint8_t rest[16];
    struct nbd_pending *pending;
    unsigned flags, type;
    uint32_t length;
    int result = nbd_socket_receive(client, rest, sizeof(rest));

    if (result)
        return result;
    flags = get_be16(rest);
    type = get_be16(rest + 2);
    pending = find(client, get_be64(rest + 4));
    length = get_be32(rest + 12);
    if (!pending || !client->structured)
        return nbd_socket_violation(client, "a reply to nothing");
    if (type == NBD_CHUNK_DATA)
        result = receive_data(client, pending, length);
    else if (type == NBD_CHUNK_HOLE)
        result = receive_hole(client, pending, length);
    else if (type == NBD_CHUNK_STATE)
        result = receive_states(client, pending, length);
    else if (type & NBD_CHUNK_IS_ERROR)
        result = receive_failure(client, pending, length);
    else if (type != NBD_CHUNK_NONE || length > 0)
        result = nbd_socket_violation(client, "a reply of an unknown kind");
    if (result || !(flags & NBD_CHUNK_DONE))
        return result;
    return finish(client, pending);
}

int nbd_client_wait(struct nbd_client *client)
{
    uint8_t magic[4];
    int result;

    if (client->is_broken)
        return client->error.code;
    result = nbd_socket_receive(client, magic, sizeof(magic));
    if (result)
        return result;
    switch (get_be32(magic)) {
    case NBD_MAGIC_SIMPLE:
        return receive_simple(client);
    case NBD_MAGIC_STRUCTURED:
        return receive_chunk(client);
    default:
        return nbd_socket_violation(client, "a reply with a wrong beginning");
    }
}

/* --- requests ----------------------------------------------------------------------------- */

/* Sends the request and gives its entry, which is there until the reply is. */
static int begin(struct nbd_client *client, const struct nbd_pending *wanted,
                 struct nbd_pending **entry)
{
    struct nbd_pending *pending = client->pending;
    uint8_t request[28];
    int result = client->is_broken ? client->error.code : 0;

    while (result == 0 && client->in_flight == NBD_CLIENT_IN_FLIGHT)
        result = nbd_client_wait(client);
    if (result)
        return result;
    while (pending->in_use)
        pending++;
    *pending = *wanted;
    pending->in_use = true;
    pending->handle = ++client->last_handle;
    client->in_flight++;
    put_be32(request, NBD_MAGIC_REQUEST);
    put_be16(request + 4, 0);
    put_be16(request + 6, (uint16_t)pending->command);
    put_be64(request + 8, pending->handle);
    put_be64(request + 16, pending->offset);
    put_be32(request + 24, pending->length);
    if (entry)
        *entry = pending;
    return nbd_socket_send(client, request, sizeof(request));
}

int nbd_client_read(struct nbd_client *client, struct nbd_read *read)
{
    const struct nbd_pending wanted = {
        .command = NBD_COMMAND_READ,
        .offset = read->offset,
        .length = read->length,
        .read = read,
    };

    read->is_done = false;
    read->result = 0;
    return begin(client, &wanted, NULL);
}

/* A failed write is told once. */
static int take_failure(struct nbd_client *client)
{
    int failure = client->failure;

    client->failure = 0;
    return failure;
}

int nbd_client_write(struct nbd_client *client, uint64_t offset, const void *data, uint32_t length)
{
    const struct nbd_pending wanted = {
        .command = NBD_COMMAND_WRITE,
        .offset = offset,
        .length = length,
    };
    int result = begin(client, &wanted, NULL);

    if (result == 0)
        result = nbd_socket_send(client, data, length);
    return result ? result : take_failure(client);
}

static int wait_for_all(struct nbd_client *client)
{
    while (client->in_flight > 0) {
        int result = nbd_client_wait(client);

        if (result)
            return result;
    }
    return take_failure(client);
}

int nbd_client_flush(struct nbd_client *client)
{
    const struct nbd_pending wanted = {.command = NBD_COMMAND_FLUSH};
    int result = wait_for_all(client);

    if (result || !(client->flags & NBD_SEND_FLUSH))
        return result;
    result = begin(client, &wanted, NULL);
    return result ? result : wait_for_all(client);
}

int nbd_client_state(struct nbd_client *client, unsigned n, uint64_t offset, uint32_t length,
                     nbd_state_callback *each, void *opaque)
{
    const struct nbd_pending wanted = {
        .command = NBD_COMMAND_STATE,
        .offset = offset,
        .length = length,
        .context = n,
        .state = each,
        .opaque = opaque,
    };
    struct nbd_pending *pending = NULL;
    uint64_t handle;
    int result = begin(client, &wanted, &pending);

    if (result || !pending)
        return result;
    handle = pending->handle;
    while (result == 0 && pending->in_use && pending->handle == handle)
        result = nbd_client_wait(client);
    return result ? result : take_failure(client);
}

/* --- open and close ----------------------------------------------------------------------- */

int nbd_client_open(const struct nbd_address *address,
                    const char *const context[static NBD_CONTEXTS_MAX], struct nbd_client **client,
                    struct vdisk_error *error)
{
    struct nbd_client *made = calloc(1, sizeof(*made));
    int result;

    if (!made)
        return error_set(error, -ENOMEM, "out of memory");
    made->fd = -1;
    made->timeout_ms = HANDSHAKE_TIMEOUT_MS;
    result = nbd_socket_connect(made, address);
    if (result == 0)
        result = nbd_handshake(made, address->name, context);
    if (result) {
        if (error)
            *error = made->error;
        made->is_broken = true;
        nbd_client_close(made);
        return result;
    }
    made->timeout_ms = -1; /* a slow disk is not a silent server */
    *client = made;
    return 0;
}

void nbd_client_close(struct nbd_client *client)
{
    const struct nbd_pending goodbye = {.command = NBD_COMMAND_BYE};

    if (!client)
        return;
    /* The server gives no reply to it, so it needs a free place only. */
    if (!client->is_broken && client->in_flight < NBD_CLIENT_IN_FLIGHT)
        begin(client, &goodbye, NULL);
    if (client->fd >= 0)
        close(client->fd);
    free(client);
}
