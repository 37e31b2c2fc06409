/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See read_ahead.h.
 *
 * A piece that was begun before a change may hold what was there before it; one that is begun after
 * it does not. So the change is posted, pieces are begun, and pieces are found under one lock: once
 * anybody may see a change, no piece without it is found.
 */
#include "read_ahead.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define PIECES    (READ_AHEAD_PIECES / READ_AHEAD_STREAMS) /* of a stream */
#define AHEAD_MAX ((uint64_t)PIECES * READ_AHEAD_BYTES)
#define RUN_MIN   (READ_AHEAD_BYTES / 4)

struct piece {
    uint64_t offset, length; /* bytes */
    uint8_t *data;
    unsigned users;
    bool used, under_way;
    bool dropped; /* not to be found any more */
};

/* Somebody who reads in order. */
struct stream {
    uint64_t next; /* where it goes on */
    uint64_t run;  /* bytes in a row */
    uint64_t end;  /* behind the last piece */
    uint64_t seen; /* by the clock */
    struct piece piece[PIECES];
};

struct read_ahead {
    uint64_t size;
    read_ahead_begin *begin;
    void *opaque;
    pthread_mutex_t mutex;
    pthread_cond_t over;
    uint64_t clock; /* of requests */
    struct stream stream[READ_AHEAD_STREAMS];
    uint8_t *memory;
};

static struct piece *piece_of(struct read_ahead *ahead, unsigned number)
{
    return &ahead->stream[number / PIECES].piece[number % PIECES];
}

struct read_ahead *read_ahead_new(uint64_t size, read_ahead_begin *begin, void *opaque)
{
    struct read_ahead *ahead = calloc(1, sizeof(*ahead));

    if (!ahead)
        return NULL;
    ahead->memory = malloc((size_t)READ_AHEAD_PIECES * READ_AHEAD_BYTES);
    if (!ahead->memory) {
        free(ahead);
        return NULL;
    }
    for (unsigned i = 0; i < READ_AHEAD_PIECES; i++)
        piece_of(ahead, i)->data = ahead->memory + (size_t)i * READ_AHEAD_BYTES;
    ahead->size = size;
    ahead->begin = begin;
    ahead->opaque = opaque;
    pthread_mutex_init(&ahead->mutex, NULL);
    pthread_cond_init(&ahead->over, NULL);
    return ahead;
}

void read_ahead_free(struct read_ahead *ahead)
{
    if (!ahead)
        return;
    pthread_mutex_lock(&ahead->mutex);
    for (unsigned i = 0; i < READ_AHEAD_PIECES; i++) {
        while (piece_of(ahead, i)->under_way)
            pthread_cond_wait(&ahead->over, &ahead->mutex);
    }
    pthread_mutex_unlock(&ahead->mutex);
    pthread_cond_destroy(&ahead->over);
    pthread_mutex_destroy(&ahead->mutex);
    free(ahead->memory);
    free(ahead);
}

/* ---- pieces ---- */

static void put_away(struct piece *piece)
{
    if (piece->dropped && !piece->under_way && piece->users == 0)
        piece->used = false;
}

static void drop(struct piece *piece)
{
    piece->dropped = true;
    put_away(piece);
}

void read_ahead_over(struct read_ahead *ahead, unsigned number, bool failed)
{
    struct piece *piece = piece_of(ahead, number);

    pthread_mutex_lock(&ahead->mutex);
    piece->under_way = false;
    if (failed) {
        piece->length = 0;
        piece->dropped = true;
    }
    put_away(piece);
    pthread_cond_broadcast(&ahead->over);
    pthread_mutex_unlock(&ahead->mutex);
}

void read_ahead_change(struct read_ahead *ahead, uint64_t offset, uint64_t length,
                       void (*post)(void *opaque), void *opaque)
{
    pthread_mutex_lock(&ahead->mutex);
    for (unsigned i = 0; i < READ_AHEAD_PIECES; i++) {
        struct piece *piece = piece_of(ahead, i);

        if (piece->used && offset < piece->offset + piece->length &&
            piece->offset < offset + length)
            drop(piece);
    }
    post(opaque);
    pthread_mutex_unlock(&ahead->mutex);
}

static struct piece *find(struct read_ahead *ahead, uint64_t offset)
{
    for (unsigned i = 0; i < READ_AHEAD_PIECES; i++) {
        struct piece *piece = piece_of(ahead, i);

        if (piece->used && !piece->dropped && piece->offset <= offset &&
            offset < piece->offset + piece->length)
            return piece;
    }
    return NULL;
}

/* ---- streams ---- */

static struct piece *unused(struct stream *stream)
{
    for (unsigned i = 0; i < PIECES; i++) {
        if (!stream->piece[i].used)
            return &stream->piece[i];
    }
    return NULL;
}

/* As far ahead as was read in a row. Pieces end where requests of their size do. */
static void begin_more(struct read_ahead *ahead, struct stream *stream)
{
    uint64_t window = stream->run < AHEAD_MAX ? stream->run : AHEAD_MAX;
    unsigned first = (unsigned)(stream - ahead->stream) * PIECES;
    struct piece *piece;

    if (stream->run < RUN_MIN)
        return;
    if (stream->end < stream->next)
        stream->end = stream->next;
    while (stream->end < ahead->size && stream->end < stream->next + window &&
           (piece = unused(stream))) {
        uint64_t length = READ_AHEAD_BYTES - stream->end % READ_AHEAD_BYTES;

        if (length > ahead->size - stream->end)
            length = ahead->size - stream->end;
        piece->offset = stream->end;
        piece->length = length;
        piece->used = piece->under_way = true;
        piece->dropped = false;
        stream->end += length;
        ahead->begin(ahead->opaque, first + (unsigned)(piece - stream->piece), piece->offset,
                     piece->data, length);
    }
}

/* Who reads there goes on, or is new and takes the place of who was not seen for longest. */
static void follow(struct read_ahead *ahead, uint64_t offset, uint64_t length)
{
    struct stream *stream = ahead->stream;
    bool goes_on = false;

    for (unsigned i = 0; i < READ_AHEAD_STREAMS && !goes_on; i++) {
        struct stream *other = &ahead->stream[i];

        goes_on = other->run && other->next == offset;
        if (goes_on || other->seen < stream->seen)
            stream = other;
    }
    if (!goes_on) {
        for (unsigned i = 0; i < PIECES; i++)
            drop(&stream->piece[i]);
        stream->run = stream->end = 0;
    }
    stream->seen = ++ahead->clock;
    stream->next = offset + length;
    stream->run += length;
    if (goes_on)
        begin_more(ahead, stream);
}

/* How much of the range is in the piece, which may turn out to be none; unlocks meanwhile. */
static uint64_t copy(struct read_ahead *ahead, struct piece *piece, uint64_t offset, uint8_t *data,
                     uint64_t length)
{
    uint64_t behind = 0, part = 0;

    piece->users++;
    while (piece->under_way)
        pthread_cond_wait(&ahead->over, &ahead->mutex);
    if (piece->length) {
        behind = piece->offset + piece->length;
        part = length < behind - offset ? length : behind - offset;
        pthread_mutex_unlock(&ahead->mutex);
        memcpy(data, piece->data + (offset - piece->offset), part);
        pthread_mutex_lock(&ahead->mutex);
    }
    piece->users--;
    if (offset + part == behind)
        drop(piece);
    put_away(piece);
    return part;
}

uint64_t read_ahead_take(struct read_ahead *ahead, uint64_t offset, void *data, uint64_t length)
{
    uint64_t done = 0, part = 1;
    struct piece *piece;

    pthread_mutex_lock(&ahead->mutex);
    follow(ahead, offset, length);
    while (part && done < length && (piece = find(ahead, offset + done))) {
        part = copy(ahead, piece, offset + done, (uint8_t *)data + done, length - done);
        done += part;
    }
    pthread_mutex_unlock(&ahead->mutex);
    return done;
}
