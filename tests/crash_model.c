/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The model of what may be there after a power cut (crash_model.h).
 */
#include "crash_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t contents_live;

static void *must(void *memory)
{
    if (!memory)
        abort(); /* a test cannot go on */
    return memory;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* --- contents --- */

static const uint8_t zeros[CRASH_BLOCK];

static struct crash_content *content_new(const uint8_t *bytes)
{
    if (memcmp(bytes, zeros, CRASH_BLOCK) == 0)
        return NULL;
    struct crash_content *content = must(malloc(sizeof(*content)));
    content->references = 1;
    memcpy(content->bytes, bytes, CRASH_BLOCK);
    contents_live++;
    return content;
}

static struct crash_content *content_take(struct crash_content *content)
{
    if (content)
        content->references++;
    return content;
}

static void content_drop(struct crash_content *content)
{
    if (!content || --content->references)
        return;
    free(content);
    contents_live--;
}

static const uint8_t *content_bytes(const struct crash_content *content)
{
    return content ? content->bytes : zeros;
}

size_t crash_contents_live(void)
{
    return contents_live;
}

/* --- cells --- */

static void version_free(struct crash_version *version)
{
    content_drop(version->content);
    free(version);
}

static void drop_newer(struct crash_cell *cell)
{
    while (cell->newer) {
        struct crash_version *version = cell->newer;
        cell->newer = version->next;
        version_free(version);
    }
}

/* Takes the content over. */
static void set_base(struct crash_cell *cell, struct crash_content *content)
{
    content_drop(cell->base);
    cell->base = content;
    drop_newer(cell);
}

/* Takes the content over. */
static void add_version(struct crash_cell *cell, struct crash_content *content, uint64_t request,
                        uint64_t acked)
{
    struct crash_version **p = &cell->newer;
    while (*p)
        p = &(*p)->next;
    *p = must(malloc(sizeof(**p)));
    **p = (struct crash_version){.content = content, .request = request, .acked = acked};
}

/* This version becomes the base; what came before it goes. */
static void settle_on(struct crash_cell *cell, const struct crash_version *version)
{
    for (bool reached = false; !reached;) {
        struct crash_version *first = cell->newer;
        reached = first == version;
        cell->newer = first->next;
        content_drop(cell->base);
        cell->base = content_take(first->content);
        version_free(first);
    }
}

static void settle(struct crash_cell *cell, uint64_t when, uint64_t now)
{
    struct crash_version *last = NULL;
    for (struct crash_version *v = cell->newer; v; v = v->next) {
        if (when == UINT64_MAX || (v->acked && v->acked <= when))
            last = v;
    }
    if (last) {
        settle_on(cell, last);
        cell->settled = now;
    }
}

static struct crash_content *latest(const struct crash_cell *cell)
{
    struct crash_content *content = cell->base;
    for (const struct crash_version *v = cell->newer; v; v = v->next)
        content = v->content;
    return content;
}

static void copy_cell(struct crash_cell *to, const struct crash_cell *from)
{
    struct crash_version **tail = &to->newer;
    to->base = content_take(from->base);
    to->settled = from->settled;
    for (const struct crash_version *v = from->newer; v; v = v->next) {
        *tail = must(malloc(sizeof(**tail)));
        **tail = *v;
        content_take(v->content);
        tail = &(*tail)->next;
    }
    *tail = NULL;
}

static struct crash_cells *cells_new(void)
{
    struct crash_cells *cells = must(calloc(1, sizeof(*cells)));
    cells->references = 1;
    return cells;
}

static struct crash_cells *cells_copy(const struct crash_cells *from)
{
    struct crash_cells *cells = cells_new();
    for (unsigned i = 0; i < CRASH_CELLS; i++) {
        if (from->cell[i].base || from->cell[i].newer)
            copy_cell(&cells->cell[i], &from->cell[i]);
    }
    return cells;
}

static void cells_drop(struct crash_cells *cells)
{
    if (--cells->references)
        return;
    for (unsigned i = 0; i < CRASH_CELLS; i++) {
        drop_newer(&cells->cell[i]);
        content_drop(cells->cell[i].base);
    }
    free(cells);
}

/* --- worlds --- */

struct crash_world *crash_world_new(uint64_t size)
{
    struct crash_world *world = must(calloc(1, sizeof(*world)));
    world->keys = 1;
    world->live.size = size;
    world->live.cells = cells_new();
    return world;
}

struct crash_world *crash_world_copy(const struct crash_world *from)
{
    struct crash_world *world = must(malloc(sizeof(*world)));
    *world = *from;
    world->live.cells = cells_copy(from->live.cells);
    for (unsigned i = 0; i < from->snapshots; i++) {
        struct crash_cells *cells = from->snapshot[i].cells;
        if (cells->exact)
            cells->references++;
        else
            world->snapshot[i].cells = cells_copy(cells);
    }
    return world;
}

void crash_world_free(struct crash_world *world)
{
    if (!world)
        return;
    cells_drop(world->live.cells);
    for (unsigned i = 0; i < world->snapshots; i++)
        cells_drop(world->snapshot[i].cells);
    free(world);
}

/* --- requests --- */

void crash_world_write(struct crash_world *world, uint64_t request, uint64_t offset,
                       const uint8_t *data, uint64_t length)
{
    uint64_t end = offset + length;
    for (uint64_t at = offset; at < end;) {
        uint64_t block = at / CRASH_BLOCK, skip = at % CRASH_BLOCK;
        uint64_t count = smaller(CRASH_BLOCK - skip, end - at);
        struct crash_cell *cell = &world->live.cells->cell[block];
        uint8_t bytes[CRASH_BLOCK];
        memcpy(bytes, content_bytes(latest(cell)), CRASH_BLOCK);
        memcpy(bytes + skip, data ? data + (at - offset) : zeros, count);
        add_version(cell, content_new(bytes), request, 0);
        world->touched[block] = true;
        at += count;
    }
}

void crash_world_ack(struct crash_world *world, uint64_t request, uint64_t offset, uint64_t length)
{
    uint64_t now = ++world->clock;
    for (uint64_t b = offset / CRASH_BLOCK; b * CRASH_BLOCK < offset + length; b++) {
        for (struct crash_version *v = world->live.cells->cell[b].newer; v; v = v->next) {
            if (v->request == request)
                v->acked = now;
        }
    }
}

void crash_world_fua(struct crash_world *world, uint64_t request, uint64_t offset, uint64_t length)
{
    for (uint64_t b = offset / CRASH_BLOCK; b * CRASH_BLOCK < offset + length; b++) {
        struct crash_cell *cell = &world->live.cells->cell[b];
        const struct crash_version *v = cell->newer;
        while (v && v->request != request)
            v = v->next;
        if (v) {
            settle_on(cell, v);
            cell->settled = world->clock;
        }
    }
}

void crash_world_flushed(struct crash_world *world, uint64_t when)
{
    for (unsigned i = 0; i < CRASH_CELLS; i++)
        settle(&world->live.cells->cell[i], when, world->clock);
}

void crash_world_outlives(struct crash_world *world, uint64_t request, uint64_t offset,
                          uint64_t length)
{
    for (uint64_t b = offset / CRASH_BLOCK; b * CRASH_BLOCK < offset + length; b++) {
        for (struct crash_version *v = world->live.cells->cell[b].newer; v; v = v->next)
            v->outlives |= v->request == request;
    }
}

void crash_world_killed(struct crash_world *world)
{
    for (unsigned i = 0; i < CRASH_CELLS; i++) {
        struct crash_cell *cell = &world->live.cells->cell[i];
        const struct crash_version *last = NULL;
        for (const struct crash_version *v = cell->newer; v; v = v->next)
            last = v->outlives ? v : last;
        if (last)
            settle_on(cell, last);
    }
}

void crash_world_read(const struct crash_world *world, uint64_t offset, uint8_t *data,
                      uint64_t length)
{
    for (uint64_t at = offset; at < offset + length;) {
        uint64_t skip = at % CRASH_BLOCK;
        uint64_t count = smaller(CRASH_BLOCK - skip, offset + length - at);
        const struct crash_content *content = latest(&world->live.cells->cell[at / CRASH_BLOCK]);
        memcpy(data + (at - offset), content_bytes(content) + skip, count);
        at += count;
    }
}

void crash_world_show(struct crash_world *world, const struct crash_world *shown)
{
    world->clock++;
    for (unsigned i = 0; i < CRASH_CELLS; i++) {
        struct crash_cell *cell = &world->live.cells->cell[i];
        if (cell->newer)
            add_version(cell, content_take(shown->live.cells->cell[i].base), 0, world->clock);
    }
}

/* --- states --- */

void crash_world_create(struct crash_world *world, const char *name)
{
    struct crash_state *snapshot = &world->snapshot[world->snapshots++];
    crash_world_flushed(world, world->clock);
    *snapshot =
        (struct crash_state){.size = world->live.size, .cells = cells_copy(world->live.cells)};
    strcpy(snapshot->name, name);
}

void crash_world_delete(struct crash_world *world, unsigned snapshot)
{
    crash_world_flushed(world, world->clock);
    cells_drop(world->snapshot[snapshot].cells);
    world->snapshots--;
    memmove(&world->snapshot[snapshot], &world->snapshot[snapshot + 1],
            (world->snapshots - snapshot) * sizeof(world->snapshot[0]));
}

void crash_world_rollback(struct crash_world *world, unsigned snapshot)
{
    cells_drop(world->live.cells);
    world->live.cells = cells_copy(world->snapshot[snapshot].cells);
    world->live.size = world->snapshot[snapshot].size;
}

void crash_world_resize(struct crash_world *world, uint64_t size)
{
    crash_world_flushed(world, world->clock);
    world->live.size = size;
}

/* --- comparing --- */

#define READ_BLOCKS 128u
#define RECENT      4u /* completions: what was made durable so lately is always compared */

static _Alignas(4096) uint8_t seen[READ_BLOCKS * CRASH_BLOCK];

static bool cell_matches(struct crash_cell *cell, const uint8_t *bytes, bool pin)
{
    struct crash_content *match = cell->base;
    bool found = memcmp(content_bytes(match), bytes, CRASH_BLOCK) == 0;
    for (struct crash_version *v = cell->newer; v && !found; v = v->next) {
        match = v->content;
        found = memcmp(content_bytes(match), bytes, CRASH_BLOCK) == 0;
    }
    if (found && pin && cell->newer)
        set_base(cell, content_take(match));
    return found;
}

/* What a block holds, in words: written blocks begin with their request and number. */
static void describe(const uint8_t *bytes, char text[40])
{
    if (memcmp(bytes, zeros, CRASH_BLOCK) == 0)
        strcpy(text, "zeros");
    else
        snprintf(text, 40, "\"%.23s\"", (const char *)bytes);
}

static void say_mismatch(const struct crash_state *state, uint64_t block, const uint8_t *bytes,
                         char *failure)
{
    const struct crash_cell *cell = &state->cells->cell[block];
    char found[40], base[40];
    unsigned versions = 0;
    for (const struct crash_version *v = cell->newer; v; v = v->next)
        versions++;
    describe(bytes, found);
    describe(content_bytes(cell->base), base);
    snprintf(failure, 256, "%s%s: block %llu holds %s; durable is %s, %u newer",
             state->name[0] ? "snapshot " : "live state", state->name, (unsigned long long)block,
             found, base, versions);
}

static bool read_and_compare(struct crash_state *state, struct vdisk_snapshot *snapshot,
                             uint64_t first, uint64_t end, const struct crash_look *look)
{
    uint64_t from = first * CRASH_BLOCK, to = smaller(end * CRASH_BLOCK, state->size);
    int r = snapshot ? vdisk_snapshot_read(snapshot, from, seen, to - from)
                     : vdisk_read(look->image, from, seen, to - from);
    if (r) {
        snprintf(look->failure, 256, "%s%s: reading at %llu: %.180s",
                 state->name[0] ? "snapshot " : "live state", state->name, (unsigned long long)from,
                 vdisk_last_error(look->image)->text);
        return false;
    }
    memset(seen + (to - from), 0, end * CRASH_BLOCK - to);
    for (uint64_t b = first; b < end; b++) {
        const uint8_t *bytes = seen + (b - first) * CRASH_BLOCK;
        if (!cell_matches(&state->cells->cell[b], bytes, look->pin)) {
            say_mismatch(state, b, bytes, look->failure);
            return false;
        }
    }
    return true;
}

/* Whether the cluster at `block` is to be compared. */
static bool wanted(const struct crash_world *world, const struct crash_state *state,
                   const struct crash_look *look, uint64_t block)
{
    const unsigned per = CRASH_CLUSTER / CRASH_BLOCK;
    bool touched = false;
    for (uint64_t b = block; b < block + per && b < CRASH_CELLS; b++) {
        touched |= world->touched[b];
        const struct crash_cell *cell = &state->cells->cell[b];
        if (cell->newer || (cell->settled && cell->settled + RECENT > world->clock))
            return true;
    }
    if (look->everything)
        return touched || sim_rng_chance(look->rng, 1, 8);
    return sim_rng_chance(look->rng, touched ? 4 : 1, 16);
}

/* snapshot NULL: the live state. */
static bool state_matches(struct crash_world *world, struct crash_state *state,
                          struct vdisk_snapshot *snapshot, const struct crash_look *look)
{
    const unsigned per = CRASH_CLUSTER / CRASH_BLOCK;
    uint64_t blocks = (state->size + CRASH_BLOCK - 1) / CRASH_BLOCK;
    uint64_t from = 0, to = 0; /* clusters to be compared together */
    for (uint64_t at = 0; at < blocks; at += per) {
        if (!wanted(world, state, look, at))
            continue;
        uint64_t end = smaller(at + per, blocks);
        if (to > from && (at > to + per || end - from > READ_BLOCKS)) {
            if (!read_and_compare(state, snapshot, from, to, look))
                return false;
            from = to;
        }
        if (to == from)
            from = at;
        to = end;
    }
    return to == from || read_and_compare(state, snapshot, from, to, look);
}

struct listing {
    const struct crash_world *world;
    unsigned seen;
    bool wrong;
};

static bool compare_listed(void *opaque, const struct vdisk_snapshot_info *info)
{
    struct listing *listing = opaque;
    const struct crash_state *expected = &listing->world->snapshot[listing->seen];
    listing->wrong |= listing->seen >= listing->world->snapshots ||
                      strcmp(info->name, expected->name) != 0 || info->size != expected->size;
    listing->seen++;
    return !listing->wrong;
}

bool crash_snapshot_matches(struct crash_world *world, unsigned number,
                            const struct crash_look *look)
{
    struct crash_state *state = &world->snapshot[number];
    struct vdisk_snapshot *snapshot;
    int r = vdisk_snapshot_open(look->image, state->name, &snapshot);
    if (r) {
        snprintf(look->failure, 256, "snapshot %s cannot be opened: %.180s", state->name,
                 vdisk_last_error(look->image)->text);
        return false;
    }
    bool ok = state_matches(world, state, snapshot, look);
    state->cells->exact |= ok && look->pin;
    vdisk_snapshot_close(snapshot);
    return ok;
}

bool crash_world_matches(struct crash_world *world, const struct crash_look *look)
{
    struct listing listing = {.world = world};
    struct vdisk_keyslot_info slots[VDISK_KEYSLOTS];
    if (vdisk_key_list(look->image, slots) != world->keys) {
        snprintf(look->failure, 256, "there are not %u keyslots", world->keys);
        return false;
    }
    if (vdisk_size(look->image) != world->live.size) {
        snprintf(look->failure, 256, "the drive has %llu bytes and not %llu",
                 (unsigned long long)vdisk_size(look->image), (unsigned long long)world->live.size);
        return false;
    }
    int r = vdisk_snapshot_list(look->image, compare_listed, &listing);
    if (r || listing.wrong || listing.seen != world->snapshots) {
        snprintf(look->failure, 256, "the list of snapshots is not as it was (%d)", r);
        return false;
    }
    if (!state_matches(world, &world->live, NULL, look))
        return false;
    for (unsigned i = 0; i < world->snapshots; i++) {
        if (!crash_snapshot_matches(world, i, look))
            return false;
    }
    return true;
}
