/* SPDX-License-Identifier: Apache-2.0 */
/* The random steps: one function for each kind of operation; see drive_run.h. */
#include "drive_run.h"

#include "bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- one kind of step each ---- */

static void step_write(struct drive_run *run)
{
    uint64_t offset, length;
    drive_choose_range(run, DRIVE_WRITE_MAX, &offset, &length);
    uint8_t *data = drive_make_data(run, length);
    if (!run->flying && drive_chance(run, 1, 3)) {
        drive_must(run, vdisk_write(run->image, offset, data, length), "write");
        drive_write(run->live, offset, data, length, ++run->change);
        free(data);
        return;
    }
    drive_launch(run, VDISK_WRITE, offset, length, data);
}

static void step_read(struct drive_run *run)
{
    uint64_t offset, length;
    drive_choose_range(run, DRIVE_WRITE_MAX, &offset, &length);
    drive_launch(run, VDISK_READ, offset, length, NULL);
}

static void step_clear(struct drive_run *run)
{
    uint64_t offset, length;
    bool hole = drive_chance(run, 1, 2);
    if (drive_chance(run, 1, 10)) { /* all over the drive */
        offset = drive_random(run, run->live->size);
        length = 1 + drive_random(run, run->live->size - offset);
    } else {
        drive_choose_range(run, DRIVE_WRITE_MAX, &offset, &length);
    }
    if (run->flying || drive_chance(run, 1, 2)) {
        drive_launch(run, hole ? VDISK_DISCARD : VDISK_ZERO, offset, length, NULL);
        return;
    }
    drive_must(run,
               hole ? vdisk_discard(run->image, offset, length)
                    : vdisk_zero(run->image, offset, length),
               "discard or zero");
    drive_write(run->live, offset, NULL, length, ++run->change);
}

static void step_flush(struct drive_run *run)
{
    if (drive_chance(run, 1, 2))
        drive_launch(run, VDISK_FLUSH, 0, 0, NULL);
    else
        drive_must(run, vdisk_flush(run->image), "flush");
}

static void step_checkpoint(struct drive_run *run)
{
    drive_must(run, vdisk_checkpoint(run->image), "checkpoint");
}

/* ---- snapshots ---- */

static struct drive_pair live_pair(const struct drive_run *run)
{
    return (struct drive_pair){run->image, NULL, run->live, run->below};
}

static struct vdisk_snapshot *open_snapshot(struct drive_run *run, unsigned i)
{
    struct vdisk_snapshot *snapshot = NULL;
    drive_must(run, vdisk_snapshot_open(run->image, run->snapshot[i].name, &snapshot),
               "snapshot open");
    return snapshot;
}

static const uint8_t *block_before(const struct drive_before *before, uint64_t offset)
{
    bool in = offset >= before->offset && offset < before->offset + before->length;
    return in ? before->bytes + (offset - before->offset) : NULL;
}

/* What was in flight when the snapshot was made may be in it or not, block by block. */
static void settle_block(struct drive_run *run, struct drive_state *state,
                         struct vdisk_snapshot *snapshot, unsigned i,
                         const struct drive_before *before, unsigned befores)
{
    uint64_t offset = drive_block(i) * DRIVE_BLOCK;
    uint8_t seen[DRIVE_BLOCK] = {0}, *model = state->bytes + (size_t)i * DRIVE_BLOCK;
    unsigned in_flight = 0;
    for (unsigned k = 0; k < befores; k++)
        in_flight += block_before(&before[k], offset) != NULL;
    if (!in_flight || offset >= state->size)
        return;
    drive_must(
        run,
        vdisk_snapshot_read(snapshot, offset, seen, vd_min64(DRIVE_BLOCK, state->size - offset)),
        "settle");
    bool known = memcmp(seen, model, DRIVE_BLOCK) == 0;
    for (unsigned k = 0; k < befores && !known; k++) {
        const uint8_t *was = block_before(&before[k], offset);
        known = was && memcmp(seen, was, DRIVE_BLOCK) == 0;
    }
    snprintf(run->failure, sizeof(run->failure), "block %llu of a new snapshot was never so",
             (unsigned long long)drive_block(i));
    drive_holds(run, known);
    memcpy(model, seen, DRIVE_BLOCK);
    state->changed[i] = DRIVE_UNKNOWN;
}

/* Takes over what was kept of the changes in flight. */
static unsigned take_befores(struct drive_run *run, struct drive_before *before)
{
    unsigned n = 0;
    for (unsigned i = 0; i < DRIVE_FLIGHTS; i++) {
        struct drive_flight *flight = &run->flight[i];
        bool change = flight->busy && flight->request.op != VDISK_READ;
        if (change && flight->request.op != VDISK_FLUSH && !flight->before.bytes)
            drive_drain(run); /* nothing is busy after that */
        if (flight->before.bytes)
            before[n++] = flight->before;
        flight->before = (struct drive_before){0};
    }
    return n;
}

static void step_snapshot_create(struct drive_run *run)
{
    struct drive_before before[DRIVE_FLIGHTS];
    if (run->snapshots == DRIVE_SNAPSHOTS)
        return;
    if (drive_chance(run, 1, 2))
        drive_drain(run);
    struct drive_saved *saved = &run->snapshot[run->snapshots];
    unsigned befores = take_befores(run, before);
    snprintf(saved->name, sizeof(saved->name), "state %u \xc3\xa9", ++run->names);
    saved->state = drive_copy(run->live);
    drive_must(run, vdisk_snapshot_create(run->image, saved->name), "snapshot create");
    run->snapshots++;
    if (befores) {
        struct vdisk_snapshot *snapshot = open_snapshot(run, run->snapshots - 1);
        for (unsigned i = 0; i < DRIVE_BLOCKS; i++)
            settle_block(run, saved->state, snapshot, i, before, befores);
        vdisk_snapshot_close(snapshot);
    }
    while (befores)
        free(before[--befores].bytes);
    assert_int_equal(vdisk_snapshot_create(run->image, saved->name), VDISK_E_EXISTS);
}

static void step_snapshot_delete(struct drive_run *run)
{
    if (!run->snapshots)
        return;
    unsigned i = (unsigned)drive_random(run, run->snapshots);
    if (run->held && i == run->held_index) {
        assert_int_equal(vdisk_snapshot_delete(run->image, run->snapshot[i].name), VDISK_E_IN_USE);
        drive_release_held(run);
    }
    drive_must(run, vdisk_snapshot_delete(run->image, run->snapshot[i].name), "snapshot delete");
    drive_free(run->snapshot[i].state);
    run->snapshots--;
    memmove(&run->snapshot[i], &run->snapshot[i + 1],
            (run->snapshots - i) * sizeof(run->snapshot[0]));
    if (run->held && run->held_index > i)
        run->held_index--;
    assert_int_equal(vdisk_snapshot_delete(run->image, "not there"), VDISK_E_NOT_FOUND);
}

static void step_rollback(struct drive_run *run)
{
    if (!run->snapshots)
        return;
    unsigned i = (unsigned)drive_random(run, run->snapshots);
    drive_drain(run);
    drive_must(run, vdisk_snapshot_rollback(run->image, run->snapshot[i].name), "rollback");
    drive_free(run->live);
    run->live = drive_copy(run->snapshot[i].state);
    assert_int_equal(vdisk_size(run->image), run->live->size);
}

static void step_hold(struct drive_run *run)
{
    if (run->held) {
        struct drive_pair pair = {run->image, run->held, run->snapshot[run->held_index].state,
                                  run->below};
        drive_holds(run, drive_check_map(&pair, &run->rng, run->failure));
        drive_release_held(run);
    } else if (run->snapshots) {
        run->held_index = (unsigned)drive_random(run, run->snapshots);
        run->held = open_snapshot(run, run->held_index);
    }
}

struct listing {
    struct drive_run *run;
    unsigned count;
};

static bool each_listed(void *opaque, const struct vdisk_snapshot_info *info)
{
    struct listing *listing = opaque;
    assert_true(listing->count < listing->run->snapshots);
    const struct drive_saved *saved = &listing->run->snapshot[listing->count++];
    assert_string_equal(info->name, saved->name);
    assert_int_equal(info->size, saved->state->size);
    return true;
}

static void step_list(struct drive_run *run)
{
    struct listing listing = {.run = run};
    struct vdisk_info info;
    drive_must(run, vdisk_snapshot_list(run->image, each_listed, &listing), "list");
    vdisk_get_info(run->image, &info);
    assert_int_equal(listing.count, run->snapshots);
    assert_int_equal(info.snapshots, run->snapshots);
    assert_int_equal(info.size, run->live->size);
    assert_true(info.read_only == run->read_only);
}

/* ---- size ---- */

static void step_resize(struct drive_run *run)
{
    uint64_t size = drive_choose_size(run);
    if (size < run->live->size) {
        drive_drain(run);
        assert_int_equal(vdisk_resize(run->image, size, false), -EINVAL);
    }
    drive_must(run, vdisk_resize(run->image, size, true), "resize");
    drive_resize(run->live, size, ++run->change);
    assert_int_equal(vdisk_size(run->image), size);
}

/* ---- opening and closing ---- */

static void verify(struct drive_run *run)
{
    struct drive_pair pair = live_pair(run);
    drive_drain(run);
    drive_holds(run, drive_check_content(&pair, &run->rng, run->failure));
    drive_holds(run, drive_check_map(&pair, &run->rng, run->failure));
    for (unsigned i = 0; i < run->snapshots; i++) {
        struct vdisk_snapshot *snapshot = open_snapshot(run, i);
        pair.snapshot = snapshot;
        pair.state = run->snapshot[i].state;
        drive_holds(run, drive_check_content(&pair, &run->rng, run->failure));
        vdisk_snapshot_close(snapshot);
    }
    step_list(run);
}

static void step_reopen(struct drive_run *run)
{
    uint8_t byte = 1;
    drive_shut(run);
    if (drive_chance(run, 1, 3)) {
        drive_open_again(run, true);
        verify(run);
        assert_int_equal(vdisk_write(run->image, 0, &byte, 1), -EROFS);
        assert_int_equal(vdisk_discard(run->image, 0, 512), -EROFS);
        assert_int_equal(vdisk_resize(run->image, 1 << 20, true), -EROFS);
        assert_int_equal(vdisk_snapshot_create(run->image, "x"), -EROFS);
        drive_shut(run);
    }
    drive_open_again(run, false);
    if (drive_chance(run, 1, 3))
        verify(run);
}

/* ---- looking ---- */

static void step_map(struct drive_run *run)
{
    struct drive_pair pair = live_pair(run);
    drive_drain(run);
    drive_holds(run, drive_check_map(&pair, &run->rng, run->failure));
}

static void step_diff(struct drive_run *run)
{
    struct drive_pair pair[2] = {live_pair(run), live_pair(run)};
    drive_drain(run);
    for (unsigned i = 0; i < 2; i++) {
        if (!run->snapshots || drive_chance(run, 1, 3))
            continue;
        unsigned n = (unsigned)drive_random(run, run->snapshots);
        pair[i].snapshot = open_snapshot(run, n);
        pair[i].state = run->snapshot[n].state;
    }
    drive_holds(run, drive_check_diff(&pair[0], &pair[1], !run->compacted, run->failure));
    vdisk_snapshot_close(pair[0].snapshot);
    vdisk_snapshot_close(pair[1].snapshot);
}

static void step_check(struct drive_run *run)
{
    drive_holds(run, drive_check_image(run->image, run->failure));
}

static void step_compact(struct drive_run *run)
{
    if (drive_chance(run, 1, 2))
        drive_drain(run);
    drive_must(run, vdisk_compact(run->image, NULL, NULL, NULL), "compact");
    run->compacted = true;
}

/* ---- a run ---- */

static const struct {
    unsigned weight;
    void (*step)(struct drive_run *run);
} steps[] = {
    {400, step_write},
    {200, step_read},
    {80, step_clear},
    {50, step_flush},
    {30, step_snapshot_create},
    {25, step_hold},
    {25, step_snapshot_delete},
    {10, step_rollback},
    {10, step_list},
    {15, step_resize},
    {15, step_checkpoint},
    {20, step_reopen},
    {15, step_map},
    {25, step_diff},
    {10, verify},
    {10, step_check},
    {6, step_compact},
};

static unsigned step_count(const struct drive_config *config)
{
    const char *text = getenv("VDISK_TEST_STEPS");
    return text ? (unsigned)strtoul(text, NULL, 0) : config->steps;
}

void drive_steps(struct drive_run *run)
{
    unsigned total = 0, count = step_count(run->config);
    for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
        total += steps[i].weight;
    for (run->step = 0; run->step < count; run->step++) {
        uint64_t pick = drive_random(run, total);
        unsigned i = 0;
        while (pick >= steps[i].weight)
            pick -= steps[i++].weight;
        if (getenv("VDISK_TEST_TRACE"))
            fprintf(stderr, "%u: %u (%u in flight)\n", run->step, i, run->flying);
        steps[i].step(run);
    }
    verify(run);
    step_check(run);
}
