/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image that may be written: it is an export (vdiskd's export.h) of a thread with a reactor, the
 * engine. Threads that serve hand their orders to it and wait.
 *
 * A write is taken as soon as it has its place in the engine's queue, and its caller may go on: the
 * image keeps the order of what overlaps. What looks at more than the bytes (a flush, the map)
 * waits for the writes that were taken before it. A taken write that fails is told by the next
 * flush or settle; until one succeeds again, none is taken before it is done.
 */
#include "backing.h"

#include "export.h"
#include "report.h"
#include "task.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY_BYTES ((size_t)128 << 20) /* half of it for caches */
#define THREADS      16u                 /* so many writes may be under way */
#define EXPORT_NAME  "drive"

enum order_kind {
    ORDER_REQUEST,
    ORDER_SETTLE,
    ORDER_MAP,
    ORDER_INFO,
    ORDER_END, /* closes the image and ends the thread */
};

struct engine {
    struct backing backing;
    char *path, *shown;
    struct vdisk_unlocked *unlocked;
    struct vdisk_public_info public_info;
    pthread_t thread;
    sem_t begun;
    int result; /* of beginning, and of the end */
    struct vdisk_error error;
    atomic_bool failing; /* the last taken write has failed */

    /* The engine's thread. */
    struct exports *exports;
    struct export *export;
    struct export_session **session; /* by state */
    struct order *flying;            /* taken writes */
    struct order *waiting;           /* for taken writes */
    uint64_t numbers;
    int failure; /* of a taken write, until it is told */
};

/* On the stack of the thread that waits for it. */
struct order {
    struct reactor_message message;
    struct export_request request;
    enum order_kind kind;
    bool taken;
    struct engine *engine;
    struct order *next;
    uint64_t number;
    unsigned state;
    struct vdisk_range range; /* MAP */
    struct backing_mapping mapping;
    uint64_t *reached;
    struct vdisk_info *info; /* INFO */
    int result;
    struct vdisk_error error;
    sem_t done;
};

struct engine_access {
    struct access access;
    struct engine *engine;
};

/* ---- orders, on the engine's thread ---- */

static void begin(struct order *order);

static bool must_wait(const struct order *order)
{
    bool looks = order->kind != ORDER_REQUEST || order->request.request.op == VDISK_FLUSH;

    for (const struct order *write = order->engine->flying; looks && write; write = write->next) {
        if (write->number < order->number)
            return true;
    }
    return false;
}

static void remove_order(struct order **place, const struct order *order)
{
    while (*place && *place != order)
        place = &(*place)->next;
    if (*place)
        *place = order->next;
}

/* Those that need not wait any more, in any order: none of them changes anything. */
static void begin_waiting(struct engine *engine)
{
    for (struct order **place = &engine->waiting; *place;) {
        struct order *order = *place;

        if (must_wait(order)) {
            place = &order->next;
            continue;
        }
        *place = order->next;
        begin(order);
        place = &engine->waiting;
    }
}

/* The order is gone when it returns. */
static void finish(struct order *order, int result)
{
    struct engine *engine = order->engine;
    bool tells = order->kind == ORDER_SETTLE ||
                 (order->kind == ORDER_REQUEST && order->request.request.op == VDISK_FLUSH);
    bool was_taken = order->taken;

    if (was_taken) {
        remove_order(&engine->flying, order);
        atomic_store(&engine->failing, result != 0);
        if (result && engine->failure == 0)
            engine->failure = result;
    }
    if (tells && engine->failure) {
        result = result ? result : engine->failure;
        engine->failure = 0;
    }
    order->result = result;
    sem_post(&order->done);
    if (was_taken)
        begin_waiting(engine);
}

static void request_done(struct export_request *request)
{
    finish(request->owner, request->request.result);
}

static int map_image(struct vdisk_image *image, void *arg)
{
    struct order *order = arg;
    int result = export_session_snapshot(order->engine->session[order->state], &order->range.state);

    return result ? result
                  : vdisk_map_part(image, &order->range, true, backing_map_extent, &order->mapping,
                                   order->reached);
}

static int get_info(struct vdisk_image *image, void *arg)
{
    vdisk_get_info(image, arg);
    return 0;
}

static int attach(struct engine *engine, unsigned state, struct vdisk_error *error)
{
    const char *name = engine->backing.state[state].name;
    struct export_session *session;
    int result;

    if (engine->session[state])
        return 0;
    result = export_attach(engine->export, name[0] ? name : NULL, NULL, NULL, &session, error);
    if (result)
        return result;
    if (engine->session[state]) /* another order was faster */
        export_detach(session);
    else
        engine->session[state] = session;
    return 0;
}

static void end(struct engine *engine)
{
    for (unsigned i = 0; engine->session && i < engine->backing.count; i++)
        export_detach(engine->session[i]);
    free(engine->session);
    engine->session = NULL;
    export_put(engine->export);
    engine->export = NULL;
    engine->result = export_remove(engine->exports, EXPORT_NAME, &engine->error);
    reactor_stop(exports_main(engine->exports));
}

static void submit(struct order *order)
{
    order->request.done = request_done;
    order->request.owner = order;
    export_submit(order->engine->session[order->state], &order->request);
}

/* What may wait before it is a request. */
static void run_order(void *arg)
{
    struct order *order = arg;
    struct engine *engine = order->engine;
    int result = order->kind == ORDER_END ? 0 : attach(engine, order->state, &order->error);

    if (result == 0 && order->kind == ORDER_REQUEST) {
        submit(order);
        return;
    }
    if (result == 0 && order->kind == ORDER_MAP)
        result = export_call(engine->export, map_image, order, &order->error);
    if (result == 0 && order->kind == ORDER_INFO)
        result = export_call(engine->export, get_info, order->info, &order->error);
    if (order->kind == ORDER_END)
        end(engine);
    finish(order, result);
}

static void begin(struct order *order)
{
    if (order->kind == ORDER_SETTLE)
        finish(order, 0);
    else if (order->kind == ORDER_REQUEST && order->engine->session[order->state])
        submit(order);
    else if (task_spawn(exports_main(order->engine->exports), run_order, order))
        finish(order, -ENOMEM);
}

static void arrive(struct reactor_message *message)
{
    struct order *order = (struct order *)((char *)message - offsetof(struct order, message));
    struct engine *engine = order->engine;

    order->number = ++engine->numbers;
    if (order->taken) {
        order->next = engine->flying;
        engine->flying = order;
    }
    if (must_wait(order)) {
        order->next = engine->waiting;
        engine->waiting = order;
    } else {
        begin(order);
    }
}

/* ---- orders, by the threads that serve ---- */

static void post(struct engine *engine, struct order *order)
{
    order->engine = engine;
    order->message.run = arrive;
    sem_init(&order->done, 0, 0);
    reactor_post(exports_main(engine->exports), &order->message);
}

static int await(struct order *order)
{
    while (sem_wait(&order->done) && errno == EINTR)
        ;
    sem_destroy(&order->done);
    return order->result;
}

static int run(struct access *access, struct order *order)
{
    int result;

    post(((struct engine_access *)access)->engine, order);
    result = await(order);
    if (result)
        access->error = order->error;
    return result;
}

static int engine_read(struct access *access, unsigned state, uint64_t offset, void *data,
                       uint64_t length)
{
    struct order order = {
        .kind = ORDER_REQUEST,
        .state = state,
        .request.request = {.op = VDISK_READ, .offset = offset, .length = length, .data = data},
    };

    return run(access, &order);
}

static int engine_map(struct access *access, unsigned state, uint64_t offset, uint64_t length,
                      access_range *each, void *opaque,
                      uint64_t *reached) /* NOLINT(readability-non-const-parameter): of a table */
{
    struct order order = {
        .kind = ORDER_MAP,
        .state = state,
        .range = {.offset = offset, .length = length},
        .mapping = {.each = each, .opaque = opaque},
        .reached = reached,
    };

    return run(access, &order);
}

static int engine_change(struct access *access, const struct access_change *change)
{
    struct engine *engine = ((struct engine_access *)access)->engine;
    struct order order = {
        .kind = ORDER_REQUEST,
        .request.request = {.op = change->op,
                            .fua = change->durable,
                            .offset = change->offset,
                            .length = change->length,
                            .data = (void *)(uintptr_t)change->data},
    };
    int result;

    if (change->op != VDISK_WRITE || change->durable || !change->taken ||
        atomic_load(&engine->failing)) {
        result = run(access, &order);
        if (change->op == VDISK_WRITE && result == 0)
            atomic_store(&engine->failing, false);
        return result;
    }
    order.taken = true;
    post(engine, &order);
    change->taken(change->opaque);
    result = await(&order);
    access->error = order.error;
    return result;
}

static int engine_settle(struct access *access)
{
    struct order order = {.kind = ORDER_SETTLE};

    return run(access, &order);
}

static int engine_info(struct access *access, char **text)
{
    const struct engine *engine = ((struct engine_access *)access)->engine;
    struct vdisk_info info;
    struct order order = {.kind = ORDER_INFO, .info = &info};
    int result = run(access, &order);

    return result ? result : backing_describe(engine->shown, &engine->public_info, &info, text);
}

static void close_access(struct access *access)
{
    free(access);
}

static int open_access(struct backing *backing, struct access **out, struct vdisk_error *error)
{
    static const struct access_ops ops = {
        .read = engine_read,
        .map = engine_map,
        .change = engine_change,
        .settle = engine_settle,
        .info = engine_info,
        .close = close_access,
    };
    struct engine_access *access = calloc(1, sizeof(*access));

    if (!access)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    access->access.ops = &ops;
    access->engine = (struct engine *)backing;
    *out = &access->access;
    return 0;
}

/* ---- the engine's thread ---- */

static int find_states(struct vdisk_image *image, void *arg)
{
    struct engine *engine = arg;
    int result = backing_add(&engine->backing, "", vdisk_size(image), 0);

    return result ? result : backing_add_snapshots(&engine->backing, image);
}

static int open_export(struct engine *engine)
{
    const struct export_options options = {
        .name = EXPORT_NAME,
        .path = engine->path,
        .unlocked = engine->unlocked,
    };
    int result = export_add(engine->exports, &options, &engine->error);

    if (result)
        return result;
    engine->export = export_get(engine->exports, EXPORT_NAME);
    result = export_call(engine->export, find_states, engine, &engine->error);
    if (result == 0) {
        engine->session = calloc(engine->backing.count, sizeof(struct export_session *));
        result = engine->session ? attach(engine, 0, &engine->error) : -ENOMEM;
    }
    if (result)
        end(engine);
    return result;
}

static void begin_engine(void *arg)
{
    struct engine *engine = arg;

    engine->result = open_export(engine);
    if (engine->result)
        reactor_stop(exports_main(engine->exports));
    sem_post(&engine->begun);
}

static void *run_engine(void *arg)
{
    struct engine *engine = arg;
    const struct exports_options options = {.memory_bytes = MEMORY_BYTES};

    engine->result = exports_new(&options, &engine->exports, &engine->error);
    if (engine->result == 0)
        engine->result = task_spawn(exports_main(engine->exports), begin_engine, engine);
    if (engine->result)
        sem_post(&engine->begun);
    else
        reactor_run(exports_main(engine->exports));
    exports_free(engine->exports);
    return NULL;
}

/* ---- the backing ---- */

static void free_engine(struct engine *engine)
{
    vdisk_unlocked_free(engine->unlocked);
    sem_destroy(&engine->begun);
    free(engine->backing.state);
    free(engine->path);
    free(engine->shown);
    free(engine);
}

static int close_backing(struct backing *backing, struct vdisk_error *error)
{
    struct engine *engine = (struct engine *)backing;
    struct order order = {.kind = ORDER_END};
    int result;

    post(engine, &order);
    pthread_join(engine->thread, NULL); /* the order has ended before it */
    sem_destroy(&order.done);
    result = engine->result;
    if (error)
        *error = engine->error;
    free_engine(engine);
    return result;
}

/* Signals are the main thread's. */
static int start(struct engine *engine)
{
    sigset_t all, before;
    int result;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = -pthread_create(&engine->thread, NULL, run_engine, engine);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (result)
        return error_set(&engine->error, result, "%s", vdisk_strerror(result));
    while (sem_wait(&engine->begun) && errno == EINTR)
        ;
    result = engine->result;
    if (result)
        pthread_join(engine->thread, NULL);
    return result;
}

int backing_open_engine(const char *name, const struct backing_image_options *options,
                        struct backing **out, struct vdisk_error *error)
{
    static const struct backing_ops ops = {.open = open_access, .close = close_backing};
    struct engine *engine = calloc(1, sizeof(*engine));
    int result = -ENOMEM;

    if (!engine)
        return error_set(error, result, "%s", vdisk_strerror(result));
    engine->backing = (struct backing){
        .ops = &ops,
        .name = name,
        .writable = true,
        .threads = THREADS,
    };
    sem_init(&engine->begun, 0, 0);
    engine->path = strdup(options->path);
    engine->shown = strdup(options->shown);
    engine->unlocked = vdisk_unlocked_copy(options->unlocked);
    if (engine->path && engine->shown && engine->unlocked)
        result = vdisk_probe(engine->path, &engine->public_info, &engine->error);
    if (result == 0)
        result = start(engine);
    if (result) {
        if (!engine->error.text[0])
            (void)error_set(&engine->error, result, "%s", vdisk_strerror(result));
        *error = engine->error;
        free_engine(engine);
        return result;
    }
    *out = &engine->backing;
    return 0;
}
