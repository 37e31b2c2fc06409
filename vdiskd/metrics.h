/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is counted, as Prometheus' text format (version 0.0.4), and a small HTTP/1.1 server for it.
 *
 * The server answers GET and HEAD of /metrics and nothing else, without authentication: it belongs
 * on a Unix socket or on loopback.
 */
#ifndef VDISKD_METRICS_H
#define VDISKD_METRICS_H

#include "stats.h"
#include "vdisk/vdisk.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

struct exports;
struct reactor;
struct metrics;

/* One export's row. */
struct metrics_source {
    const char *name;
    const struct stats *stats;
    uint64_t size; /* bytes of the drive */
    unsigned sessions;
    struct vdisk_figures figures;
};

/* Writes the whole text: each family once, with a line for each source. From any thread. */
void metrics_write(FILE *out, const struct metrics_source *sources, size_t count);
/* The value of a label: backslash, quote and newline escaped, what is no UTF-8 replaced. */
void metrics_put_label(FILE *out, const char *value);

/* What a request head (all up to its empty line, `length` bytes) asks for: 200 for the metrics, or
 * the status to refuse it with (400, 404, 405, 505). */
int metrics_parse_request(const char *head, size_t length, bool *is_head);

/*
 * Serves on `listener`, a listening socket that it takes over, by tasks of the reactor. Call it on
 * its thread, or before it runs. -ENOMEM.
 */
int metrics_start(struct reactor *reactor, struct exports *exports, int listener,
                  struct metrics **out);
/* By a task of that reactor: waits until no request is being answered. NULL is allowed. */
void metrics_stop(struct metrics *metrics);

#endif
