/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filling an image from its source beside its clients; see export.h.
 *
 * Two tasks copy a piece after the other and share the place where they are, so that one fetches
 * while the other one writes. They take turns with the clients: after a piece in whose time a
 * request came, as much time passes as the piece took. What clients read is kept by the image
 * itself and not copied again. When nothing is left the last task detaches the image, which is an
 * ordinary one from then on. What fails is tried again, for ever: the drive stays usable, but for
 * what is missing.
 */
#include "export_impl.h"

#include "apart.h"

#include <errno.h>

#define TASKS        2u
#define STEP_NS      INT64_C(100000000) /* the end is seen that soon */
#define AGAIN_MIN_NS INT64_C(1000000000)
#define AGAIN_MAX_NS INT64_C(30000000000)
#define SECOND_NS    INT64_C(1000000000)

static void tell(struct export *export, int result, const struct vdisk_error *error)
{
    const struct export_fill_event event = {
        .export = export->info.name,
        .image = export->info.path,
        .result = result,
        .error = result && error->text[0] ? error->text : NULL,
        .bytes = atomic_load_explicit(&export->stats.filled_bytes, memory_order_relaxed),
    };

    export_tell_filled(export, &event);
}

/* ---- pauses ---- */

static void pause_for(const struct export *export, int64_t nanoseconds)
{
    while (nanoseconds > 0 && !export->filling.stop) {
        int64_t step = nanoseconds < STEP_NS ? nanoseconds : STEP_NS;

        task_sleep(step);
        nanoseconds -= step;
    }
}

static uint64_t requests_of(const struct export *export)
{
    uint64_t count = atomic_load_explicit(&export->stats.in_flight, memory_order_relaxed);

    for (unsigned op = 0; op < STATS_OPS; op++)
        count += atomic_load_explicit(&export->stats.op[op].count, memory_order_relaxed);
    return count;
}

/* After a piece of so many bytes that took so long. */
static void give_way(struct export *export, uint64_t bytes, int64_t took)
{
    struct export_filling *filling = &export->filling;
    uint64_t requests = requests_of(export);
    int64_t now = reactor_now(), pause = 0;

    if (requests != filling->requests)
        pause = took;
    filling->requests = requests;
    if (filling->rate) {
        filling->next = filling->next < now ? now : filling->next;
        filling->next += (int64_t)((double)bytes / (double)filling->rate * (double)SECOND_NS);
        pause = pause < filling->next - now ? filling->next - now : pause;
    }
    pause_for(export, pause);
}

/* ---- pieces ---- */

struct piece {
    struct export *export;
    uint64_t copied;
    bool is_last;
};

static int fill_piece(struct vdisk_image *image, void *arg)
{
    struct piece *piece = arg;
    uint64_t *cursor = &piece->export->filling.cursor;
    int result = vdisk_fill(image, cursor, &piece->copied);

    piece->is_last = result == 0 && piece->copied == 0 && *cursor >= vdisk_size(image);
    return result;
}

static int detach(struct vdisk_image *image, void *arg)
{
    (void)arg;
    return vdisk_detach(image);
}

struct releasing {
    struct vdisk_source *source;
    void (*release)(struct vdisk_source *source);
};

static int release(void *arg)
{
    struct releasing *releasing = arg;

    releasing->release(releasing->source);
    releasing->source = NULL;
    return 0;
}

/* The image does not use it any more. It may wait for what it fetches ahead. */
static void let_go(struct export *export)
{
    struct releasing releasing = {export->filling.source, export->filling.release};

    export->filling.source = NULL; /* should the image be opened anew */
    if (apart_call(release, &releasing) && releasing.source)
        (void)release(&releasing);
}

static int finish(struct export *export, struct vdisk_error *error)
{
    int result = export_call(export, detach, NULL, error);

    if (result == VDISK_E_UNFILLED) /* it shrank and grew, or a piece failed */
        export->filling.cursor = 0;
    if (result)
        return result;
    let_go(export);
    pthread_mutex_lock(&export->mutex);
    export->info.is_filling = false;
    pthread_mutex_unlock(&export->mutex);
    tell(export, 0, NULL);
    return 0;
}

/* Told when it begins to fail, not each time. */
static void fail_for_now(struct export *export, int result, const struct vdisk_error *error,
                         int64_t *again)
{
    if (!export->filling.failing)
        tell(export, result, error);
    export->filling.failing = true;
    pause_for(export, *again);
    *again = *again * 2 < AGAIN_MAX_NS ? *again * 2 : AGAIN_MAX_NS;
}

/* False: this task is not needed any more. */
static bool go_on(struct export *export, int64_t *again)
{
    struct export_filling *filling = &export->filling;
    struct piece piece = {.export = export};
    struct vdisk_error error = {.code = 0};
    int64_t began = reactor_now();
    int result = export_call(export, fill_piece, &piece, &error);

    if (filling->stop)
        return false;
    if (result == 0 && !piece.is_last) {
        filling->failing = false;
        *again = AGAIN_MIN_NS;
        atomic_fetch_add_explicit(&export->stats.filled_bytes, piece.copied, memory_order_relaxed);
        atomic_store_explicit(&export->stats.filled_to, filling->cursor, memory_order_relaxed);
        give_way(export, piece.copied, reactor_now() - began);
        return true;
    }
    if (result == 0 && filling->tasks > 1)
        return false;
    if (result == 0)
        result = finish(export, &error);
    if (result && !filling->stop)
        fail_for_now(export, result, &error, again);
    return result != 0;
}

static void fill(void *arg)
{
    struct export *export = arg;
    int64_t again = AGAIN_MIN_NS;

    while (!export->filling.stop && go_on(export, &again))
        ;
    export->filling.tasks--;
    task_wake(&export->remover);
}

void export_fill_begin(struct export *export)
{
    struct export_filling *filling = &export->filling;

    if (!filling->source)
        return;
    if (!export->info.is_filling) {
        let_go(export);
        return;
    }
    if (export->info.read_only)
        return;
    for (unsigned i = 0; i < TASKS; i++) {
        filling->tasks++;
        if (task_spawn(export->lane->reactor, fill, export))
            filling->tasks--;
    }
}

void export_fill_end(struct export *export)
{
    export->filling.stop = true;
    while (export->filling.tasks > 0)
        task_park(&export->remover);
}
