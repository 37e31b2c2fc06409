/* SPDX-License-Identifier: Apache-2.0 */
/* What random steps are made of, opening and closing; see drive_run.h. The steps: drive_steps.c. */
#include "drive_run.h"

#include "bytes.h"
#include "workers.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>

static const uint8_t key_bytes[32] = "what every one of these is under";
const struct vdisk_key drive_key = {
    .kind = VDISK_KEY_FILE, .bytes = key_bytes, .length = sizeof(key_bytes)};

uint64_t drive_random(struct drive_run *run, uint64_t bound)
{
    return sim_rng_below(&run->rng, bound);
}

bool drive_chance(struct drive_run *run, unsigned part, unsigned whole)
{
    return sim_rng_chance(&run->rng, part, whole);
}

static void stop(struct drive_run *run, const char *what, int result)
{
    fail_msg("seed %llu, step %u: %s: %d: %s", (unsigned long long)run->seed, run->step, what,
             result, run->image ? vdisk_last_error(run->image)->text : "");
}

void drive_must(struct drive_run *run, int result, const char *what)
{
    if (result)
        stop(run, what, result);
}

void drive_holds(struct drive_run *run, bool ok)
{
    if (!ok)
        fail_msg("seed %llu, step %u: %s", (unsigned long long)run->seed, run->step, run->failure);
}

/* ---- what is written ---- */

uint8_t *drive_make_data(struct drive_run *run, uint64_t length)
{
    uint8_t *data = malloc(length ? length : 1);
    unsigned kind = (unsigned)drive_random(run, 6);
    assert_non_null(data);
    for (uint64_t at = 0; at < length;) {
        uint64_t n = vd_min64(length - at, kind == 5 ? 1 + drive_random(run, 20000) : length);
        unsigned now = kind == 5 ? (unsigned)drive_random(run, 4) : kind;
        if (now == 0)
            memset(data + at, 0, n);
        else if (now == 1)
            memset(data + at, 1 + (int)drive_random(run, 255), n);
        else if (now == 2)
            for (uint64_t i = 0; i < n; i++)
                data[at + i] = (uint8_t)((i >> 7) * 7 + i % 13 + run->change);
        else
            sim_rng_fill(&run->rng, data + at, n);
        at += n;
    }
    return data;
}

/* A range within a window and the drive; aligned more often than not. */
void drive_choose_range(struct drive_run *run, uint64_t max, uint64_t *offset, uint64_t *length)
{
    static const uint64_t units[] = {1, 512, 4096, 4096, 16384, 65536, 1 << 20};
    const struct drive_window *w;
    do
        w = &drive_window[drive_random(run, 3) ? 0 : drive_random(run, DRIVE_WINDOWS)];
    while (w->offset >= run->live->size);
    uint64_t unit = units[drive_random(run, 7)];
    uint64_t room = vd_min64(w->bytes, run->live->size - w->offset);
    uint64_t start = drive_random(run, room) / unit * unit;
    uint64_t most = drive_chance(run, 1, 3) ? max : vd_min64(max, 40000);
    uint64_t count = 1 + drive_random(run, most);
    count = vd_div_up(count, unit) * unit;
    *offset = w->offset + start;
    *length = vd_min64(vd_min64(count, max), room - start);
}

/* ---- requests in flight ---- */

static void flight_done(struct vdisk_request *request)
{
    struct drive_flight *flight = request->owner;
    struct drive_run *run = flight->run;
    drive_must(run, request->result, "request");
    if (request->op == VDISK_READ && memcmp(flight->data, flight->expected, request->length) != 0) {
        uint64_t i = 0;
        while (flight->data[i] == flight->expected[i])
            i++;
        fail_msg("seed %llu, step %u: read of %llu at %llu%s: byte %llu is %02x, not %02x",
                 (unsigned long long)run->seed, run->step, (unsigned long long)request->length,
                 (unsigned long long)request->offset, request->snapshot ? " (snapshot)" : "",
                 (unsigned long long)(request->offset + i), flight->data[i], flight->expected[i]);
    }
    free(flight->data);
    free(flight->expected);
    free(flight->before.bytes);
    *flight = (struct drive_flight){0};
    run->flying--;
}

void drive_drain(struct drive_run *run)
{
    while (run->flying)
        vdisk_poll(run->image, true);
}

static void keep_before(const struct drive_run *run, struct drive_before *before, uint64_t offset,
                        uint64_t length)
{
    if (length > DRIVE_WRITE_MAX)
        return;
    before->offset = offset / DRIVE_BLOCK * DRIVE_BLOCK;
    before->length = vd_div_up(offset + length, DRIVE_BLOCK) * DRIVE_BLOCK - before->offset;
    before->bytes = malloc(before->length);
    assert_non_null(before->bytes);
    drive_read(run->live, before->offset, before->bytes, before->length);
}

/* Requests that overlap are done in the order in which they were submitted: the model can be
 * changed at once. */
void drive_launch(struct drive_run *run, enum vdisk_request_op op, uint64_t offset, uint64_t length,
                  uint8_t *data)
{
    while (run->flying == DRIVE_FLIGHTS)
        vdisk_poll(run->image, true);
    struct drive_flight *flight = run->flight;
    while (flight->busy)
        flight++;
    *flight = (struct drive_flight){.busy = true, .run = run, .data = data};
    flight->request = (struct vdisk_request){.op = op,
                                             .fua = drive_chance(run, 1, 10),
                                             .outlives = drive_chance(run, 1, 4),
                                             .offset = offset,
                                             .length = length,
                                             .data = data,
                                             .done = flight_done,
                                             .owner = flight};
    if (op == VDISK_READ) {
        flight->data = flight->request.data = malloc(length);
        flight->expected = malloc(length);
        assert_true(flight->data && flight->expected);
        bool old = run->held && drive_chance(run, 1, 3) &&
                   offset + length <= run->snapshot[run->held_index].state->size;
        flight->request.snapshot = old ? run->held : NULL;
        drive_read(old ? run->snapshot[run->held_index].state : run->live, offset, flight->expected,
                   length);
    } else if (op != VDISK_FLUSH) {
        keep_before(run, &flight->before, offset, length);
        drive_write(run->live, offset, op == VDISK_WRITE ? data : NULL, length, ++run->change);
    }
    run->flying++;
    vdisk_submit(run->image, &flight->request);
    if (drive_chance(run, 1, 3))
        vdisk_poll(run->image, false);
}

/* ---- size ---- */

uint64_t drive_choose_size(struct drive_run *run)
{
    unsigned class = (unsigned)drive_random(run, run->below ? 16 : 8);
    uint64_t top = class == 0  ? DRIVE_TOP
                   : class < 3 ? drive_window[1].offset + drive_window[1].bytes
                               : drive_window[0].bytes;
    uint64_t cut = drive_chance(run, 1, 3) ? 0 : drive_random(run, UINT64_C(3) << 20) / 512 * 512;
    uint64_t size = top - cut;
    return drive_chance(run, 1, 2) ? size : vd_div_up(size, UINT64_C(1) << 20) << 20;
}

void drive_release_held(struct drive_run *run)
{
    drive_drain(run);
    vdisk_snapshot_close(run->held);
    run->held = NULL;
}

/* ---- opening and closing ---- */

void drive_open_again(struct drive_run *run, bool read_only)
{
    static const size_t caches[] = {0, 4096, 100000, 1 << 20};
    struct vdisk_error error = {0};
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options),
        .read_only = read_only,
        .cache_bytes =
            run->config->cache_bytes ? run->config->cache_bytes : caches[drive_random(run, 4)],
        .workers = run->workers,
        .io = run->sim ? sim_io(run->sim) : NULL,
    };
    int r = vdisk_open(run->path, &options, &drive_key, &run->image, &error);
    if (r)
        fail_msg("seed %llu, step %u: open: %d: %s", (unsigned long long)run->seed, run->step, r,
                 error.text);
    run->read_only = read_only;
}

void drive_shut(struct drive_run *run)
{
    struct vdisk_error error = {0};
    drive_release_held(run);
    if (!run->read_only && drive_chance(run, 1, 2)) {
        drive_must(run, vdisk_flush(run->image), "flush");
        vdisk_abandon(run->image);
    } else {
        struct vdisk_image *image = run->image;
        run->image = NULL;
        int r = vdisk_close(image, &error);
        if (r)
            fail_msg("seed %llu, step %u: close: %d: %s", (unsigned long long)run->seed, run->step,
                     r, error.text);
    }
    run->image = NULL;
}

/* base_path NULL: none. */
void drive_create(struct drive_run *run, const char *base_path, const char *base_snapshot)
{
    const struct drive_config *c = run->config;
    struct vdisk_error error = {0};
    uint64_t size = base_path && drive_chance(run, 1, 2) ? 0 : drive_choose_size(run);
    if (base_path && size < run->below->size)
        size = 0; /* smaller, it would show more of the base when it grows */
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options),
        .size = size,
        .cluster_bytes = c->cluster_bytes,
        .split_bytes = c->split_bytes,
        .journal_log2 = c->journal_log2,
        .compress = c->compress,
        .compress_level = c->level,
        .base_path = base_path,
        .base_snapshot = base_snapshot,
        .base_key = base_path ? &drive_key : NULL,
        .workers = run->workers,
        .io = run->sim ? sim_io(run->sim) : NULL,
    };
    int r = vdisk_create(run->path, &options, &drive_key, &run->image, &error);
    if (r)
        fail_msg("seed %llu: create: %d: %s", (unsigned long long)run->seed, r, error.text);
    run->live = drive_new(size ? size : run->below->size, run->below);
    run->read_only = false;
}

void drive_begin(struct drive_run *run, const struct drive_config *config, uint64_t seed)
{
    *run = (struct drive_run){.config = config, .seed = seed};
    sim_rng_seed(&run->rng, seed);
    sim_randombytes_install(seed);
    if (config->threads)
        assert_int_equal(vd_workers_open(config->threads, &run->workers), 0);
    if (!config->files)
        run->sim = sim_new(seed);
}

void drive_end(struct drive_run *run)
{
    if (run->image)
        drive_shut(run);
    if (run->workers)
        run->workers->ops->close(run->workers);
    for (unsigned i = 0; i < run->snapshots; i++)
        drive_free(run->snapshot[i].state);
    drive_free(run->live);
    sim_free(run->sim);
}
