/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of exports, and the threads that serve them (export.h).
 *
 * Invariants:
 * - An export is in the table from export_add() to export_remove(), and freed by the last put().
 * - Its image is opened, used and closed by the thread of its lane alone.
 * - The table's mutex is held for a look, never over a wait.
 */
#include "export_impl.h"

#include "ring_io.h"
#include "workers.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#define LANES_MAX            64u
#define DEFAULT_MEMORY_BYTES ((size_t)256 << 20)
/* Of the memory, half is for caches, a quarter for clients' data, and a quarter for changes that
 * are kept (export_keep.c). */
#define CACHE_SHARE          2u
#define CLIENTS_SHARE        4u
#define KEPT_SHARE           4u
#define KEPT_MAX             ((size_t)64 << 20)

/* A daemon that was killed may hold its images for a moment still, when the next one starts. */
#define PATIENCE_NS          INT64_C(3000000000)
#define TRY_AGAIN_NS         INT64_C(20000000)

struct named_group {
    struct named_group *next;
    struct limit_group *group;
    char name[];
};

struct exports {
    struct lane lane[LANES_MAX];
    unsigned lanes;
    size_t memory_bytes;
    int64_t patient_until;
    pthread_mutex_t mutex;
    struct export *table;
    struct named_group *groups;
    void (*integrity)(void *opaque, const struct export_failure *failure);
    void (*filled)(void *opaque, const struct export_fill_event *event);
    void *opaque;
};

static int fail(struct vdisk_error *error, int code, const char *text)
{
    if (error) {
        error->code = code;
        (void)snprintf(error->text, sizeof(error->text), "%s", text);
    }
    return code;
}

/* ---- lanes ---- */

static void arm_workers(struct lane *lane);

/* Jobs have ended: which image's, the workers do not say. */
static void kick_all(struct lane *lane)
{
    for (struct export *export = lane->owned; export; export = export->next_owned)
        reactor_kick(lane->reactor, &export->ready);
}

static struct lane *watched(struct reactor_watch *watch)
{
    return (struct lane *)((char *)watch - offsetof(struct lane, workers_watch));
}

static void look(struct reactor_watch *watch)
{
    struct lane *lane = watched(watch);

    if (vd_workers_have_ended(lane->workers))
        kick_all(lane);
}

static void fall_asleep(struct reactor_watch *watch)
{
    struct lane *lane = watched(watch);

    if (vd_workers_tell(lane->workers, true))
        kick_all(lane);
}

void export_watch_workers(struct export *export)
{
    struct lane *lane = export->lane;

    if (lane->workers_watch.place)
        return;
    (void)vd_workers_tell(lane->workers, false);
    reactor_watch_begin(lane->reactor, &lane->workers_watch);
}

static bool is_crowded(void *opaque)
{
    const struct lane *lane = opaque;

    return vd_workers_are_crowded(lane->workers);
}

static void workers_told(struct reactor_op *op)
{
    struct lane *lane = op->owner;
    eventfd_t ignored;

    lane->workers_armed = false;
    (void)eventfd_read(op->fd, &ignored);
    kick_all(lane);
    if (!lane->closing)
        arm_workers(lane);
}

static void arm_workers(struct lane *lane)
{
    lane->workers_armed = true;
    lane->workers_op = (struct reactor_op){
        .kind = REACTOR_POLL,
        .fd = vd_workers_fd(lane->workers),
        .events = POLLIN,
        .done = workers_told,
        .owner = lane,
    };
    reactor_submit(lane->reactor, &lane->workers_op);
}

static void *run_lane(void *arg)
{
    struct lane *lane = arg;

    arm_workers(lane);
    reactor_run(lane->reactor);
    lane->closing = true;
    if (lane->workers_armed)
        reactor_cancel(lane->reactor, &lane->workers_op);
    while (lane->workers_armed)
        reactor_step(lane->reactor, false);
    budget_close(&lane->budget);
    return NULL;
}

static unsigned lanes_of(const struct exports_options *options)
{
    unsigned lanes = options->reactors ? options->reactors : 1;

    return lanes < LANES_MAX ? lanes : LANES_MAX;
}

static int open_lane(struct exports *exports, const struct exports_options *options)
{
    struct lane *lane = &exports->lane[exports->lanes];
    const struct reactor_options reactor_options = {
        .no_uring = options->no_uring,
        .poll = options->poll,
        .is_crowded = is_crowded,
        .opaque = lane,
    };
    int result = reactor_new(&reactor_options, &lane->reactor);

    if (result == 0)
        result = vd_workers_open(options->workers, &lane->workers);
    if (result == 0 && vd_workers_fd(lane->workers) < 0)
        result = vd_workers_fd(lane->workers);
    lane->exports = exports;
    lane->workers_watch.look = look;
    lane->workers_watch.sleep = fall_asleep;
    if (lane->reactor)
        budget_open(&lane->budget, lane->reactor,
                    exports->memory_bytes / CLIENTS_SHARE / lanes_of(options));
    exports->lanes++;
    return result;
}

static int start_lane(struct lane *lane)
{
    sigset_t all, before;
    int result;

    sigfillset(&all); /* signals are the main thread's */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = pthread_create(&lane->thread, NULL, run_lane, lane);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    lane->started = result == 0;
    return -result;
}

int exports_new(const struct exports_options *options, struct exports **out,
                struct vdisk_error *error)
{
    struct exports *exports = calloc(1, sizeof(*exports));
    int result = 0;

    if (!exports)
        return fail(error, -ENOMEM, "out of memory");
    pthread_mutex_init(&exports->mutex, NULL);
    exports->memory_bytes = options->memory_bytes ? options->memory_bytes : DEFAULT_MEMORY_BYTES;
    exports->patient_until = reactor_now() + PATIENCE_NS;
    exports->integrity = options->integrity;
    exports->filled = options->filled;
    exports->opaque = options->opaque;
    while (exports->lanes < lanes_of(options) && result == 0)
        result = open_lane(exports, options);
    for (unsigned i = 1; i < exports->lanes && result == 0; i++)
        result = start_lane(&exports->lane[i]);
    if (result) {
        exports_free(exports);
        return fail(error, result, vdisk_strerror(result));
    }
    arm_workers(&exports->lane[0]);
    *out = exports;
    return 0;
}

void export_tell_failure(struct export *export, uint64_t offset, int result)
{
    const struct exports *exports = export->exports;
    const struct export_failure failure = {
        .export = export->info.name,
        .image = export->info.path,
        .offset = offset,
        .result = result,
        .count = atomic_load_explicit(&export->stats.integrity_errors, memory_order_relaxed),
    };

    if (exports->integrity)
        exports->integrity(exports->opaque, &failure);
}

void export_tell_filled(const struct export *export, const struct export_fill_event *event)
{
    if (export->exports->filled)
        export->exports->filled(export->exports->opaque, event);
}

struct reactor *exports_main(struct exports *exports)
{
    return exports->lane[0].reactor;
}

static void close_lane(struct lane *lane)
{
    if (lane->started) {
        reactor_stop(lane->reactor);
        pthread_join(lane->thread, NULL);
    } else if (lane->workers_armed) {
        lane->closing = true;
        reactor_cancel(lane->reactor, &lane->workers_op);
        while (lane->workers_armed)
            reactor_step(lane->reactor, true);
        budget_close(&lane->budget);
    }
    reactor_watch_end(&lane->workers_watch);
    if (lane->workers)
        lane->workers->ops->close(lane->workers);
    reactor_free(lane->reactor);
}

void exports_free(struct exports *exports)
{
    if (!exports)
        return;
    for (unsigned i = 0; i < exports->lanes; i++)
        close_lane(&exports->lane[i]);
    while (exports->groups) {
        struct named_group *group = exports->groups;

        exports->groups = group->next;
        limit_group_free(group->group);
        free(group);
    }
    pthread_mutex_destroy(&exports->mutex);
    free(exports);
}

static struct named_group *find_group(const struct exports *exports, const char *name)
{
    struct named_group *group = exports->groups;

    while (group && strcmp(group->name, name) != 0)
        group = group->next;
    return group;
}

struct limit_group *exports_find_group(struct exports *exports, const char *name)
{
    struct named_group *group;

    pthread_mutex_lock(&exports->mutex);
    group = find_group(exports, name);
    pthread_mutex_unlock(&exports->mutex);
    return group ? group->group : NULL;
}

struct limit_group *exports_group(struct exports *exports, const char *name)
{
    static const struct limit_settings none;
    struct named_group *group;
    size_t length = strlen(name) + 1;

    pthread_mutex_lock(&exports->mutex);
    group = find_group(exports, name);
    if (!group && (group = malloc(sizeof(*group) + length))) {
        memcpy(group->name, name, length);
        group->group = limit_group_new(&none);
        group->next = exports->groups;
        if (group->group) {
            exports->groups = group;
        } else {
            free(group);
            group = NULL;
        }
    }
    pthread_mutex_unlock(&exports->mutex);
    return group ? group->group : NULL;
}

void exports_each_group(struct exports *exports,
                        void (*each)(void *opaque, const char *name, struct limit_group *group),
                        void *opaque)
{
    pthread_mutex_lock(&exports->mutex);
    for (struct named_group *group = exports->groups; group; group = group->next)
        each(opaque, group->name, group->group);
    pthread_mutex_unlock(&exports->mutex);
}

/* ---- the table ---- */

static struct export **find(struct exports *exports, const char *name)
{
    struct export **place = &exports->table;

    while (*place && strcmp((*place)->info.name, name) < 0)
        place = &(*place)->next;
    return place;
}

static bool is_named(const struct export *export, const char *name)
{
    return export && strcmp(export->info.name, name) == 0;
}

struct export *export_get(struct exports *exports, const char *name)
{
    struct export *export;

    pthread_mutex_lock(&exports->mutex);
    export = *find(exports, name);
    if (!is_named(export, name) || export->removing)
        export = NULL;
    if (export)
        export->references++;
    pthread_mutex_unlock(&exports->mutex);
    return export;
}

static void free_export(struct export *export)
{
    limit_group_free(export->limits);
    vdisk_unlocked_free(export->unlocked);
    if (export->filling.source)
        export->filling.release(export->filling.source);
    pthread_mutex_destroy(&export->mutex);
    free(export);
}

void export_put(struct export *export)
{
    struct exports *exports;
    bool last;

    if (!export)
        return;
    exports = export->exports;
    pthread_mutex_lock(&exports->mutex);
    last = --export->references == 0;
    pthread_mutex_unlock(&exports->mutex);
    if (last)
        free_export(export);
}

void export_each(struct exports *exports, bool (*each)(void *opaque, struct export *export),
                 void *opaque)
{
    pthread_mutex_lock(&exports->mutex);
    for (struct export *export = exports->table; export; export = export->next) {
        if (!export->removing && !each(opaque, export))
            break;
    }
    pthread_mutex_unlock(&exports->mutex);
}

/* ---- adding ---- */

static int open_file(const struct vdisk_opener *opener, const char *path, int flags,
                     struct vdisk_io **io, struct vdisk_error *error)
{
    struct export *export =
        (struct export *)((char *)(uintptr_t)opener - offsetof(struct export, opener));

    return ring_io_open(export->lane->reactor, &export->ready, path, flags, io, error);
}

/* Whether changes are kept, and the image can be opened anew. */
static int keep(struct export *export, const struct export_options *options)
{
    if (options->when_full != EXPORT_WAIT && options->when_failing != EXPORT_WAIT)
        return 0;
    export->keeper.on = !options->read_only;
    export->unlocked = vdisk_unlocked_copy(options->unlocked);
    return export->unlocked ? 0 : -ENOMEM;
}

static struct export *new_export(struct exports *exports, const struct export_options *options)
{
    struct export *export = calloc(1, sizeof(*export));

    if (!export)
        return NULL;
    pthread_mutex_init(&export->mutex, NULL);
    export->exports = exports;
    export->references = 1;  /* the table's */
    export->removing = true; /* not yet to be found */
    export->opener.open = open_file;
    export->ready.run = export_pump;
    export->when_full = options->when_full;
    export->when_failing = options->when_failing;
    export->limits = limit_group_new(&options->limits);
    export->group = options->group ? exports_group(exports, options->group) : NULL;
    (void)snprintf(export->info.name, sizeof(export->info.name), "%s", options->name);
    (void)snprintf(export->info.path, sizeof(export->info.path), "%s", options->path);
    export->info.read_only = options->read_only;
    export->cache_bytes = options->cache_bytes;
    export->filling.source = options->source;
    export->filling.release = options->release_source;
    export->filling.rate = options->fill_rate;
    if (!export->limits || (options->group && !export->group) || keep(export, options)) {
        export->filling.source = NULL; /* the caller releases it */
        free_export(export);
        return NULL;
    }
    return export;
}

/* Into the table, so that the name is taken, and onto a lane. */
static int enter(struct exports *exports, struct export *export)
{
    struct export **place;
    struct lane *lane = &exports->lane[0];

    pthread_mutex_lock(&exports->mutex);
    place = find(exports, export->info.name);
    if (is_named(*place, export->info.name)) {
        pthread_mutex_unlock(&exports->mutex);
        return VDISK_E_EXISTS;
    }
    for (unsigned i = 1; i < exports->lanes; i++) {
        if (exports->lane[i].count < lane->count)
            lane = &exports->lane[i];
    }
    lane->count++;
    export->lane = lane;
    export->next = *place;
    *place = export;
    pthread_mutex_unlock(&exports->mutex);
    return 0;
}

static void leave(struct export *export)
{
    struct exports *exports = export->exports;

    pthread_mutex_lock(&exports->mutex);
    *find(exports, export->info.name) = export->next;
    export->lane->count--;
    pthread_mutex_unlock(&exports->mutex);
    export_put(export);
}

/* What is there for each of so many exports of a lane. */
static size_t even_share(const struct lane *lane, unsigned count)
{
    const struct exports *exports = lane->exports;

    return exports->memory_bytes / exports->lanes / (count ? count : 1);
}

static size_t cache_of(const struct export *export, size_t share)
{
    return export->cache_bytes ? export->cache_bytes : share / CACHE_SHARE;
}

void export_share_memory(struct lane *lane)
{
    size_t share = even_share(lane, lane->owned_count);

    for (struct export *export = lane->owned; export; export = export->next_owned) {
        export_keep_limit(export, share / KEPT_SHARE < KEPT_MAX ? share / KEPT_SHARE : KEPT_MAX);
        if (export->image)
            vdisk_set_cache(export->image, cache_of(export, share));
    }
}

static int open_image(struct export *export, const struct vdisk_unlocked *unlocked,
                      struct vdisk_image **out, struct vdisk_error *error)
{
    const struct vdisk_open_options options = {
        .struct_bytes = sizeof(options),
        .read_only = export->info.read_only,
        .unlocked = unlocked,
        .opener = &export->opener,
        .cache_bytes = cache_of(export, even_share(export->lane, export->lane->owned_count + 1)),
        .source = export->filling.source,
        .workers = export->lane->workers,
    };
    struct vdisk_info info;
    int result = vdisk_open(export->info.path, &options, NULL, out, error);

    if (result)
        return result;
    vdisk_get_info(*out, &info);
    pthread_mutex_lock(&export->mutex);
    memcpy(export->info.image_id, info.image_id, sizeof(info.image_id));
    memcpy(export->info.root_tag, info.root_tag, sizeof(info.root_tag));
    export->info.size = info.size;
    export->info.cluster_bytes = info.cluster_bytes;
    export->info.compress = info.compress;
    export->info.compress_level = info.compress_level;
    export->info.has_base = info.has_base;
    export->info.is_filling = info.has_source;
    pthread_mutex_unlock(&export->mutex);
    return 0;
}

int export_open_image(struct export *export, struct vdisk_image **out, struct vdisk_error *error)
{
    return open_image(export, export->unlocked, out, error);
}

/* On the lane. */
static int open_first(struct export *export, const struct vdisk_unlocked *unlocked,
                      struct vdisk_error *error)
{
    struct vdisk_image *image;
    int result = open_image(export, unlocked, &image, error);

    while (result == VDISK_E_IN_USE && reactor_now() < export->exports->patient_until) {
        task_sleep(TRY_AGAIN_NS);
        result = open_image(export, unlocked, &image, error);
    }
    if (result)
        return result;
    export->image = image;
    export->next_owned = export->lane->owned;
    export->lane->owned = export;
    export->lane->owned_count++;
    export_share_memory(export->lane);
    export_fill_begin(export);
    return 0;
}

int export_add(struct exports *exports, const struct export_options *options,
               struct vdisk_error *error)
{
    struct reactor *here = task_reactor(task_current());
    struct export *export = new_export(exports, options);
    int result;

    if (!export && options->source)
        options->release_source(options->source);
    if (!export)
        return fail(error, -ENOMEM, "out of memory");
    result = enter(exports, export);
    if (result) {
        free_export(export);
        return fail(error, result, "there is an export of that name");
    }
    task_move(export->lane->reactor);
    result = open_first(export, options->unlocked, error);
    if (result)
        reactor_unkick(export->lane->reactor, &export->ready);
    task_move(here);
    if (result) {
        leave(export);
        return result;
    }
    pthread_mutex_lock(&exports->mutex);
    export->removing = false;
    pthread_mutex_unlock(&exports->mutex);
    return 0;
}

/* ---- removing ---- */

static int make_durable(struct vdisk_image *image, void *arg)
{
    (void)arg;
    return vdisk_checkpoint(image);
}

/* On the lane: waits for the sessions, then closes. */
static int close_image(struct export *export, struct vdisk_error *error)
{
    struct export **place = &export->lane->owned;
    struct vdisk_image *image;
    int result;

    export->closing = true;
    while (export->reopening)
        task_park(&export->remover);
    export_fail_waiting(export, -ESHUTDOWN);
    for (struct export_session *session = export->sessions, *next; session; session = next) {
        next = session->next;
        if (session->events && session->events->gone)
            session->events->gone(session->opaque);
    }
    while (export->sessions)
        task_park(&export->remover);
    export_fill_end(export);
    if (!export->info.read_only) /* beside the others; what is left for the close is little */
        (void)export_call(export, make_durable, NULL, NULL);
    while (*place != export)
        place = &(*place)->next_owned;
    *place = export->next_owned;
    export->lane->owned_count--;
    image = export->image;
    export->image = NULL;
    result = image ? vdisk_close(image, error)
                   : fail(error, VDISK_E_FAILED, "the image failed and could not be opened again");
    export_keep_clear(export);
    export_share_memory(export->lane);
    return result;
}

int export_remove(struct exports *exports, const char *name, struct vdisk_error *error)
{
    struct reactor *here = task_reactor(task_current());
    struct export *export = export_get(exports, name);
    bool ours = false;
    int result;

    if (export) {
        pthread_mutex_lock(&exports->mutex);
        ours = !export->removing;
        export->removing = true;
        pthread_mutex_unlock(&exports->mutex);
    }
    if (!ours) {
        export_put(export);
        return fail(error, VDISK_E_NOT_FOUND, "there is no export of that name");
    }
    task_move(export->lane->reactor);
    result = close_image(export, error);
    while (export->limit_armed || export->retry_armed) {
        if (export->limit_armed)
            reactor_cancel(export->lane->reactor, &export->limit_timer);
        if (export->retry_armed)
            reactor_cancel(export->lane->reactor, &export->retry_timer);
        task_pause();
    }
    reactor_unkick(export->lane->reactor, &export->ready);
    task_move(here);
    leave(export);
    export_put(export); /* NOLINT(clang-analyzer-unix.Malloc): leave() put another */
    return result;
}
