/* SPDX-License-Identifier: Apache-2.0 */
/*
 * In-flight memory (vdiskd/vhost_inflight.c): a back end is killed after any instruction that
 * changes shared memory, and the next one gives back each request once: none is lost to the driver,
 * none that the driver has seen comes again.
 *
 * The back end is a child that is traced, an instruction at a time; each state of the memory it
 * goes through is what a kill there would have left.
 */
#include "vhost_inflight.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE       4u
#define BYTES      4096u
#define AVAIL_AT   1024u
#define USED_AT    2048u
#define REGION_AT  3072u
#define AVAIL_FLAG (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED_FLAG  (1u << VRING_PACKED_DESC_F_USED)
#define REQUESTS   11u

/* Ring and in-flight memory in one page, and the back end's own state. */
struct backend {
    struct vhost_memory memory;
    struct virtqueue ring;
    struct vhost_inflight inflight;
    struct vring_chain chain;
    struct vhost_inflight_lost lost[VRING_SIZE_MAX];
    unsigned lost_count;
};

static struct backend *open_backend(uint8_t *page, bool packed)
{
    struct backend *backend = calloc(1, sizeof(*backend));

    assert_non_null(backend);
    assert_int_equal(vhost_memory_add_mapped(&backend->memory, 0, BYTES, 0, page, NULL), 0);
    backend->ring.config =
        (struct vring_config){.size = SIZE, .packed = packed, .avail = AVAIL_AT, .used = USED_AT};
    assert_int_equal(vring_resolve(&backend->ring, &backend->memory), 0);
    vring_start(&backend->ring, packed ? 0x80008000u : 0);
    assert_int_equal(vhost_inflight_open(&backend->inflight, page + REGION_AT, SIZE, &backend->ring,
                                         backend->lost, &backend->lost_count),
                     0);
    return backend;
}

/* The driver: makes request number `number` available; the address is the number. Requests with an
 * odd number are of two descriptors in a packed ring. */
struct driver {
    unsigned at, used_at, next;
    bool wrap, used_wrap;
    unsigned slots[REQUESTS];
};

static void offer_split(uint8_t *page, struct driver *driver)
{
    uint16_t *avail = (uint16_t *)(void *)(page + AVAIL_AT);
    struct vring_desc *desc = (void *)page;
    unsigned head = driver->next % SIZE;

    desc[head] = (struct vring_desc){.addr = driver->next, .len = 1};
    avail[2 + avail[1] % SIZE] = (uint16_t)head;
    avail[1]++;
    driver->next++;
}

static void offer_packed(uint8_t *page, struct driver *driver)
{
    struct vring_packed_desc *desc = (void *)page;
    unsigned count = 1 + driver->next % 2;

    driver->slots[driver->next] = count;
    for (unsigned i = 0; i < count; i++) {
        unsigned flags = driver->wrap ? AVAIL_FLAG : USED_FLAG;

        desc[driver->at] = (struct vring_packed_desc){
            .addr = driver->next,
            .len = 1,
            .id = (uint16_t)driver->next,
            .flags = (uint16_t)(flags | (i + 1 < count ? VRING_DESC_F_NEXT : 0))};
        driver->at = (driver->at + 1) % SIZE;
        driver->wrap ^= driver->at == 0;
    }
    driver->next++;
}

/* What the driver finds used, into a mask of request numbers. A second time is a failure. */
static void reap(const uint8_t *page, bool packed, struct driver *driver, unsigned *seen)
{
    const struct vring_packed_desc *desc = (const void *)page;
    const uint16_t *used = (const void *)(page + USED_AT);
    const struct vring_used_elem *element = (const void *)(page + USED_AT + 4);

    for (;;) {
        unsigned number;

        if (packed) {
            unsigned flags = desc[driver->used_at].flags;

            if (!!(flags & AVAIL_FLAG) != driver->used_wrap ||
                !!(flags & USED_FLAG) != driver->used_wrap)
                return;
            number = desc[driver->used_at].id;
            assert_true(number < driver->next);
            driver->used_at += driver->slots[number];
            driver->used_wrap ^= driver->used_at >= SIZE;
            driver->used_at %= SIZE;
        } else {
            if (used[1] == (uint16_t)driver->used_at)
                return;
            /* In a full ring of four, a head belongs to the last four requests. */
            number = element[driver->used_at % SIZE].len;
            driver->used_at++;
        }
        assert_true(number < driver->next);
        assert_false(*seen & 1u << number);
        *seen |= 1u << number;
    }
}

static void give_back_batch(struct backend *backend, const struct vring_chain *chain,
                            unsigned count)
{
    struct vhost_inflight_used used[SIZE];

    for (unsigned i = 0; i < count; i++)
        used[i] = (struct vhost_inflight_used){
            .head = chain[count - 1 - i].head,
            .slots = chain[count - 1 - i].slots,
            .entry = chain[count - 1 - i].entry,
            /* So that the driver knows which. */
            .written = (uint32_t)chain[count - 1 - i].segment[0].guest,
        };
    vhost_inflight_put(&backend->inflight, &backend->ring, &backend->memory, used, count);
}

static void give_back(struct backend *backend, const struct vring_chain *chain)
{
    give_back_batch(backend, chain, 1);
}

static int take(struct backend *backend)
{
    int rc = vring_fetch(&backend->ring, &backend->memory, &backend->chain);

    if (rc > 0)
        assert_int_equal(vhost_inflight_taken(&backend->inflight, &backend->chain), 0);
    return rc;
}

/* What a new back end does with a state that a kill left: all requests end, each once. */
static void check_recovery(const uint8_t *left, bool packed, struct driver driver, unsigned seen)
{
    uint8_t *page = aligned_alloc(4096, BYTES);
    uint64_t counter = 0;

    assert_non_null(page);
    memcpy(page, left, BYTES);
    reap(page, packed, &driver, &seen);
    struct backend *backend = open_backend(page, packed);

    for (unsigned i = 0; i < backend->lost_count; i++) {
        assert_true(i == 0 || backend->lost[i].counter > counter);
        counter = backend->lost[i].counter;
        assert_int_equal(vhost_inflight_refetch(&backend->inflight, &backend->ring,
                                                &backend->memory, &backend->lost[i],
                                                &backend->chain),
                         0);
        give_back(backend, &backend->chain);
    }
    int rc;

    while ((rc = take(backend)) > 0)
        give_back(backend, &backend->chain);
    assert_int_equal(rc, 0);
    reap(page, packed, &driver, &seen);
    assert_int_equal(seen, (1u << driver.next) - 1);
    free(backend);
    free(page);
}

/* The child: takes what there is, gives it back from the last to the first: one, then the rest. */
static void serve(uint8_t *page, bool packed)
{
    struct vring_chain *taken = calloc(SIZE, sizeof(*taken));
    struct backend *backend = open_backend(page, packed);
    unsigned count = 0;

    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    raise(SIGSTOP);
    while (take(backend) > 0)
        taken[count++] = backend->chain;
    if (count > 0)
        give_back(backend, &taken[--count]);
    give_back_batch(backend, taken, count);
    _exit(0);
}

static void trace(pid_t child, const uint8_t *page, bool packed, const struct driver *driver,
                  unsigned seen)
{
    static uint8_t last[BYTES];
    unsigned states = 0;
    int status;

    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSTOPPED(status));
    memcpy(last, page, BYTES);
    check_recovery(last, packed, *driver, seen);
    for (;;) {
        assert_int_equal(ptrace(PTRACE_SINGLESTEP, child, NULL, NULL), 0);
        assert_int_equal(waitpid(child, &status, 0), child);
        if (WIFEXITED(status))
            break;
        assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
        if (memcmp(last, page, BYTES) == 0)
            continue;
        memcpy(last, page, BYTES);
        check_recovery(last, packed, *driver, seen);
        states++;
    }
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_true(states >= 10);
}

static void killed_anywhere(bool packed)
{
    struct driver driver = {.wrap = true, .used_wrap = true};
    unsigned seen = 0;
    uint8_t *page = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    assert_true(page != MAP_FAILED);
    memset(page, 0, BYTES);
    free(open_backend(page, packed)); /* initialises the region */
    for (unsigned lap = 0; lap < (packed ? 3 : 2); lap++) {
        for (unsigned i = 0; i < (packed ? 2 : 4); i++)
            (packed ? offer_packed : offer_split)(page, &driver);
        pid_t child = fork();

        assert_true(child >= 0);
        if (child == 0)
            serve(page, packed);
        trace(child, page, packed, &driver, seen);
        reap(page, packed, &driver, &seen);
    }
    munmap(page, BYTES);
}

static void a_split_ring_survives_a_kill_anywhere(void **state)
{
    (void)state;
    killed_anywhere(false);
}

static void a_packed_ring_survives_a_kill_anywhere(void **state)
{
    (void)state;
    killed_anywhere(true);
}

static void a_region_of_nonsense_is_refused_or_bounded(void **state)
{
    static _Alignas(64) uint8_t page[BYTES], good[BYTES];
    unsigned seed = 1;

    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        memset(good, 0, sizeof(good));
        free(open_backend(good, packed));
        for (unsigned run = 0; run < 3000; run++) {
            struct backend *backend;

            memcpy(page, good, sizeof(page));
            for (unsigned i = 0; i < 6; i++) {
                seed = seed * 1103515245 + 12345;
                unsigned at = seed >> 8 & 127;
                /* Version and size as they are, or it is refused at once. */
                if (at < 8 || at > 11)
                    page[REGION_AT + at] = (uint8_t)(seed >> 16 & (seed & 1 ? 7 : 255));
            }
            backend = calloc(1, sizeof(*backend));
            assert_non_null(backend);
            assert_int_equal(vhost_memory_add_mapped(&backend->memory, 0, BYTES, 0, page, NULL), 0);
            backend->ring.config = (struct vring_config){
                .size = SIZE, .packed = packed, .avail = AVAIL_AT, .used = USED_AT};
            assert_int_equal(vring_resolve(&backend->ring, &backend->memory), 0);
            vring_start(&backend->ring, packed ? 0x80008000u : 0);
            int rc = vhost_inflight_open(&backend->inflight, page + REGION_AT, SIZE, &backend->ring,
                                         backend->lost, &backend->lost_count);

            assert_true(rc == 0 || rc == -EPROTO);
            for (unsigned i = 0; rc == 0 && i < backend->lost_count; i++)
                if (vhost_inflight_refetch(&backend->inflight, &backend->ring, &backend->memory,
                                           &backend->lost[i], &backend->chain) == 0)
                    give_back(backend, &backend->chain);
            free(backend);
        }
    }
    /* Another size, another version, too small for the ring. */
    struct backend *backend = open_backend(good, true);

    assert_int_equal(vhost_inflight_open(&backend->inflight, good + REGION_AT, SIZE + 1,
                                         &backend->ring, backend->lost, &backend->lost_count),
                     -EPROTO);
    assert_int_equal(vhost_inflight_open(&backend->inflight, good + REGION_AT, SIZE - 1,
                                         &backend->ring, backend->lost, &backend->lost_count),
                     -EPROTO);
    good[REGION_AT + 8] = 2;
    assert_int_equal(vhost_inflight_open(&backend->inflight, good + REGION_AT, SIZE, &backend->ring,
                                         backend->lost, &backend->lost_count),
                     -EPROTO);
    free(backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_split_ring_survives_a_kill_anywhere),
        cmocka_unit_test(a_packed_ring_survives_a_kill_anywhere),
        cmocka_unit_test(a_region_of_nonsense_is_refused_or_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
