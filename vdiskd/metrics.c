/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The text of the metrics, and the requests for it; see metrics.h. metrics_server.c serves them.
 */
#include "metrics.h"

#include "json.h"

#include <inttypes.h>
#include <string.h>

static const char *const op_names[STATS_OPS] = {"read", "write", "flush", "discard", "zero"};

/* A family with one value for each export. */
struct family {
    const char *name, *type, *help;
    uint64_t (*value)(const struct metrics_source *source);
};

/* A family with one value for each export and operation. */
struct op_family {
    const char *name, *help;
    size_t offset; /* in struct stats_counter */
};

static uint64_t load(const atomic_uint_fast64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static uint64_t size_of(const struct metrics_source *source)
{
    return source->size;
}

static uint64_t sessions_of(const struct metrics_source *source)
{
    return source->sessions;
}

#define VALUE(field)                                                                               \
    static uint64_t field##_of(const struct metrics_source *source)                                \
    {                                                                                              \
        return load(&source->stats->field);                                                        \
    }
VALUE(throttled)
VALUE(waiting_for_space)
VALUE(reopened)
VALUE(integrity_errors)
VALUE(filled_bytes)
VALUE(filled_to)
VALUE(in_flight)
VALUE(delayed)
VALUE(sessions_total)

#define FIGURE(field)                                                                              \
    static uint64_t field##_of(const struct metrics_source *source)                                \
    {                                                                                              \
        return source->figures.field;                                                              \
    }
FIGURE(dirty_bytes)
FIGURE(journal_bytes)
FIGURE(journal_used_bytes)
FIGURE(journal_records)
FIGURE(journal_syncs)
FIGURE(checkpoints)

static const struct family families[] = {
    {"vdisk_export_size_bytes", "gauge", "Size of the drive.", size_of},
    {"vdisk_export_sessions", "gauge", "Clients that are attached.", sessions_of},
    {"vdisk_export_sessions_total", "counter", "Clients that have attached.", sessions_total_of},
    {"vdisk_export_in_flight", "gauge", "Requests that have not ended.", in_flight_of},
    {"vdisk_export_delayed", "gauge", "Of these, those that a full or failing disk keeps waiting.",
     delayed_of},
    {"vdisk_export_throttled_total", "counter", "Requests that waited for a limit.", throttled_of},
    {"vdisk_export_waiting_for_space_total", "counter", "Times that a full disk was waited for.",
     waiting_for_space_of},
    {"vdisk_export_reopened_total", "counter", "Times that the image was opened anew.",
     reopened_of},
    {"vdisk_export_integrity_errors_total", "counter",
     "Requests and other work that failed because data was not authentic.", integrity_errors_of},
    {"vdisk_export_filled_bytes_total", "counter", "Copied from the image's source.",
     filled_bytes_of},
    {"vdisk_export_filled_to_bytes", "gauge", "How far that has come in the drive.", filled_to_of},
    {"vdisk_export_dirty_bytes", "gauge", "Map in memory that the next checkpoint writes.",
     dirty_bytes_of},
    {"vdisk_export_journal_bytes", "gauge", "Size of the journal.", journal_bytes_of},
    {"vdisk_export_journal_used_bytes", "gauge", "Of the journal, what no checkpoint has freed.",
     journal_used_bytes_of},
    {"vdisk_export_journal_records_total", "counter", "Records of the journal written.",
     journal_records_of},
    {"vdisk_export_journal_syncs_total", "counter",
     "Syncs of the journal, each for all flushes that waited.", journal_syncs_of},
    {"vdisk_export_checkpoints_total", "counter", "Checkpoints made.", checkpoints_of},
};

static const struct op_family op_families[] = {
    {"vdisk_export_operations_total", "Requests that have ended.",
     offsetof(struct stats_counter, count)},
    {"vdisk_export_operation_bytes_total", "Bytes of requests that succeeded.",
     offsetof(struct stats_counter, bytes)},
    {"vdisk_export_operation_errors_total", "Requests that failed.",
     offsetof(struct stats_counter, errors)},
};

static const struct cache {
    const char *name;
    size_t offset; /* in struct vdisk_figures */
} caches[] = {
    {"nodes", offsetof(struct vdisk_figures, nodes)},
    {"clusters", offsetof(struct vdisk_figures, clusters)},
};

/* A family with one value for each export and cache. */
static const struct cache_family {
    const char *name, *type, *help;
    size_t offset; /* in struct vdisk_cache_figures */
} cache_families[] = {
    {"vdisk_export_cache_bytes", "gauge", "Memory that the cache takes.",
     offsetof(struct vdisk_cache_figures, bytes)},
    {"vdisk_export_cache_limit_bytes", "gauge", "Memory that the cache may take.",
     offsetof(struct vdisk_cache_figures, limit_bytes)},
    {"vdisk_export_cache_hits_total", "counter", "Lookups that found it there.",
     offsetof(struct vdisk_cache_figures, hits)},
    {"vdisk_export_cache_misses_total", "counter", "Lookups that did not.",
     offsetof(struct vdisk_cache_figures, misses)},
};

void metrics_put_label(FILE *out, const char *value)
{
    const unsigned char *at = (const unsigned char *)value;

    while (*at) {
        unsigned length = json_utf8_length(at);

        if (*at == '\\' || *at == '"')
            fprintf(out, "\\%c", *at);
        else if (*at == '\n')
            fputs("\\n", out);
        else if (length == 0)
            fputs("\xef\xbf\xbd", out);
        else
            fwrite(at, 1, length, out);
        at += length ? length : 1;
    }
}

static void put_head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

/* `name{export="..."`, with the brace left open. */
static void put_name(FILE *out, const char *name, const char *suffix, const char *export)
{
    fprintf(out, "%s%s{export=\"", name, suffix);
    metrics_put_label(out, export);
    fputc('"', out);
}

/* Exact, which a double would not be: `units` of 10^-digits. */
static void put_decimal(FILE *out, uint64_t units, unsigned digits)
{
    uint64_t scale = 1;

    for (unsigned i = 0; i < digits; i++)
        scale *= 10;
    fprintf(out, "%" PRIu64 ".%0*" PRIu64, units / scale, (int)digits, units % scale);
}

/* The buckets are cumulative, and the last is the count: read once, they cannot disagree. */
static void put_histogram(FILE *out, const char *name, const char *export, const char *op,
                          const struct stats_counter *counter)
{
    uint64_t sum = 0;

    for (unsigned b = 0; b < STATS_BUCKETS; b++) {
        sum += load(&counter->bucket[b]);
        put_name(out, name, "_bucket", export);
        fprintf(out, ",operation=\"%s\",le=\"", op);
        if (b == STATS_BUCKETS - 1)
            fputs("+Inf", out);
        else
            put_decimal(out, UINT64_C(1) << b, 6);
        fprintf(out, "\"} %" PRIu64 "\n", sum);
    }
    put_name(out, name, "_sum", export);
    fprintf(out, ",operation=\"%s\"} ", op);
    put_decimal(out, load(&counter->nanoseconds), 9);
    fputc('\n', out);
    put_name(out, name, "_count", export);
    fprintf(out, ",operation=\"%s\"} %" PRIu64 "\n", op, sum);
}

static void put_caches(FILE *out, const struct cache_family *family,
                       const struct metrics_source *source)
{
    for (size_t c = 0; c < sizeof(caches) / sizeof(*caches); c++) {
        const char *cache = (const char *)&source->figures + caches[c].offset;
        uint64_t value;

        memcpy(&value, cache + family->offset, sizeof(value));
        put_name(out, family->name, "", source->name);
        fprintf(out, ",cache=\"%s\"} %" PRIu64 "\n", caches[c].name, value);
    }
}

void metrics_write(FILE *out, const struct metrics_source *sources, size_t count)
{
    static const char latency[] = "vdisk_export_operation_seconds";

    for (size_t f = 0; f < sizeof(families) / sizeof(*families); f++) {
        put_head(out, families[f].name, families[f].type, families[f].help);
        for (size_t i = 0; i < count; i++) {
            put_name(out, families[f].name, "", sources[i].name);
            fprintf(out, "} %" PRIu64 "\n", families[f].value(&sources[i]));
        }
    }
    for (size_t f = 0; f < sizeof(cache_families) / sizeof(*cache_families); f++) {
        put_head(out, cache_families[f].name, cache_families[f].type, cache_families[f].help);
        for (size_t i = 0; i < count; i++)
            put_caches(out, &cache_families[f], &sources[i]);
    }
    for (size_t f = 0; f < sizeof(op_families) / sizeof(*op_families); f++) {
        put_head(out, op_families[f].name, "counter", op_families[f].help);
        for (size_t i = 0; i < count * STATS_OPS; i++) {
            const struct metrics_source *source = &sources[i / STATS_OPS];
            const struct stats_counter *counter = &source->stats->op[i % STATS_OPS];
            const void *field = (const char *)counter + op_families[f].offset;

            put_name(out, op_families[f].name, "", source->name);
            fprintf(out, ",operation=\"%s\"} %" PRIu64 "\n", op_names[i % STATS_OPS], load(field));
        }
    }
    put_head(out, latency, "histogram", "Time from a request's arrival to its end.");
    for (size_t i = 0; i < count * STATS_OPS; i++)
        put_histogram(out, latency, sources[i / STATS_OPS].name, op_names[i % STATS_OPS],
                      &sources[i / STATS_OPS].stats->op[i % STATS_OPS]);
}

/* ---- requests ---- */

int metrics_parse_request(const char *head, size_t length, bool *is_head)
{
    const char *end = memchr(head, '\r', length), *target, *version, *query;

    *is_head = false;
    if (!end || (size_t)(end - head) + 1 >= length || end[1] != '\n' || memchr(head, 0, length))
        return 400;
    target = memchr(head, ' ', (size_t)(end - head));
    version = target ? memchr(target + 1, ' ', (size_t)(end - target - 1)) : NULL;
    if (!version || memchr(version + 1, ' ', (size_t)(end - version - 1)))
        return 400;
    if (end - version != 9 || memcmp(version + 1, "HTTP/1.", 7) != 0)
        return end - version > 6 && memcmp(version + 1, "HTTP/", 5) == 0 ? 505 : 400;
    *is_head = target - head == 4 && memcmp(head, "HEAD", 4) == 0;
    if (!*is_head && (target - head != 3 || memcmp(head, "GET", 3) != 0))
        return 405;
    target++;
    query = memchr(target, '?', (size_t)(version - target));
    if ((query ? query : version) - target != 8 || memcmp(target, "/metrics", 8) != 0)
        return 404;
    return 200;
}
