/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NBD client's handshake: greeting, structured replies, metadata context, GO (or EXPORT_NAME
 * for a server that is older).
 */
#include "nbd_internal.h"
#include "report.h"

#include <errno.h>

#define REPLY_MAX      (64u * 1024) /* longest option reply that makes sense */
#define REPLIES_MAX    64u          /* to one option */
#define OPTION_MAX     (NBD_NAME_MAX + 1024)
#define REPLY_BYTES    512u /* that are looked at */
#define ZEROES_BYTES   124u
#define GREETING_BYTES 18u

struct option_reply {
    uint32_t type, length;
    uint8_t data[REPLY_BYTES]; /* the beginning */
};

static int send_option(struct nbd_client *client, uint32_t option, const void *data,
                       uint32_t length)
{
    uint8_t header[16];
    int result;

    put_be64(header, NBD_MAGIC_OPTION);
    put_be32(header + 8, option);
    put_be32(header + 12, length);
    result = nbd_socket_send(client, header, sizeof(header));
    return result ? result : nbd_socket_send(client, data, length);
}

static int receive_reply(struct nbd_client *client, uint32_t option, struct option_reply *reply)
{
    uint8_t header[20];
    uint32_t kept;
    int result = nbd_socket_receive(client, header, sizeof(header));

    if (result)
        return result;
    if (get_be64(header) != NBD_MAGIC_OPTION_REPLY || get_be32(header + 8) != option)
        return nbd_socket_violation(client, "a reply to an option that was not sent");
    reply->type = get_be32(header + 12);
    reply->length = get_be32(header + 16);
    if (reply->length > REPLY_MAX)
        return nbd_socket_violation(client, "a reply that is too long");
    kept = reply->length < sizeof(reply->data) ? reply->length : (uint32_t)sizeof(reply->data);
    memset(reply->data, 0, sizeof(reply->data));
    result = nbd_socket_receive(client, reply->data, kept);
    return result ? result : nbd_socket_skip(client, reply->length - kept);
}

static int greet(struct nbd_client *client, bool *no_zeroes)
{
    uint8_t greeting[GREETING_BYTES], answer[4];
    unsigned flags;
    int result = nbd_socket_receive(client, greeting, sizeof(greeting));

    if (result)
        return result;
    if (get_be64(greeting) != NBD_MAGIC_SERVER || get_be64(greeting + 8) != NBD_MAGIC_OPTION)
        return nbd_socket_violation(client, "it is no NBD server, or one of the oldest style");
    flags = get_be16(greeting + 16);
    if (!(flags & NBD_FIXED_NEWSTYLE))
        return nbd_socket_violation(client, "it does not speak fixed newstyle");
    *no_zeroes = flags & NBD_NO_ZEROES;
    put_be32(answer, NBD_FIXED_NEWSTYLE | (*no_zeroes ? NBD_NO_ZEROES : 0));
    return nbd_socket_send(client, answer, sizeof(answer));
}

static int ask_structured(struct nbd_client *client)
{
    struct option_reply reply = {0};
    int result = send_option(client, NBD_OPTION_STRUCTURED, NULL, 0);

    if (result == 0)
        result = receive_reply(client, NBD_OPTION_STRUCTURED, &reply);
    if (result)
        return result;
    client->structured = reply.type == NBD_REPLY_ACK;
    return 0;
}

/* A length and as many bytes, without a NUL. */
static void put_text(uint8_t *to, const char *text, uint32_t length)
{
    put_be32(to, length);
    memcpy(to + 4, text, length);
}

static void take_context(struct nbd_client *client,
                         const char *const context[static NBD_CONTEXTS_MAX],
                         const struct option_reply *reply)
{
    for (unsigned i = 0; i < NBD_CONTEXTS_MAX; i++) {
        size_t length = context[i] ? strlen(context[i]) : 0;

        if (length && reply->length == 4 + length &&
            memcmp(reply->data + 4, context[i], length) == 0) {
            client->context_id[i] = get_be32(reply->data);
            client->has_context[i] = true;
        }
    }
}

/* The names of contexts behind that of the export; 0: they are too long. */
static uint32_t put_contexts(uint8_t *option, size_t room, const char *name,
                             const char *const context[static NBD_CONTEXTS_MAX])
{
    uint32_t length = 4 + (uint32_t)strlen(name) + 4, count = 0;

    for (unsigned i = 0; i < NBD_CONTEXTS_MAX; i++) {
        size_t text_length = context[i] ? strlen(context[i]) : 0;

        if (text_length == 0)
            continue;
        if (text_length > REPLY_BYTES - 4 || length + 4 + text_length > room)
            return 0;
        put_text(option + length, context[i], (uint32_t)text_length);
        length += 4 + (uint32_t)text_length;
        count++;
    }
    put_text(option, name, (uint32_t)strlen(name));
    put_be32(option + 4 + strlen(name), count);
    return length;
}

static int ask_contexts(struct nbd_client *client, const char *name,
                        const char *const context[static NBD_CONTEXTS_MAX])
{
    uint8_t option[OPTION_MAX];
    uint32_t length = put_contexts(option, sizeof(option), name, context);
    struct option_reply reply = {0};
    int result;

    if (length == 0)
        return error_set(&client->error, -ENAMETOOLONG, "the name of the context is too long");
    result = send_option(client, NBD_OPTION_SET_CONTEXT, option, length);
    for (unsigned i = 0; result == 0 && i < REPLIES_MAX; i++) {
        result = receive_reply(client, NBD_OPTION_SET_CONTEXT, &reply);
        if (result)
            return result;
        if (reply.type == NBD_REPLY_ACK)
            return 0;
        if (reply.type != NBD_REPLY_CONTEXT) { /* refused, with whatever reason */
            memset(client->has_context, 0, sizeof(client->has_context));
            return 0;
        }
        take_context(client, context, &reply);
    }
    return result ? result : nbd_socket_violation(client, "too many contexts");
}

static int refused(struct nbd_client *client, const struct option_reply *reply)
{
    switch (reply->type) {
    case NBD_REPLY_TLS:
        return error_set(&client->error, -EPROTONOSUPPORT,
                         "the server wants TLS, which is not spoken here");
    case NBD_REPLY_UNKNOWN:
        return error_set(&client->error, -ENOENT, "the server has no export of that name");
    case NBD_REPLY_POLICY:
        return error_set(&client->error, -EACCES, "the server does not permit it");
    default:
        return error_set(&client->error, -EPROTO, "the server refuses the export%s%.*s",
                         reply->length ? ": " : "",
                         (int)(reply->length < 256 ? reply->length : 256), reply->data);
    }
}

/* Sets *is_open, or leaves it when the server does not know GO. */
static int go(struct nbd_client *client, const char *name, bool *is_open)
{
    uint32_t name_length = (uint32_t)strlen(name);
    uint8_t option[OPTION_MAX];
    struct option_reply reply = {0};
    bool has_size = false;
    int result;

    put_text(option, name, name_length);
    put_be16(option + 4 + name_length, 0); /* no information beyond what always comes */
    result = send_option(client, NBD_OPTION_GO, option, 6 + name_length);
    for (unsigned i = 0; result == 0 && i < REPLIES_MAX; i++) {
        result = receive_reply(client, NBD_OPTION_GO, &reply);
        if (result)
            return result;
        if (reply.type == NBD_REPLY_UNSUPPORTED)
            return 0;
        if (reply.type == NBD_REPLY_ACK) {
            *is_open = true;
            return has_size ? 0 : nbd_socket_violation(client, "the export has no size");
        }
        if (reply.type & NBD_REPLY_IS_ERROR)
            return refused(client, &reply);
        if (reply.type == NBD_REPLY_INFO && reply.length == 12 &&
            get_be16(reply.data) == NBD_INFO_EXPORT) {
            client->size = get_be64(reply.data + 2);
            client->flags = get_be16(reply.data + 10);
            has_size = true;
        }
    }
    return result ? result : nbd_socket_violation(client, "too many replies");
}

static int open_by_name(struct nbd_client *client, const char *name, bool no_zeroes)
{
    uint8_t answer[10];
    int result = send_option(client, NBD_OPTION_EXPORT_NAME, name, (uint32_t)strlen(name));

    if (result == 0)
        result = nbd_socket_receive(client, answer, sizeof(answer));
    if (result == 0 && !no_zeroes)
        result = nbd_socket_skip(client, ZEROES_BYTES);
    if (result)
        return result;
    client->size = get_be64(answer);
    client->flags = get_be16(answer + 8);
    return 0;
}

int nbd_handshake(struct nbd_client *client, const char *name,
                  const char *const context[static NBD_CONTEXTS_MAX])
{
    bool no_zeroes = false, is_open = false;
    int result = greet(client, &no_zeroes);

    if (result == 0)
        result = ask_structured(client);
    if (result == 0 && client->structured && (context[0] || context[1]))
        result = ask_contexts(client, name, context);
    if (result == 0)
        result = go(client, name, &is_open);
    if (result == 0 && !is_open)
        result = open_by_name(client, name, no_zeroes);
    return result;
}
