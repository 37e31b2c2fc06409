/* SPDX-License-Identifier: Apache-2.0 */
/* What an image shows, and whether another shows the same (picture.h). */
#include "picture.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES (UINT64_C(2) << 20)

static void *must(void *memory)
{
    if (!memory)
        abort(); /* a test cannot go on */
    return memory;
}

/* --- asking --- */

static bool add_extent(void *opaque, const struct vdisk_extent *extent)
{
    struct picture_extents *list = opaque;

    if (list->count == list->room) {
        list->room = list->room ? list->room * 2 : 32;
        list->extent = must(realloc(list->extent, list->room * sizeof(*list->extent)));
    }
    list->extent[list->count++] = *extent;
    return true;
}

static bool add_info(void *opaque, const struct vdisk_snapshot_info *info)
{
    struct picture *picture = opaque;

    if (picture->states == PICTURE_STATES - 1)
        return false;
    picture->state[picture->states++].info = *info;
    return true;
}

static bool is_stored(const struct vdisk_extent *extent)
{
    return extent->kind != VDISK_EXTENT_HOLE && extent->kind != VDISK_EXTENT_ZERO;
}

static int read_state(struct vdisk_image *image, struct vdisk_snapshot *snapshot, uint64_t offset,
                      void *data, uint64_t length)
{
    return snapshot ? vdisk_snapshot_read(snapshot, offset, data, length)
                    : vdisk_read(image, offset, data, length);
}

/* --- taking --- */

static void take_data(struct vdisk_image *image, struct vdisk_snapshot *snapshot,
                      struct picture_state *state)
{
    uint8_t *at;

    for (size_t i = 0; i < state->map.count; i++) {
        if (is_stored(&state->map.extent[i]))
            state->data_bytes += state->map.extent[i].length;
    }
    state->data = at = must(malloc(state->data_bytes + 1));
    for (size_t i = 0; i < state->map.count; i++) {
        const struct vdisk_extent *extent = &state->map.extent[i];

        if (!is_stored(extent))
            continue;
        if (read_state(image, snapshot, extent->offset, at, extent->length))
            abort();
        at += extent->length;
    }
}

struct picture *picture_take(struct vdisk_image *image)
{
    struct picture *picture = must(calloc(1, sizeof(*picture)));
    struct vdisk_snapshot *before = NULL;
    int r = vdisk_snapshot_list(image, add_info, picture);

    picture->state[picture->states++].info.size = vdisk_size(image);
    for (unsigned i = 0; !r && i < picture->states; i++) {
        struct picture_state *state = &picture->state[i];
        struct vdisk_snapshot *snapshot = NULL;

        if (i + 1 < picture->states)
            r = vdisk_snapshot_open(image, state->info.name, &snapshot);
        if (!r)
            r = vdisk_map(image, snapshot, 0, state->info.size, true, add_extent, &state->map);
        if (!r)
            take_data(image, snapshot, state);
        if (!r && before)
            r = vdisk_diff(image, before, snapshot, add_extent, &state->changes);
        vdisk_snapshot_close(before);
        before = snapshot;
    }
    vdisk_snapshot_close(before);
    if (r)
        abort();
    return picture;
}

void picture_free(struct picture *picture)
{
    if (!picture)
        return;
    for (unsigned i = 0; i < picture->states; i++) {
        free(picture->state[i].map.extent);
        free(picture->state[i].changes.extent);
        free(picture->state[i].data);
    }
    free(picture);
}

/* --- comparing --- */

struct comparison {
    const struct picture *picture;
    struct vdisk_image *image;
    struct picture_result result;
    uint8_t *buffer;
    int flags;
};

static void wrong(struct comparison *c, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static void wrong(struct comparison *c, const char *format, ...)
{
    va_list ap;

    if (c->result.wrong)
        return;
    c->result.wrong = true;
    va_start(ap, format);
    vsnprintf(c->result.text, sizeof(c->result.text), format, ap);
    va_end(ap);
}

/* An error is an answer; but not every one: these say that the test or the library is wrong. */
static bool failed(struct comparison *c, int r, const char *what)
{
    if (r == 0)
        return false;
    if (c->result.errors++ == 0)
        snprintf(c->result.error, sizeof(c->result.error), "%s: %d: %.120s", what, r,
                 vdisk_last_error(c->image)->text);
    if (r == -EINVAL || r == -ENOMEM || r > 0)
        wrong(c, "%s: unexpected error %d: %s", what, r, vdisk_last_error(c->image)->text);
    return true;
}

static void compare_extents(struct comparison *c, const struct picture_extents *want,
                            const struct picture_extents *have, const char *what,
                            const struct picture_state *state)
{
    bool same = want->count == have->count;

    for (size_t i = 0; same && i < want->count; i++) {
        const struct vdisk_extent *a = &want->extent[i], *b = &have->extent[i];

        same = a->offset == b->offset && a->length == b->length && a->kind == b->kind &&
               a->depth == b->depth;
    }
    if (!same)
        wrong(c, "the %s of \"%s\" is another", what, state->info.name);
}

/* `want` NULL: zeros. */
static void compare_range(struct comparison *c, struct vdisk_snapshot *snapshot, uint64_t offset,
                          uint64_t length, const uint8_t *want)
{
    uint64_t size = snapshot ? 0 : vdisk_size(c->image);

    if (!snapshot && (offset > size || length > size - offset))
        return; /* the size is another, which was said */
    while (length) {
        uint64_t n = length < PIECE_BYTES ? length : PIECE_BYTES;
        bool same = true;

        memset(c->buffer, 0xee, n);
        if (!failed(c, read_state(c->image, snapshot, offset, c->buffer, n), "read")) {
            if (want)
                same = memcmp(c->buffer, want, n) == 0;
            else
                same = c->buffer[0] == 0 && memcmp(c->buffer, c->buffer + 1, n - 1) == 0;
        }
        if (!same)
            wrong(c, "wrong data in the %llu bytes at offset %llu%s", (unsigned long long)n,
                  (unsigned long long)offset, snapshot ? " of a snapshot" : "");
        offset += n;
        length -= n;
        want = want ? want + n : NULL;
    }
}

static void compare_data(struct comparison *c, struct vdisk_snapshot *snapshot,
                         const struct picture_state *state)
{
    const uint8_t *at = state->data;

    for (size_t i = 0; i < state->map.count; i++) {
        const struct vdisk_extent *extent = &state->map.extent[i];

        if (is_stored(extent)) {
            compare_range(c, snapshot, extent->offset, extent->length, at);
            at += extent->length;
        } else if (c->flags & PICTURE_WHOLE) {
            compare_range(c, snapshot, extent->offset, extent->length, NULL);
        }
    }
}

static void compare_state(struct comparison *c, const struct picture_state *state,
                          struct vdisk_snapshot *before, struct vdisk_snapshot *snapshot)
{
    struct picture_extents map = {0}, changes = {0};

    if (!failed(c, vdisk_map(c->image, snapshot, 0, state->info.size, true, add_extent, &map),
                "map"))
        compare_extents(c, &state->map, &map, "map", state);
    free(map.extent);
    if (before && !failed(c, vdisk_diff(c->image, before, snapshot, add_extent, &changes), "diff"))
        compare_extents(c, &state->changes, &changes, "difference", state);
    free(changes.extent);
    compare_data(c, snapshot, state);
}

static bool same_info(const struct vdisk_snapshot_info *a, const struct vdisk_snapshot_info *b)
{
    return a->id == b->id && a->parent == b->parent && a->size == b->size &&
           a->created == b->created && strcmp(a->name, b->name) == 0 &&
           memcmp(a->root_tag, b->root_tag, sizeof(a->root_tag)) == 0;
}

static void compare_list(struct comparison *c)
{
    struct picture *have = must(calloc(1, sizeof(*have)));

    if (!failed(c, vdisk_snapshot_list(c->image, add_info, have), "list")) {
        bool same = have->states + 1 == c->picture->states;

        for (unsigned i = 0; same && i < have->states; i++)
            same = same_info(&have->state[i].info, &c->picture->state[i].info);
        if (!same)
            wrong(c, "the list of snapshots is another");
    }
    free(have);
}

static void note_finding(void *opaque, const struct vdisk_check_finding *finding)
{
    struct comparison *c = opaque;

    snprintf(c->result.finding, sizeof(c->result.finding), "%s", finding->text);
}

static void compare_check(struct comparison *c)
{
    struct vdisk_check_options options = {
        .struct_bytes = sizeof(options), .finding = note_finding, .opaque = c};
    struct vdisk_check_result result;
    int r = vdisk_check(c->image, &options, &result);

    if (failed(c, r, "check"))
        return;
    if (c->result.errors)
        wrong(c, "check finds nothing after %u errors", c->result.errors);
}

struct picture_result picture_compare(const struct picture *picture, struct vdisk_image *image,
                                      int flags)
{
    struct comparison c = {.picture = picture, .image = image, .flags = flags};
    struct vdisk_snapshot *before = NULL;

    c.buffer = must(aligned_alloc(VDISK_BLOCK_BYTES, PIECE_BYTES));
    compare_list(&c);
    if (vdisk_size(image) != picture->state[picture->states - 1].info.size)
        wrong(&c, "the drive has %llu bytes", (unsigned long long)vdisk_size(image));
    for (unsigned i = 0; !c.result.wrong && i < picture->states; i++) {
        const struct picture_state *state = &picture->state[i];
        struct vdisk_snapshot *snapshot = NULL;

        if (i + 1 < picture->states) {
            int r = vdisk_snapshot_open(image, state->info.name, &snapshot);

            if (r == VDISK_E_NOT_FOUND)
                wrong(&c, "the snapshot \"%s\" is gone", state->info.name);
            if (failed(&c, r, "open snapshot")) {
                vdisk_snapshot_close(before);
                before = NULL;
                continue;
            }
        }
        compare_state(&c, state, before, snapshot);
        vdisk_snapshot_close(before);
        before = snapshot;
    }
    vdisk_snapshot_close(before);
    if (flags & PICTURE_CHECK)
        compare_check(&c);
    free(c.buffer);
    return c.result;
}
