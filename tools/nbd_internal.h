/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the files of the NBD client share: the connection, the numbers of the protocol.
 */
#ifndef TOOLS_NBD_INTERNAL_H
#define TOOLS_NBD_INTERNAL_H

#include "nbd_client.h"

#include <endian.h>
#include <stddef.h>
#include <string.h>

/* Handshake. */
#define NBD_MAGIC_SERVER       UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define NBD_MAGIC_OPTION       UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_MAGIC_OPTION_REPLY UINT64_C(0x0003e889045565a9)
#define NBD_FIXED_NEWSTYLE     (1u << 0)
#define NBD_NO_ZEROES          (1u << 1)
#define NBD_OPTION_EXPORT_NAME 1u
#define NBD_OPTION_ABORT       2u
#define NBD_OPTION_GO          7u
#define NBD_OPTION_STRUCTURED  8u
#define NBD_OPTION_SET_CONTEXT 10u
#define NBD_REPLY_ACK          1u
#define NBD_REPLY_INFO         3u
#define NBD_REPLY_CONTEXT      4u
#define NBD_REPLY_IS_ERROR     (UINT32_C(1) << 31)
#define NBD_REPLY_UNSUPPORTED  (NBD_REPLY_IS_ERROR + 1)
#define NBD_REPLY_POLICY       (NBD_REPLY_IS_ERROR + 2)
#define NBD_REPLY_TLS          (NBD_REPLY_IS_ERROR + 5)
#define NBD_REPLY_UNKNOWN      (NBD_REPLY_IS_ERROR + 6)
#define NBD_INFO_EXPORT        0u

/* Transmission. */
#define NBD_MAGIC_REQUEST      UINT32_C(0x25609513)
#define NBD_MAGIC_SIMPLE       UINT32_C(0x67446698)
#define NBD_MAGIC_STRUCTURED   UINT32_C(0x668e33ef)
#define NBD_READ_ONLY          (1u << 1)
#define NBD_SEND_FLUSH         (1u << 2)
#define NBD_CAN_MULTI_CONN     (1u << 8)
#define NBD_COMMAND_READ       0u
#define NBD_COMMAND_WRITE      1u
#define NBD_COMMAND_BYE        2u
#define NBD_COMMAND_FLUSH      3u
#define NBD_COMMAND_STATE      7u
#define NBD_CHUNK_DONE         (1u << 0)
#define NBD_CHUNK_NONE         0u
#define NBD_CHUNK_DATA         1u
#define NBD_CHUNK_HOLE         2u
#define NBD_CHUNK_STATE        5u
#define NBD_CHUNK_IS_ERROR     (1u << 15)

/* A request that is under way. */
struct nbd_pending {
    bool in_use;
    unsigned command;
    uint64_t handle;
    uint64_t offset;
    uint32_t length;
    struct nbd_read *read;     /* READ */
    uint32_t covered;          /* READ: bytes that came */
    unsigned context;          /* STATE: which one */
    nbd_state_callback *state; /* STATE; NULL when no more is wanted */
    void *opaque;
    int result;
};

struct nbd_client {
    int fd;
    int timeout_ms; /* of a wait; negative: for ever */
    bool structured, is_broken;
    bool has_context[NBD_CONTEXTS_MAX];
    uint32_t context_id[NBD_CONTEXTS_MAX];
    uint64_t size;
    uint16_t flags;
    uint64_t last_handle;
    unsigned in_flight;
    struct nbd_pending pending[NBD_CLIENT_IN_FLIGHT];
    int failure; /* of a write: told by the next call */
    struct vdisk_error error;
};

/* nbd_socket.c: 0 or an error, with client->error filled; the connection is broken then. */
int nbd_socket_connect(struct nbd_client *client, const struct nbd_address *address);
int nbd_socket_send(struct nbd_client *client, const void *data, size_t length);
int nbd_socket_receive(struct nbd_client *client, void *data, size_t length);
/* Receives and forgets. */
int nbd_socket_skip(struct nbd_client *client, uint64_t length);
/* The server breaks the rules: -EPROTO. */
int nbd_socket_violation(struct nbd_client *client, const char *what);

/* nbd_handshake.c: from the greeting to the open export. */
int nbd_handshake(struct nbd_client *client, const char *name,
                  const char *const context[static NBD_CONTEXTS_MAX]);

static inline uint16_t get_be16(const void *from)
{
    uint16_t value;

    memcpy(&value, from, sizeof(value));
    return be16toh(value);
}

static inline uint32_t get_be32(const void *from)
{
    uint32_t value;

    memcpy(&value, from, sizeof(value));
    return be32toh(value);
}

static inline uint64_t get_be64(const void *from)
{
    uint64_t value;

    memcpy(&value, from, sizeof(value));
    return be64toh(value);
}

static inline void put_be16(void *to, uint16_t value)
{
    value = htobe16(value);
    memcpy(to, &value, sizeof(value));
}

static inline void put_be32(void *to, uint32_t value)
{
    value = htobe32(value);
    memcpy(to, &value, sizeof(value));
}

static inline void put_be64(void *to, uint64_t value)
{
    value = htobe64(value);
    memcpy(to, &value, sizeof(value));
}

#endif
