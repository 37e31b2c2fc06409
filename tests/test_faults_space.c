/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A host disk that is full, and the ways in which images have been lost around it: a late hole
 * punch that erases a block in new use, a block handed out twice after a write found no space,
 * tables overwritten while they are still needed, files that grow by what nothing counts.
 */
#include "sim_io.h"
#include "sim_random.h"
#include "vdisk/vdisk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE   4096u
#define CHUNK  (UINT64_C(64) << 10)
#define CHUNKS 512u
#define SIZE   (CHUNKS * CHUNK)
#define MIB    (UINT64_C(1) << 20)

static const uint8_t key_bytes[32] = "a key for disks that become full";
static const struct vdisk_key key = {
    .kind = VDISK_KEY_FILE, .bytes = key_bytes, .length = sizeof(key_bytes)};

/* ---- a door that watches: nothing overlaps, nothing that is still needed is overwritten ---- */

#define WATCHED 512u
#define PAGES   (1u << 16)

struct watch {
    struct vdisk_io io;
    struct vdisk_io *inner;
    struct watched {
        struct vdisk_io_request request; /* the inner one */
        struct vdisk_io_request *outer;
        struct watch *watch;
    } in_flight[WATCHED];
    uint64_t ring_blocks;    /* fixed blocks at the start: header, journal, superblocks */
    unsigned interval;       /* counts checkpoints: writes of superblock slot B */
    bool writes_fail;        /* blocks of a failed write may be used again at once */
    unsigned written[PAGES]; /* interval of the last write, plus 1 */
};
static unsigned pages_punched; /* by all */

static bool overlap(const struct vdisk_io_request *a, const struct vdisk_io_request *b)
{
    return a->offset < b->offset + b->length && b->offset < a->offset + a->length;
}

static bool changes(const struct vdisk_io_request *request)
{
    return request->op == VDISK_IO_WRITE || request->op == VDISK_IO_PUNCH;
}

static void watched_done(struct vdisk_io_request *request)
{
    struct watched *w = request->owner;
    struct vdisk_io_request *outer = w->outer;
    struct watch *watch = w->watch;
    uint64_t slot_b = (watch->ring_blocks + 2) * PAGE;
    if (request->op == VDISK_IO_WRITE && request->offset == slot_b && !request->result)
        watch->interval++;
    outer->result = request->result;
    w->outer = NULL;
    outer->done(outer);
}

/* Zeros are written ahead of use, where nothing is; what follows is the first that counts. */
static bool is_blank(const struct vdisk_io_request *request)
{
    const uint8_t *data = request->data;
    return data[0] == 0 && memcmp(data, data + 1, request->length - 1) == 0;
}

static void watch_write(struct watch *watch, const struct vdisk_io_request *request)
{
    uint64_t first = request->offset / PAGE;
    bool blank = is_blank(request);
    for (uint64_t page = first; page < first + request->length / PAGE && page < PAGES; page++) {
        if (page >= watch->ring_blocks + 4 && !watch->writes_fail &&
            watch->written[page] == watch->interval + 1)
            fail_msg("page %llu is overwritten before a checkpoint", (unsigned long long)page);
        if (!blank)
            watch->written[page] = watch->interval + 1;
    }
}

static void watch_submit(struct vdisk_io *io, struct vdisk_io_request *request)
{
    struct watch *watch = (struct watch *)io;
    struct watched *free_one = NULL;
    for (unsigned i = 0; i < WATCHED; i++) {
        struct watched *w = &watch->in_flight[i];
        if (!w->outer)
            free_one = w;
        else if ((changes(request) || changes(&w->request)) && overlap(request, &w->request) &&
                 request->op != VDISK_IO_SYNC && w->request.op != VDISK_IO_SYNC)
            fail_msg("operation %d at %llu of %llu meets operation %d in flight", (int)request->op,
                     (unsigned long long)request->offset, (unsigned long long)request->length,
                     (int)w->request.op);
    }
    assert_non_null(free_one);
    if (request->op == VDISK_IO_WRITE)
        watch_write(watch, request);
    if (request->op == VDISK_IO_PUNCH)
        pages_punched += (unsigned)(request->length / PAGE);
    free_one->outer = request;
    free_one->watch = watch;
    free_one->request = *request;
    free_one->request.done = watched_done;
    free_one->request.owner = free_one;
    watch->inner->ops->submit(watch->inner, &free_one->request);
}

static int watch_poll(struct vdisk_io *io, bool wait)
{
    struct vdisk_io *inner = ((struct watch *)io)->inner;
    return inner->ops->poll(inner, wait);
}

static int watch_size(struct vdisk_io *io, uint64_t *bytes)
{
    struct vdisk_io *inner = ((struct watch *)io)->inner;
    return inner->ops->size(inner, bytes);
}

static int64_t watch_now(struct vdisk_io *io)
{
    struct vdisk_io *inner = ((struct watch *)io)->inner;
    return inner->ops->now(inner);
}

static void watch_close(struct vdisk_io *io)
{
    struct vdisk_io *inner = ((struct watch *)io)->inner;
    inner->ops->close(inner);
    free(io);
}

static const struct vdisk_io_ops watch_ops = {
    .submit = watch_submit,
    .poll = watch_poll,
    .size = watch_size,
    .now = watch_now,
    .close = watch_close,
};

/* ---- an image and what it holds ---- */

struct disk {
    struct sim *sim;  /* or */
    const char *path; /* a file */
    uint32_t journal_log2;
    bool compress;
    bool writes_fail;
    struct vdisk_image *image;
    struct sim_rng rng;
    unsigned content[CHUNKS]; /* a generation; 0: zeros */
    unsigned generation;
};

static struct vdisk_io *door(const struct disk *disk)
{
    if (!disk->sim)
        return NULL;
    struct watch *watch = calloc(1, sizeof(*watch));
    assert_non_null(watch);
    watch->io.ops = &watch_ops;
    watch->inner = sim_io(disk->sim);
    watch->ring_blocks = UINT64_C(1) << disk->journal_log2;
    watch->writes_fail = disk->writes_fail;
    return &watch->io;
}

static void create(struct disk *disk)
{
    struct vdisk_error error = {0};
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = SIZE,
                                           .cluster_bytes = CHUNK,
                                           .journal_log2 = disk->journal_log2,
                                           .compress = disk->compress,
                                           .io = door(disk)};
    int r = vdisk_create(disk->path, &options, &key, &disk->image, &error);
    if (r)
        fail_msg("create: %d: %s", r, error.text);
}

static void open_again(struct disk *disk)
{
    struct vdisk_error error = {0};
    struct vdisk_open_options options = {.struct_bytes = sizeof(options), .io = door(disk)};
    int r = vdisk_open(disk->path, &options, &key, &disk->image, &error);
    if (r)
        fail_msg("open: %d: %s", r, error.text);
}

static void must(struct disk *disk, int result, const char *what)
{
    if (result)
        fail_msg("%s: %d: %s", what, result, vdisk_last_error(disk->image)->text);
}

static void shut(struct disk *disk)
{
    struct vdisk_error error = {0};
    int r = vdisk_close(disk->image, &error);
    disk->image = NULL;
    if (r)
        fail_msg("close: %d: %s", r, error.text);
}

/* A third of it can be compressed. */
static void fill_chunk(uint8_t *out, unsigned chunk, unsigned generation)
{
    struct sim_rng rng;
    memset(out, 0, CHUNK);
    if (!generation)
        return;
    sim_rng_seed(&rng, (uint64_t)generation << 16 | chunk);
    for (uint64_t at = 0; at < CHUNK; at += PAGE)
        sim_rng_fill(&rng, out + at, generation % 3 ? PAGE : 64);
}

static int write_chunk(struct disk *disk, unsigned chunk)
{
    static uint8_t data[CHUNK];
    unsigned generation = ++disk->generation;
    fill_chunk(data, chunk, generation);
    int r = vdisk_write(disk->image, chunk * CHUNK, data, CHUNK);
    if (!r)
        disk->content[chunk] = generation;
    return r;
}

static int discard_chunks(struct disk *disk, unsigned from, unsigned count)
{
    int r = vdisk_discard(disk->image, from * CHUNK, count * CHUNK);
    for (unsigned i = 0; !r && i < count; i++)
        disk->content[from + i] = 0;
    return r;
}

static void compare(struct disk *disk)
{
    static uint8_t data[CHUNK], want[CHUNK];
    for (unsigned c = 0; c < CHUNKS; c++) {
        must(disk, vdisk_read(disk->image, c * CHUNK, data, CHUNK), "read");
        fill_chunk(want, c, disk->content[c]);
        if (memcmp(data, want, CHUNK) != 0)
            fail_msg("chunk %u is not generation %u", c, disk->content[c]);
    }
}

static void note_finding(void *opaque, const struct vdisk_check_finding *finding)
{
    snprintf(opaque, VDISK_ERROR_TEXT_BYTES, "%s", finding->text);
}

static void expect_clean(struct disk *disk)
{
    char text[VDISK_ERROR_TEXT_BYTES] = "";
    struct vdisk_check_options options = {
        .struct_bytes = sizeof(options), .finding = note_finding, .opaque = text};
    struct vdisk_check_result result;
    int r = vdisk_check(disk->image, &options, &result);
    if (r || result.damaged || result.leaked_blocks)
        fail_msg("check: %d: %s; %s", r, vdisk_last_error(disk->image)->text, text);
}

/* ---- a full disk ---- */

static unsigned fill_up(struct disk *disk)
{
    unsigned written = 0, refused = 0;
    for (unsigned i = 0; refused < 20; i++) {
        int r = write_chunk(disk, (i * 37 + 11) % CHUNKS);
        if (r && r != -ENOSPC)
            fail_msg("write: %d: %s", r, vdisk_last_error(disk->image)->text);
        assert_true(!r || vdisk_last_error(disk->image)->code == r);
        written += r == 0;
        refused += r != 0;
        if (i > 20000)
            fail_msg("the disk never becomes full");
        if (i % 50 == 49)
            must(disk, vdisk_flush(disk->image), "flush on a disk that becomes full");
    }
    return written;
}

static void life_on_a_full_disk(struct disk *disk)
{
    create(disk);
    for (unsigned i = 0; i < 40; i++)
        must(disk, write_chunk(disk, i), "write");
    must(disk, vdisk_snapshot_create(disk->image, "early"), "snapshot");
    if (disk->sim)
        sim_set_capacity(disk->sim, sim_allocated_pages(disk->sim) + 1500);
    assert_true(fill_up(disk) > 20);
    compare(disk);
    must(disk, vdisk_flush(disk->image), "flush");

    /* What gives space back works, and its space can be used. */
    must(disk, discard_chunks(disk, 0, 100), "discard");
    must(disk, vdisk_flush(disk->image), "flush");
    must(disk, vdisk_checkpoint(disk->image), "checkpoint");
    assert_true(fill_up(disk) > 2);
    compare(disk);
    must(disk, vdisk_snapshot_delete(disk->image, "early"), "snapshot delete");
    assert_true(fill_up(disk) > 2);
    compare(disk);
    shut(disk);

    open_again(disk);
    compare(disk);
    must(disk, discard_chunks(disk, 200, 1), "discard after opening");
    must(disk, discard_chunks(disk, 100, 200), "discard after opening");
    must(disk, vdisk_flush(disk->image), "flush");
    vdisk_abandon(disk->image);

    open_again(disk);
    compare(disk);
    must(disk, vdisk_checkpoint(disk->image), "checkpoint");
    expect_clean(disk);
    for (unsigned i = 100; i < 110; i++)
        must(disk, write_chunk(disk, i), "write");
    shut(disk);
    open_again(disk);
    compare(disk);
    expect_clean(disk);
    shut(disk);
}

static void test_a_full_disk_refuses_writes_and_nothing_else(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        struct disk disk = {.sim = sim_new(i),
                            .journal_log2 = i % 4 < 2 ? 5 : 7,
                            .compress = i % 2,
                            .writes_fail = true};
        print_message("run %u\n", i);
        life_on_a_full_disk(&disk);
        sim_free(disk.sim);
    }
}

/* What a guest writes over, a journal of its own, say, gives its room back when there is need. */
static void test_overwriting_goes_on_while_a_disk_is_nearly_full(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct disk disk = {.sim = sim_new(i),
                            .journal_log2 = i < 2 ? 7 : 12,
                            .compress = i % 2,
                            .writes_fail = true};

        create(&disk);
        for (unsigned chunk = 0; chunk < 64; chunk++)
            must(&disk, write_chunk(&disk, chunk), "write");
        must(&disk, vdisk_checkpoint(disk.image), "checkpoint");
        sim_set_capacity(disk.sim, sim_allocated_pages(disk.sim) + 1500);
        for (unsigned round = 0; round < 500; round++) /* 8,000 pages */
            must(&disk, write_chunk(&disk, round % 64),
                 "overwriting on a disk that is nearly full");
        compare(&disk);
        for (unsigned chunk = 64; write_chunk(&disk, chunk) == 0; chunk++)
            assert_true(chunk + 1 < CHUNKS);
        shut(&disk);
        open_again(&disk);
        compare(&disk);
        expect_clean(&disk);
        shut(&disk);
        sim_free(disk.sim);
    }
}

/* The limit moves a page at a time: each place at which space can end. */
static void test_wherever_space_ends(void **state)
{
    uint64_t step = getenv("VDISK_TEST_LONG") ? 1 : 9;
    (void)state;
    for (uint64_t more = 0; more < 400; more += step) {
        struct disk disk = {
            .sim = sim_new(more), .journal_log2 = 5, .compress = more % 2, .writes_fail = true};
        create(&disk);
        for (unsigned i = 0; i < 10; i++)
            must(&disk, write_chunk(&disk, i), "write");
        must(&disk, vdisk_flush(disk.image), "flush");
        sim_set_capacity(disk.sim, sim_allocated_pages(disk.sim) + more);
        (void)fill_up(&disk);
        must(&disk, vdisk_checkpoint(disk.image), "checkpoint");
        must(&disk, discard_chunks(&disk, 0, CHUNKS), "discard");
        shut(&disk);
        open_again(&disk);
        compare(&disk);
        expect_clean(&disk);
        shut(&disk);
        sim_free(disk.sim);
    }
}

/* Nodes are largest where neighbours were written apart. */
static void test_scattered_writes_leave_a_checkpoint_its_room(void **state)
{
    static uint8_t data[PAGE];
    (void)state;
    for (unsigned seed = 0; seed < 4; seed++) {
        struct disk disk = {
            .sim = sim_new(seed), .journal_log2 = 12, .compress = seed % 2, .writes_fail = true};
        sim_rng_seed(&disk.rng, seed);
        create(&disk);
        for (unsigned i = 0; i < CHUNKS; i++) /* even generations can be compressed */
            must(&disk, write_chunk(&disk, i), "write");
        must(&disk, vdisk_checkpoint(disk.image), "checkpoint");
        sim_set_capacity(disk.sim, sim_allocated_pages(disk.sim) + 3000 + seed * 700);
        for (unsigned refused = 0; refused < 50;) {
            sim_rng_fill(&disk.rng, data, sizeof(data));
            uint64_t page = sim_rng_below(&disk.rng, SIZE / PAGE) / 2 * 2;
            int r = vdisk_write(disk.image, page * PAGE, data, PAGE);
            if (r && r != -ENOSPC)
                must(&disk, r, "write");
            refused += r != 0;
        }
        must(&disk, vdisk_checkpoint(disk.image), "checkpoint");
        must(&disk, discard_chunks(&disk, 0, CHUNKS), "discard");
        must(&disk, vdisk_flush(disk.image), "flush");
        vdisk_abandon(disk.image);
        open_again(&disk);
        expect_clean(&disk);
        compare(&disk);
        shut(&disk);
        sim_free(disk.sim);
    }
}

/* ---- a disk that is full when the image is opened ---- */

static int full_discard(struct disk *disk)
{
    int r = discard_chunks(disk, 100, 60);
    return r ? r : vdisk_flush(disk->image);
}

static int full_zero(struct disk *disk)
{
    int r = vdisk_zero(disk->image, 100 * CHUNK, 60 * CHUNK);
    for (unsigned i = 100; !r && i < 160; i++)
        disk->content[i] = 0;
    return r ? r : vdisk_flush(disk->image);
}

static int full_checkpoint(struct disk *disk)
{
    return vdisk_checkpoint(disk->image);
}

static int full_delete(struct disk *disk)
{
    return vdisk_snapshot_delete(disk->image, "early");
}

static int full_rollback(struct disk *disk)
{
    int r = vdisk_snapshot_rollback(disk->image, "early");
    for (unsigned i = 0; !r && i < CHUNKS; i++)
        disk->content[i] = i >= 60 && i < 180 ? i + 1 : 0;
    return r;
}

static int full_close(struct disk *disk)
{
    (void)disk; /* with a journal to replay, closing makes a checkpoint */
    return 0;
}

/* The first free blocks of the file are holes, and the reserve lies behind them, from before they
 * came free: who holds no reserve takes those. */
static void fill_with_holes(struct disk *disk, bool cut)
{
    create(disk);
    for (unsigned i = 0; i < 220; i++)
        must(disk, write_chunk(disk, i), "write");
    must(disk, discard_chunks(disk, 180, 40), "discard");
    must(disk, vdisk_checkpoint(disk->image), "checkpoint");
    must(disk, discard_chunks(disk, 0, 60), "discard");
    must(disk, vdisk_checkpoint(disk->image), "checkpoint");
    must(disk, vdisk_snapshot_create(disk->image, "early"), "snapshot");
    for (unsigned i = 0; i < 30; i++)
        must(disk, write_chunk(disk, 80 + i), "write");
    must(disk, vdisk_flush(disk->image), "flush");
    if (cut)
        vdisk_abandon(disk->image);
    else
        shut(disk);
    sim_set_capacity(disk->sim, sim_allocated_pages(disk->sim));
}

/* What gives space back needs some first, and has it: in the reserve that the superblock names. */
static void test_a_disk_that_is_full_when_the_image_is_opened(void **state)
{
    static int (*const way[])(struct disk *) = {full_discard, full_zero,     full_checkpoint,
                                                full_delete,  full_rollback, full_close};
    (void)state;
    for (unsigned i = 0; i < 4 * sizeof(way) / sizeof(way[0]); i++) {
        struct disk disk = {.sim = sim_new(i),
                            .journal_log2 = i % 2 ? 5 : 8,
                            .compress = i / 2 % 2,
                            .writes_fail = true};
        print_message("way %u, run %u\n", i / 4, i % 4);
        fill_with_holes(&disk, i % 4 == 1 || i % 4 == 2);
        open_again(&disk);
        must(&disk, way[i / 4](&disk), "on a full disk");
        compare(&disk);
        shut(&disk);
        open_again(&disk);
        compare(&disk);
        expect_clean(&disk);
        shut(&disk);
        sim_free(disk.sim);
    }
}

static char mount_point[200];

static void child_on_tmpfs(void)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/image", mount_point);
    struct disk disk = {.path = path, .journal_log2 = 7, .compress = true};
    life_on_a_full_disk(&disk);
}

static void test_a_full_tmpfs(void **state)
{
    const char *tmp = getenv("TMPDIR");
    int status = 1;
    (void)state;
    snprintf(mount_point, sizeof(mount_point), "%s/vdisk-full-XXXXXX", tmp ? tmp : "/tmp");
    assert_non_null(mkdtemp(mount_point));
    pid_t child = fork();
    if (child == 0) { /* a mount of its own, gone with the process */
        if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
            mount("tmpfs", mount_point, "tmpfs", 0, "size=12m"))
            _exit(77);
        child_on_tmpfs();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    rmdir(mount_point);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
        print_message("no right to mount a tmpfs\n");
        skip();
    }
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* ---- a sync that failed ---- */

static void test_a_failed_sync_latches_until_opened_again(void **state)
{
    uint8_t byte = 1;
    struct vdisk_error error = {0};
    struct disk disk = {.sim = sim_new(3), .journal_log2 = 5};
    (void)state;
    create(&disk);
    must(&disk, write_chunk(&disk, 1), "write");
    must(&disk, vdisk_flush(disk.image), "flush");
    must(&disk, write_chunk(&disk, 2), "write");
    sim_add_fault(disk.sim, &(struct sim_fault){.op = VDISK_IO_SYNC, .nth = 1, .error = -EIO});
    assert_int_equal(vdisk_flush(disk.image), -EIO);
    assert_int_equal(vdisk_write(disk.image, 0, &byte, 1), VDISK_E_FAILED);
    assert_int_equal(vdisk_last_error(disk.image)->code, VDISK_E_FAILED);
    assert_int_equal(vdisk_flush(disk.image), VDISK_E_FAILED);
    assert_int_equal(vdisk_discard(disk.image, 0, CHUNK), VDISK_E_FAILED);
    assert_int_equal(vdisk_zero(disk.image, 0, CHUNK), VDISK_E_FAILED);
    assert_int_equal(vdisk_checkpoint(disk.image), VDISK_E_FAILED);
    assert_int_equal(vdisk_resize(disk.image, 2 * SIZE, false), VDISK_E_FAILED);
    assert_int_equal(vdisk_snapshot_create(disk.image, "no"), VDISK_E_FAILED);
    assert_int_equal(vdisk_key_add(disk.image, &key, NULL), VDISK_E_FAILED);
    compare(&disk);
    assert_int_equal(vdisk_close(disk.image, &error), VDISK_E_FAILED);
    assert_int_equal(error.code, VDISK_E_FAILED);
    assert_true(error.text[0] && !strchr(error.text, '\n'));

    struct sim *after = sim_crash_image(disk.sim, 1, SIM_KEEP_NONE);
    sim_free(disk.sim);
    disk.sim = after;
    disk.content[2] = 0;
    open_again(&disk);
    compare(&disk);
    must(&disk, write_chunk(&disk, 2), "write");
    shut(&disk);
    sim_free(disk.sim);
}

/* ---- known ways to lose images ---- */

#define FLIGHTS 48u

struct flight {
    struct vdisk_request request;
    bool busy;
    uint8_t *data;
};

static void flight_done(struct vdisk_request *request)
{
    struct flight *flight = request->owner;
    if (request->result && request->result != -ENOSPC)
        fail_msg("request: %d", request->result);
    flight->busy = false;
}

/* Of those that overwrite at the same time, each has its turn: there is never room for all. */
static void test_many_may_overwrite_at_once_while_a_disk_is_nearly_full(void **state)
{
    static uint8_t data[FLIGHTS][CHUNK];
    struct flight flight[FLIGHTS] = {0};

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct disk disk = {.sim = sim_new(i),
                            .journal_log2 = i < 2 ? 7 : 12,
                            .compress = i % 2,
                            .writes_fail = true};

        create(&disk);
        for (unsigned chunk = 0; chunk < FLIGHTS; chunk++)
            must(&disk, write_chunk(&disk, chunk), "write");
        must(&disk, vdisk_checkpoint(disk.image), "checkpoint");
        sim_set_capacity(disk.sim, sim_allocated_pages(disk.sim) + 1500);
        for (unsigned round = 0; round < 20; round++) {
            for (unsigned k = 0; k < FLIGHTS; k++) {
                disk.content[k] = ++disk.generation;
                fill_chunk(data[k], k, disk.generation);
                flight[k].busy = true;
                flight[k].request = (struct vdisk_request){.op = VDISK_WRITE,
                                                           .offset = k * CHUNK,
                                                           .length = CHUNK,
                                                           .data = data[k],
                                                           .done = flight_done,
                                                           .owner = &flight[k]};
                vdisk_submit(disk.image, &flight[k].request);
            }
            for (unsigned k = 0; k < FLIGHTS; k++) {
                while (flight[k].busy)
                    vdisk_poll(disk.image, true);
                must(&disk, flight[k].request.result, "overwriting at the same time as others");
            }
        }
        compare(&disk);
        shut(&disk);
        open_again(&disk);
        compare(&disk);
        expect_clean(&disk);
        shut(&disk);
        sim_free(disk.sim);
    }
}

/* Writes and discards of random chunks, many in flight, with flushes and checkpoints among them.
 * Returns how many were refused for want of space. */
static unsigned storm(struct disk *disk, unsigned count)
{
    struct flight *flight = calloc(FLIGHTS, sizeof(*flight));
    bool taken[CHUNKS] = {false};
    unsigned refused = 0;
    assert_non_null(flight);
    for (unsigned i = 0; i < FLIGHTS; i++)
        assert_non_null(flight[i].data = malloc(CHUNK));
    while (count) {
        unsigned flying = 0;
        for (unsigned i = 0; i < FLIGHTS && count; i++, count--) {
            unsigned chunk = (unsigned)sim_rng_below(&disk->rng, CHUNKS);
            if (taken[chunk])
                continue;
            taken[chunk] = true;
            bool discard = sim_rng_chance(&disk->rng, 1, 3);
            unsigned generation = discard ? 0 : ++disk->generation;
            fill_chunk(flight[flying].data, chunk, generation);
            flight[flying].busy = true;
            flight[flying].request =
                (struct vdisk_request){.op = discard ? VDISK_DISCARD : VDISK_WRITE,
                                       .fua = sim_rng_chance(&disk->rng, 1, 8),
                                       .offset = chunk * CHUNK,
                                       .length = CHUNK,
                                       .data = flight[flying].data,
                                       .done = flight_done,
                                       .owner = &flight[flying]};
            vdisk_submit(disk->image, &flight[flying].request);
            disk->content[chunk] = disk->content[chunk] << 16 | generation; /* both, for now */
            flying++;
            if (sim_rng_chance(&disk->rng, 1, 6))
                vdisk_poll(disk->image, false);
        }
        if (sim_rng_chance(&disk->rng, 1, 2))
            must(disk, vdisk_checkpoint(disk->image), "checkpoint");
        for (unsigned i = 0; i < flying; i++) {
            while (flight[i].busy)
                vdisk_poll(disk->image, true);
            unsigned chunk = (unsigned)(flight[i].request.offset / CHUNK);
            bool ok = flight[i].request.result == 0;
            disk->content[chunk] = ok ? disk->content[chunk] & 0xffff : disk->content[chunk] >> 16;
            taken[chunk] = false;
            refused += !ok;
        }
    }
    for (unsigned i = 0; i < FLIGHTS; i++)
        free(flight[i].data);
    free(flight);
    return refused;
}

/* The door sees to it that no punch meets a write, and no live block is written to. */
static void test_punches_and_tables_keep_clear_of_new_writes(void **state)
{
    (void)state;
    for (unsigned seed = 0; seed < 6; seed++) {
        struct disk disk = {
            .sim = sim_new(seed), .journal_log2 = seed % 2 ? 5 : 8, .compress = seed / 2 % 2};
        sim_rng_seed(&disk.rng, seed);
        create(&disk);
        for (unsigned round = 0; round < 6; round++) {
            (void)storm(&disk, 400);
            compare(&disk);
        }
        expect_clean(&disk);
        shut(&disk);
        open_again(&disk);
        compare(&disk);
        shut(&disk);
        sim_free(disk.sim);
    }
}

/* One page in each of many chunks, as it is: only its place in the file is new. How many were
 * refused. */
static unsigned move_pages(struct disk *disk, unsigned chunks, unsigned count)
{
    static uint8_t data[CHUNK];
    unsigned refused = 0;
    for (unsigned i = 0; i < count; i++) {
        unsigned chunk = (unsigned)(sim_rng_next(&disk->rng) % chunks);
        uint64_t at = sim_rng_next(&disk->rng) % (CHUNK / PAGE) * PAGE;
        fill_chunk(data, chunk, disk->content[chunk]);
        int r = vdisk_write(disk->image, chunk * CHUNK + at, data + at, PAGE);
        if (r && r != -ENOSPC)
            must(disk, r, "write");
        refused += r != 0;
        if (i % 200 == 199)
            must(disk, vdisk_checkpoint(disk->image), "checkpoint");
    }
    return refused;
}

static void test_small_holes_are_kept_and_used_again(void **state)
{
    struct disk disk = {.sim = sim_new(5), .journal_log2 = 8, .writes_fail = true};
    (void)state;
    sim_rng_seed(&disk.rng, 5);
    create(&disk);
    for (unsigned i = 0; i < 300; i++)
        must(&disk, write_chunk(&disk, i), "write");
    must(&disk, vdisk_checkpoint(disk.image), "checkpoint");
    pages_punched = 0;
    assert_int_equal(move_pages(&disk, 300, 3000), 0);
    assert_in_range(pages_punched, 0, 300);
    /* The disk is full; what became free in the file is enough to go on with. */
    sim_set_capacity(disk.sim, sim_allocated_pages(disk.sim));
    assert_in_range(move_pages(&disk, 300, 3000), 0, 30);
    compare(&disk);
    /* Space in larger pieces goes back to the host, also what was kept in between. */
    uint64_t before = sim_allocated_pages(disk.sim);
    must(&disk, discard_chunks(&disk, 0, 200), "discard");
    must(&disk, vdisk_checkpoint(disk.image), "checkpoint");
    assert_in_range(sim_allocated_pages(disk.sim), 0, before - UINT64_C(200) * (CHUNK / PAGE) / 3);
    compare(&disk);
    expect_clean(&disk);
    shut(&disk);
    sim_free(disk.sim);
}

static void test_blocks_of_refused_writes_are_not_handed_out_twice(void **state)
{
    (void)state;
    for (unsigned seed = 0; seed < 6; seed++) {
        unsigned refused = 0;
        struct disk disk = {.sim = sim_new(seed),
                            .journal_log2 = seed % 2 ? 5 : 8,
                            .compress = seed / 2 % 2,
                            .writes_fail = true};
        sim_rng_seed(&disk.rng, seed);
        create(&disk);
        sim_set_capacity(disk.sim, sim_allocated_pages(disk.sim) + 1200);
        for (unsigned round = 0; round < 6; round++) {
            refused += storm(&disk, 400);
            compare(&disk);
            expect_clean(&disk);
        }
        assert_true(refused > 0);
        vdisk_abandon(disk.image);
        struct sim *after = sim_crash_image(disk.sim, seed, SIM_KEEP_ALL);
        sim_free(disk.sim);
        disk.sim = after;
        open_again(&disk);
        expect_clean(&disk);
        shut(&disk);
        sim_free(disk.sim);
    }
}

/* What is in the file beyond the blocks that are counted, and a reserve, comes back. */
static void expect_no_growth(struct disk *disk, const char *when)
{
    struct vdisk_info info;
    must(disk, vdisk_compact(disk->image, NULL, NULL, NULL), "compact");
    vdisk_get_info(disk->image, &info);
    uint64_t used = info.used_bytes / PAGE, there = sim_allocated_pages(disk->sim);
    if (there > used + 450)
        fail_msg("%s: %llu pages of the file for %llu in use", when, (unsigned long long)there,
                 (unsigned long long)used);
}

static void test_a_file_does_not_grow_by_what_nothing_counts(void **state)
{
    struct disk disk = {.sim = sim_new(9), .journal_log2 = 7, .writes_fail = true};
    (void)state;
    create(&disk);
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned i = 0; i < 60; i++)
            must(&disk, write_chunk(&disk, i), "write");
        must(&disk, vdisk_flush(disk.image), "flush");
        for (unsigned i = 60; i < 160; i++) /* lost, but the file is longer */
            must(&disk, write_chunk(&disk, i), "write");
        vdisk_abandon(disk.image);
        struct sim *after = sim_crash_image(disk.sim, round, SIM_KEEP_ALL);
        sim_free(disk.sim);
        disk.sim = after;
        memset(&disk.content[60], 0, 100 * sizeof(disk.content[0]));
        open_again(&disk);
        must(&disk, discard_chunks(&disk, 60, 100), "discard");
        expect_no_growth(&disk, "after a crash");
        expect_clean(&disk);
        compare(&disk);
    }
    sim_set_capacity(disk.sim, sim_allocated_pages(disk.sim) + 1200);
    (void)fill_up(&disk);
    must(&disk, discard_chunks(&disk, 20, CHUNKS - 20), "discard");
    expect_no_growth(&disk, "after writes that found no space");
    must(&disk, discard_chunks(&disk, 0, 20), "discard");
    expect_no_growth(&disk, "empty");
    shut(&disk);
    sim_free(disk.sim);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_full_disk_refuses_writes_and_nothing_else),
        cmocka_unit_test(test_overwriting_goes_on_while_a_disk_is_nearly_full),
        cmocka_unit_test(test_many_may_overwrite_at_once_while_a_disk_is_nearly_full),
        cmocka_unit_test(test_wherever_space_ends),
        cmocka_unit_test(test_scattered_writes_leave_a_checkpoint_its_room),
        cmocka_unit_test(test_a_disk_that_is_full_when_the_image_is_opened),
        cmocka_unit_test(test_a_full_tmpfs),
        cmocka_unit_test(test_a_failed_sync_latches_until_opened_again),
        cmocka_unit_test(test_punches_and_tables_keep_clear_of_new_writes),
        cmocka_unit_test(test_small_holes_are_kept_and_used_again),
        cmocka_unit_test(test_blocks_of_refused_writes_are_not_handed_out_twice),
        cmocka_unit_test(test_a_file_does_not_grow_by_what_nothing_counts),
    };
    if (vdisk_init())
        return 1;
    alarm(600);
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
