/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Serving the metrics: one task accepts, one for each connection answers a request and closes.
 */
#include "export.h"
#include "metrics.h"
#include "task.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_MAX        4096u
#define CONNECTIONS_MAX 16u
#define SOURCES_MAX     512u /* exports; the rest is left out, which bounds the answer */
#define SECOND          INT64_C(1000000000)
#define TIMEOUT         (5 * SECOND) /* for a request, and for its answer */

struct metrics {
    struct reactor *reactor;
    struct exports *exports;
    int listener;
    bool is_stopping;
    unsigned tasks; /* that run, with the one that accepts */
    struct task *stopper;
};

struct connection {
    struct metrics *metrics;
    int fd;
};

static void end_task(struct metrics *metrics)
{
    metrics->tasks--;
    task_wake(&metrics->stopper);
}

/* ---- the text ---- */

struct held {
    struct export *export;
    struct export_info info;
};

struct collection {
    struct held *held;
    size_t count;
};

/* Under the table's lock: only the names are taken down. */
static bool collect_name(void *opaque, struct export *export)
{
    struct collection *collection = opaque;

    export_get_info(export, &collection->held[collection->count].info);
    return ++collection->count < SOURCES_MAX;
}

/* The exports are held while their counters are read. */
static int collect_text(struct exports *exports, char **text, size_t *length)
{
    struct collection collection = {.held = calloc(SOURCES_MAX, sizeof(struct held))};
    struct metrics_source *sources = calloc(SOURCES_MAX, sizeof(*sources));
    FILE *out = open_memstream(text, length);
    size_t count = 0;
    int rc = collection.held && sources && out ? 0 : -ENOMEM;

    if (rc == 0)
        export_each(exports, collect_name, &collection);
    for (size_t i = 0; i < collection.count; i++) {
        struct held *held = &collection.held[i];

        held->export = export_get(exports, held->info.name);
        if (!held->export) /* removed since */
            continue;
        sources[count] = (struct metrics_source){
            .name = held->info.name,
            .stats = export_stats(held->export),
            .size = held->info.size,
            .sessions = held->info.sessions,
        };
        export_get_figures(held->export, &sources[count++].figures);
    }
    if (rc == 0)
        metrics_write(out, sources, count);
    for (size_t i = 0; i < collection.count; i++) {
        if (collection.held[i].export)
            export_put(collection.held[i].export);
    }
    if (out && fclose(out) && rc == 0)
        rc = -ENOMEM;
    free(sources);
    free(collection.held);
    return rc;
}

/* ---- connections ---- */

/* The request head up to its empty line: its length; 0 when there is none in time or in bounds. */
static size_t receive_head(int fd, char head[HEAD_MAX], int64_t deadline)
{
    size_t length = 0;

    while (length < HEAD_MAX) {
        int got = task_receive(fd, head + length, HEAD_MAX - length, deadline);

        if (got <= 0)
            return 0;
        length += (size_t)got;
        if (memmem(head, length, "\r\n\r\n", 4))
            return length;
    }
    return 0;
}

static const char *status_text(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 500:
        return "Internal Server Error";
    case 505:
        return "HTTP Version Not Supported";
    default:
        return "Bad Request";
    }
}

static void answer(const struct connection *connection, int status, bool is_head)
{
    char head[256], *text = NULL;
    size_t length = 0;

    if (status == 200 && collect_text(connection->metrics->exports, &text, &length))
        status = 500;
    if (status != 200)
        length = 0;
    int head_length =
        snprintf(head, sizeof(head),
                 "HTTP/1.1 %d %s\r\n"
                 "Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
                 "Content-Length: %zu\r\n%sConnection: close\r\n\r\n",
                 status, status_text(status), length, status == 405 ? "Allow: GET, HEAD\r\n" : "");
    struct iovec vectors[] = {{head, (size_t)head_length}, {text, is_head ? 0 : length}};

    (void)task_send(connection->fd, vectors, length && !is_head ? 2 : 1, reactor_now() + TIMEOUT);
    free(text);
}

static void serve_connection(void *arg)
{
    struct connection *connection = arg;
    struct metrics *metrics = connection->metrics;
    char head[HEAD_MAX];
    bool is_head;
    size_t length = receive_head(connection->fd, head, reactor_now() + TIMEOUT);

    if (length) {
        int status = metrics_parse_request(head, length, &is_head);

        answer(connection, status, is_head);
    }
    close(connection->fd);
    free(connection);
    end_task(metrics);
}

static void start_connection(struct metrics *metrics, int fd)
{
    struct connection *connection = NULL;

    if (metrics->tasks > CONNECTIONS_MAX)
        goto refuse;
    connection = malloc(sizeof(*connection));
    if (!connection)
        goto refuse;
    *connection = (struct connection){.metrics = metrics, .fd = fd};
    if (task_spawn(metrics->reactor, serve_connection, connection))
        goto refuse;
    metrics->tasks++;
    return;
refuse:
    free(connection);
    close(fd);
}

static void accept_connections(void *arg)
{
    struct metrics *metrics = arg;

    while (!metrics->is_stopping) {
        int fd = task_accept(metrics->listener, reactor_now() + SECOND / 4);

        if (fd >= 0)
            start_connection(metrics, fd);
        else if (fd != -ETIMEDOUT && fd != -EINTR && fd != -ECONNABORTED)
            task_sleep(SECOND / 10); /* out of descriptors, perhaps */
    }
    end_task(metrics);
}

int metrics_start(struct reactor *reactor, struct exports *exports, int listener,
                  struct metrics **out)
{
    struct metrics *metrics = malloc(sizeof(*metrics));
    int rc = metrics ? 0 : -ENOMEM;

    if (rc == 0) {
        *metrics = (struct metrics){
            .reactor = reactor, .exports = exports, .listener = listener, .tasks = 1};
        rc = task_spawn(reactor, accept_connections, metrics);
    }
    if (rc) {
        close(listener);
        free(metrics);
        return rc;
    }
    *out = metrics;
    return 0;
}

void metrics_stop(struct metrics *metrics)
{
    if (!metrics)
        return;
    metrics->is_stopping = true;
    while (metrics->tasks)
        task_park(&metrics->stopper);
    close(metrics->listener);
    free(metrics);
}
