/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See tree.h.
 *
 * An inode above STATE_UNIT is (state + 1) * STATE_UNIT + what of the state it is. State 0 has its
 * drive and its partitions in the root; of the others each has a folder in `snapshots`.
 */
#include "tree.h"

#include "contents.h"
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
    STATE_FILES,
    STATE_PARTITION,       /* and from here on, by number */
    STATE_POINT = 1 << 15, /* of the drive; and from here on those of partitions, by number */
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
    struct contents *contents; /* NULL: no files are shown */
    atomic_uint changes;       /* of state 0 */
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

    if (contents_has(inode))
        return false;
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

struct tree *tree_new(struct backing *backing, struct contents *contents)
{
    struct tree *tree = calloc(1, sizeof(*tree));

    if (!tree)
        return NULL;
    tree->backing = backing;
    tree->contents = contents;
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

/* State 0 and the snapshots. */
static unsigned shown_states(const struct tree *tree)
{
    return tree->backing->scratch ? tree->backing->scratch : tree->backing->count;
}

/* That of a partition. */
static bool is_number(const char *name, unsigned *number)
{
    unsigned long wanted;
    char *end;

    if (name[0] < '1' || name[0] > '9' || strlen(name) > 6)
        return false;
    wanted = strtoul(name, &end, 10);
    *number = (unsigned)wanted;
    return !*end && wanted < STATE_POINT - STATE_PARTITION;
}

static int lookup_partition(struct tree *tree, struct access *access, unsigned number,
                            const char *name, uint64_t *inode)
{
    struct tree_state *state;
    unsigned wanted;
    int rc = -ENOENT;

    if (!is_number(name, &wanted))
        return -ENOENT;
    state = enter(tree, access, number);
    if (!state)
        return -ENOMEM;
    if (partitions_find(state->partitions, wanted)) {
        *inode = inode_of(number, STATE_PARTITION + wanted);
        rc = 0;
    }
    leave(state);
    return rc;
}

/* ---- files ---- */

/* The view of a partition, or with number 0 of the drive, if there is no table. -ENOENT, -ENOMEM.
 */
static int view_of_files(struct tree *tree, struct access *access, unsigned number, unsigned wanted,
                         struct tree_view *view)
{
    struct tree_state *state = enter(tree, access, number);
    const struct partition *partition;
    int rc = 0;

    if (!state)
        return -ENOMEM;
    *view = (struct tree_view){.state = number, .length = tree->backing->state[number].size};
    partition = partitions_find(state->partitions, wanted);
    if (partition) {
        view->offset = partition->offset;
        view->length = partition->length;
    } else if (wanted > 0 || state->partitions->count > 0) {
        rc = -ENOENT;
    }
    leave(state);
    return rc;
}

static int root_of_files(struct tree *tree, struct access *access, unsigned number, unsigned wanted,
                         uint64_t *inode)
{
    char path[TREE_NAME_BYTES + 32], prefix[TREE_NAME_BYTES + 16] = "";
    struct tree_view view;
    int rc = view_of_files(tree, access, number, wanted, &view);

    if (rc)
        return rc;
    if (number > 0)
        (void)snprintf(prefix, sizeof(prefix), "snapshots/%s/", tree->backing->state[number].name);
    if (wanted > 0)
        (void)snprintf(path, sizeof(path), "%sfiles/%u", prefix, wanted);
    else
        (void)snprintf(path, sizeof(path), "%sfiles/disk", prefix);
    rc = contents_root(tree->contents, access, &view, path, inode);
    if (rc != -EMEDIUMTYPE)
        return rc;
    if (!tree->backing->scratch || number > 0)
        return -ENOENT;
    *inode = inode_of(number, STATE_POINT + wanted);
    return 0;
}

static int lookup_files(struct tree *tree, struct access *access, unsigned number, const char *name,
                        uint64_t *inode)
{
    unsigned wanted = 0;

    if (strcmp(name, "disk") != 0 && !is_number(name, &wanted))
        return -ENOENT;
    return root_of_files(tree, access, number, wanted, inode);
}

/* Those file systems that are there are counted, so it looks at each again: they are few. */
static int list_files(struct tree *tree, struct access *access, unsigned number, uint64_t at,
                      char name[TREE_NAME_BYTES], uint64_t *inode)
{
    unsigned numbers[PARTITIONS_MAX] = {0}, count;
    struct tree_state *state = enter(tree, access, number);

    if (!state)
        return -ENOMEM;
    count = state->partitions->count;
    for (unsigned i = 0; i < count; i++)
        numbers[i] = state->partitions->partition[i].number;
    leave(state);
    if (count == 0) /* the drive itself */
        count = 1;
    for (unsigned i = 0; i < count; i++) {
        int rc = root_of_files(tree, access, number, numbers[i], inode);

        if (rc && rc != -ENOENT)
            return rc;
        if (rc || at-- > 0)
            continue;
        if (numbers[i] > 0)
            (void)snprintf(name, TREE_NAME_BYTES, "%u", numbers[i]);
        else
            (void)snprintf(name, TREE_NAME_BYTES, "disk");
        return 0;
    }
    return -ENOENT;
}

static int lookup_in_state(const struct tree *tree, unsigned state, const char *name,
                           uint64_t *inode)
{
    if (strcmp(name, "disk") == 0)
        *inode = inode_of(state, STATE_DISK);
    else if (strcmp(name, "partitions") == 0)
        *inode = inode_of(state, STATE_PARTITIONS);
    else if (tree->contents && strcmp(name, "files") == 0)
        *inode = inode_of(state, STATE_FILES);
    else
        return -ENOENT;
    return 0;
}

static int lookup_in_root(const struct tree *tree, const char *name, uint64_t *inode)
{
    if (strcmp(name, "info.json") == 0)
        *inode = TREE_INFO;
    else if (strcmp(name, "snapshots") == 0)
        *inode = TREE_SNAPSHOTS;
    else if (strcmp(name, MOUNTPOINT_SERVER) == 0)
        *inode = TREE_SERVER;
    else if (tree->backing->scratch && strcmp(name, TREE_SCRATCH) == 0)
        *inode = inode_of(tree->backing->scratch, STATE_FOLDER);
    else
        return lookup_in_state(tree, 0, name, inode);
    return 0;
}

int tree_lookup(struct tree *tree, struct access *access, uint64_t folder, const char *name,
                uint64_t *inode)
{
    unsigned state, part;

    if (folder == TREE_ROOT)
        return lookup_in_root(tree, name, inode);
    if (folder == TREE_SNAPSHOTS) {
        for (unsigned i = 1; i < shown_states(tree); i++) {
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
        return lookup_in_state(tree, state, name, inode);
    if (part == STATE_FILES)
        return lookup_files(tree, access, state, name, inode);
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
    static const char *const names[] = {"disk", "partitions", "files", "snapshots", "info.json"};
    unsigned state = 0, part = STATE_FOLDER;

    if (folder == TREE_SNAPSHOTS) {
        if (number + 1 >= shown_states(tree))
            return -ENOENT;
        (void)snprintf(name, TREE_NAME_BYTES, "%s", tree->backing->state[number + 1].name);
        *inode = inode_of((unsigned)number + 1, STATE_FOLDER);
        return 0;
    }
    if (folder != TREE_ROOT && !of_state(tree, folder, &state, &part))
        return -ENOTDIR;
    if (part == STATE_PARTITIONS)
        return list_partitions(tree, access, state, number, name, inode);
    if (part == STATE_FILES)
        return list_files(tree, access, state, number, name, inode);
    if (part >= STATE_POINT) /* empty */
        return -ENOENT;
    if (!tree->contents && number >= 2)
        number++;
    if (number >= (folder == TREE_ROOT ? 5u : 3u))
        return -ENOENT;
    (void)snprintf(name, TREE_NAME_BYTES, "%s", names[number]);
    return folder == TREE_ROOT ? lookup_in_root(tree, name, inode)
                               : lookup_in_state(tree, state, name, inode);
}

bool tree_is_folder(const struct tree *tree, uint64_t inode)
{
    unsigned state, part;

    if (inode == TREE_ROOT || inode == TREE_SNAPSHOTS || contents_has(inode))
        return true;
    return of_state(tree, inode, &state, &part) &&
           (part == STATE_PARTITIONS || part == STATE_FILES || part >= STATE_POINT ||
            (part == STATE_FOLDER && state > 0));
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
        .writable = state == 0 ? tree->backing->writable : state == tree->backing->scratch,
    };
    if (part == STATE_DISK)
        return 0;
    if (part <= STATE_PARTITION || part >= STATE_POINT)
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
