/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NBD handshake: options and their answers, until the client has an export.
 *
 * Bytes are taken one option at a time, never ahead, so that nothing sent in plain text can be
 * mistaken for what came after STARTTLS. Each function answers one option; < 0 ends the connection.
 */
#include "nbd_conn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#define LIST_MAX    4096u
#define NAMES_BYTES (64u << 10)
#define SKIP_MAX    (1u << 20)
#define DENIALS_MAX 16u
#define DONE        1 /* the client has its export */

static int reply(struct nbd_conn *conn, uint32_t option, uint32_t type, const void *data,
                 size_t length)
{
    uint8_t header[NBD_OPT_REPLY_BYTES];
    struct iovec vectors[2] = {{header, sizeof(header)}, {(void *)(uintptr_t)data, length}};

    nbd_option_reply_encode(header, option, type, (uint32_t)length);
    return stream_send(&conn->stream, vectors, length ? 2 : 1, conn->deadline);
}

static int refuse(struct nbd_conn *conn, uint32_t option, uint32_t type, const char *why)
{
    return reply(conn, option, type, why, strlen(why));
}

/* Tells that the client does not get what it asked for. How often one connection can, is bounded:
 * then the negative result ends it. */
static int tell_denied(struct nbd_conn *conn, const struct nbd_string *name, const char *why)
{
    if (++conn->denials > DENIALS_MAX)
        return -EPROTO;
    (void)snprintf(conn->event.export_name, sizeof(conn->event.export_name), "%.*s",
                   name ? (int)name->length : 0, name ? name->text : "");
    nbd_conn_event(conn, NBD_EVENT_DENIED, why);
    conn->event.export_name[0] = 0;
    return 0;
}

/* --- LIST ----------------------------------------------------------------------------------- */

struct names {
    unsigned count;
    char (*name)[256];
};

static bool each_export(void *opaque, struct export *export)
{
    struct names *names = opaque;
    struct export_info info;

    export_get_info(export, &info);
    memcpy(names->name[names->count++], info.name, sizeof(info.name));
    return names->count < LIST_MAX;
}

static int list(struct nbd_conn *conn, const struct nbd_option *option)
{
    struct names names = {.name = calloc(LIST_MAX, sizeof(*names.name))};
    int result = 0;

    if (option->length || !names.name) {
        free(names.name);
        return refuse(conn, option->number, NBD_REP_ERR_INVALID, "LIST has no payload");
    }
    export_each(nbd_server_exports(conn->server), each_export, &names);
    for (unsigned i = 0; result == 0 && i < names.count; i++) {
        uint8_t data[4 + sizeof(names.name[0])];
        size_t length = strlen(names.name[i]);

        nbd_put32(data, (uint32_t)length);
        memcpy(data + 4, names.name[i], length);
        result = reply(conn, option->number, NBD_REP_SERVER, data, 4 + length);
    }
    free(names.name);
    return result ? result : reply(conn, option->number, NBD_REP_ACK, NULL, 0);
}

/* --- contexts ------------------------------------------------------------------------------- */

static int tell_context(struct nbd_conn *conn, uint32_t option, uint32_t id, const char *prefix,
                        const char *name)
{
    uint8_t data[4 + 64 + VDISK_NAME_MAX + 1];
    int length = snprintf((char *)data + 4, sizeof(data) - 4, "%s%s", prefix, name);

    nbd_put32(data, id);
    return reply(conn, option, NBD_REP_META_CONTEXT, data, 4 + (size_t)length);
}

/* Whether a query of LIST_META_CONTEXT asks for the context: by its name, or by the beginning of
 * one up to a colon. */
static bool query_wants(const struct nbd_string *query, const char *prefix, const char *name)
{
    char text[64 + VDISK_NAME_MAX + 1];

    (void)snprintf(text, sizeof(text), "%s%s", prefix, name);
    if (nbd_string_is(query, text))
        return true;
    return query->length > 0 && query->text[query->length - 1] == ':' &&
           strncmp(text, query->text, query->length) == 0;
}

static bool any_wants(struct nbd_queries queries, const char *prefix, const char *name)
{
    struct nbd_string query;

    if (queries.count == 0)
        return true;
    while (nbd_queries_next(&queries, &query)) {
        if (query_wants(&query, prefix, name))
            return true;
    }
    return false;
}

static int list_contexts(struct nbd_conn *conn, uint32_t option, const struct nbd_target *target,
                         const struct nbd_queries *queries)
{
    static const char *const fixed[] = {"base:allocation", "qemu:allocation-depth"};
    char *names = malloc(NAMES_BYTES);
    size_t length = 0;
    int result = 0;

    for (unsigned i = 0; result == 0 && i < 2; i++) {
        if (any_wants(*queries, "", fixed[i]))
            result = tell_context(conn, option, 0, "", fixed[i]);
    }
    if (names && result == 0 && nbd_snapshot_names(target, names, NAMES_BYTES, &length) == 0) {
        for (size_t at = 0; result == 0 && at < length; at += strlen(names + at) + 1) {
            if (any_wants(*queries, "qemu:dirty-bitmap:", names + at))
                result = tell_context(conn, option, 0, "qemu:dirty-bitmap:", names + at);
        }
    }
    free(names);
    return result;
}

static int set_contexts(struct nbd_conn *conn, uint32_t option, const struct nbd_target *target,
                        struct nbd_queries *queries)
{
    struct nbd_string query;
    char name[64 + VDISK_NAME_MAX + 1];
    int result = 0;

    while (result == 0 && nbd_queries_next(queries, &query)) {
        unsigned before = conn->context_count;

        /* What is not there is passed over: the answer says what is. */
        if (!nbd_string_copy(&query, name, sizeof(name)) || nbd_context_add(conn, target, name))
            continue;
        result = tell_context(conn, option, before + 1, "", name);
    }
    if (!nbd_string_copy(&queries->name, conn->context_name, sizeof(conn->context_name)))
        nbd_contexts_clear(conn);
    return result;
}

static int meta_context(struct nbd_conn *conn, const struct nbd_option *option,
                        const uint8_t *payload)
{
    bool is_set = option->number == NBD_OPT_SET_META_CONTEXT;
    struct nbd_queries queries;
    struct nbd_target target;
    int result;

    if (is_set) /* also when it fails */
        nbd_contexts_clear(conn);
    if (conn->mode == NBD_SIMPLE)
        return refuse(conn, option->number, NBD_REP_ERR_INVALID, "structured replies come first");
    if (!nbd_queries_parse(payload, option->length, &queries))
        return refuse(conn, option->number, NBD_REP_ERR_INVALID, "malformed");
    if (nbd_resolve(conn, &queries.name, &target))
        return refuse(conn, option->number, NBD_REP_ERR_UNKNOWN, "no such export");
    result = is_set ? set_contexts(conn, option->number, &target, &queries)
                    : list_contexts(conn, option->number, &target, &queries);
    export_put(target.export);
    return result ? result : reply(conn, option->number, NBD_REP_ACK, NULL, 0);
}

/* --- attaching ------------------------------------------------------------------------------ */

static void linger_over(struct reactor_op *op)
{
    struct nbd_conn *conn = op->owner;

    conn->lingers = false;
    (void)shutdown(conn->stream.fd, SHUT_RDWR);
    task_wake(&conn->reader);
}

/* The export is being removed: what was asked is answered, then the connection ends. */
static void gone(void *opaque)
{
    struct nbd_conn *conn = opaque;

    atomic_store(&conn->ending, true);
    budget_end(&conn->share);
    (void)shutdown(conn->stream.fd, SHUT_RD);
    if (conn->lingers)
        return;
    conn->lingers = true;
    conn->linger = (struct reactor_op){.kind = REACTOR_SLEEP,
                                       .deadline = reactor_now() + NBD_LINGER_NS,
                                       .done = linger_over,
                                       .owner = conn};
    reactor_submit(export_reactor(conn->export), &conn->linger);
}

static void resized(void *opaque)
{
    (void)opaque; /* requests are judged by the session's size; NBD clients are not told */
}

static int attach(struct nbd_conn *conn, const struct nbd_target *target)
{
    static const struct export_session_events events = {gone, resized};
    struct vdisk_error error;
    struct export_info info;
    int result;

    task_move(export_reactor(target->export));
    conn->export = target->export;
    result = export_attach(target->export, target->has_snapshot ? target->snapshot : NULL, &events,
                           conn, &conn->session, &error);
    if (result) {
        conn->export = NULL;
        return result;
    }
    result = nbd_contexts_attach(conn);
    if (result) {
        export_detach(conn->session);
        conn->session = NULL;
        nbd_contexts_clear(conn);
        conn->export = NULL;
        return result;
    }
    export_get_info(target->export, &info);
    (void)snprintf(conn->event.export_name, sizeof(conn->event.export_name), "%s%s%s", info.name,
                   target->has_snapshot ? "@" : "", target->snapshot);
    return 0;
}

static void forget_other_contexts(struct nbd_conn *conn, const struct nbd_string *name)
{
    if (!nbd_string_is(name, conn->context_name))
        nbd_contexts_clear(conn);
}

/* --- INFO, GO, EXPORT_NAME ------------------------------------------------------------------ */

static int tell_export(struct nbd_conn *conn, const struct nbd_option *option,
                       const struct nbd_target *target, const struct nbd_string *name,
                       unsigned asked)
{
    bool is_info = option->number == NBD_OPT_INFO;
    uint8_t data[2 + NBD_STRING_MAX];
    int result;

    nbd_put16(data, NBD_INFO_EXPORT);
    nbd_put64(data + 2, target->size);
    nbd_put16(data + 10,
              nbd_export_flags(target->read_only, conn->mode != NBD_SIMPLE,
                               conn->mode == NBD_EXTENDED, is_info || conn->context_count > 0));
    result = reply(conn, option->number, NBD_REP_INFO, data, 12);
    nbd_put16(data, NBD_INFO_BLOCK_SIZE);
    nbd_put32(data + 2, 1);
    nbd_put32(data + 6, NBD_BLOCK_PREFERRED);
    nbd_put32(data + 10, NBD_PAYLOAD_MAX);
    if (result == 0)
        result = reply(conn, option->number, NBD_REP_INFO, data, 14);
    if (result == 0 && asked & 1u << NBD_INFO_NAME) {
        nbd_put16(data, NBD_INFO_NAME);
        memcpy(data + 2, name->text, name->length);
        result = reply(conn, option->number, NBD_REP_INFO, data, 2 + name->length);
    }
    return result ? result : reply(conn, option->number, NBD_REP_ACK, NULL, 0);
}

static int info_or_go(struct nbd_conn *conn, const struct nbd_option *option,
                      const uint8_t *payload)
{
    bool is_go = option->number == NBD_OPT_GO;
    struct nbd_target target;
    struct nbd_string name;
    unsigned asked;
    int result;

    if (!nbd_info_parse(payload, option->length, &name, &asked))
        return refuse(conn, option->number, NBD_REP_ERR_INVALID, "malformed");
    result = nbd_resolve(conn, &name, &target);
    if (result == 0 && is_go) {
        forget_other_contexts(conn, &name);
        result = attach(conn, &target);
        if (result)
            export_put(target.export);
    }
    if (result) {
        bool is_unknown = result == VDISK_E_NOT_FOUND;
        const char *why = is_unknown ? "no such export" : vdisk_strerror(result);

        result = tell_denied(conn, &name, why);
        return result ? result
                      : refuse(conn, option->number,
                               is_unknown ? NBD_REP_ERR_UNKNOWN : NBD_REP_ERR_PLATFORM, why);
    }
    if (is_go) {
        target.size = export_session_size(conn->session);
        target.read_only = export_session_read_only(conn->session);
    }
    result = tell_export(conn, option, &target, &name, asked);
    if (!is_go)
        export_put(target.export);
    return result ? result : is_go ? DONE : 0;
}

static int export_name(struct nbd_conn *conn, const struct nbd_option *option,
                       const uint8_t *payload)
{
    struct nbd_string name = {(const char *)payload, option->length};
    uint8_t data[10 + 124] = {0};
    struct iovec vector = {data, conn->no_zeroes ? 10 : sizeof(data)};
    struct nbd_target target;
    int result = nbd_resolve(conn, &name, &target);

    if (result == 0) {
        forget_other_contexts(conn, &name);
        result = attach(conn, &target);
        if (result)
            export_put(target.export);
    }
    if (result) { /* there is no way to say so to the client */
        (void)tell_denied(conn, &name,
                          result == VDISK_E_NOT_FOUND ? "no such export" : vdisk_strerror(result));
        return result;
    }
    nbd_put64(data, export_session_size(conn->session));
    nbd_put16(data + 8,
              nbd_export_flags(export_session_read_only(conn->session), conn->mode != NBD_SIMPLE,
                               conn->mode == NBD_EXTENDED, conn->context_count > 0));
    result = stream_send(&conn->stream, &vector, 1, conn->deadline);
    return result ? result : DONE;
}

/* --- the rest ------------------------------------------------------------------------------- */

static int start_tls(struct nbd_conn *conn, const struct nbd_option *option)
{
    struct tls *tls = nbd_server_tls(conn->server);
    const char *why = NULL;
    int result;

    if (!tls)
        return refuse(conn, option->number, NBD_REP_ERR_UNSUP, "no TLS here");
    if (option->length || conn->stream.ssl)
        return refuse(conn, option->number, NBD_REP_ERR_INVALID, "not now");
    result = reply(conn, option->number, NBD_REP_ACK, NULL, 0);
    if (result == 0)
        result = stream_start_tls(&conn->stream, tls, conn->deadline, &why);
    if (result) {
        if (why)
            nbd_conn_event(conn, NBD_EVENT_AUTH_FAILED, why);
        return result;
    }
    stream_subject(&conn->stream, conn->event.subject, sizeof(conn->event.subject));
    nbd_contexts_clear(conn); /* what was said in the open does not count */
    conn->mode = NBD_SIMPLE;
    return 0;
}

static int set_mode(struct nbd_conn *conn, const struct nbd_option *option)
{
    bool is_extended = option->number == NBD_OPT_EXTENDED_HEADERS;

    if (option->length)
        return refuse(conn, option->number, NBD_REP_ERR_INVALID, "there is no payload");
    if (!is_extended && conn->mode == NBD_EXTENDED)
        return refuse(conn, option->number, NBD_REP_ERR_EXT_REQD, "extended headers include it");
    conn->mode = is_extended ? NBD_EXTENDED : NBD_STRUCTURED;
    return reply(conn, option->number, NBD_REP_ACK, NULL, 0);
}

/* What asks for nothing by itself is refused, and not worth a record. */
static int refuse_without_tls(struct nbd_conn *conn, const struct nbd_option *option)
{
    bool is_name = option->number == NBD_OPT_EXPORT_NAME;
    int result = 0;

    if (is_name || option->number == NBD_OPT_GO || option->number == NBD_OPT_INFO ||
        option->number == NBD_OPT_LIST)
        result = tell_denied(conn, NULL, "without TLS");
    if (result || is_name)
        return -EPROTO;
    return refuse(conn, option->number, NBD_REP_ERR_TLS_REQD, "TLS comes first");
}

static int answer(struct nbd_conn *conn, const struct nbd_option *option, const uint8_t *payload)
{
    bool needs_tls = nbd_server_options(conn->server)->tls_required && !conn->stream.ssl;

    if (needs_tls && option->number != NBD_OPT_STARTTLS && option->number != NBD_OPT_ABORT)
        return refuse_without_tls(conn, option);
    switch (option->number) {
    case NBD_OPT_EXPORT_NAME:
        return export_name(conn, option, payload);
    case NBD_OPT_ABORT:
        (void)reply(conn, option->number, NBD_REP_ACK, NULL, 0);
        return -ECONNABORTED;
    case NBD_OPT_LIST:
        return list(conn, option);
    case NBD_OPT_STARTTLS:
        return start_tls(conn, option);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return info_or_go(conn, option, payload);
    case NBD_OPT_STRUCTURED_REPLY:
    case NBD_OPT_EXTENDED_HEADERS:
        return set_mode(conn, option);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return meta_context(conn, option, payload);
    default:
        return refuse(conn, option->number, NBD_REP_ERR_UNSUP, "unknown option");
    }
}

/* `room` is NBD_OPTION_MAX bytes. */
static int next_option(struct nbd_conn *conn, uint8_t *room)
{
    uint8_t header[NBD_OPTION_BYTES];
    struct nbd_option option;
    int result = stream_receive_all(&conn->stream, header, sizeof(header), conn->deadline);

    if (result)
        return result;
    if (!nbd_option_parse(header, &option) || option.length > SKIP_MAX)
        return -EPROTO;
    if (option.length <= NBD_OPTION_MAX) {
        result = stream_receive_all(&conn->stream, room, option.length, conn->deadline);
        return result ? result : answer(conn, &option, room);
    }
    for (uint32_t left = option.length; result == 0 && left > 0;) {
        uint32_t piece = left < NBD_OPTION_MAX ? left : NBD_OPTION_MAX;

        result = stream_receive_all(&conn->stream, room, piece, conn->deadline);
        left -= piece;
    }
    if (option.number == NBD_OPT_SET_META_CONTEXT)
        nbd_contexts_clear(conn);
    if (result == 0 && option.number == NBD_OPT_EXPORT_NAME)
        result = -EPROTO;
    return result ? result : refuse(conn, option.number, NBD_REP_ERR_TOO_BIG, "too long");
}

int nbd_negotiate(struct nbd_conn *conn)
{
    uint8_t greeting[NBD_GREETING_BYTES], flags[4] = {0}, *room = malloc(NBD_OPTION_MAX);
    struct iovec vector = {greeting, sizeof(greeting)};
    int result = room ? 0 : -ENOMEM;

    conn->deadline = reactor_now() + NBD_HANDSHAKE_NS;
    nbd_greeting_encode(greeting);
    if (result == 0)
        result = stream_send(&conn->stream, &vector, 1, conn->deadline);
    if (result == 0)
        result = stream_receive_all(&conn->stream, flags, sizeof(flags), conn->deadline);
    if (result == 0 &&
        nbd_get32(flags) & ~(uint32_t)(NBD_HANDSHAKE_FIXED | NBD_HANDSHAKE_NO_ZEROES))
        result = -EPROTO;
    conn->no_zeroes = result == 0 && nbd_get32(flags) & NBD_HANDSHAKE_NO_ZEROES;
    while (result == 0)
        result = atomic_load(&conn->ending) ? -ESHUTDOWN : next_option(conn, room);
    free(room);
    return result == DONE ? 0 : result;
}
