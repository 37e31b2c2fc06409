/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of any bytes, after a handshake that the first byte chooses: simple or structured
 * replies or extended headers, contexts or none, the drive or its snapshot. What comes back is
 * whole replies of that kind, whose data is within the drive, and the last chunk of each is marked.
 */
#include "nbd_kit.h"
#include "nbd_proto.h"
#include "require.h"

#define DRIVE_BYTES (UINT64_C(1) << 20)

enum {
    EXTENDED = 1,
    STRUCTURED = 2,
    CONTEXTS = 4,
    SNAPSHOT = 8
};

struct words {
    uint8_t bytes[512];
    size_t length;
};

static void put(struct words *words, const void *bytes, size_t length)
{
    require(length <= sizeof(words->bytes) - words->length);
    memcpy(words->bytes + words->length, bytes, length);
    words->length += length;
}

static void put_number(struct words *words, uint32_t number)
{
    uint8_t bytes[4];

    nbd_put32(bytes, number);
    put(words, bytes, sizeof(bytes));
}

static void put_string(struct words *words, const char *string)
{
    put_number(words, (uint32_t)strlen(string));
    put(words, string, strlen(string));
}

static void option(struct words *words, uint32_t number, const struct words *payload)
{
    uint8_t magic[8];

    nbd_put64(magic, NBD_OPT_MAGIC);
    put(words, magic, sizeof(magic));
    put_number(words, number);
    put_number(words, (uint32_t)payload->length);
    put(words, payload->bytes, payload->length);
}

static void handshake(struct words *words, unsigned how)
{
    static const struct words nothing;
    const char *name = how & SNAPSHOT ? "@one" : "";
    struct words payload = {.length = 0};

    put_number(words, NBD_HANDSHAKE_FIXED | NBD_HANDSHAKE_NO_ZEROES);
    if (how & EXTENDED)
        option(words, NBD_OPT_EXTENDED_HEADERS, &nothing);
    else if (how & STRUCTURED)
        option(words, NBD_OPT_STRUCTURED_REPLY, &nothing);
    if (how & CONTEXTS) {
        put_string(&payload, name);
        put_number(&payload, 3);
        put_string(&payload, "base:allocation");
        put_string(&payload, "qemu:allocation-depth");
        put_string(&payload, "qemu:dirty-bitmap:one");
        option(words, NBD_OPT_SET_META_CONTEXT, &payload);
    }
    payload.length = 0;
    put_string(&payload, name);
    put(&payload, "\0", 2);
    option(words, NBD_OPT_GO, &payload);
}

/* A chunk's payload. */
static void look_at(unsigned type, const uint8_t *data, uint64_t length)
{
    uint64_t offset = length >= 8 ? nbd_get64(data) : 0;

    if (type == NBD_CHUNK_OFFSET_DATA)
        require(length > 8 && offset < DRIVE_BYTES && length - 8 <= DRIVE_BYTES - offset);
    else if (type == NBD_CHUNK_OFFSET_HOLE)
        require(length == 12 && offset < DRIVE_BYTES &&
                nbd_get32(data + 8) <= DRIVE_BYTES - offset);
    else if (type == NBD_CHUNK_BLOCK_STATUS)
        require(length >= 12 && length % 8 == 4);
    else if (type == NBD_CHUNK_BLOCK_STATUS_EXT)
        require(length >= 24 && nbd_get32(data + 4) == (length - 8) / 16);
    else if (type == NBD_CHUNK_ERROR)
        require(length >= 6 && nbd_get32(data) != 0);
    else
        require(type == NBD_CHUNK_NONE && length == 0);
}

/* The reply at `at`, how long it is; 0: there is no room for it any more. */
static size_t look_at_reply(const uint8_t *at, size_t left, unsigned how)
{
    size_t header = how & EXTENDED ? NBD_EXTENDED_CHUNK_BYTES : NBD_CHUNK_BYTES;
    uint32_t magic = how & EXTENDED ? NBD_EXTENDED_CHUNK_MAGIC : NBD_CHUNK_MAGIC;
    uint64_t length;

    if (left < 4)
        return 0;
    if (nbd_get32(at) == NBD_SIMPLE_REPLY_MAGIC) {
        require(!(how & EXTENDED));
        /* Data follows a simple reply of a READ: of which length, only the client knows. */
        return left < NBD_SIMPLE_REPLY_BYTES || !(how & STRUCTURED) ? 0 : NBD_SIMPLE_REPLY_BYTES;
    }
    require(nbd_get32(at) == magic && how & (EXTENDED | STRUCTURED));
    if (left < header)
        return 0;
    length = how & EXTENDED ? nbd_get64(at + 24) : nbd_get32(at + 16);
    if (length > left - header)
        return 0;
    look_at(nbd_get16(at + 6), at + header, length);
    return header + (size_t)length;
}

NBD_KIT_WITHOUT_LEAK_CHECKER

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct words first = {.length = 0};
    struct nbd_kit_answer answer;
    size_t at = NBD_GREETING_BYTES, one;

    if (size == 0 || size > 65536)
        return 0;
    handshake(&first, data[0]);
    answer = nbd_kit_say(first.bytes, first.length, data + 1, size - 1);
    nbd_kit_option_replies(&answer, &at);
    require(at > NBD_GREETING_BYTES + NBD_OPT_REPLY_BYTES);
    while ((one = look_at_reply(answer.bytes + at, answer.length - at, data[0])) > 0)
        at += one;
    /* What is there was whole, unless it was cut off at our end. */
    require(at == answer.length || answer.total > answer.length ||
            !(data[0] & (EXTENDED | STRUCTURED)));
    return 0;
}
