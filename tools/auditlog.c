/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing and verifying the lines of an audit log; see auditlog.h.
 */
#include "auditlog.h"

#include "json.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define HASH_LABEL   ",\"hash\":\""
#define LABEL_CHARS  (sizeof(HASH_LABEL) - 1)
#define SEAL_CHARS   (LABEL_CHARS + AUDITLOG_HEX_CHARS + 3) /* and `"}` and a newline */
#define BEFORE_LABEL ",\"before\":\""
#define BUFFER_BYTES (4 * (size_t)AUDITLOG_LINE_MAX)

void auditlog_hex(char text[AUDITLOG_HEX_CHARS + 1], const uint8_t hash[AUDITLOG_HASH_BYTES])
{
    sodium_bin2hex(text, AUDITLOG_HEX_CHARS + 1, hash, AUDITLOG_HASH_BYTES);
}

bool auditlog_from_hex(const char *text, size_t length, uint8_t hash[AUDITLOG_HASH_BYTES])
{
    if (length != AUDITLOG_HEX_CHARS)
        return false;
    for (unsigned i = 0; i < AUDITLOG_HEX_CHARS; i++) {
        const char *digits = "0123456789abcdef", *at = strchr(digits, text[i]);

        if (!text[i] || !at)
            return false;
        uint8_t nibble = (uint8_t)(at - digits);
        hash[i / 2] = (uint8_t)(i % 2 ? hash[i / 2] | nibble : nibble << 4);
    }
    return true;
}

static void hash_line(const struct auditlog_chain *chain, const void *torn, size_t torn_length,
                      const void *text, size_t length, uint8_t hash[AUDITLOG_HASH_BYTES])
{
    crypto_generichash_state state;

    crypto_generichash_init(&state, chain->key, AUDITLOG_KEY_BYTES, AUDITLOG_HASH_BYTES);
    crypto_generichash_update(&state, chain->head, AUDITLOG_HASH_BYTES);
    if (torn) {
        crypto_generichash_update(&state, torn, torn_length);
        crypto_generichash_update(&state, (const uint8_t *)"\n", 1);
    }
    crypto_generichash_update(&state, text, length);
    crypto_generichash_final(&state, hash, AUDITLOG_HASH_BYTES);
    sodium_memzero(&state, sizeof(state));
}

/* ---- writing ---- */

/* All of it, or nothing and the line counts as full; room for the seal is kept. */
static void put(struct auditlog_line *line, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void put(struct auditlog_line *line, const char *format, ...)
{
    size_t room = AUDITLOG_LINE_MAX - 1 - SEAL_CHARS - line->length; /* and a NUL at the end */
    va_list arguments;

    va_start(arguments, format);
    int length = vsnprintf(line->text + line->length, room, format, arguments);
    va_end(arguments);
    if (length < 0 || (size_t)length >= room)
        line->is_full = true;
    else
        line->length += (size_t)length;
}

void auditlog_begin(struct auditlog_line *line, const struct auditlog_chain *chain,
                    int64_t nanoseconds)
{
    time_t seconds = nanoseconds / 1000000000;
    char text[32] = "";
    struct tm parts;

    line->length = 0;
    line->is_full = false;
    if (gmtime_r(&seconds, &parts))
        strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &parts);
    put(line, "{\"sequence\":%" PRIu64 ",\"time\":\"%s.%06uZ\"", chain->sequence + 1, text,
        (unsigned)(nanoseconds % 1000000000 / 1000));
}

void auditlog_string(struct auditlog_line *line, const char *name, const char *value)
{
    const unsigned char *at = (const unsigned char *)value;
    size_t start = line->length, taken = 0;

    if (!value || line->is_full)
        return;
    put(line, ",\"%s\":\"", name);
    while (*at && taken < AUDITLOG_VALUE_MAX) {
        unsigned length = json_utf8_length(at);
        bool is_latin_control = *at == 0xc2 && length == 2 && at[1] < 0xa0;

        if (*at == '"' || *at == '\\')
            put(line, "\\%c", *at);
        else if (*at < 0x20 || *at == 0x7f)
            put(line, "\\u%04x", *at);
        else if (is_latin_control)
            put(line, "\\u%04x", at[1]);
        else if (length == 0)
            put(line, "\\ufffd");
        else
            put(line, "%.*s", (int)length, (const char *)at);
        at += length ? length : 1;
        taken += length ? length : 1;
    }
    put(line, "\"");
    if (line->is_full)
        line->length = start;
}

void auditlog_number(struct auditlog_line *line, const char *name, int64_t value)
{
    if (!line->is_full)
        put(line, ",\"%s\":%" PRId64, name, value);
}

void auditlog_before(struct auditlog_line *line, const struct auditlog_chain *chain)
{
    char hex[AUDITLOG_HEX_CHARS + 1];

    auditlog_hex(hex, chain->head);
    put(line, BEFORE_LABEL "%s\"", hex);
}

void auditlog_end(struct auditlog_line *line, struct auditlog_chain *chain, const void *torn,
                  size_t torn_length)
{
    char hex[AUDITLOG_HEX_CHARS + 1];

    hash_line(chain, torn, torn_length, line->text, line->length, chain->head);
    chain->sequence++;
    auditlog_hex(hex, chain->head);
    line->length += (size_t)snprintf(line->text + line->length, AUDITLOG_LINE_MAX - line->length,
                                     HASH_LABEL "%s\"}\n", hex);
}

/* ---- reading ---- */

/* A piece of the file up to a newline, or up to its end. */
struct reader {
    int fd;
    size_t start, end;
    bool at_end;
    char *buffer;
};

/* Length of the next piece at *text, without its newline; -ENODATA at the end, -EMSGSIZE when it is
 * longer than the buffer, -errno. */
static ssize_t next_piece(struct reader *reader, const char **text, bool *has_newline)
{
    for (;;) {
        char *from = reader->buffer + reader->start;
        size_t have = reader->end - reader->start;
        char *newline = memchr(from, '\n', have);

        if (newline || (reader->at_end && have)) {
            size_t length = newline ? (size_t)(newline - from) : have;

            *text = from;
            *has_newline = newline;
            reader->start += length + (newline ? 1 : 0);
            return (ssize_t)length;
        }
        if (reader->at_end)
            return -ENODATA;
        memmove(reader->buffer, from, have);
        reader->start = 0;
        reader->end = have;
        if (have == BUFFER_BYTES)
            return -EMSGSIZE;
        ssize_t got = read(reader->fd, reader->buffer + have, BUFFER_BYTES - have);
        if (got < 0 && errno != EINTR)
            return -errno;
        reader->at_end = got == 0;
        reader->end += got > 0 ? (size_t)got : 0;
    }
}

/* NULL when the line (without its newline) is the next of the chain, which then moves on; else what
 * is wrong. */
static const char *take_line(struct auditlog_chain *chain, const char *text, size_t length,
                             const void *torn, size_t torn_length)
{
    uint8_t said[AUDITLOG_HASH_BYTES], hash[AUDITLOG_HASH_BYTES];
    char begin[48];

    if (length < SEAL_CHARS || length >= AUDITLOG_LINE_MAX)
        return "it is not a line of an audit log";
    size_t body = length - (SEAL_CHARS - 1);
    if (memcmp(text + body, HASH_LABEL, LABEL_CHARS) != 0 ||
        memcmp(text + length - 2, "\"}", 2) != 0 ||
        !auditlog_from_hex(text + body + LABEL_CHARS, AUDITLOG_HEX_CHARS, said))
        return "it is not a line of an audit log";
    hash_line(chain, torn, torn_length, text, body, hash);
    if (sodium_memcmp(said, hash, sizeof(hash)) != 0)
        return "it was altered, or a line before it is missing, moved or inserted; or the key is "
               "another";
    size_t prefix =
        (size_t)snprintf(begin, sizeof(begin), "{\"sequence\":%" PRIu64 ",", chain->sequence + 1);
    if (body < prefix || memcmp(text, begin, prefix) != 0)
        return "its sequence number is not the next";
    memcpy(chain->head, hash, sizeof(hash));
    chain->sequence++;
    return NULL;
}

/* Where the chain is before the first line, by its own words, which its hash covers. A value has no
 * bare quote in it, so that the label is found in its place only. */
static bool take_before(struct auditlog_chain *chain, const char *text, size_t length)
{
    const char *label = memmem(text, length, BEFORE_LABEL, sizeof(BEFORE_LABEL) - 1);
    const char *hex = label ? label + sizeof(BEFORE_LABEL) - 1 : NULL;
    uint64_t number = 0;

    if (!hex || (size_t)(text + length - hex) < AUDITLOG_HEX_CHARS || length < 32 ||
        !auditlog_from_hex(hex, AUDITLOG_HEX_CHARS, chain->head))
        return false;
    for (const char *at = text + sizeof("{\"sequence\":") - 1; *at >= '0' && *at <= '9'; at++)
        number = number * 10 + (unsigned)(*at - '0');
    chain->sequence = number - 1;
    return true;
}

struct scan {
    struct auditlog_chain *chain;
    struct auditlog_result *result;
    const uint8_t *wanted;
    uint64_t number; /* of the line */
    /* Lines that may be torn text (each crash of a recovery adds one), until a good one tells. */
    char *torn;
    size_t torn_length;
    uint64_t torn_line; /* the first of them; 0: none */
    const char *torn_damage;
};

static void set_damage(struct scan *scan)
{
    scan->result->damaged_line = scan->torn_line;
    scan->result->damage = scan->torn_damage;
}

/* False when it is too much to be torn text. */
static bool keep_torn(struct scan *scan, const char *text, size_t length, const char *damage)
{
    bool is_first = scan->torn_line == 0;

    if (is_first) {
        scan->torn_line = scan->number;
        scan->torn_damage = damage;
    }
    if (BUFFER_BYTES - scan->torn_length < length + 1)
        return false;
    if (!is_first)
        scan->torn[scan->torn_length++] = '\n';
    memcpy(scan->torn + scan->torn_length, text, length);
    scan->torn_length += length;
    return true;
}

/* Returns false when there is no use in going on. */
static bool take_piece(struct scan *scan, const char *text, size_t length, bool has_newline)
{
    struct auditlog_result *result = scan->result;
    const void *torn = scan->torn_line ? scan->torn : NULL;
    struct auditlog_chain trial = *scan->chain;
    bool is_continued = scan->number == 0 && take_before(&trial, text, length);
    uint8_t before[AUDITLOG_HASH_BYTES];

    memcpy(before, trial.head, sizeof(before));
    const char *damage = take_line(&trial, text, length, torn, scan->torn_length);

    scan->number++;
    if (damage || !has_newline) {
        result->is_whole_but_newline = !damage;
        result->is_cut_short =
            keep_torn(scan, text, length, has_newline ? damage : "it is cut short") && !has_newline;
        sodium_memzero(&trial, sizeof(trial));
        return has_newline && scan->torn_length < BUFFER_BYTES / 2;
    }
    if (is_continued) {
        result->is_continued = true;
        memcpy(result->before, before, sizeof(before));
    }
    *scan->chain = trial;
    sodium_memzero(&trial, sizeof(trial));
    result->lines++;
    result->torn += torn != NULL;
    result->bytes += length + 1 + (torn ? scan->torn_length + 1 : 0);
    scan->torn_line = 0;
    scan->torn_length = 0;
    if (scan->wanted && memcmp(scan->wanted, scan->chain->head, AUDITLOG_HASH_BYTES) == 0)
        result->has_wanted = true;
    return true;
}

int auditlog_scan(int fd, struct auditlog_chain *chain, const uint8_t wanted[AUDITLOG_HASH_BYTES],
                  struct auditlog_result *result)
{
    struct reader reader = {.fd = fd, .buffer = calloc(1, BUFFER_BYTES)};
    struct scan scan = {
        .chain = chain, .result = result, .wanted = wanted, .torn = malloc(BUFFER_BYTES)};
    const char *text = "";
    bool has_newline = false;
    ssize_t length = 0;

    memset(result, 0, sizeof(*result));
    memset(chain->head, 0, sizeof(chain->head));
    chain->sequence = 0;
    if (!reader.buffer || !scan.torn)
        length = -ENOMEM;
    else if (lseek(fd, 0, SEEK_SET) < 0)
        length = -errno;
    while (length >= 0) {
        length = next_piece(&reader, &text, &has_newline);
        if (length >= 0 && !take_piece(&scan, text, (size_t)length, has_newline))
            break;
    }
    if (length == -EMSGSIZE && scan.torn_line == 0) {
        scan.torn_line = scan.number + 1;
        scan.torn_damage = "it is far too long";
    }
    if (scan.torn_line)
        set_damage(&scan);
    free(reader.buffer);
    free(scan.torn);
    return length >= 0 || length == -EMSGSIZE || length == -ENODATA ? 0 : (int)length;
}

int auditlog_read_key(const char *path, uint8_t key[AUDITLOG_KEY_BYTES], struct vdisk_error *error)
{
    uint8_t bytes[AUDITLOG_KEY_BYTES + 1];
    struct stat status;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK), rc = 0;

    if (fd < 0) {
        rc = -errno;
        return error_set(error, rc, "the key of the audit log, %s, cannot be opened: %s", path,
                         vdisk_strerror(rc));
    }
    if (fstat(fd, &status)) {
        rc = error_set(error, -errno, "%s: %s", path, vdisk_strerror(-errno));
        goto out;
    }
    if (S_ISREG(status.st_mode) && (status.st_mode & 077)) {
        rc = error_set(error, -EACCES, "others may use the audit log's key %s; chmod 600 it", path);
        goto out;
    }
    if (read(fd, bytes, sizeof(bytes)) != AUDITLOG_KEY_BYTES) {
        rc = error_set(error, VDISK_E_MALFORMED, "%s is not an audit log's key of %u bytes", path,
                       AUDITLOG_KEY_BYTES);
        goto out;
    }
    memcpy(key, bytes, AUDITLOG_KEY_BYTES);
out:
    sodium_memzero(bytes, sizeof(bytes));
    close(fd);
    return rc;
}
