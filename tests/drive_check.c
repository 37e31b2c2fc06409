/* SPDX-License-Identifier: Apache-2.0 */
/* Comparing an image with a model of its drive; see drive_check.h. */
#include "drive_check.h"

#include "bytes.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

static bool fails(char *failure, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool fails(char *failure, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(failure, DRIVE_FAILURE_BYTES, format, ap);
    va_end(ap);
    return false;
}

/* --- content --- */

static int read_state(const struct drive_pair *pair, uint64_t offset, void *data, uint64_t length)
{
    return pair->snapshot ? vdisk_snapshot_read(pair->snapshot, offset, data, length)
                          : vdisk_read(pair->image, offset, data, length);
}

static bool check_range(const struct drive_pair *pair, uint64_t offset, uint64_t length,
                        uint8_t *data, uint8_t *want, char *failure)
{
    const char *what = pair->snapshot ? "snapshot" : "live state";
    int r = read_state(pair, offset, data, length);
    if (r)
        return fails(failure, "%s: read of %llu bytes at %llu: %d: %s", what,
                     (unsigned long long)length, (unsigned long long)offset, r,
                     vdisk_last_error(pair->image)->text);
    drive_read(pair->state, offset, want, length);
    if (memcmp(data, want, length) == 0)
        return true;
    uint64_t i = 0;
    while (data[i] == want[i])
        i++;
    return fails(failure, "%s: byte %llu is %02x, not %02x (read of %llu at %llu)", what,
                 (unsigned long long)offset + i, data[i], want[i], (unsigned long long)length,
                 (unsigned long long)offset);
}

bool drive_check_content(const struct drive_pair *pair, struct sim_rng *rng, char *failure)
{
    const uint64_t room = UINT64_C(3) << 20;
    uint64_t size = pair->state->size;
    uint8_t *data = malloc(room), *want = malloc(room);
    bool ok = true;
    assert(data && want);
    for (unsigned w = 0; w < DRIVE_WINDOWS && ok; w++) {
        uint64_t at = drive_window[w].offset;
        uint64_t end = vd_min64(at + drive_window[w].bytes, size);
        while (at < end && ok) {
            uint64_t length = sim_rng_chance(rng, 1, 4) ? 1 + sim_rng_below(rng, 100000)
                                                        : 1 + sim_rng_below(rng, room);
            length = vd_min64(length, end - at);
            ok = check_range(pair, at, length, data, want, failure);
            at += length;
        }
    }
    for (unsigned i = 0; i < 3 && ok; i++) {
        uint64_t at = sim_rng_below(rng, size);
        ok = check_range(pair, at, vd_min64(9000, size - at), data, want, failure);
    }
    free(data);
    free(want);
    return ok;
}

/* --- map --- */

struct map_walk {
    const struct drive_pair *pair;
    bool through_base;
    uint64_t next; /* where the next range must begin */
    char *failure;
    bool ok;
};

static bool each_extent(void *opaque, const struct vdisk_extent *e)
{
    struct map_walk *walk = opaque;
    const struct drive_pair *pair = walk->pair;
    const struct drive_state *shows = NULL;
    if (e->offset != walk->next || e->length == 0) {
        walk->ok = fails(walk->failure, "map: range at %llu of %llu where %llu was expected",
                         (unsigned long long)e->offset, (unsigned long long)e->length,
                         (unsigned long long)walk->next);
        return false;
    }
    walk->next += e->length;
    if (e->kind == VDISK_EXTENT_HOLE && !walk->through_base)
        shows = pair->below;
    if ((e->kind == VDISK_EXTENT_HOLE || e->kind == VDISK_EXTENT_ZERO) &&
        !drive_same(pair->state, shows, e->offset, e->length))
        walk->ok =
            fails(walk->failure, "map: kind %d at %llu of %llu is not what is read", (int)e->kind,
                  (unsigned long long)e->offset, (unsigned long long)e->length);
    if (!walk->through_base && e->depth)
        walk->ok = fails(walk->failure, "map: depth %u without the base", e->depth);
    return walk->ok;
}

bool drive_check_map(const struct drive_pair *pair, struct sim_rng *rng, char *failure)
{
    uint64_t size = pair->state->size;
    uint64_t offset = sim_rng_chance(rng, 1, 2) ? 0 : sim_rng_below(rng, size);
    uint64_t length =
        sim_rng_chance(rng, 1, 2) ? size - offset : 1 + sim_rng_below(rng, size - offset);
    struct map_walk walk = {.pair = pair,
                            .through_base = sim_rng_chance(rng, 1, 2),
                            .next = offset,
                            .failure = failure,
                            .ok = true};
    int r = vdisk_map(pair->image, pair->snapshot, offset, length, walk.through_base, each_extent,
                      &walk);
    if (r)
        return fails(failure, "map: %d: %s", r, vdisk_last_error(pair->image)->text);
    if (walk.ok && walk.next != offset + length)
        return fails(failure, "map: ends at %llu, not %llu", (unsigned long long)walk.next,
                     (unsigned long long)offset + length);
    return walk.ok;
}

/* --- difference --- */

struct diff_walk {
    bool reported[DRIVE_BLOCKS];
    uint64_t next;
    bool ordered;
};

static bool each_difference(void *opaque, const struct vdisk_extent *e)
{
    struct diff_walk *walk = opaque;
    unsigned i;
    if (e->offset < walk->next || e->length == 0)
        walk->ordered = false;
    walk->next = e->offset + e->length;
    for (unsigned w = 0; w < DRIVE_WINDOWS; w++) {
        uint64_t first = vd_max64(e->offset, drive_window[w].offset) / DRIVE_BLOCK;
        uint64_t end = vd_min64(vd_div_up(e->offset + e->length, DRIVE_BLOCK),
                                (drive_window[w].offset + drive_window[w].bytes) / DRIVE_BLOCK);
        for (uint64_t block = first; block < end; block++) {
            if (drive_index(block, &i))
                walk->reported[i] = true;
        }
    }
    return walk->ordered;
}

static bool changed(const struct drive_pair *older, const struct drive_pair *newer, unsigned i)
{
    uint32_t a = older->state->changed[i], b = newer->state->changed[i];
    uint64_t offset = drive_block(i) * DRIVE_BLOCK;
    uint64_t smaller = vd_min64(older->state->size, newer->state->size);
    if (older->below && offset + DRIVE_BLOCK > smaller)
        return true; /* past the end is zeros, a hole may be the base */
    return a != b || a == DRIVE_UNKNOWN;
}

static bool compare_reports(const struct drive_pair *older, const struct drive_pair *newer,
                            const struct diff_walk *walk, unsigned per, char *failure)
{
    for (unsigned i = 0; i < DRIVE_BLOCKS; i++) {
        const uint8_t *a = older->state->bytes + (size_t)i * DRIVE_BLOCK;
        const uint8_t *b = newer->state->bytes + (size_t)i * DRIVE_BLOCK;
        if (!walk->reported[i] && memcmp(a, b, DRIVE_BLOCK) != 0)
            return fails(failure, "diff: block %llu differs and is not reported",
                         (unsigned long long)drive_block(i));
    }
    for (unsigned i = 0; per && i < DRIVE_BLOCKS; i++) {
        unsigned first = i - i % per; /* windows begin and end at whole clusters */
        bool any = false;
        for (unsigned k = first; k < first + per && walk->reported[i] && !any; k++)
            any = changed(older, newer, k);
        if (walk->reported[i] && !any)
            return fails(failure, "diff: block %llu is reported, but its cluster was not changed",
                         (unsigned long long)drive_block(i));
    }
    return true;
}

bool drive_check_diff(const struct drive_pair *older, const struct drive_pair *newer, bool exact,
                      char *failure)
{
    struct diff_walk *walk = calloc(1, sizeof(*walk));
    struct vdisk_info info;
    assert(walk);
    walk->ordered = true;
    int r = vdisk_diff(older->image, older->snapshot, newer->snapshot, each_difference, walk);
    bool ok = r == 0;
    vdisk_get_info(older->image, &info);
    if (r)
        fails(failure, "diff: %d: %s", r, vdisk_last_error(older->image)->text);
    else if (!walk->ordered)
        ok = fails(failure, "diff: ranges that are empty or not ascending");
    else
        ok = compare_reports(older, newer, walk,
                             exact ? (unsigned)(info.cluster_bytes / DRIVE_BLOCK) : 0, failure);
    free(walk);
    return ok;
}

/* --- check --- */

static void note_finding(void *opaque, const struct vdisk_check_finding *finding)
{
    char *failure = opaque;
    if (!failure[0])
        fails(failure, "check: %s", finding->text);
}

bool drive_check_image(struct vdisk_image *image, char *failure)
{
    struct vdisk_check_options options = {
        .struct_bytes = sizeof(options), .finding = note_finding, .opaque = failure};
    struct vdisk_check_result result;
    failure[0] = 0;
    int r = vdisk_check(image, &options, &result);
    if (r && !failure[0])
        fails(failure, "check: %d: %s", r, vdisk_last_error(image)->text);
    if (!r && (result.damaged || result.leaked_blocks || failure[0]))
        return fails(failure, "check: clean, but %llu damaged and %llu leaked",
                     (unsigned long long)result.damaged, (unsigned long long)result.leaked_blocks);
    return r == 0;
}
