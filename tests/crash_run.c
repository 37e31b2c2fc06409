/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The workload of the power-cut test (crash_run.h).
 *
 * Requests that overlap take effect in the order of their submission; the model relies on it.
 * Before a rollback or a smaller size nothing is in flight, since what a request does that races
 * with them is anybody's guess; beside all else requests go on.
 */
#include "crash_run.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB                UINT64_C(1024)
#define STEPS_MIN          24u
#define STEPS_SPREAD       40u
#define AGAIN_STEPS_SPREAD 6u

const struct vdisk_key crash_key = {
    .kind = VDISK_KEY_FILE, .bytes = "the key file of the crash test: ", .length = 32};
const struct vdisk_key crash_second_key = {
    .kind = VDISK_KEY_FILE, .bytes = "another key file, added by a run", .length = 32};

static const char *const step_name[CRASH_STEPS] = {
    "write",  "fua",    "flush",    "discard", "zero",    "read", "checkpoint", "reopen", "kill",
    "create", "delete", "rollback", "resize",  "compact", "keys", "fill",       "detach"};
static const char *const op_name[] = {"read", "write", "flush", "discard", "zero"};
static const char *const mode_name[SIM_CRASH_MODES] = {
    "none", "all", "completed", "subset", "torn", "one missing", "one only", "reordered"};

_Noreturn void crash_fail(const struct crash_run *run, const char *format, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof(text), format, ap);
    va_end(ap);
    snprintf(run->shared->failure, sizeof(run->shared->failure),
             "seed %llu, operation %llu, depth %u, kept: %s: %s",
             (unsigned long long)run->place->seed, (unsigned long long)run->place->op, run->depth,
             mode_name[run->place->mode], text);
    if (getenv("VDISK_CRASH_ABORT")) /* for a debugger */
        abort();
    fflush(stdout);
    _exit(1);
}

/* --- requests --- */

static void request_done(struct vdisk_request *request)
{
    struct crash_slot *slot = request->owner;
    struct crash_run *run = slot->run;
    if (request->result)
        crash_fail(run, "a %s failed: %s", op_name[request->op],
                   vdisk_last_error(run->image)->text);
    switch (request->op) {
    case VDISK_READ:
        if (memcmp(request->data, slot->expected, request->length) != 0)
            crash_fail(run, "a read of %llu bytes at %llu returned something else",
                       (unsigned long long)request->length, (unsigned long long)request->offset);
        break;
    case VDISK_FLUSH:
        crash_world_flushed(run->world, slot->when);
        break;
    default:
        crash_world_ack(run->world, slot->id, request->offset, request->length);
        if (request->outlives)
            crash_world_outlives(run->world, slot->id, request->offset, request->length);
        if (request->fua)
            crash_world_fua(run->world, slot->id, request->offset, request->length);
    }
    if (run->place->verbose)
        printf("#%*s done %llu: %s\n", (int)run->depth * 4, "", (unsigned long long)slot->id,
               op_name[request->op]);
    slot->busy = false;
    run->in_flight--;
    run->changed = true;
    if (request->op == VDISK_FLUSH || request->fua)
        crash_cut(run);
}

static void drain(struct crash_run *run)
{
    while (run->in_flight)
        vdisk_poll(run->image, true);
}

static struct crash_slot *free_slot(struct crash_run *run)
{
    for (;;) {
        for (unsigned i = 0; i < CRASH_SLOTS; i++) {
            struct crash_slot *slot = &run->slot[i];
            if (slot->busy)
                continue;
            if (!slot->buffer) {
                slot->buffer = aligned_alloc(4096, CRASH_IO_BYTES + 4096);
                slot->expected = malloc(CRASH_IO_BYTES);
                if (!slot->buffer || !slot->expected)
                    abort();
            }
            return slot;
        }
        vdisk_poll(run->image, true);
    }
}

static void submit(struct crash_run *run, struct crash_slot *slot, struct vdisk_request request)
{
    if (run->place->verbose)
        printf("#%*s submit %llu: %s%s at %llu, %llu bytes (block %llu)\n", (int)run->depth * 4, "",
               (unsigned long long)run->requests, op_name[request.op], request.fua ? " fua" : "",
               (unsigned long long)request.offset, (unsigned long long)request.length,
               (unsigned long long)request.offset / CRASH_BLOCK);
    slot->request = request;
    slot->request.done = request_done;
    slot->request.owner = slot;
    slot->run = run;
    slot->busy = true;
    slot->when = run->world->clock;
    run->in_flight++;
    vdisk_submit(run->image, &slot->request);
}

/* --- what is written --- */

static uint64_t below(struct crash_run *run, uint64_t bound)
{
    return sim_rng_below(&run->rng, bound);
}

/* Some are tiny, some blocks, some clusters, a few large; most in a few hot places. */
static void pick_range(struct crash_run *run, uint64_t *offset, uint64_t *length)
{
    uint64_t size = run->world->live.size, unit = 1;
    switch (below(run, 8)) {
    case 0:
        *length = 1 + below(run, 600);
        break;
    case 1:
        *length = 1 + below(run, 8 * KIB);
        break;
    case 2:
    case 3:
        unit = CRASH_BLOCK;
        *length = (1 + below(run, 4)) * unit;
        break;
    case 4:
        unit = CRASH_CLUSTER;
        *length = (1 + below(run, 3)) * unit;
        break;
    case 5:
        *length = 1 + below(run, 48 * KIB);
        break;
    case 6:
        unit = 512;
        *length = (1 + below(run, 40)) * unit;
        break;
    default:
        unit = CRASH_BLOCK;
        *length = (below(run, 8) ? 1 : 1 + below(run, CRASH_IO_BYTES / unit)) * unit;
    }
    *offset =
        below(run, 8) ? run->hot[below(run, 4)] + below(run, run->hot_bytes) : below(run, size);
    *offset = *offset % size / unit * unit;
    if (*length > size - *offset)
        *length = size - *offset;
}

enum fill {
    FILL_NOISE,
    FILL_TEXT,
    FILL_ZEROS,
    FILL_KINDS
};

/* One block of a request, or the part of it that is in the request. */
static void fill_block(struct crash_run *run, uint8_t *data, uint64_t length, enum fill fill,
                       uint64_t block)
{
    memset(data, 0, length);
    if (fill == FILL_ZEROS)
        return;
    if (fill == FILL_NOISE)
        sim_rng_fill(&run->rng, data, length);
    char text[40];
    int n = snprintf(text, sizeof(text), "request %llu block %llu ",
                     (unsigned long long)run->requests, (unsigned long long)block);
    for (uint64_t at = 0; at < length; at += 512 + block % 64) {
        uint64_t room = length - at;
        memcpy(data + at, text, room < (uint64_t)n ? room : (uint64_t)n);
    }
}

static void fill(struct crash_run *run, uint8_t *data, uint64_t offset, uint64_t length)
{
    uint64_t kind = below(run, 12);
    for (uint64_t at = offset; at < offset + length;) {
        uint64_t count = CRASH_BLOCK - at % CRASH_BLOCK;
        if (count > offset + length - at)
            count = offset + length - at;
        enum fill how = kind < 4   ? FILL_TEXT
                        : kind < 7 ? FILL_NOISE
                        : kind < 8 ? FILL_ZEROS
                                   : (enum fill)below(run, FILL_KINDS);
        fill_block(run, data + (at - offset), count, how, at / CRASH_BLOCK);
        at += count;
    }
}

static void step_write(struct crash_run *run, bool fua)
{
    struct crash_slot *slot = free_slot(run);
    uint64_t offset, length;
    pick_range(run, &offset, &length);
    uint8_t *data = slot->buffer + (below(run, 4) ? 0 : below(run, 512));
    slot->id = ++run->requests;
    fill(run, data, offset, length);
    crash_world_write(run->world, slot->id, offset, data, length);
    submit(run, slot,
           (struct vdisk_request){.op = VDISK_WRITE,
                                  .fua = fua,
                                  .outlives = below(run, 2) == 0,
                                  .offset = offset,
                                  .length = length,
                                  .data = data});
}

static void step_clear(struct crash_run *run, enum vdisk_request_op op)
{
    struct crash_slot *slot = free_slot(run);
    uint64_t offset, length;
    pick_range(run, &offset, &length);
    if (below(run, 3) == 0) { /* much larger, perhaps to the end of the drive */
        length = length * 16;
        if (length > run->world->live.size - offset)
            length = run->world->live.size - offset;
    }
    slot->id = ++run->requests;
    crash_world_write(run->world, slot->id, offset, NULL, length);
    submit(run, slot,
           (struct vdisk_request){.op = op,
                                  .fua = below(run, 4) == 0,
                                  .outlives = below(run, 2) == 0,
                                  .offset = offset,
                                  .length = length});
}

static void step_read(struct crash_run *run)
{
    struct crash_slot *slot = free_slot(run);
    uint64_t offset, length;
    pick_range(run, &offset, &length);
    crash_world_read(run->world, offset, slot->expected, length);
    submit(run, slot,
           (struct vdisk_request){.op = VDISK_READ,
                                  .offset = offset,
                                  .length = length,
                                  .data = slot->buffer + below(run, 2) * 17});
}

static void step_flush(struct crash_run *run)
{
    submit(run, free_slot(run), (struct vdisk_request){.op = VDISK_FLUSH});
}

/* --- opening and closing --- */

static void trace(void *arg, enum vdisk_io_op op, uint64_t offset, uint64_t length)
{
    static const char *const name[] = {"read", "write", "sync", "punch", "allocate", "truncate"};
    struct crash_run *run = arg;
    if (run->place->verbose)
        printf("#%*s operation %llu: %s at block %llu, %llu blocks\n", (int)run->depth * 4, "",
               (unsigned long long)sim_op_count(run->sim), name[op],
               (unsigned long long)offset / 4096, (unsigned long long)length / 4096);
    crash_cut(run);
    if (op != VDISK_IO_READ)
        run->changed = true;
}

static void must_work(const struct crash_run *run, enum crash_step step, int r)
{
    if (r)
        crash_fail(run, "%s failed: %d %s", step_name[step], r,
                   run->image ? vdisk_last_error(run->image)->text : vdisk_strerror(r));
}

static void reopen(struct crash_run *run)
{
    static const size_t cache[] = {0, 100 * 1024, 400 * 1024};
    struct vdisk_open_options options = {.struct_bytes = sizeof(options),
                                         .cache_bytes = cache[below(run, 3)],
                                         .source = crash_run_source(run),
                                         .io = sim_io(run->sim)};
    struct vdisk_error error = {0};
    int r = vdisk_open(NULL, &options, &crash_key, &run->image, &error);
    if (r)
        crash_fail(run, "cannot be opened again: %s", error.text);
}

/* Compares the open image with the world as it should be now. */
static void look(struct crash_run *run, struct crash_world *world, bool pin)
{
    char failure[256];
    struct crash_look look = {
        .image = run->image, .rng = &run->rng, .everything = true, .pin = pin, .failure = failure};
    bool quiet = run->quiet;
    run->quiet = true;
    if (!crash_world_matches(world, &look))
        crash_fail(run, "without a cut: %s", failure);
    run->quiet = quiet;
}

static void close_image(struct crash_run *run)
{
    struct vdisk_error error = {0};
    drain(run);
    int r = vdisk_close(run->image, &error);
    run->image = NULL;
    if (r)
        crash_fail(run, "closing failed: %s", error.text);
    crash_world_flushed(run->world, UINT64_MAX);
    run->changed = true;
    crash_cut(run);
}

static void step_reopen(struct crash_run *run)
{
    close_image(run);
    reopen(run);
    if (below(run, 2))
        look(run, run->world, false);
}

/* The process ends, the machine goes on: what was written is in the page cache. */
static void step_kill(struct crash_run *run)
{
    drain(run);
    vdisk_abandon(run->image);
    run->image = NULL;
    reopen(run);
    struct crash_world *shown = crash_world_copy(run->world);
    crash_world_killed(shown);
    look(run, shown, true);
    crash_world_show(run->world, shown);
    crash_world_free(shown);
}

/* --- changes of states --- */

/* The world as it will be, while the call is under way. */
static struct crash_world *begin(struct crash_run *run)
{
    run->after = crash_world_copy(run->world);
    return run->after;
}

static void end(struct crash_run *run, enum crash_step step, int r)
{
    must_work(run, step, r);
    crash_world_free(run->world);
    run->world = run->after;
    run->after = NULL;
    run->changed = true;
    crash_cut(run);
}

static void step_checkpoint(struct crash_run *run)
{
    uint64_t when = run->world->clock;
    must_work(run, CRASH_CHECKPOINT, vdisk_checkpoint(run->image));
    crash_world_flushed(run->world, when);
    run->changed = true;
    crash_cut(run);
}

static void step_compact(struct crash_run *run)
{
    must_work(run, CRASH_COMPACT, vdisk_compact(run->image, NULL, NULL, NULL));
}

static void step_delete(struct crash_run *run)
{
    unsigned victim = (unsigned)below(run, run->world->snapshots);
    crash_world_delete(begin(run), victim);
    end(run, CRASH_DELETE, vdisk_snapshot_delete(run->image, run->world->snapshot[victim].name));
}

static void step_create(struct crash_run *run)
{
    char name[CRASH_NAME_BYTES], failure[256];
    snprintf(name, sizeof(name), "s%u", ++run->names);
    crash_world_create(begin(run), name);
    end(run, CRASH_CREATE, vdisk_snapshot_create(run->image, name));
    struct crash_look look = {
        .image = run->image, .rng = &run->rng, .everything = true, .pin = true, .failure = failure};
    run->quiet = true;
    if (!crash_snapshot_matches(run->world, run->world->snapshots - 1, &look))
        crash_fail(run, "after its creation: %s", failure);
    run->quiet = false;
}

static void step_rollback(struct crash_run *run)
{
    unsigned target = (unsigned)below(run, run->world->snapshots);
    drain(run);
    crash_world_rollback(begin(run), target);
    end(run, CRASH_ROLLBACK,
        vdisk_snapshot_rollback(run->image, run->world->snapshot[target].name));
    if (below(run, 2))
        look(run, run->world, false);
}

static void step_resize(struct crash_run *run)
{
    uint64_t before = run->world->live.size;
    uint64_t change = 512 * (1 + (below(run, 2) ? below(run, 64) : below(run, 6144)));
    uint64_t size =
        below(run, 2) || before <= change + 64 * KIB ? before + change : before - change;
    if (size > CRASH_SIZE_MAX)
        size = CRASH_SIZE_MAX;
    if (size == before)
        return;
    if (size < before) {
        drain(run);
        uint64_t id = ++run->requests;
        crash_world_write(run->world, id, size, NULL, before - size);
        begin(run);
        crash_world_ack(run->after, id, size, before - size);
    } else {
        begin(run);
    }
    crash_world_resize(run->after, size);
    end(run, CRASH_RESIZE, vdisk_resize(run->image, size, true));
}

/* The second key comes or goes. */
static void step_keys(struct crash_run *run)
{
    struct vdisk_keyslot_info slots[VDISK_KEYSLOTS];
    unsigned count = vdisk_key_list(run->image, slots);
    begin(run)->keys = 3 - count;
    end(run, CRASH_KEYS,
        count == 1 ? vdisk_key_add(run->image, &crash_second_key, NULL)
                   : vdisk_key_remove(run->image, slots[1].slot));
}

/* --- filling --- */

struct vdisk_source *crash_run_source(const struct crash_run *run)
{
    return run->source && !run->detached ? &run->source->source : NULL;
}

static void step_fill(struct crash_run *run)
{
    uint64_t cursor =
        below(run, 2) ? 0 : below(run, run->world->live.size) / CRASH_BLOCK * CRASH_BLOCK;
    for (uint64_t pieces = 1 + below(run, 12); pieces && cursor < run->world->live.size; pieces--)
        must_work(run, CRASH_FILL, vdisk_fill(run->image, &cursor, NULL));
}

static void step_detach(struct crash_run *run)
{
    bool all = below(run, 2);
    for (uint64_t cursor = 0; all && cursor < run->world->live.size;)
        must_work(run, CRASH_FILL, vdisk_fill(run->image, &cursor, NULL));
    begin(run);
    int r = vdisk_detach(run->image);
    if (r == VDISK_E_UNFILLED && !all)
        r = 0;
    else
        run->detached |= r == 0;
    end(run, CRASH_DETACH, r);
}

/* --- the run --- */

static const uint8_t weight[CRASH_PROFILES][CRASH_STEPS] = {
    [CRASH_DATA] = {40, 6, 14, 5, 3, 6, 2, 2, 2, 0, 0, 0, 0, 0, 3},
    [CRASH_SNAPSHOTS] = {40, 4, 8, 5, 2, 4, 1, 2, 1, 8, 4, 4, 0, 1, 0},
    [CRASH_ALL] = {40, 5, 10, 5, 3, 4, 2, 2, 2, 4, 3, 2, 5, 3, 4},
    [CRASH_HURRY] = {30, 40, 20, 3, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    [CRASH_FILLING] = {30, 4, 10, 6, 3, 12, 2, 2, 2, 0, 0, 0, 3, 1, 0, 14, 3},
};

static enum crash_step pick_step(struct crash_run *run)
{
    unsigned total = 0, step = 0;
    for (unsigned i = 0; i < CRASH_STEPS; i++)
        total += weight[run->profile][i];
    uint64_t at = below(run, total);
    while (at >= weight[run->profile][step])
        at -= weight[run->profile][step++];
    if (step == CRASH_CREATE && run->world->snapshots == CRASH_SNAPSHOTS_MAX - 1)
        step = CRASH_DELETE;
    if ((step == CRASH_DELETE || step == CRASH_ROLLBACK) && run->world->snapshots == 0)
        step = CRASH_WRITE;
    return (enum crash_step)step;
}

static void take_step(struct crash_run *run)
{
    enum crash_step step = pick_step(run);
    run->shared->step[step]++;
    if (run->place->verbose)
        printf("#%*s step: %s\n", (int)run->depth * 4, "", step_name[step]);
    switch (step) {
    case CRASH_WRITE:
    case CRASH_WRITE_FUA:
        step_write(run, step == CRASH_WRITE_FUA);
        break;
    case CRASH_DISCARD:
    case CRASH_ZERO:
        step_clear(run, step == CRASH_ZERO ? VDISK_ZERO : VDISK_DISCARD);
        break;
    case CRASH_FLUSH:
        step_flush(run);
        break;
    case CRASH_READ:
        step_read(run);
        break;
    case CRASH_CHECKPOINT:
        step_checkpoint(run);
        break;
    case CRASH_REOPEN:
        step_reopen(run);
        break;
    case CRASH_KILL:
        step_kill(run);
        break;
    case CRASH_CREATE:
        step_create(run);
        break;
    case CRASH_DELETE:
        step_delete(run);
        break;
    case CRASH_ROLLBACK:
        step_rollback(run);
        break;
    case CRASH_RESIZE:
        step_resize(run);
        break;
    case CRASH_COMPACT:
        step_compact(run);
        break;
    case CRASH_KEYS:
        step_keys(run);
        break;
    case CRASH_FILL:
        step_fill(run);
        break;
    case CRASH_DETACH:
        step_detach(run);
        break;
    case CRASH_STEPS:
        break;
    }
}

static void take_steps(struct crash_run *run, uint64_t steps)
{
    for (uint64_t i = 0; i < steps; i++) {
        take_step(run);
        for (uint64_t polls = below(run, 6); polls && run->in_flight; polls--)
            vdisk_poll(run->image, false);
        if (below(run, run->profile == CRASH_HURRY ? 64 : 8) == 0)
            drain(run);
    }
}

static void finding(void *opaque, const struct vdisk_check_finding *found)
{
    char *text = opaque;
    if (!text[0])
        snprintf(text, 256, "%s", found->text);
}

/* Closed, opened, compared, checked, closed. */
static void finish(struct crash_run *run)
{
    char text[256] = "";
    struct vdisk_check_options options = {
        .struct_bytes = sizeof(options), .finding = finding, .opaque = text};
    struct vdisk_check_result result;
    close_image(run);
    run->quiet = true;
    reopen(run);
    look(run, run->world, false);
    int r = vdisk_check(run->image, &options, &result);
    if (r || result.leaked_blocks || text[0])
        crash_fail(run, "the check found: %d %s", r,
                   text[0] ? text : vdisk_last_error(run->image)->text);
    close_image(run);
    sim_free(run->sim);
    crash_world_free(run->world);
    for (unsigned i = 0; i < CRASH_SLOTS; i++) {
        free(run->slot[i].buffer);
        free(run->slot[i].expected);
    }
}

void crash_run_again(const struct crash_run *above, struct sim *sim, struct vdisk_image *image,
                     struct crash_world *world, uint64_t seed)
{
    struct crash_run *run = calloc(1, sizeof(*run));
    if (!run)
        abort();
    run->shared = above->shared;
    run->place = above->place;
    run->seed = seed;
    run->profile = above->profile;
    run->sim = sim;
    run->image = image;
    run->source = above->source;
    run->detached = above->detached;
    run->world = world;
    run->depth = above->depth + 1;
    run->names = above->names + 100 * run->depth;
    run->requests = above->requests + 1000 * run->depth;
    memcpy(run->hot, above->hot, sizeof(run->hot));
    run->hot_bytes = above->hot_bytes;
    run->changed = true;
    sim_rng_seed(&run->rng, seed);
    sim_set_trace(sim, trace, run);
    take_steps(run, below(run, AGAIN_STEPS_SPREAD));
    finish(run);
    free(run);
}

static uint64_t pick_size(struct crash_run *run)
{
    static const uint64_t sizes[] = {64 * KIB, 1024 * KIB, 2048 * KIB, 4500 * KIB, 12288 * KIB};
    uint64_t size = sizes[below(run, 5)];
    return below(run, 2) ? size : size / 2 + 512 * below(run, size / 1024);
}

/* The drive holds what the source does, durably. */
static void show_source(struct crash_run *run)
{
    uint64_t size = run->source->source.size, id = ++run->requests;
    size = size < run->world->live.size ? size : run->world->live.size;
    crash_world_write(run->world, id, 0, run->source->bytes, size);
    crash_world_ack(run->world, id, 0, size);
    crash_world_flushed(run->world, UINT64_MAX);
}

static void create(struct crash_run *run)
{
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options),
        .size = pick_size(run),
        .cluster_bytes = CRASH_CLUSTER,
        .journal_log2 = CRASH_JOURNAL_LOG2,
        .compress = run->seed & 1,
        .io = sim_io(run->sim),
    };
    struct vdisk_error error = {0};
    if (run->profile == CRASH_FILLING) {
        run->source = fill_source_new(1 + options.size / (1 + below(run, 2)), 65536, run->seed);
        options.source = &run->source->source;
    }
    int r = vdisk_create(NULL, &options, &crash_key, &run->image, &error);
    if (r)
        crash_fail(run, "cannot be created: %s", error.text);
    run->world = crash_world_new(options.size);
    if (run->source)
        show_source(run);
    run->hot_bytes = (16 + below(run, 64)) * KIB;
    for (unsigned i = 0; i < 4; i++)
        run->hot[i] = below(run, options.size);
}

enum crash_profile crash_profile_of(uint64_t seed)
{
    return (enum crash_profile)(seed / 2 % CRASH_PROFILES);
}

void crash_run_seed(struct crash_shared *shared, struct crash_place *place, uint64_t seed,
                    uint64_t only_op)
{
    struct crash_run *run = calloc(1, sizeof(*run));
    if (!run)
        abort();
    run->shared = shared;
    run->place = place;
    run->seed = seed;
    run->only_op = only_op;
    run->profile = crash_profile_of(seed);
    place->seed = seed;
    place->op = 0;
    sim_rng_seed(&run->rng, seed);
    sim_randombytes_install(seed);
    run->sim = sim_new(seed);
    create(run);
    sim_set_trace(run->sim, trace, run);
    sim_set_late(run->sim, run->profile == CRASH_HURRY || below(run, 3) == 0, 8);
    run->changed = true;
    take_steps(run, STEPS_MIN + below(run, STEPS_SPREAD));
    finish(run);
    fill_source_free(run->source);
    free(run);
    if (crash_contents_live())
        abort(); /* a leak of the model's own */
    shared->runs++;
}
