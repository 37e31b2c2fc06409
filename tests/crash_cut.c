/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Cutting the power (crash_run.h): the disks that could be left, opened and compared.
 */
#include "crash_run.h"
#include "image.h"

#include <string.h>

/* One disk in so many of the outermost run goes on: written to, cut again, closed, checked. */
#define AGAIN_ONE_IN 48u

struct cut {
    struct crash_run *run;
    struct sim *disk;
    struct vdisk_image *image;
    struct sim_rng rng;
    enum sim_crash_mode mode;
};

static bool is_half_deleted(const struct cut *cut)
{
    return cut->image->super->deleting && cut->image->super->delete_cursor;
}

static void open_disk(struct cut *cut)
{
    struct vdisk_open_options options = {.struct_bytes = sizeof(options),
                                         .source = crash_run_source(cut->run),
                                         .io = sim_io(cut->disk)};
    struct vdisk_error error = {0};
    struct vdisk_info info;
    const struct crash_world *after = cut->run->after;
    bool second = cut->run->world->keys == 2 && (!after || after->keys == 2) &&
                  sim_rng_chance(&cut->rng, 1, 2);
    int r =
        vdisk_open(NULL, &options, second ? &crash_second_key : &crash_key, &cut->image, &error);
    if (r)
        crash_fail(cut->run, "cannot be opened: %s", error.text);
    vdisk_get_info(cut->image, &info);
    cut->run->shared->recovered += info.recovered;
    cut->run->shared->one_superblock += info.superblock_damaged;
    cut->run->shared->half_filled += info.has_source;
    cut->run->shared->half_deleted += is_half_deleted(cut);
}

/* What a kill leaves, if it happens now or when all that was asked for is done. */
static bool is_kill(const struct cut *cut)
{
    return cut->mode == SIM_KEEP_ALL || cut->mode == SIM_KEEP_COMPLETED;
}

/* It must be one of the worlds: that before what is under way, or that after. With `again` returns
 * a copy that holds what was seen and nothing else. */
static struct crash_world *compare(struct cut *cut, bool again)
{
    struct crash_run *run = cut->run;
    struct crash_world *worlds[] = {run->world, run->after};
    char failure[2][256] = {"", ""};
    for (unsigned i = 0; i < 2 && worlds[i]; i++) {
        bool own = again || is_kill(cut);
        struct crash_world *world = own ? crash_world_copy(worlds[i]) : worlds[i];
        if (is_kill(cut))
            crash_world_killed(world);
        struct crash_look look = {
            .image = cut->image,
            .rng = &cut->rng,
            .everything = again || sim_rng_chance(&cut->rng, 1, 8),
            .pin = again,
            .failure = failure[i],
        };
        bool matches = crash_world_matches(world, &look);
        if (matches && run->after)
            *(i ? &run->shared->after : &run->shared->before) += 1;
        if (matches && again)
            return world;
        if (own)
            crash_world_free(world);
        if (matches)
            return NULL;
    }
    crash_fail(run, "%s%s%s", failure[0], run->after ? "; or, after what was under way: " : "",
               failure[1]);
}

/* Either copy of the header, and either superblock slot with the journal, will do alone. They are
 * whole where no cut before and no torn write can have damaged one. */
static void without_a_copy(struct cut *cut)
{
    static const uint8_t nothing[2 * CRASH_BLOCK];
    const uint64_t copy_b = UINT64_C(1) << CRASH_JOURNAL_LOG2;
    const uint64_t place[] = {0, 2, copy_b, copy_b + 2}; /* each of two blocks, or one and zeros */
    if (cut->run->depth > 0 || cut->mode == SIM_KEEP_TORN || cut->mode == SIM_KEEP_REORDERED ||
        !sim_rng_chance(&cut->rng, 1, 6))
        return;
    sim_raw_write(cut->disk, place[sim_rng_below(&cut->rng, 4)] * CRASH_BLOCK, nothing,
                  sizeof(nothing));
    open_disk(cut);
    compare(cut, false);
    vdisk_abandon(cut->image);
    cut->run->shared->states++;
    cut->run->shared->without_a_copy++;
}

/* Whether to go on with this disk: rarely the deeper it is, often where a deletion is under way. */
static bool goes_on(struct cut *cut)
{
    unsigned one_in = cut->run->depth ? AGAIN_ONE_IN * 4 : AGAIN_ONE_IN;
    if (is_half_deleted(cut))
        one_in /= 8;
    return cut->run->depth < CRASH_DEPTH_MAX && sim_rng_chance(&cut->rng, 1, one_in);
}

static void cut_once(struct crash_run *run, enum sim_crash_mode mode, uint64_t seed)
{
    struct cut cut = {.run = run, .mode = mode};
    sim_rng_seed(&cut.rng, seed);
    run->place->mode = mode;
    cut.disk = sim_crash_image(run->sim, sim_rng_next(&cut.rng), mode);
    sim_set_ordered(cut.disk, true);
    open_disk(&cut);
    bool again = goes_on(&cut);
    struct crash_world *world = compare(&cut, again);
    run->shared->states++;
    run->shared->mode[mode]++;
    if (again) {
        run->shared->deep++;
        sim_set_ordered(cut.disk, false);
        crash_run_again(run, cut.disk, cut.image, world, sim_rng_next(&cut.rng));
        return;
    }
    vdisk_abandon(cut.image);
    without_a_copy(&cut);
    sim_free(cut.disk);
}

void crash_cut(struct crash_run *run)
{
    struct sim_rng rng;
    if (!run->changed || run->quiet || run->depth > CRASH_DEPTH_MAX)
        return;
    run->changed = false;
    run->cuts++;
    if (run->depth == 0)
        run->place->op = sim_op_count(run->sim);
    if (run->only_op && run->depth == 0 && run->only_op != run->place->op)
        return;
    sim_rng_seed(&rng, run->seed + run->cuts * UINT64_C(0x9e3779b97f4a7c15));
    size_t unsynced = sim_unsynced(run->sim);
    unsigned disks = unsynced == 0 ? 1 : unsynced == 1 ? 3 : run->depth ? 3 : 4;
    for (unsigned i = 0; i < disks; i++) {
        uint64_t seed = sim_rng_next(&rng);
        enum sim_crash_mode mode = (enum sim_crash_mode)(
            SIM_KEEP_SUBSET + sim_rng_below(&rng, SIM_CRASH_MODES - SIM_KEEP_SUBSET));
        if (i == 0)
            mode = SIM_KEEP_NONE;
        else if (i == 1)
            mode = unsynced && sim_rng_chance(&rng, 1, 2) ? SIM_KEEP_COMPLETED : SIM_KEEP_ALL;
        else if (unsynced == 1)
            mode = SIM_KEEP_TORN;
        cut_once(run, mode, seed);
    }
}
