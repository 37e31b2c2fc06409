/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A backup as a drive; see reader.h.
 *
 * One mutex guards the cache and the list of idle readers; what takes long (the store, decryption)
 * is done without it, by a reader that the thread has for itself. A chunk that one thread fetches
 * others wait for.
 */
#include "reader.h"

#include "backup_restore.h"
#include "report.h"
#include "tree_path.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CACHED_DEFAULT 16u
#define NO_CHUNK       UINT64_MAX

enum kept_state {
    KEPT_NOTHING,
    KEPT_COMING,
    KEPT_CHUNK,
};

struct kept {
    enum kept_state state;
    uint64_t chunk;
    uint64_t used;  /* when, by the clock of uses */
    unsigned users; /* copy from it */
    uint8_t *bytes;
};

/* What one thread at a time reads with. */
struct hand {
    struct hand *next;
    struct vb_reader *reader;
    struct vb_path *path;
};

struct drive {
    struct vb_source open; /* what others see */
    char *name;
    struct vb_repo *repo;
    struct vb_index *tree, *data;
    pthread_mutex_t mutex;
    pthread_cond_t changed; /* of the cache; or there is something to fetch ahead, or the end */
    struct hand *idle;
    struct kept *kept;
    unsigned kept_count;
    uint64_t clock;
    uint64_t last, ahead; /* chunks: asked for last; to be fetched before it is asked for */
    bool stop, has_thread;
    pthread_t thread;
};

/* ---- hands ---- */

static void free_hand(struct hand *hand)
{
    vb_path_free(hand->path);
    vb_reader_free(hand->reader);
    free(hand);
}

static int take_hand(struct drive *drive, struct hand **out)
{
    const struct vb_manifest *manifest = &drive->open.manifest;
    struct hand *hand;
    int result;

    pthread_mutex_lock(&drive->mutex);
    hand = drive->idle;
    if (hand)
        drive->idle = hand->next;
    pthread_mutex_unlock(&drive->mutex);
    *out = hand;
    if (hand)
        return 0;
    hand = calloc(1, sizeof(*hand));
    if (!hand)
        return -ENOMEM;
    result = vb_reader_new(drive->repo, &hand->reader);
    if (result == 0)
        result =
            vb_path_new(hand->reader, drive->tree, &manifest->root, manifest->level, &hand->path);
    if (result)
        free_hand(hand);
    else
        *out = hand;
    return result;
}

static void give_hand(struct drive *drive, struct hand *hand)
{
    pthread_mutex_lock(&drive->mutex);
    hand->next = drive->idle;
    drive->idle = hand;
    pthread_mutex_unlock(&drive->mutex);
}

/* ---- chunks ---- */

static struct kept *find_kept(const struct drive *drive, uint64_t chunk)
{
    for (unsigned i = 0; i < drive->kept_count; i++) {
        if (drive->kept[i].state != KEPT_NOTHING && drive->kept[i].chunk == chunk)
            return &drive->kept[i];
    }
    return NULL;
}

/* The one that was used longest ago; waits while all are in use. */
static struct kept *find_place(struct drive *drive)
{
    for (;;) {
        struct kept *best = NULL;

        for (unsigned i = 0; i < drive->kept_count; i++) {
            struct kept *kept = &drive->kept[i];

            if (kept->users == 0 && kept->state != KEPT_COMING &&
                (!best || kept->used < best->used))
                best = kept;
        }
        if (best)
            return best;
        pthread_cond_wait(&drive->changed, &drive->mutex);
    }
}

static int fetch(struct drive *drive, uint64_t chunk, uint8_t *bytes, struct vdisk_error *error)
{
    const struct vb_node *leaf;
    struct hand *hand;
    int result = take_hand(drive, &hand);

    if (result)
        return result;
    result = vb_path_node(hand->path, 0, chunk / VB_NODE_CHILDREN, &leaf, error);
    if (result == 0)
        result = vb_chunk_read(hand->reader, drive->data, &leaf->entry[chunk % VB_NODE_CHILDREN],
                               bytes, error);
    give_hand(drive, hand);
    return result;
}

/* The chunk, which is the caller's to read until let_go(). */
static int get_chunk(struct drive *drive, uint64_t chunk, struct kept **out,
                     struct vdisk_error *error)
{
    struct kept *kept;
    int result = 0;

    pthread_mutex_lock(&drive->mutex);
    while ((kept = find_kept(drive, chunk)) && kept->state == KEPT_COMING)
        pthread_cond_wait(&drive->changed, &drive->mutex);
    if (!kept) {
        kept = find_place(drive);
        if (find_kept(drive, chunk)) { /* somebody was faster while we waited for a place */
            pthread_mutex_unlock(&drive->mutex);
            return get_chunk(drive, chunk, out, error);
        }
        kept->state = KEPT_COMING;
        kept->chunk = chunk;
        pthread_mutex_unlock(&drive->mutex);
        result = fetch(drive, chunk, kept->bytes, error);
        pthread_mutex_lock(&drive->mutex);
        kept->state = result ? KEPT_NOTHING : KEPT_CHUNK;
        pthread_cond_broadcast(&drive->changed);
    }
    if (result == 0) {
        kept->users++;
        kept->used = ++drive->clock;
        *out = kept;
    }
    pthread_mutex_unlock(&drive->mutex);
    return result;
}

static void let_go(struct drive *drive, struct kept *kept)
{
    pthread_mutex_lock(&drive->mutex);
    if (--kept->users == 0)
        pthread_cond_broadcast(&drive->changed);
    pthread_mutex_unlock(&drive->mutex);
}

/* ---- fetching ahead ---- */

static void *fetch_ahead(void *arg)
{
    struct drive *drive = arg;

    pthread_mutex_lock(&drive->mutex);
    while (!drive->stop) {
        struct vdisk_error ignored;
        struct kept *kept;
        uint64_t chunk = drive->ahead;

        if (chunk == NO_CHUNK) {
            pthread_cond_wait(&drive->changed, &drive->mutex);
            continue;
        }
        drive->ahead = NO_CHUNK;
        pthread_mutex_unlock(&drive->mutex);
        if (get_chunk(drive, chunk, &kept, &ignored) == 0)
            let_go(drive, kept);
        pthread_mutex_lock(&drive->mutex);
    }
    pthread_mutex_unlock(&drive->mutex);
    return NULL;
}

static void start_thread(struct drive *drive)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    drive->has_thread = pthread_create(&drive->thread, NULL, fetch_ahead, drive) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* Who asks for one chunk after the other wants the next one too. */
static void note_use(struct drive *drive, uint64_t chunk)
{
    uint64_t next = chunk + 1;

    pthread_mutex_lock(&drive->mutex);
    if (chunk == drive->last + 1 && next * VB_CHUNK_BYTES < drive->open.source.size &&
        !find_kept(drive, next)) {
        if (!drive->has_thread)
            start_thread(drive);
        drive->ahead = next;
        pthread_cond_broadcast(&drive->changed);
    }
    drive->last = chunk;
    pthread_mutex_unlock(&drive->mutex);
}

/* ---- what others call ---- */

static int explain(struct vdisk_error *error, int result)
{
    if (result && error->code != result)
        error_set(error, result, "%s", vdisk_strerror(result));
    return result;
}

/* A pack that is away is, to who reads a drive, a failing disk: one that may come back. What is
 * wrong in itself stays what it is. */
static int as_of_a_disk(struct vdisk_error *error, int result)
{
    (void)explain(error, result);
    if (result == 0 || result == -ENOMEM || result == VDISK_E_NOT_AUTHENTIC ||
        result == VDISK_E_MALFORMED)
        return result;
    error->code = -EIO;
    return -EIO;
}

static int source_read(struct vdisk_source *source, uint64_t offset, void *data, uint64_t length,
                       struct vdisk_error *error)
{
    struct drive *drive = (struct drive *)source;
    uint8_t *out = data;

    for (uint64_t at = offset; at < offset + length;) {
        uint64_t chunk = at / VB_CHUNK_BYTES, skip = at % VB_CHUNK_BYTES;
        uint64_t n = VB_CHUNK_BYTES - skip;
        struct kept *kept;
        int result = get_chunk(drive, chunk, &kept, error);

        if (result) {
            sodium_memzero(data, length);
            return as_of_a_disk(error, result);
        }
        if (n > offset + length - at)
            n = offset + length - at;
        memcpy(out + (at - offset), kept->bytes + skip, n);
        let_go(drive, kept);
        note_use(drive, chunk);
        at += n;
    }
    return 0;
}

/* The first chunk at or after *chunk with an entry, below a node; false: there is none. */
static int find_chunk(struct vb_path *path, unsigned level, uint64_t index, uint64_t *chunk,
                      bool *found, struct vdisk_error *error)
{
    uint64_t span = vb_tree_span(level), start = index * VB_NODE_CHILDREN * span;
    unsigned child = *chunk > start ? (unsigned)((*chunk - start) / span) : 0;
    int result = 0;

    for (; child < VB_NODE_CHILDREN && !*found && result == 0; child++) {
        const struct vb_node *node;

        result = vb_path_node(path, level, index, &node, error);
        if (result || node->entry[child].state == VB_NODE_ZERO)
            continue;
        if (*chunk < start + child * span)
            *chunk = start + child * span;
        if (level == 0)
            *found = true;
        else
            result =
                find_chunk(path, level - 1, index * VB_NODE_CHILDREN + child, chunk, found, error);
    }
    return result;
}

/* Chunks from `chunk` on, in the same leaf. */
static int count_chunks(struct vb_path *path, uint64_t chunk, uint64_t *count,
                        struct vdisk_error *error)
{
    const struct vb_node *leaf;
    int result = vb_path_node(path, 0, chunk / VB_NODE_CHILDREN, &leaf, error);
    unsigned first = (unsigned)(chunk % VB_NODE_CHILDREN), i = first;

    while (result == 0 && i < VB_NODE_CHILDREN && leaf->entry[i].state != VB_NODE_ZERO)
        i++;
    *count = i - first;
    return result;
}

static int source_next(struct vdisk_source *source, uint64_t offset, uint64_t *start,
                       uint64_t *length, struct vdisk_error *error)
{
    struct drive *drive = (struct drive *)source;
    uint64_t chunk = offset / VB_CHUNK_BYTES, count = 0, end;
    struct hand *hand;
    bool found = false;
    int result = take_hand(drive, &hand);

    *length = 0;
    if (result)
        return as_of_a_disk(error, result);
    if (!vb_id_is_zero(&drive->open.manifest.root))
        result = find_chunk(hand->path, drive->open.manifest.level, 0, &chunk, &found, error);
    if (result == 0 && found)
        result = count_chunks(hand->path, chunk, &count, error);
    give_hand(drive, hand);
    if (result || !found || chunk * VB_CHUNK_BYTES >= source->size)
        return as_of_a_disk(error, result);
    *start = chunk * VB_CHUNK_BYTES > offset ? chunk * VB_CHUNK_BYTES : offset;
    end = (chunk + count) * VB_CHUNK_BYTES;
    *length = (end < source->size ? end : source->size) - *start;
    return 0;
}

/* ---- names ---- */

char *vb_source_name(const char *repo, const struct vb_id *backup)
{
    char text[VB_NAME_TEXT_BYTES], *absolute = realpath(repo, NULL), *name = NULL;

    if (asprintf(&name, "%s::%s", absolute ? absolute : repo, vb_id_text(text, backup)) < 0)
        name = NULL;
    free(absolute);
    return name;
}

bool vb_source_split(const char *text, char **repo, const char **backup)
{
    const char *at = NULL;

    for (const char *next = strstr(text, "::"); next; next = strstr(next + 1, "::"))
        at = next;
    if (!at || at == text || !at[2] || !(*repo = strndup(text, (size_t)(at - text))))
        return false;
    *backup = at + 2;
    return true;
}

/* ---- opening ---- */

static int open_repo(struct drive *drive, const struct vb_source_options *options,
                     struct vdisk_error *error)
{
    struct vb_store *store;
    int result = vb_store_dir_open(options->path, false, &store, error);

    if (result == 0)
        result = vb_repo_open(store, options->key, &drive->repo, error);
    return result ? result : vb_restore_allowed(drive->repo, error);
}

static int pick_backup(struct drive *drive, const struct vb_source_options *options,
                       struct vdisk_error *error)
{
    struct vb_backups backups = {.count = 0};
    const struct vb_backup *backup;
    int result = vb_backups_load(drive->repo, &backups, error);

    if (result == 0)
        result = vb_backups_pick(&backups, options->backup, options->drive, &backup, error);
    if (result == 0) {
        drive->open.manifest = backup->manifest;
        memcpy(drive->open.source.id, backup->name.b, VB_ID_BYTES);
        drive->open.source.size = backup->manifest.size;
        drive->name = vb_source_name(options->path, &backup->name);
        drive->open.source.name = drive->name;
        result = drive->name ? 0 : -ENOMEM;
    }
    vb_backups_release(&backups);
    return result;
}

static int make_room(struct drive *drive, unsigned count)
{
    drive->kept = calloc(count, sizeof(*drive->kept));
    if (!drive->kept)
        return -ENOMEM;
    for (drive->kept_count = 0; drive->kept_count < count; drive->kept_count++) {
        struct kept *kept = &drive->kept[drive->kept_count];

        kept->bytes = malloc(VB_CHUNK_BYTES);
        if (!kept->bytes)
            return -ENOMEM;
    }
    return 0;
}

int vb_source_open(const struct vb_source_options *options, struct vb_source **out,
                   struct vdisk_error *error)
{
    struct drive *drive = calloc(1, sizeof(*drive));
    int result;

    if (!drive)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    pthread_mutex_init(&drive->mutex, NULL); /* these cannot fail on Linux */
    pthread_cond_init(&drive->changed, NULL);
    drive->last = drive->ahead = NO_CHUNK;
    drive->open.source.piece_bytes = VB_CHUNK_BYTES;
    drive->open.source.read = source_read;
    drive->open.source.next = source_next;
    result = open_repo(drive, options, error);
    if (result == 0)
        result = pick_backup(drive, options, error);
    if (result == 0)
        result = vb_index_load(drive->repo, VB_INDEX_TREE, NULL, NULL, &drive->tree);
    if (result == 0)
        result = vb_index_load(drive->repo, VB_INDEX_DATA, NULL, NULL, &drive->data);
    if (result == 0)
        result = make_room(drive, options->cached_chunks ? options->cached_chunks : CACHED_DEFAULT);
    if (result) {
        explain(error, result);
        vb_source_close(&drive->open);
        return result;
    }
    *out = &drive->open;
    return 0;
}

void vb_source_close(struct vb_source *source)
{
    struct drive *drive = (struct drive *)source;

    if (!drive)
        return;
    if (drive->has_thread) {
        pthread_mutex_lock(&drive->mutex);
        drive->stop = true;
        pthread_cond_broadcast(&drive->changed);
        pthread_mutex_unlock(&drive->mutex);
        pthread_join(drive->thread, NULL);
    }
    while (drive->idle) {
        struct hand *hand = drive->idle;

        drive->idle = hand->next;
        free_hand(hand);
    }
    for (unsigned i = 0; i < drive->kept_count; i++) {
        sodium_memzero(drive->kept[i].bytes, VB_CHUNK_BYTES);
        free(drive->kept[i].bytes);
    }
    free(drive->kept);
    vb_index_free(drive->tree);
    vb_index_free(drive->data);
    vb_repo_close(drive->repo);
    pthread_cond_destroy(&drive->changed);
    pthread_mutex_destroy(&drive->mutex);
    free(drive->name);
    free(drive);
}
