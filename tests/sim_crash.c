/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The simulated disk (sim_io.h): copies, the disks a crash leaves, tampering, files.
 */
#include "sim_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct sim *sim_clone(const struct sim *sim)
{
    struct sim *copy = sim_must(malloc(sizeof(*copy)));

    assert(sim->in_flight.count == 0 && !sim->dead);
    *copy = *sim;
    copy->dead_tail = &copy->dead;
    copy->log = copy->in_flight = (struct sim_op_list){0};
    sim_pages_copy(&copy->durable, &sim->durable);
    sim_pages_copy(&copy->view, &sim->view);
    for (size_t i = 0; i < sim->log.count; i++) {
        struct sim_op *op = sim_must(malloc(sizeof(*op)));

        *op = *sim->log.ops[i];
        if (op->pages) {
            op->pages = sim_must(malloc(op->count * sizeof(*op->pages)));
            memcpy(op->pages, sim->log.ops[i]->pages, op->count * sizeof(*op->pages));
            for (uint64_t k = 0; k < op->count; k++)
                sim_page_take(op->pages[k]);
        }
        sim_ops_add(&copy->log, op);
    }
    return copy;
}

/* ---- crash images ---- */

static bool is_change(const struct sim_op *op)
{
    return op->op != VDISK_IO_READ && op->op != VDISK_IO_SYNC;
}

size_t sim_unsynced(const struct sim *sim)
{
    size_t count = sim->log.count;

    for (size_t i = 0; i < sim->in_flight.count; i++)
        count += is_change(sim->in_flight.ops[i]);
    return count;
}

/* The log, then what is in flight. */
static size_t collect(const struct sim *sim, struct sim_op **ops)
{
    size_t count = sim->log.count;

    if (count)
        memcpy(ops, sim->log.ops, count * sizeof(struct sim_op *));
    for (size_t i = 0; i < sim->in_flight.count; i++) {
        if (is_change(sim->in_flight.ops[i]))
            ops[count++] = sim->in_flight.ops[i];
    }
    return count;
}

static void shuffle(struct sim_op **ops, size_t count, struct sim_rng *rng)
{
    for (size_t i = count; i > 1; i--) {
        size_t other = sim_rng_below(rng, i);
        struct sim_op *op = ops[i - 1];

        ops[i - 1] = ops[other];
        ops[other] = op;
    }
}

/* Of each operation: is it kept with `keep` eighths, and torn with `torn` eighths of those. */
static void apply_subset(struct sim_pages *pages, struct sim_op **ops, size_t count,
                         struct sim_rng *rng, unsigned torn)
{
    static const unsigned keep_eighths[] = {1, 2, 4, 6, 7};
    unsigned keep = keep_eighths[sim_rng_below(rng, 5)];

    for (size_t i = 0; i < count; i++) {
        if (!sim_rng_chance(rng, keep, 8))
            continue;
        if (sim_rng_chance(rng, torn, 8))
            sim_op_apply_torn(pages, ops[i], rng);
        else
            sim_op_apply(pages, ops[i]);
    }
}

static void apply_mode(struct sim_pages *pages, struct sim_op **ops, size_t count, uint64_t seed,
                       enum sim_crash_mode mode)
{
    struct sim_rng rng;

    sim_rng_seed(&rng, seed);
    switch (mode) {
    case SIM_KEEP_SUBSET:
        apply_subset(pages, ops, count, &rng, 0);
        break;
    case SIM_KEEP_TORN:
        apply_subset(pages, ops, count, &rng, 4);
        break;
    case SIM_KEEP_REORDERED:
        shuffle(ops, count, &rng);
        apply_subset(pages, ops, count, &rng, 2);
        break;
    case SIM_ONE_ONLY:
        if (count > 0)
            sim_op_apply(pages, ops[seed % count]);
        break;
    case SIM_KEEP_ALL:
    case SIM_KEEP_COMPLETED: /* the others are not among them */
    case SIM_ONE_MISSING:
        for (size_t i = 0; i < count; i++) {
            if (mode != SIM_ONE_MISSING || i != seed % count)
                sim_op_apply(pages, ops[i]);
        }
        break;
    case SIM_KEEP_NONE:
    case SIM_CRASH_MODES:
        break;
    }
}

struct sim *sim_crash_image(const struct sim *sim, uint64_t seed, enum sim_crash_mode mode)
{
    struct sim *image = sim_new(seed);
    size_t room = sim->log.count + sim->in_flight.count;
    struct sim_op **ops = sim_must(malloc((room + 1) * sizeof(struct sim_op *)));
    size_t count = collect(sim, ops);

    if (mode == SIM_KEEP_COMPLETED)
        count = sim->log.count;
    image->capacity = sim->capacity;
    image->ticks = sim->ticks;
    sim_pages_copy(&image->durable, &sim->durable);
    apply_mode(&image->durable, ops, count, seed, mode);
    sim_pages_copy(&image->view, &image->durable);
    free(ops);
    return image;
}

/* ---- the bytes themselves ---- */

void sim_raw_read(const struct sim *sim, uint64_t offset, void *data, uint64_t length)
{
    sim_pages_read(&sim->durable, offset, data, length);
}

void sim_raw_write(struct sim *sim, uint64_t offset, const void *data, uint64_t length)
{
    sim_pages_write(&sim->durable, offset, data, length);
    sim_pages_write(&sim->view, offset, data, length);
}

uint64_t sim_raw_size(const struct sim *sim)
{
    return sim->durable.bytes;
}

void sim_raw_truncate(struct sim *sim, uint64_t bytes)
{
    sim_pages_truncate(&sim->durable, bytes);
    sim_pages_truncate(&sim->view, bytes);
}

/* ---- files ---- */

static int load(struct sim_pages *pages, int fd)
{
    uint8_t data[SIM_PAGE_BYTES];
    static const uint8_t zeros[SIM_PAGE_BYTES];
    struct stat status;

    if (fstat(fd, &status) < 0)
        return -errno;
    for (off_t offset = 0; offset < status.st_size; offset += SIM_PAGE_BYTES) {
        ssize_t count = pread(fd, data, sizeof(data), offset);

        if (count <= 0)
            return count < 0 ? -errno : -EIO;
        if (memcmp(data, zeros, (size_t)count) != 0)
            sim_pages_write(pages, (uint64_t)offset, data, (uint64_t)count);
    }
    sim_pages_truncate(pages, (uint64_t)status.st_size);
    return 0;
}

struct sim *sim_load_file(const char *path, uint64_t seed)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct sim *sim;
    int result;

    if (fd < 0)
        return NULL;
    sim = sim_new(seed);
    result = load(&sim->durable, fd);
    close(fd);
    if (result) {
        sim_free(sim);
        errno = -result;
        return NULL;
    }
    sim_pages_copy(&sim->view, &sim->durable);
    return sim;
}

int sim_save_file(const struct sim *sim, const char *path)
{
    const struct sim_pages *pages = &sim->durable;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int result = 0;

    if (fd < 0)
        return -errno;
    for (uint64_t i = 0; i < pages->node_count * SIM_NODE_PAGES && !result; i++) {
        sim_page page = sim_pages_get(pages, i);

        if (page > SIM_ZEROS && pwrite(fd, sim_page_data(page), SIM_PAGE_BYTES,
                                       (off_t)(i * SIM_PAGE_BYTES)) != SIM_PAGE_BYTES)
            result = -EIO;
    }
    /* Last, for it may end inside a page. */
    if (!result && ftruncate(fd, (off_t)pages->bytes) < 0)
        result = -errno;
    if (close(fd) < 0 && !result)
        result = -errno;
    return result;
}
