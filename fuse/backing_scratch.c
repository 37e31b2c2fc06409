/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A state that can be written and is thrown away (backing.h), for a kernel that mounts a file
 * system and has to replay its journal. What it writes is what a guest has on its drive, so it is
 * locked in memory, and wiped.
 */
#include "backing.h"

#include "report.h"

#include <errno.h>
#include <pthread.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BLOCK       4096u
#define SLAB_BLOCKS 256u

/* What was written: whole blocks. */
struct block {
    uint64_t number;
    uint8_t *data; /* in a slab */
};

/* Memory for blocks. */
struct slab {
    struct slab *next;
    uint8_t *data;
};

struct scratch_backing {
    struct backing backing;
    struct backing *under;
    pthread_rwlock_t lock; /* of the rest */
    void *blocks;          /* a tree of struct block */
    struct slab *slabs;
    unsigned in_slab; /* blocks of the first slab that are in use */
    uint64_t left;    /* blocks that may be added */
};

struct scratch_access {
    struct access access;
    struct access *under;
    struct scratch_backing *of;
};

static struct scratch_access *scratch_of(struct access *access)
{
    return (struct scratch_access *)access;
}

/* ---- blocks ---- */

static int compare(const void *a, const void *b)
{
    const struct block *x = a, *y = b;

    return (x->number > y->number) - (x->number < y->number);
}

static struct block *find(const struct scratch_backing *of, uint64_t number)
{
    const struct block wanted = {.number = number};
    struct block **found = tfind(&wanted, &of->blocks, compare);

    return found ? *found : NULL;
}

/* One more. NULL without memory. */
static struct slab *add_slab(struct scratch_backing *of)
{
    struct slab *slab = malloc(sizeof(*slab));
    void *data;

    if (!slab)
        return NULL;
    data = mmap(NULL, SLAB_BLOCKS * BLOCK, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED, -1, 0);
    if (data == MAP_FAILED) {
        free(slab);
        return NULL;
    }
    (void)madvise(data, SLAB_BLOCKS * BLOCK, MADV_DONTDUMP);
    *slab = (struct slab){.next = of->slabs, .data = data};
    of->slabs = slab;
    of->in_slab = 0;
    return slab;
}

static void free_slabs(struct scratch_backing *of)
{
    while (of->slabs) {
        struct slab *slab = of->slabs;

        of->slabs = slab->next;
        explicit_bzero(slab->data, SLAB_BLOCKS * BLOCK);
        munmap(slab->data, SLAB_BLOCKS * BLOCK);
        free(slab);
    }
}

/* One with the content that is under it, of which `data` has a copy. NULL without room or memory.
 */
static struct block *add(struct scratch_backing *of, uint64_t number, const uint8_t *data)
{
    struct block *block;

    if (of->left == 0 || ((!of->slabs || of->in_slab == SLAB_BLOCKS) && !add_slab(of)))
        return NULL;
    block = malloc(sizeof(*block));
    if (!block)
        return NULL;
    *block = (struct block){.number = number, .data = of->slabs->data + of->in_slab * BLOCK};
    if (!tsearch(block, &of->blocks, compare)) {
        free(block);
        return NULL;
    }
    memcpy(block->data, data, BLOCK);
    of->in_slab++;
    of->left--;
    return block;
}

/* ---- an access ---- */

/* What the other one says. */
static int failed(struct scratch_access *access, int rc)
{
    access->access.error = access->under->error;
    return rc;
}

static int read_under(struct scratch_access *access, unsigned state, uint64_t offset, void *data,
                      uint64_t length)
{
    int rc = access->under->ops->read(access->under, state, offset, data, length);

    return rc ? failed(access, rc) : 0;
}

static int scratch_read(struct access *base, unsigned state, uint64_t offset, void *data,
                        uint64_t length)
{
    struct scratch_access *access = scratch_of(base);
    struct scratch_backing *of = access->of;
    uint8_t *to = data;
    int rc;

    if (state != of->backing.scratch)
        return read_under(access, state, offset, data, length);
    rc = read_under(access, 0, offset, data, length);
    if (rc)
        return rc;
    pthread_rwlock_rdlock(&of->lock);
    for (uint64_t done = 0; of->blocks && done < length;) {
        uint64_t skip = (offset + done) % BLOCK, step = BLOCK - skip;
        const struct block *block = find(of, (offset + done) / BLOCK);

        step = step < length - done ? step : length - done;
        if (block)
            memcpy(to + done, block->data + skip, step);
        done += step;
    }
    pthread_rwlock_unlock(&of->lock);
    return 0;
}

static int scratch_map(struct access *base, unsigned state, uint64_t offset, uint64_t length,
                       access_range *each, void *opaque, uint64_t *reached)
{
    struct scratch_access *access = scratch_of(base);
    int rc;

    if (state != access->of->backing.scratch) {
        rc = access->under->ops->map(access->under, state, offset, length, each, opaque, reached);
        return rc ? failed(access, rc) : 0;
    }
    *reached = offset + length;
    (void)each(opaque, offset, length, false); /* nobody wants to know */
    return 0;
}

/* The block, with what is under it. With the lock. */
static int get_block(struct scratch_access *access, uint64_t number, struct block **out)
{
    struct scratch_backing *of = access->of;
    uint64_t size = of->backing.state[0].size, offset = number * BLOCK;
    uint8_t data[BLOCK] = {0};
    int rc;

    *out = find(of, number);
    if (*out)
        return 0;
    rc = read_under(access, 0, offset, data, size - offset < BLOCK ? size - offset : BLOCK);
    if (rc == 0) {
        *out = add(of, number, data);
        rc = *out ? 0 : -ENOSPC;
    }
    explicit_bzero(data, sizeof(data));
    return rc;
}

static int scratch_change(struct access *base, const struct access_change *change)
{
    struct scratch_access *access = scratch_of(base);
    struct scratch_backing *of = access->of;
    const uint8_t *from = change->data;
    int rc = 0;

    if (change->op != VDISK_WRITE) /* there is nothing to flush, nor a use in giving space back */
        return change->op == VDISK_FLUSH ? 0 : -EOPNOTSUPP;
    pthread_rwlock_wrlock(&of->lock);
    for (uint64_t done = 0; rc == 0 && done < change->length;) {
        uint64_t skip = (change->offset + done) % BLOCK, step = BLOCK - skip;
        struct block *block;

        step = step < change->length - done ? step : change->length - done;
        rc = get_block(access, (change->offset + done) / BLOCK, &block);
        if (rc == 0)
            memcpy(block->data + skip, from + done, step);
        done += step;
    }
    pthread_rwlock_unlock(&of->lock);
    return rc;
}

static int scratch_settle(struct access *access)
{
    (void)access;
    return 0;
}

static int scratch_info(struct access *base, char **text)
{
    struct scratch_access *access = scratch_of(base);
    int rc = access->under->ops->info(access->under, text);

    return rc ? failed(access, rc) : 0;
}

static void close_access(struct access *base)
{
    struct scratch_access *access = scratch_of(base);

    access->under->ops->close(access->under);
    free(access);
}

static int open_access(struct backing *backing, struct access **out, struct vdisk_error *error)
{
    static const struct access_ops ops = {
        .read = scratch_read,
        .map = scratch_map,
        .change = scratch_change,
        .settle = scratch_settle,
        .info = scratch_info,
        .close = close_access,
    };
    struct scratch_backing *of = (struct scratch_backing *)backing;
    struct scratch_access *access = calloc(1, sizeof(*access));
    int rc;

    if (!access)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    access->access.ops = &ops;
    access->of = of;
    rc = of->under->ops->open(of->under, &access->under, error);
    if (rc)
        free(access);
    else
        *out = &access->access;
    return rc;
}

/* ---- the backing ---- */

static int close_backing(struct backing *backing, struct vdisk_error *error)
{
    struct scratch_backing *of = (struct scratch_backing *)backing;
    int rc = of->under->ops->close(of->under, error);

    tdestroy(of->blocks, free);
    free_slabs(of);
    pthread_rwlock_destroy(&of->lock);
    free(of->backing.state);
    free(of);
    return rc;
}

struct backing *backing_with_scratch(struct backing *under, uint64_t room)
{
    static const struct backing_ops ops = {.open = open_access, .close = close_backing};
    struct scratch_backing *of = calloc(1, sizeof(*of));
    int rc = of ? 0 : -ENOMEM;

    if (rc)
        return NULL;
    of->backing = *under;
    of->backing.ops = &ops;
    of->backing.count = 0;
    of->backing.state = NULL;
    for (unsigned i = 0; rc == 0 && i < under->count; i++)
        rc = backing_add(&of->backing, under->state[i].name, under->state[i].size,
                         under->state[i].created);
    if (rc == 0)
        rc = backing_add(&of->backing, "", under->state[0].size, 0);
    if (rc) {
        free(of->backing.state);
        free(of);
        return NULL;
    }
    of->under = under;
    of->backing.scratch = under->count;
    of->left = room / BLOCK;
    pthread_rwlock_init(&of->lock, NULL);
    return &of->backing;
}
