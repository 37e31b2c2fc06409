/* SPDX-License-Identifier: Apache-2.0 */
/* The life of a small image in which anything may fail; see fault_scenario.h. */
#include "fault_scenario.h"

#include "bytes.h"
#include "sim_random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define MIB    (UINT64_C(1) << 20)
#define SECTOR 512u
#define ASYNC  8u

static const uint8_t key_bytes[32] = "the key with which it is created";
static const uint8_t extra_key_bytes[32] = "the key added and then removed..";
const struct vdisk_key fault_key = {
    .kind = VDISK_KEY_FILE, .bytes = key_bytes, .length = sizeof(key_bytes)};
const struct vdisk_key fault_extra_key = {
    .kind = VDISK_KEY_FILE, .bytes = extra_key_bytes, .length = sizeof(extra_key_bytes)};
static const char *const snapshot_name[2] = {"one", "two"};

/* ---- contents ---- */

/* Every other cell lies askew. */
static uint64_t cell_offset(unsigned cell)
{
    return cell * FAULT_STRIDE + cell % 2 * SECTOR;
}

/* Even generations can be compressed. */
static void fill_sectors(uint8_t *out, unsigned generation, unsigned cell, unsigned first,
                         unsigned count)
{
    struct sim_rng rng;
    memset(out, 0, (size_t)count * SECTOR);
    for (unsigned i = 0; generation && i < count; i++) {
        uint8_t *sector = out + (size_t)i * SECTOR;
        uint64_t mark = (uint64_t)generation << 32 | cell << 16 | (first + i);
        if (generation % 2) {
            sim_rng_seed(&rng, mark);
            sim_rng_fill(&rng, sector, SECTOR);
        } else {
            memset(sector, (int)(generation % 251), SECTOR);
            memcpy(sector, &mark, sizeof(mark));
        }
    }
}

static void push(struct fault_cell *cell, unsigned content, bool sure)
{
    assert_true(cell->count < FAULT_VERSIONS);
    cell->content[cell->count] = content;
    cell->sure[cell->count++] = sure;
}

/* What is complete is durable: what came before it cannot come back. */
static void settle(struct fault_state *state)
{
    for (unsigned c = 0; c < FAULT_CELLS; c++) {
        struct fault_cell *cell = &state->cell[c];
        unsigned last = cell->count - 1;
        while (last > 0 && !cell->sure[last])
            last--;
        cell->count -= last;
        memmove(cell->content, cell->content + last, cell->count * sizeof(cell->content[0]));
        memmove(cell->sure, cell->sure + last, cell->count * sizeof(cell->sure[0]));
    }
}

void fault_forget(struct fault_scenario *s)
{
    for (unsigned c = 0; c < FAULT_CELLS; c++) {
        for (unsigned i = 1; i < s->live.cell[c].count; i++)
            s->live.cell[c].sure[i] = false;
    }
}

/* The live state may be that of the snapshot now. */
static void mix(struct fault_state *state, const struct fault_state *other)
{
    for (unsigned c = 0; c < FAULT_CELLS; c++) {
        for (unsigned i = 0; i < state->cell[c].count; i++)
            state->cell[c].sure[i] = false;
        for (unsigned i = 0; i < other->cell[c].count; i++)
            push(&state->cell[c], other->cell[c].content[i], false);
    }
    if (state->size[0] != other->size[0])
        state->size[1] = other->size[0];
}

/* ---- calls ---- */

static void arm(const struct fault_place *place, bool on)
{
    if (place->arm)
        place->arm(place->arg, on);
}

void fault_expect_sentence(int result, const struct vdisk_error *error)
{
    if (result == 0)
        return;
    if (result > 0 || error->code != result || !error->text[0] || strchr(error->text, '\n'))
        fail_msg("result %d, but the error is %d \"%s\"", result, error->code, error->text);
}

static bool crashed_open(struct fault_scenario *s, bool read_only)
{
    struct vdisk_error error = {0};
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .read_only = read_only, .cache_bytes = 200000};
    options.io = s->place.io ? s->place.io(s->place.arg) : NULL;
    arm(&s->place, true);
    int r = vdisk_open(s->place.path, &options, &fault_key, &s->image, &error);
    arm(&s->place, false);
    fault_expect_sentence(r, &error);
    s->failures += r != 0;
    if (r)
        s->image = NULL;
    return r == 0;
}

/* A fault that comes once does not come again. */
static void open_image(struct fault_scenario *s, bool read_only)
{
    if (s->given_up)
        return;
    for (unsigned i = 0; i < 3; i++) {
        if (crashed_open(s, read_only))
            return;
    }
    assert_true(s->flags & FAULT_MAY_BE_SHUT);
    s->given_up = true;
}

static void close_image(struct fault_scenario *s)
{
    struct vdisk_error error = {0};
    if (!s->image)
        return;
    arm(&s->place, true);
    int r = vdisk_close(s->image, &error);
    arm(&s->place, false);
    s->image = NULL;
    fault_expect_sentence(r, &error);
    s->failures += r != 0;
    if (r)
        fault_forget(s);
    else
        settle(&s->live);
}

static void leave_failed(struct fault_scenario *s)
{
    if (vdisk_flush(s->image) != VDISK_E_FAILED)
        return;
    fault_forget(s);
    if (s->flags & FAULT_STOP_WHEN_FAILED) {
        vdisk_abandon(s->image);
        s->image = NULL;
        s->given_up = true;
        return;
    }
    close_image(s);
    open_image(s, false);
}

/* After a failure the image goes on, or says that it must be opened anew. */
static bool after(struct fault_scenario *s, int r)
{
    arm(&s->place, false);
    fault_expect_sentence(r, vdisk_last_error(s->image));
    if (r == 0)
        return true;
    s->failures++;
    leave_failed(s);
    return false;
}

#define CALL(s, ...) ((s)->image && (arm(&(s)->place, true), after((s), (__VA_ARGS__))))

/* ---- operations ---- */

static void write_cells(struct fault_scenario *s, unsigned from, unsigned to)
{
    uint8_t *data = malloc(FAULT_CELL_BYTES);
    assert_non_null(data);
    for (unsigned c = from; c < to && s->image; c++) {
        unsigned content = ++s->generation;
        fill_sectors(data, content, c, 0, FAULT_CELL_BYTES / SECTOR);
        bool ok = CALL(s, vdisk_write(s->image, cell_offset(c), data, FAULT_CELL_BYTES));
        push(&s->live.cell[c], content, ok);
    }
    free(data);
}

static void clear_cells(struct fault_scenario *s, unsigned from, unsigned to, bool hole)
{
    for (unsigned c = from; c < to && s->image; c++) {
        uint64_t offset = cell_offset(c);
        bool ok = CALL(s, hole ? vdisk_discard(s->image, offset, FAULT_CELL_BYTES)
                               : vdisk_zero(s->image, offset, FAULT_CELL_BYTES));
        push(&s->live.cell[c], 0, ok);
    }
}

static void flush(struct fault_scenario *s)
{
    if (CALL(s, vdisk_flush(s->image)))
        settle(&s->live);
}

static void checkpoint(struct fault_scenario *s)
{
    if (CALL(s, vdisk_checkpoint(s->image)))
        settle(&s->live);
}

struct async {
    struct vdisk_request request;
    uint8_t *data;
    unsigned *left;
};

static void async_done(struct vdisk_request *request)
{
    struct async *async = request->owner;
    --*async->left;
}

/* Many requests at once, and a flush among them. */
static void write_many(struct fault_scenario *s, unsigned from)
{
    struct async async[ASYNC + 1] = {0};
    unsigned left = ASYNC + 1;
    int r = 0;
    if (!s->image)
        return;
    for (unsigned i = 0; i < ASYNC; i++) {
        async[i].data = malloc(FAULT_CELL_BYTES);
        assert_non_null(async[i].data);
        fill_sectors(async[i].data, s->generation + 1 + i, from + i, 0, FAULT_CELL_BYTES / SECTOR);
    }
    arm(&s->place, true);
    for (unsigned i = 0; i <= ASYNC; i++) {
        async[i].left = &left;
        async[i].request = (struct vdisk_request){.op = i < ASYNC ? VDISK_WRITE : VDISK_FLUSH,
                                                  .fua = i == 3,
                                                  .offset = cell_offset(from + i),
                                                  .length = FAULT_CELL_BYTES,
                                                  .data = async[i].data,
                                                  .done = async_done,
                                                  .owner = &async[i]};
        vdisk_submit(s->image, &async[i].request);
    }
    while (left)
        vdisk_poll(s->image, true);
    arm(&s->place, false);
    for (unsigned i = 0; i < ASYNC; i++) {
        push(&s->live.cell[from + i], ++s->generation, async[i].request.result == 0);
        free(async[i].data);
    }
    for (unsigned i = 0; i <= ASYNC; i++)
        r = async[i].request.result ? async[i].request.result : r;
    if (r) {
        s->failures++;
        assert_true(r < 0 && vdisk_last_error(s->image)->text[0]);
        leave_failed(s);
    }
}

static void create_snapshot(struct fault_scenario *s, unsigned n)
{
    if (!s->image)
        return;
    struct fault_state before = s->live;
    bool ok = CALL(s, vdisk_snapshot_create(s->image, snapshot_name[n]));
    if (ok)
        settle(&s->live);
    s->snapshot[n] = ok ? s->live : before;
    s->snapshot[n].there = ok ? FAULT_PRESENT : FAULT_MAYBE;
}

static void delete_snapshot(struct fault_scenario *s, unsigned n)
{
    if (!s->image || s->snapshot[n].there == FAULT_ABSENT)
        return;
    bool ok = CALL(s, vdisk_snapshot_delete(s->image, snapshot_name[n]));
    if (ok)
        settle(&s->live);
    s->snapshot[n].there = ok ? FAULT_ABSENT : FAULT_MAYBE;
}

static void roll_back(struct fault_scenario *s, unsigned n)
{
    if (!s->image || s->snapshot[n].there == FAULT_ABSENT)
        return;
    struct fault_state target = s->snapshot[n];
    bool ok = CALL(s, vdisk_snapshot_rollback(s->image, snapshot_name[n]));
    if (!ok) {
        mix(&s->live, &target);
        return;
    }
    s->live = target;
    fault_forget(s); /* which of several contents it was is not known */
}

static void resize(struct fault_scenario *s, uint64_t size)
{
    if (!s->image)
        return;
    uint64_t before = vdisk_size(s->image);
    bool ok = CALL(s, vdisk_resize(s->image, size, true));
    s->live.size[0] = size;
    s->live.size[1] = ok ? size : before;
    for (unsigned c = (unsigned)(size / FAULT_STRIDE); c < before / FAULT_STRIDE; c++)
        push(&s->live.cell[c], 0, ok);
    if (ok)
        settle(&s->live);
}

static void change_keys(struct fault_scenario *s)
{
    unsigned slot;
    if (!s->image)
        return;
    bool ok = CALL(s, vdisk_key_add(s->image, &fault_extra_key, &slot));
    s->extra_key = ok ? FAULT_PRESENT : FAULT_MAYBE;
}

static void remove_key(struct fault_scenario *s)
{
    if (!s->image || s->extra_key != FAULT_PRESENT)
        return;
    struct vdisk_keyslot_info slots[VDISK_KEYSLOTS];
    if (vdisk_key_list(s->image, slots) < 2) { /* opened anew, and it was not there */
        fail_msg("the added key is gone");
        return;
    }
    bool ok = CALL(s, vdisk_key_remove(s->image, slots[1].slot));
    s->extra_key = ok ? FAULT_ABSENT : FAULT_MAYBE;
}

/* ---- comparing ---- */

/* The number of a content of the list that this sector has. */
static bool sector_allowed(const struct fault_cell *cell, unsigned c, unsigned sector,
                           const uint8_t *seen)
{
    uint8_t want[SECTOR];
    for (unsigned i = cell->count; i-- > 0;) {
        fill_sectors(want, cell->content[i], c, sector, 1);
        if (memcmp(want, seen, SECTOR) == 0)
            return true;
    }
    return false;
}

static void describe(const struct fault_cell *cell, char *text, size_t room)
{
    text[0] = 0;
    for (unsigned i = 0; i < cell->count; i++)
        snprintf(text + strlen(text), room - strlen(text), " %u%s", cell->content[i],
                 cell->sure[i] ? "" : "?");
}

static void compare_cell(const struct fault_state *state, unsigned c, const uint8_t *data,
                         const char *what)
{
    char text[200];
    for (unsigned i = 0; i < FAULT_CELL_BYTES / SECTOR; i++) {
        if (sector_allowed(&state->cell[c], c, i, data + (size_t)i * SECTOR))
            continue;
        describe(&state->cell[c], text, sizeof(text));
        fail_msg("%s: cell %u, sector %u begins with %02x%02x: none of%s", what, c, i,
                 data[(size_t)i * SECTOR], data[(size_t)i * SECTOR + 1], text);
    }
}

/* Reads may fail as long as faults are armed. */
static void compare_state(struct fault_scenario *s, const struct fault_state *state,
                          struct vdisk_snapshot *snapshot, const char *what, bool faults)
{
    uint8_t *data = malloc(FAULT_CELL_BYTES);
    struct vdisk_snapshot_info info;
    uint64_t size = vdisk_size(s->image);
    assert_non_null(data);
    if (snapshot) {
        vdisk_snapshot_get_info(snapshot, &info);
        size = info.size;
    }
    if (size != state->size[0] && size != state->size[1])
        fail_msg("%s: the size is %llu", what, (unsigned long long)size);
    for (unsigned c = 0; c < size / FAULT_STRIDE; c++) {
        arm(&s->place, faults);
        int r = snapshot ? vdisk_snapshot_read(snapshot, cell_offset(c), data, FAULT_CELL_BYTES)
                         : vdisk_read(s->image, cell_offset(c), data, FAULT_CELL_BYTES);
        arm(&s->place, false);
        fault_expect_sentence(r, vdisk_last_error(s->image));
        if (r && !faults)
            fail_msg("%s: cell %u: %d: %s", what, c, r, vdisk_last_error(s->image)->text);
        s->failures += r != 0;
        if (r == 0)
            compare_cell(state, c, data, what);
    }
    free(data);
}

static void read_all(struct fault_scenario *s)
{
    if (s->image)
        compare_state(s, &s->live, NULL, "live, among faults", true);
}

static void compare_snapshot(struct fault_scenario *s, unsigned n)
{
    struct vdisk_snapshot *snapshot;
    int r = vdisk_snapshot_open(s->image, snapshot_name[n], &snapshot);
    if (r == VDISK_E_NOT_FOUND && s->snapshot[n].there != FAULT_PRESENT) {
        s->snapshot[n].there = FAULT_ABSENT;
        return;
    }
    if (r)
        fail_msg("snapshot %s: %d: %s", snapshot_name[n], r, vdisk_last_error(s->image)->text);
    assert_int_not_equal(s->snapshot[n].there, FAULT_ABSENT);
    compare_state(s, &s->snapshot[n], snapshot, snapshot_name[n], false);
    vdisk_snapshot_close(snapshot);
}

static void note_finding(void *opaque, const struct vdisk_check_finding *finding)
{
    snprintf(opaque, VDISK_ERROR_TEXT_BYTES, "%s", finding->text);
}

static void expect_clean(struct vdisk_image *image)
{
    char text[VDISK_ERROR_TEXT_BYTES] = "";
    struct vdisk_check_options options = {
        .struct_bytes = sizeof(options), .finding = note_finding, .opaque = text};
    struct vdisk_check_result result;
    int r = vdisk_check(image, &options, &result);
    if (r || result.damaged || result.leaked_blocks)
        fail_msg("check: %d: %s; %s", r, vdisk_last_error(image)->text, text);
}

static void must_open(struct fault_scenario *s, bool read_only)
{
    struct vdisk_error error = {0};
    struct vdisk_open_options options = {.struct_bytes = sizeof(options), .read_only = read_only};
    options.io = s->place.io ? s->place.io(s->place.arg) : NULL;
    int r = vdisk_open(s->place.path, &options, &fault_key, &s->image, &error);
    if (r)
        fail_msg("it does not open: %d: %s", r, error.text);
}

static void must_close(struct fault_scenario *s)
{
    struct vdisk_error error = {0};
    int r = vdisk_close(s->image, &error);
    s->image = NULL;
    if (r)
        fail_msg("it does not close: %d: %s", r, error.text);
}

static void compare_all(struct fault_scenario *s)
{
    compare_state(s, &s->live, NULL, "live", false);
    compare_snapshot(s, 0);
    compare_snapshot(s, 1);
}

void fault_verify(struct fault_scenario *s, const struct fault_place *place)
{
    unsigned failures = s->failures;
    s->place = *place;
    s->given_up = false;
    must_open(s, true);
    compare_all(s);
    must_close(s);

    must_open(s, false);
    compare_all(s);
    must_close(s); /* mends copies of header and superblock of which one is newer */

    must_open(s, false);
    expect_clean(s->image);
    s->live.size[0] = s->live.size[1] = vdisk_size(s->image);
    write_cells(s, 2, 6);
    flush(s);
    assert_int_equal(vdisk_snapshot_create(s->image, "afterwards"), 0);
    write_cells(s, 3, 5);
    assert_int_equal(vdisk_snapshot_delete(s->image, "afterwards"), 0);
    compare_all(s);
    expect_clean(s->image);
    must_close(s);

    must_open(s, true);
    settle(&s->live);
    compare_all(s);
    must_close(s);
    assert_int_equal(s->failures, failures);
}

/* ---- the life ---- */

static bool create_image(struct fault_scenario *s)
{
    struct vdisk_error error = {0};
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options),
        .size = 6 * MIB,
        .cluster_bytes = 16384,
        .journal_log2 = 5,
        .compress = true,
    };
    options.io = s->place.io ? s->place.io(s->place.arg) : NULL;
    arm(&s->place, true);
    int r = vdisk_create(s->place.path, &options, &fault_key, &s->image, &error);
    arm(&s->place, false);
    fault_expect_sentence(r, &error);
    s->failures += r != 0;
    s->created = r == 0;
    if (r)
        s->image = NULL;
    return s->created;
}

static void crash_and_open(struct fault_scenario *s, bool read_only)
{
    if (!s->image)
        return;
    vdisk_abandon(s->image);
    s->image = NULL;
    fault_forget(s);
    open_image(s, read_only);
}

static void early_life(struct fault_scenario *s)
{
    write_cells(s, 0, 10);
    flush(s);
    checkpoint(s);
    create_snapshot(s, 0);
    write_cells(s, 3, 12);
    flush(s);
    create_snapshot(s, 1);
    clear_cells(s, 5, 7, true);
    clear_cells(s, 7, 8, false);
    flush(s);
    read_all(s);
    change_keys(s);
    write_many(s, 8);
    flush(s);
    write_cells(s, 1, 2);
    delete_snapshot(s, 0);
}

static void late_life(struct fault_scenario *s)
{
    write_cells(s, 16, 18);
    flush(s);
    write_cells(s, 17, 19);
    crash_and_open(s, true);
    read_all(s);
    crash_and_open(s, false);
    write_cells(s, 1, 3);
    roll_back(s, 1);
    write_cells(s, 2, 5);
    resize(s, 8 * MIB);
    write_cells(s, 23, 30);
    if (s->image && vdisk_size(s->image) == 8 * MIB)
        resize(s, 5 * MIB);
    remove_key(s);
    if (s->image)
        (void)CALL(s, vdisk_compact(s->image, NULL, NULL, NULL));
    close_image(s);
    open_image(s, false);
    read_all(s);
    write_cells(s, 9, 10);
    close_image(s);
}

void fault_live(struct fault_scenario *s, const struct fault_place *place, unsigned flags)
{
    *s = (struct fault_scenario){.place = *place, .flags = flags};
    for (unsigned c = 0; c < FAULT_CELLS; c++)
        push(&s->live.cell[c], 0, true);
    s->live.size[0] = s->live.size[1] = 6 * MIB;
    if (!create_image(s))
        return;
    early_life(s);
    late_life(s);
}
