/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See tree.h.
 *
 * An inode above STATE_UNIT is (state + 1) * STATE_UNIT + what of the state it is. State 0 has its
 * drive and its partitions in the root; of the others each has a folder in `snapshots`.
 */
#include "tree.h"

#include "extents.h"
#include "partitions.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define STATE_UNIT         (UINT64_C(1) << 16)
#define SECTOR             512u
/* Of state 0 when it is written to: what is stored is counted again, but for no more than a small
 * part of the time. */
#define COUNT_AGAIN_FACTOR 20

enum part_of_state {
    STATE_FOLDER,
    STATE_DISK,
    STATE_PARTITIONS,
    STATE_PARTITION, /* and from here on, by number */
};

struct counted {
    bool known;
    uint64_t stored;  /* bytes */
    unsigned changes; /* when it was counted */
    int64_t until;    /* nanoseconds of CLOCK_MONOTONIC: not again before that */
};

struct tree_state {
    pthread_mutex_t mutex;
    bool read; /* partitions are those of `changes` */
    unsigned changes;
    struct partitions *partitions; /* NULL: none were ever asked for */
    struct counted disk, partition[PARTITIONS_MAX];
};

struct tree {
    struct backing *backing;
    atomic_uint changes; /* of state 0 */
    uid_t uid;
    gid_t gid;
    struct timespec born;
    struct tree_state **state; /* of each state; made when first asked for */
    pthread_mutex_t mutex;     /* of the pointers in `state` */
};

static uint64_t inode_of(unsigned state, unsigned part)
{
    return (state + UINT64_C(1)) * STATE_UNIT + part;
}

/* False: it is of no state. */
static bool of_state(const struct tree *tree, uint64_t inode, unsigned *state, unsigned *part)
{
    uint64_t number = inode / STATE_UNIT;

    if (number == 0 || number > tree->backing->count)
        return false;
    *state = (unsigned)(number - 1);
    *part = (unsigned)(inode % STATE_UNIT);
    return true;
}

static int64_t now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

struct tree *tree_new(struct backing *backing)
{
    struct tree *tree = calloc(1, sizeof(*tree));

    if (!tree)
        return NULL;
    tree->backing = backing;
    tree->uid = geteuid();
    tree->gid = getegid();
    clock_gettime(CLOCK_REALTIME, &tree->born);
    tree->state = calloc(backing->count, sizeof(struct tree_state *));
    pthread_mutex_init(&tree->mutex, NULL);
    if (!tree->state) {
        tree_free(tree);
        return NULL;
    }
    return tree;
}

void tree_free(struct tree *tree)
{
    if (!tree)
        return;
    for (unsigned i = 0; tree->state && i < tree->backing->count; i++) {
        if (!tree->state[i])
            continue;
        pthread_mutex_destroy(&tree->state[i]->mutex);
        free(tree->state[i]->partitions);
        free(tree->state[i]);
    }
    free(tree->state);
    pthread_mutex_destroy(&tree->mutex);
    free(tree);
}

void tree_changed(struct tree *tree)
{
    atomic_fetch_add_explicit(&tree->changes, 1, memory_order_release);
}

/* ---- states ---- */

/* NULL without memory. */
static struct tree_state *get_state(struct tree *tree, unsigned number)
{
    struct tree_state *state;

    pthread_mutex_lock(&tree->mutex);
    state = tree->state[number];
    if (!state && (state = calloc(1, sizeof(*state)))) {
        pthread_mutex_init(&state->mutex, NULL);
        tree->state[number] = state;
    }
    pthread_mutex_unlock(&tree->mutex);
    return state;
}

static unsigned changes_of(struct tree *tree, unsigned state)
{
    return state == 0 ? atomic_load_explicit(&tree->changes, memory_order_acquire) : 0;
}

struct reading {
    struct access *access;
    unsigned state;
};

static int read_state(struct drive *drive, uint64_t offset, void *data, uint64_t length)
{
    const struct reading *reading = drive->owner;

    return reading->access->ops->read(reading->access, reading->state, offset, data, length);
}

/* Locks the state, whose partitions are then current; a table that cannot be read has none but
 * those that were found. NULL without memory. */
static struct tree_state *enter(struct tree *tree, struct access *access, unsigned number)
{
    struct tree_state *state = get_state(tree, number);
    unsigned changes = changes_of(tree, number);

    if (!state)
        return NULL;
    pthread_mutex_lock(&state->mutex);
    if (!state->partitions)
        state->partitions = calloc(1, sizeof(*state->partitions));
    if (!state->partitions) {
        pthread_mutex_unlock(&state->mutex);
        return NULL;
    }
    if (!state->read || state->changes != changes) {
        struct reading reading = {.access = access, .state = number};
        struct drive drive = {
            .size = tree->backing->state[number].size,
            .read = read_state,
            .owner = &reading,
        };

        state->read = partitions_read(&drive, state->partitions) == 0;
        state->changes = changes;
    }
    return state;
}

static void leave(struct tree_state *state)
{
    pthread_mutex_unlock(&state->mutex);
}

/* ---- names ---- */

static int lookup_partition(struct tree *tree, struct access *access, unsigned number,
                            const char *name, uint64_t *inode)
{
    struct tree_state *state;
    unsigned long wanted;
    int rc = -ENOENT;
    char *end;

    if (name[0] < '1' || name[0] > '9' || strlen(name) > 6)
        return -ENOENT;
    wanted = strtoul(name, &end, 10);
    if (*end || wanted >= STATE_UNIT - STATE_PARTITION)
        return -ENOENT;
    state = enter(tree, access, number);
    if (!state)
        return -ENOMEM;
    if (partitions_find(state->partitions, (unsigned)wanted)) {
        *inode = inode_of(number, STATE_PARTITION + (unsigned)wanted);
        rc = 0;
    }
    leave(state);
    return rc;
}

static int lookup_in_state(unsigned state, const char *name, uint64_t *inode)
{
    if (strcmp(name, "disk") == 0)
        *inode = inode_of(state, STATE_DISK);
    else if (strcmp(name, "partitions") == 0)
        *inode = inode_of(state, STATE_PARTITIONS);
    else
        return -ENOENT;
    return 0;
}

static int lookup_in_root(const char *name, uint64_t *inode)
{
    if (strcmp(name, "info.json") == 0)
        *inode = TREE_INFO;
    else if (strcmp(name, "snapshots") == 0)
        *inode = TREE_SNAPSHOTS;
    else if (strcmp(name, MOUNTPOINT_SERVER) == 0)
        *inode = TREE_SERVER;
    else
        return lookup_in_state(0, name, inode);
    return 0;
}

int tree_lookup(struct tree *tree, struct access *access, uint64_t folder, const char *name,
                uint64_t *inode)
{
    unsigned state, part;

    if (folder == TREE_ROOT)
        return lookup_in_root(name, inode);
    if (folder == TREE_SNAPSHOTS) {
        for (unsigned i = 1; i < tree->backing->count; i++) {
            if (strcmp(tree->backing->state[i].name, name) == 0) {
                *inode = inode_of(i, STATE_FOLDER);
                return 0;
            }
        }
        return -ENOENT;
    }
    if (!of_state(tree, folder, &state, &part))
        return -ENOTDIR;
    if (part == STATE_FOLDER)
        return lookup_in_state(state, name, inode);
    return part == STATE_PARTITIONS ? lookup_partition(tree, access, state, name, inode) : -ENOTDIR;
}

static int list_partitions(struct tree *tree, struct access *access, unsigned number, uint64_t at,
                           char name[TREE_NAME_BYTES], uint64_t *inode)
{
    struct tree_state *state = enter(tree, access, number);
    int rc = -ENOENT;

    if (!state)
        return -ENOMEM;
    if (at < state->partitions->count) {
        unsigned wanted = state->partitions->partition[at].number;

        (void)snprintf(name, TREE_NAME_BYTES, "%u", wanted);
        *inode = inode_of(number, STATE_PARTITION + wanted);
        rc = 0;
    }
    leave(state);
    return rc;
}

int tree_list(struct tree *tree, struct access *access, uint64_t folder, uint64_t number,
              char name[TREE_NAME_BYTES], uint64_t *inode)
{
    static const char *const names[] = {"disk", "partitions", "snapshots", "info.json"};
    unsigned state = 0, part = STATE_FOLDER;

    if (folder == TREE_SNAPSHOTS) {
        if (number + 1 >= tree->backing->count)
            return -ENOENT;
        (void)snprintf(name, TREE_NAME_BYTES, "%s", tree->backing->state[number + 1].name);
        *inode = inode_of((unsigned)number + 1, STATE_FOLDER);
        return 0;
    }
    if (folder != TREE_ROOT && !of_state(tree, folder, &state, &part))
        return -ENOTDIR;
    if (part == STATE_PARTITIONS)
        return list_partitions(tree, access, state, number, name, inode);
    if (number >= (folder == TREE_ROOT ? 4u : 2u))
        return -ENOENT;
    (void)snprintf(name, TREE_NAME_BYTES, "%s", names[number]);
    return folder == TREE_ROOT ? lookup_in_root(name, inode) : lookup_in_state(state, name, inode);
}

bool tree_is_folder(const struct tree *tree, uint64_t inode)
{
    unsigned state, part;

    if (inode == TREE_ROOT || inode == TREE_SNAPSHOTS)
        return true;
    return of_state(tree, inode, &state, &part) &&
           (part == STATE_PARTITIONS || (part == STATE_FOLDER && state > 0));
}

void tree_path(const struct tree *tree, uint64_t inode, char *text, size_t bytes)
{
    unsigned state, part;
    int length;

    text[0] = 0;
    if (!of_state(tree, inode, &state, &part))
        return;
    length =
        state == 0 ? 0 : snprintf(text, bytes, "snapshots/%s/", tree->backing->state[state].name);
    if (length < 0 || (size_t)length >= bytes)
        return;
    if (part >= STATE_PARTITION)
        (void)snprintf(text + length, bytes - (size_t)length, "partitions/%u",
                       part - STATE_PARTITION);
    else
        (void)snprintf(text + length, bytes - (size_t)length, "disk");
}

/* ---- views ---- */

int tree_view(struct tree *tree, struct access *access, uint64_t inode, struct tree_view *out)
{
    const struct partition *partition;
    struct tree_state *entered;
    unsigned state, part;

    if (!of_state(tree, inode, &state, &part))
        return -EISDIR;
    *out = (struct tree_view){
        .state = state,
        .length = tree->backing->state[state].size,
        .writable = state == 0 && tree->backing->writable,
    };
    if (part == STATE_DISK)
        return 0;
    if (part <= STATE_PARTITION)
        return -EISDIR;
    entered = enter(tree, access, state);
    if (!entered)
        return -ENOMEM;
    partition = partitions_find(entered->partitions, part - STATE_PARTITION);
    if (partition) {
        out->offset = partition->offset;
        out->length = partition->length;
    }
    leave(entered);
    return partition ? 0 : -ENOENT;
}

/* Where the count of a view is kept. With the state. */
static struct counted *counted_of(struct tree_state *state, unsigned part)
{
    const struct partition *partition;

    if (part == STATE_DISK)
        return &state->disk;
    partition = partitions_find(state->partitions, part - STATE_PARTITION);
    return partition ? &state->partition[partition - state->partitions->partition] : NULL;
}

/* How much of it is stored. What cannot be counted is taken to be all. */
static uint64_t stored(struct tree *tree, struct access *access, unsigned part,
                       const struct tree_view *view)
{
    struct tree_state *state = enter(tree, access, view->state);
    unsigned changes = changes_of(tree, view->state);
    uint64_t bytes = view->length, all = tree->backing->used_bytes;
    struct counted *counted = state ? counted_of(state, part) : NULL;
    int64_t began = now();

    if (counted && (!counted->known || (counted->changes != changes && counted->until < began))) {
        if (extents_stored(access, view, &counted->stored) == 0) {
            counted->known = true;
            counted->changes = changes;
            counted->until = now() + COUNT_AGAIN_FACTOR * (now() - began);
        }
    }
    if (counted && counted->known)
        bytes = counted->stored;
    if (state)
        leave(state);
    return all && all < bytes ? all : bytes; /* it may be compressed */
}

/* ---- attributes ---- */

static void set_times(const struct tree *tree, unsigned state, struct stat *out)
{
    int64_t created = tree->backing->state[state].created;

    out->st_mtim = tree->born;
    if (created > 0)
        out->st_mtim = (struct timespec){.tv_sec = (time_t)(created / 1000000000),
                                         .tv_nsec = (long)(created % 1000000000)};
    out->st_atim = out->st_ctim = out->st_mtim;
}

static int set_info(struct access *access, struct stat *out)
{
    char *text;
    int rc = access->ops->info(access, &text);

    if (rc)
        return rc;
    out->st_mode = S_IFREG | 0400;
    out->st_size = (off_t)strlen(text);
    out->st_blocks = (out->st_size + SECTOR - 1) / SECTOR;
    free(text);
    return 0;
}

int tree_attributes(struct tree *tree, struct access *access, uint64_t inode, struct stat *out)
{
    struct tree_view view;
    unsigned state = 0, part = STATE_FOLDER;
    int rc;

    *out = (struct stat){
        .st_ino = inode,
        .st_uid = tree->uid,
        .st_gid = tree->gid,
        .st_nlink = 1,
        .st_blksize = TREE_BLOCK,
    };
    (void)of_state(tree, inode, &state, &part);
    set_times(tree, state, out);
    if (inode == TREE_INFO)
        return set_info(access, out);
    if (inode == TREE_SERVER) {
        out->st_mode = S_IFLNK | 0400;
        return 0;
    }
    if (tree_is_folder(tree, inode)) {
        out->st_mode = S_IFDIR | 0500;
        out->st_nlink = 2;
        return 0;
    }
    rc = tree_view(tree, access, inode, &view);
    if (rc)
        return rc == -EISDIR ? -ENOENT : rc;
    out->st_mode = S_IFREG | (view.writable ? 0600 : 0400);
    out->st_size = (off_t)view.length;
    out->st_blocks = (blkcnt_t)((stored(tree, access, part, &view) + SECTOR - 1) / SECTOR);
    return 0;
}
