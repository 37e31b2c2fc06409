/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Filling packs (SPEC.md B7); see pack.h.
 *
 * A place in the pack and a number in its segment are given out under the lock; then each thread
 * seals into the pack's own buffer, beside the others. A pack that has no room is closed, and when
 * the last thread has sealed into it, the packer's thread adds the directory, names and puts it.
 * There are two buffers: one is filled while the other is put.
 *
 * The key of a data segment is forgotten when its pack is closed and sealed.
 */
#include "pack.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#define BUFFERS      2u
#define ALIGNMENT    4096u  /* of memory that a store may write beside the page cache */
#define ENTRIES_MAX  16384u /* of one pack that we make */
#define BUFFER_BYTES ((size_t)VB_PACK_TARGET + VB_RECORD_MAX + VB_DIRECTORY_ROOM)

enum state {
    FREE,
    FILLING,
    CLOSED,
};

struct buffer {
    enum state state;
    uint8_t *bytes;
    size_t used;
    unsigned sealing;                  /* threads that are at it */
    struct vb_segment *segment, *meta; /* of records; of the directory */
    uint16_t segment_count;
    struct vb_entry *entries;
    uint32_t count;
};

struct vb_packer {
    struct vb_repo *repo;
    bool tree;
    vb_packed *packed;
    void *opaque;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t closed_cond; /* for the thread */
    pthread_cond_t moved_cond;  /* for those who fill or flush */
    struct buffer buffer[BUFFERS];
    bool stop;
    int result;
    uint64_t bytes;
};

/* --- the thread: from a closed pack to the store ------------------------------------------------
 */

/* What an index says of it; takes the entries. */
static int describe(struct buffer *buffer, struct vb_pack *pack)
{
    size_t segments = (size_t)buffer->segment_count * VB_SEGMENT_BYTES;

    *pack = (struct vb_pack){
        .length = buffer->used,
        .segment_count = buffer->segment_count,
        .entry_count = buffer->count,
        .segments = malloc(segments),
    };
    if (!pack->segments)
        return -ENOMEM;
    memcpy(pack->segments, buffer->bytes + VB_HEADER_BYTES, segments);
    pack->entries = buffer->entries;
    buffer->entries = NULL;
    vb_object_name(buffer->bytes, buffer->used, &pack->name);
    return 0;
}

static int finish(struct vb_packer *packer, struct vb_sealer *sealer, struct buffer *buffer)
{
    struct vb_store *store = packer->repo->store;
    struct vb_pack pack;
    int result =
        vb_directory_append(sealer, buffer->meta, packer->repo->config.pad, buffer->entries,
                            buffer->count, buffer->bytes, BUFFER_BYTES, &buffer->used);

    if (result == 0)
        result = describe(buffer, &pack);
    if (result)
        return result;
    result = store->ops->put(store, VB_PACKS, &pack.name, buffer->bytes, buffer->used);
    if (result) {
        vb_pack_release(&pack);
        return result;
    }
    return packer->packed(packer->opaque, &pack);
}

static void release(struct buffer *buffer)
{
    if (buffer->segment != buffer->meta)
        vb_segment_free(buffer->segment);
    vb_segment_free(buffer->meta);
    free(buffer->entries);
    buffer->segment = buffer->meta = NULL;
    buffer->entries = NULL;
    buffer->count = 0;
    buffer->state = FREE;
}

static struct buffer *find_ready(struct vb_packer *packer)
{
    for (unsigned i = 0; i < BUFFERS; i++) {
        if (packer->buffer[i].state == CLOSED && packer->buffer[i].sealing == 0)
            return &packer->buffer[i];
    }
    return NULL;
}

static void *run(void *arg)
{
    struct vb_packer *packer = arg;
    struct vb_sealer *sealer = NULL;
    int result = vb_sealer_new(packer->repo->config.repo_id, &sealer);

    pthread_mutex_lock(&packer->mutex);
    packer->result = packer->result ? packer->result : result;
    for (;;) {
        struct buffer *buffer = find_ready(packer);

        if (!buffer && packer->stop)
            break;
        if (!buffer) {
            pthread_cond_wait(&packer->closed_cond, &packer->mutex);
            continue;
        }
        result = packer->result;
        pthread_mutex_unlock(&packer->mutex);
        if (result == 0)
            result = finish(packer, sealer, buffer);
        pthread_mutex_lock(&packer->mutex);
        packer->result = packer->result ? packer->result : result;
        if (result == 0)
            packer->bytes += buffer->used;
        release(buffer);
        pthread_cond_broadcast(&packer->moved_cond);
    }
    pthread_mutex_unlock(&packer->mutex);
    vb_sealer_free(sealer);
    return NULL;
}

/* --- filling ------------------------------------------------------------------------------ */

/* With the lock, as is all that follows but the sealing. */
static struct buffer *find(struct vb_packer *packer, enum state state)
{
    for (unsigned i = 0; i < BUFFERS; i++) {
        if (packer->buffer[i].state == state)
            return &packer->buffer[i];
    }
    return NULL;
}

static void close_buffer(struct vb_packer *packer, struct buffer *buffer)
{
    buffer->state = CLOSED;
    pthread_cond_signal(&packer->closed_cond);
}

static int begin(struct vb_packer *packer, struct buffer *buffer)
{
    struct vb_header header = {.kind = VB_OBJECT_PACK, .detail = packer->tree ? 1 : 2};
    struct vb_segment_keys keys;
    uint8_t *at;
    int result;

    vb_repo_segment_keys(packer->repo, &keys);
    if (!buffer->bytes)
        buffer->bytes = aligned_alloc(ALIGNMENT, BUFFER_BYTES);
    buffer->entries = calloc(ENTRIES_MAX, sizeof(*buffer->entries));
    if (!buffer->bytes || !buffer->entries)
        return -ENOMEM;
    memcpy(header.repo_id, packer->repo->config.repo_id, VB_REPO_ID_BYTES);
    vb_header_encode(&header, buffer->bytes);
    at = buffer->bytes + VB_HEADER_BYTES;
    if (!packer->tree) {
        result = vb_segment_make(&keys, VB_SEGMENT_DATA, at, &buffer->segment);
        if (result)
            return result;
        at += VB_SEGMENT_BYTES;
    }
    result = vb_segment_make(&keys, VB_SEGMENT_META, at, &buffer->meta);
    if (result)
        return result;
    if (packer->tree)
        buffer->segment = buffer->meta;
    buffer->segment_count = header.detail;
    buffer->used = VB_HEADER_BYTES + (size_t)header.detail * VB_SEGMENT_BYTES;
    buffer->count = 0;
    buffer->state = FILLING;
    return 0;
}

/* A buffer with room for a record of so many sealed bytes. */
static int find_room(struct vb_packer *packer, size_t bytes, struct buffer **out)
{
    while (packer->result == 0) {
        struct buffer *buffer = find(packer, FILLING);

        if (buffer && buffer->count < ENTRIES_MAX && buffer->used + bytes <= VB_PACK_TARGET) {
            *out = buffer;
            return 0;
        }
        if (buffer)
            close_buffer(packer, buffer);
        buffer = find(packer, FREE);
        if (buffer) {
            int result = begin(packer, buffer);

            if (result) {
                release(buffer);
                packer->result = result;
            }
        } else {
            pthread_cond_wait(&packer->moved_cond, &packer->mutex);
        }
    }
    return packer->result;
}

int vb_packer_add(struct vb_packer *packer, struct vb_sealer *sealer, enum vb_record_kind kind,
                  const struct vb_id *id, const void *payload, size_t length)
{
    const struct vb_config *config = &packer->repo->config;
    struct vb_record_context context = {.kind = kind, .id = *id};
    struct buffer *buffer;
    uint8_t *to = NULL;
    size_t packed;
    int result = vb_sealer_pack(sealer, payload, length, config->level, config->pad, &packed);

    if (result)
        return result;
    pthread_mutex_lock(&packer->mutex);
    result = find_room(packer, packed + VB_TAG_BYTES, &buffer);
    if (result == 0) {
        context.number = buffer->count;
        to = buffer->bytes + buffer->used;
        buffer->entries[buffer->count++] = (struct vb_entry){
            .id = *id,
            .offset = (uint32_t)buffer->used,
            .length = (uint32_t)(packed + VB_TAG_BYTES),
            .number = context.number,
            .segment = 0,
            .kind = (uint8_t)kind,
        };
        buffer->used += packed + VB_TAG_BYTES;
        buffer->sealing++;
    }
    pthread_mutex_unlock(&packer->mutex);
    if (result)
        return result;
    result = vb_sealer_seal(sealer, buffer->segment, &context, to);
    pthread_mutex_lock(&packer->mutex);
    buffer->sealing--;
    packer->result = packer->result ? packer->result : result;
    if (buffer->state == CLOSED && buffer->sealing == 0)
        pthread_cond_signal(&packer->closed_cond);
    pthread_mutex_unlock(&packer->mutex);
    return result;
}

int vb_packer_flush(struct vb_packer *packer)
{
    struct buffer *buffer;
    int result;

    pthread_mutex_lock(&packer->mutex);
    buffer = find(packer, FILLING);
    if (buffer)
        close_buffer(packer, buffer);
    while (find(packer, CLOSED))
        pthread_cond_wait(&packer->moved_cond, &packer->mutex);
    result = packer->result;
    pthread_mutex_unlock(&packer->mutex);
    return result;
}

uint64_t vb_packer_bytes(struct vb_packer *packer)
{
    uint64_t bytes;

    pthread_mutex_lock(&packer->mutex);
    bytes = packer->bytes;
    pthread_mutex_unlock(&packer->mutex);
    return bytes;
}

/* --- opening, closing --------------------------------------------------------------------- */

int vb_packer_open(struct vb_repo *repo, bool tree, vb_packed *packed, void *opaque,
                   struct vb_packer **out)
{
    struct vb_packer *packer = calloc(1, sizeof(*packer));
    sigset_t all, before;
    int result;

    if (!packer)
        return -ENOMEM;
    packer->repo = repo;
    packer->tree = tree;
    packer->packed = packed;
    packer->opaque = opaque;
    pthread_mutex_init(&packer->mutex, NULL); /* none of these can fail on Linux */
    pthread_cond_init(&packer->closed_cond, NULL);
    pthread_cond_init(&packer->moved_cond, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    result = -pthread_create(&packer->thread, NULL, run, packer);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (result) {
        free(packer);
        return result;
    }
    *out = packer;
    return 0;
}

void vb_packer_close(struct vb_packer *packer)
{
    if (!packer)
        return;
    pthread_mutex_lock(&packer->mutex);
    packer->stop = true;
    packer->result = packer->result ? packer->result : -ECANCELED;
    pthread_cond_signal(&packer->closed_cond);
    pthread_mutex_unlock(&packer->mutex);
    pthread_join(packer->thread, NULL);
    for (unsigned i = 0; i < BUFFERS; i++) {
        release(&packer->buffer[i]);
        free(packer->buffer[i].bytes);
    }
    pthread_cond_destroy(&packer->closed_cond);
    pthread_cond_destroy(&packer->moved_cond);
    pthread_mutex_destroy(&packer->mutex);
    free(packer);
}
