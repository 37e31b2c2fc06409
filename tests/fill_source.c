/* SPDX-License-Identifier: Apache-2.0 */
/* A source in memory; see fill_source.h. */
#include "fill_source.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool fails(struct fill_source *fill, struct vdisk_error *error)
{
    bool does =
        fill->broken || (fill->fail_one_in && sim_rng_chance(&fill->rng, 1, fill->fail_one_in));

    if (does)
        snprintf(error->text, sizeof(error->text), "the source is away");
    return does;
}

static int source_read(struct vdisk_source *source, uint64_t offset, void *data, uint64_t length,
                       struct vdisk_error *error)
{
    struct fill_source *fill = (struct fill_source *)source;

    if (length == 0 || offset > source->size || length > source->size - offset)
        abort(); /* is never asked */
    memset(data, 0xee, length);
    if (fails(fill, error))
        return -EIO;
    memcpy(data, fill->bytes + offset, length);
    fill->reads++;
    fill->read_bytes += length;
    return 0;
}

static bool is_zero(const struct fill_source *fill, uint64_t piece)
{
    uint64_t from = piece * fill->source.piece_bytes;
    uint64_t to = from + fill->source.piece_bytes;

    if (to > fill->source.size)
        to = fill->source.size;
    for (uint64_t i = from; i < to; i++) {
        if (fill->bytes[i])
            return false;
    }
    return true;
}

static int source_next(struct vdisk_source *source, uint64_t offset, uint64_t *start,
                       uint64_t *length, struct vdisk_error *error)
{
    struct fill_source *fill = (struct fill_source *)source;
    uint64_t piece = offset / source->piece_bytes, stop;

    if (fails(fill, error))
        return -EIO;
    fill->nexts++;
    *length = 0;
    while (piece * source->piece_bytes < source->size && is_zero(fill, piece))
        piece++;
    if (piece * source->piece_bytes >= source->size)
        return 0;
    *start = piece * source->piece_bytes;
    if (*start < offset)
        *start = offset;
    for (stop = piece; stop * source->piece_bytes < source->size && !is_zero(fill, stop);)
        stop++;
    *length = stop * source->piece_bytes;
    *length = (*length < source->size ? *length : source->size) - *start;
    return 0;
}

struct fill_source *fill_source_new(uint64_t size, uint32_t piece_bytes, uint64_t seed)
{
    struct fill_source *fill = calloc(1, sizeof(*fill));

    if (!fill || !(fill->bytes = calloc(1, size)))
        abort();
    sim_rng_seed(&fill->rng, seed);
    fill->source = (struct vdisk_source){.size = size,
                                         .piece_bytes = piece_bytes,
                                         .name = "memory::4711",
                                         .read = source_read,
                                         .next = source_next};
    sim_rng_fill(&fill->rng, fill->source.id, sizeof(fill->source.id));
    for (uint64_t at = 0; at < size;) { /* stretches of noise, letters and zeros */
        uint64_t n = 1 + sim_rng_below(&fill->rng, 3 * (uint64_t)piece_bytes);
        uint64_t kind = sim_rng_below(&fill->rng, 5);

        n = n < size - at ? n : size - at;
        if (kind < 2)
            sim_rng_fill(&fill->rng, fill->bytes + at, n);
        else if (kind == 2)
            memset(fill->bytes + at, 'a' + (int)(at % 26), n);
        at += n;
    }
    return fill;
}

void fill_source_free(struct fill_source *source)
{
    if (source)
        free(source->bytes);
    free(source);
}
