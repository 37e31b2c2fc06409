/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest memory (vdiskd/vhost_memory.c) and the two kinds of virtqueue (vdiskd/vring_*.c), on memory
 * of our own: what a driver lays out is fetched, and what no driver may lay out is refused.
 */
#include "vring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define GUEST      UINT64_C(0x100000000)
#define USER       UINT64_C(0x7f0000000000)
#define BYTES      (64u * 1024)
#define SIZE       8u
#define DESC_AT    0u
#define AVAIL_AT   1024u
#define USED_AT    2048u
#define TABLE_AT   4096u
#define DATA_AT    8192u
#define AVAIL_FLAG (1u << VRING_PACKED_DESC_F_AVAIL)
#define USED_FLAG  (1u << VRING_PACKED_DESC_F_USED)

struct guest {
    struct vhost_memory memory;
    struct virtqueue ring;
    struct vring_chain chain;
    uint8_t *bytes;
    uint8_t log[GUEST / VHOST_LOG_PAGE / 8 + 16];
};

static struct guest *new_guest(bool packed)
{
    struct guest *guest = calloc(1, sizeof(*guest));

    assert_non_null(guest);
    guest->bytes = aligned_alloc(4096, BYTES);
    assert_non_null(guest->bytes);
    memset(guest->bytes, 0, BYTES);
    assert_int_equal(
        vhost_memory_add_mapped(&guest->memory, GUEST, BYTES, USER, guest->bytes, NULL), 0);
    guest->ring.config = (struct vring_config){.size = SIZE,
                                               .packed = packed,
                                               .event_index = true,
                                               .indirect = true,
                                               .desc = USER + DESC_AT,
                                               .avail = USER + AVAIL_AT,
                                               .used = USER + USED_AT};
    assert_int_equal(vring_resolve(&guest->ring, &guest->memory), 0);
    vring_start(&guest->ring, packed ? 0x80008000u : 0);
    return guest;
}

static void free_guest(struct guest *guest)
{
    vhost_memory_clear(&guest->memory);
    free(guest->bytes);
    free(guest);
}

static void put_desc(struct guest *guest, uint32_t table, unsigned at, uint64_t address,
                     uint32_t length, unsigned flags, unsigned next)
{
    struct vring_desc desc = {address, length, (uint16_t)flags, (uint16_t)next};

    memcpy(guest->bytes + table + at * sizeof(desc), &desc, sizeof(desc));
}

/* In a packed ring id and flags have changed places. */
static void put_packed(struct guest *guest, uint32_t table, unsigned at, uint64_t address,
                       uint32_t length, unsigned flags, unsigned id)
{
    put_desc(guest, table, at, address, length, id, flags);
}

static uint16_t *word(struct guest *guest, uint32_t at)
{
    return (uint16_t *)(void *)(guest->bytes + at);
}

/* The driver makes a head available. */
static void offer(struct guest *guest, uint16_t head)
{
    uint16_t *avail = word(guest, AVAIL_AT);

    avail[2 + avail[1] % SIZE] = head;
    avail[1]++;
}

static int fetch(struct guest *guest)
{
    return vring_fetch(&guest->ring, &guest->memory, &guest->chain);
}

static void put(struct guest *guest, uint32_t written)
{
    vring_put(&guest->ring, &guest->memory, guest->chain.head, guest->chain.slots, written);
}

/* ---- memory ---- */

static void addresses_are_translated_within_their_region(void **state)
{
    struct vhost_memory memory = {.count = 0};
    uint8_t a[64], b[64], copy[64];
    uint64_t guest;

    (void)state;
    memset(a, 'a', sizeof(a));
    memset(b, 'b', sizeof(b));
    assert_int_equal(vhost_memory_add_mapped(&memory, 1000, 64, 5000, a, NULL), 0);
    assert_int_equal(vhost_memory_add_mapped(&memory, 1064, 64, 9000, b, NULL), 0);
    assert_ptr_equal(vhost_memory_user(&memory, 5001, 63), a + 1);
    assert_null(vhost_memory_user(&memory, 5001, 64));
    assert_null(vhost_memory_user(&memory, 4999, 1));
    assert_null(vhost_memory_user(&memory, 5001, UINT64_MAX));
    assert_true(vhost_memory_user_to_guest(&memory, 9063, &guest));
    assert_int_equal(guest, 1127);
    assert_false(vhost_memory_user_to_guest(&memory, 9064, &guest));
    /* A buffer may cross regions that adjoin in the guest, and nothing else. */
    assert_int_equal(vhost_memory_read(&memory, 1060, copy, 8), 0);
    assert_memory_equal(copy, "aaaabbbb", 8);
    assert_int_equal(vhost_memory_write(&memory, 1062, "1234", 4), 0);
    assert_memory_equal(a + 62, "12", 2);
    assert_memory_equal(b, "34b", 3);
    assert_int_equal(vhost_memory_read(&memory, 1120, copy, 9), -EFAULT);
    assert_int_equal(vhost_memory_read(&memory, 999, copy, 1), -EFAULT);
    assert_int_equal(vhost_memory_read(&memory, UINT64_MAX, copy, 2), -EFAULT);
    assert_int_equal(vhost_memory_remove(&memory, 1000, 64, 5001, NULL), VDISK_E_NOT_FOUND);
    assert_int_equal(vhost_memory_remove(&memory, 1000, 64, 5000, NULL), 0);
    assert_int_equal(vhost_memory_read(&memory, 1000, copy, 1), -EFAULT);
    assert_int_equal(vhost_memory_read(&memory, 1064, copy, 1), 0);
}

static void regions_that_wrap_or_overlap_are_refused(void **state)
{
    struct vhost_memory memory = {.count = 0};
    uint8_t byte[64];

    (void)state;
    assert_int_equal(vhost_memory_add_mapped(&memory, 0, 0, 0, byte, NULL), -EINVAL);
    assert_int_equal(vhost_memory_add_mapped(&memory, UINT64_MAX, 2, 0, byte, NULL), -EINVAL);
    assert_int_equal(vhost_memory_add_mapped(&memory, 0, 2, UINT64_MAX, byte, NULL), -EINVAL);
    assert_int_equal(vhost_memory_add_mapped(&memory, 100, 50, 1000, byte, NULL), 0);
    assert_int_equal(vhost_memory_add_mapped(&memory, 149, 1, 2000, byte, NULL), -EINVAL);
    assert_int_equal(vhost_memory_add_mapped(&memory, 90, 11, 2000, byte, NULL), -EINVAL);
    assert_int_equal(vhost_memory_add_mapped(&memory, 300, 9, 1049, byte, NULL), -EINVAL);
    assert_int_equal(vhost_memory_add_mapped(&memory, 150, 1, 1050, byte, NULL), 0);
    for (unsigned i = 2; i < VHOST_REGIONS_MAX; i++)
        assert_int_equal(vhost_memory_add_mapped(&memory, 1000 + i, 1, 9000 + i, byte, NULL), 0);
    assert_int_equal(vhost_memory_add_mapped(&memory, 5000, 1, 50000, byte, NULL), VDISK_E_LIMIT);
}

static void a_passed_file_is_mapped_from_its_offset(void **state)
{
    struct vhost_memory memory = {.count = 0};
    int fd = memfd_create("memory", MFD_CLOEXEC);
    char copy[8];

    (void)state;
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 3 * 4096), 0);
    assert_int_equal(pwrite(fd, "Hello", 5, 4096 + 512), 5);
    assert_int_equal(vhost_memory_add(&memory, 0, 4096, 0, 4096 + 512, fd, NULL), 0);
    assert_int_equal(vhost_memory_read(&memory, 0, copy, 5), 0);
    assert_memory_equal(copy, "Hello", 5);
    assert_int_equal(vhost_memory_write(&memory, 4095, "X", 1), 0);
    assert_int_equal(pread(fd, copy, 1, 2 * 4096 + 511), 1);
    assert_int_equal(copy[0], 'X');
    /* Longer than the file: an access would end the process. */
    assert_int_equal(vhost_memory_add(&memory, 8192, 4096, 8192, 2 * 4096 + 1, fd, NULL), -EINVAL);
    assert_int_equal(vhost_memory_add(&memory, 8192, 4096, 8192, UINT64_MAX - 100, fd, NULL),
                     -EINVAL);
    assert_int_equal(memory.count, 1);
    vhost_memory_clear(&memory);
    close(fd);
}

static void the_log_has_a_bit_for_each_page_written(void **state)
{
    struct guest *guest = new_guest(false);
    uint64_t page = GUEST / VHOST_LOG_PAGE;

    (void)state;
    guest->memory.log.bits = guest->log;
    guest->memory.log.bytes = sizeof(guest->log) - 15;
    assert_int_equal(vhost_memory_write(&guest->memory, GUEST, "x", 1), 0);
    assert_int_equal(guest->log[page / 8], 0);
    guest->memory.log.enabled = true;
    assert_int_equal(vhost_memory_write(&guest->memory, GUEST + 4095, "xx", 2), 0);
    assert_int_equal(guest->log[page / 8], 3);
    assert_int_equal(vhost_memory_write(&guest->memory, GUEST + 3 * 4096, "x", 1), 0);
    assert_int_equal(guest->log[page / 8], 3 | 8);
    /* Past its end nothing is written. */
    vhost_log_mark(&guest->memory.log, GUEST + 8 * 4096, UINT64_MAX);
    assert_int_equal(guest->log[page / 8 + 1], 0);
    /* The used ring is logged where the front end said, if it said so. */
    guest->ring.config.log_guest = GUEST + 5 * 4096;
    put_desc(guest, DESC_AT, 0, GUEST, 16, 0, 0);
    offer(guest, 0);
    assert_int_equal(fetch(guest), 1);
    put(guest, 0);
    vring_publish(&guest->ring, &guest->memory);
    assert_int_equal(guest->log[page / 8], 3 | 8);
    guest->ring.config.log = true;
    vring_publish(&guest->ring, &guest->memory);
    assert_int_equal(guest->log[page / 8], 3 | 8 | 32);
    free_guest(guest);
}

/* ---- split rings ---- */

static void a_split_chain_is_fetched_and_given_back(void **state)
{
    struct guest *guest = new_guest(false);
    struct vring_used_elem used;

    (void)state;
    assert_int_equal(fetch(guest), 0);
    put_desc(guest, DESC_AT, 3, GUEST + DATA_AT, 16, VRING_DESC_F_NEXT, 5);
    put_desc(guest, DESC_AT, 5, GUEST + DATA_AT + 100, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE,
             1);
    put_desc(guest, DESC_AT, 1, GUEST + DATA_AT + 900, 1, VRING_DESC_F_WRITE, 0);
    offer(guest, 3);
    assert_int_equal(fetch(guest), 1);
    assert_int_equal(guest->chain.head, 3);
    assert_int_equal(guest->chain.readable, 1);
    assert_int_equal(guest->chain.writable, 2);
    assert_int_equal(guest->chain.readable_bytes, 16);
    assert_int_equal(guest->chain.writable_bytes, 513);
    assert_int_equal(guest->chain.segment[2].guest, GUEST + DATA_AT + 900);
    assert_int_equal(fetch(guest), 0);
    assert_int_equal(vring_base(&guest->ring), 1);
    put(guest, 513);
    assert_int_equal(vring_used_index(&guest->ring), 0);
    vring_publish(&guest->ring, &guest->memory);
    assert_int_equal(vring_used_index(&guest->ring), 1);
    memcpy(&used, guest->bytes + USED_AT + 4, sizeof(used));
    assert_int_equal(used.id, 3);
    assert_int_equal(used.len, 513);
    /* The copy of its parts crosses segments. */
    memset(guest->bytes + DATA_AT, 0, 1024);
    assert_int_equal(vring_chain_write(&guest->memory, guest->chain.segment + 1, 2, 510, "abc", 3),
                     0);
    assert_memory_equal(guest->bytes + DATA_AT + 610, "ab", 3);
    assert_memory_equal(guest->bytes + DATA_AT + 900, "c", 2);
    assert_int_equal(vring_chain_write(&guest->memory, guest->chain.segment + 1, 2, 511, "abc", 3),
                     -EINVAL);
    free_guest(guest);
}

static void an_indirect_table_is_followed(void **state)
{
    struct guest *guest = new_guest(false);

    (void)state;
    put_desc(guest, TABLE_AT, 0, GUEST + DATA_AT, 16, VRING_DESC_F_NEXT, 2);
    put_desc(guest, TABLE_AT, 2, GUEST + DATA_AT + 16, 1, VRING_DESC_F_WRITE, 0);
    put_desc(guest, DESC_AT, 7, GUEST + TABLE_AT, 48, VRING_DESC_F_INDIRECT, 0);
    offer(guest, 7);
    assert_int_equal(fetch(guest), 1);
    assert_int_equal(guest->chain.readable, 1);
    assert_int_equal(guest->chain.writable, 1);
    free_guest(guest);
}

/* Lays out one bad thing in a ring of its own; the ring is broken and stays so. */
static void refuse_split(void (*spoil)(struct guest *guest))
{
    struct guest *guest = new_guest(false);

    put_desc(guest, DESC_AT, 0, GUEST + DATA_AT, 16, 0, 0);
    put_desc(guest, TABLE_AT, 0, GUEST + DATA_AT, 16, 0, 0);
    spoil(guest);
    assert_int_equal(fetch(guest), -EPROTO);
    assert_true(guest->ring.broken);
    put_desc(guest, DESC_AT, 0, GUEST + DATA_AT, 16, 0, 0);
    assert_int_equal(fetch(guest), -EPROTO);
    free_guest(guest);
}

static void spoil_head(struct guest *guest)
{
    offer(guest, SIZE);
}
static void spoil_next(struct guest *guest)
{
    put_desc(guest, DESC_AT, 0, GUEST, 16, VRING_DESC_F_NEXT, SIZE);
    offer(guest, 0);
}
static void spoil_loop(struct guest *guest)
{
    put_desc(guest, DESC_AT, 0, GUEST, 16, VRING_DESC_F_NEXT, 1);
    put_desc(guest, DESC_AT, 1, GUEST, 16, VRING_DESC_F_NEXT, 0);
    offer(guest, 0);
}
static void spoil_index(struct guest *guest)
{
    word(guest, AVAIL_AT)[1] = SIZE + 1;
}
static void spoil_order(struct guest *guest)
{
    put_desc(guest, DESC_AT, 0, GUEST, 16, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1);
    put_desc(guest, DESC_AT, 1, GUEST, 16, 0, 0);
    offer(guest, 0);
}
static void spoil_length(struct guest *guest)
{
    put_desc(guest, DESC_AT, 0, GUEST, UINT32_MAX, VRING_DESC_F_NEXT, 1);
    put_desc(guest, DESC_AT, 1, GUEST, 1, 0, 0);
    offer(guest, 0);
}
static void spoil_nested(struct guest *guest)
{
    put_desc(guest, TABLE_AT, 0, GUEST + TABLE_AT, 16, VRING_DESC_F_INDIRECT, 0);
    put_desc(guest, DESC_AT, 0, GUEST + TABLE_AT, 16, VRING_DESC_F_INDIRECT, 0);
    offer(guest, 0);
}
static void spoil_table_size(struct guest *guest)
{
    put_desc(guest, DESC_AT, 0, GUEST + TABLE_AT, 17, VRING_DESC_F_INDIRECT, 0);
    offer(guest, 0);
}
static void spoil_table_empty(struct guest *guest)
{
    put_desc(guest, DESC_AT, 0, GUEST + TABLE_AT, 0, VRING_DESC_F_INDIRECT, 0);
    offer(guest, 0);
}
static void spoil_table_long(struct guest *guest)
{
    put_desc(guest, DESC_AT, 0, GUEST + TABLE_AT, 0xfffffff0u, VRING_DESC_F_INDIRECT, 0);
    offer(guest, 0);
}
static void spoil_table_address(struct guest *guest)
{
    put_desc(guest, DESC_AT, 0, UINT64_MAX - 7, 16, VRING_DESC_F_INDIRECT, 0);
    offer(guest, 0);
}
static void spoil_table_loop(struct guest *guest)
{
    put_desc(guest, TABLE_AT, 0, GUEST, 16, VRING_DESC_F_NEXT, 0);
    put_desc(guest, DESC_AT, 0, GUEST + TABLE_AT, 16, VRING_DESC_F_INDIRECT, 0);
    offer(guest, 0);
}
static void spoil_table_next(struct guest *guest)
{
    put_desc(guest, TABLE_AT, 0, GUEST, 16, VRING_DESC_F_NEXT, 2);
    put_desc(guest, TABLE_AT, 2, GUEST, 16, 0, 0);
    put_desc(guest, DESC_AT, 0, GUEST + TABLE_AT, 32, VRING_DESC_F_INDIRECT, 0);
    offer(guest, 0);
}
static void spoil_table_not_negotiated(struct guest *guest)
{
    guest->ring.config.indirect = false;
    put_desc(guest, DESC_AT, 0, GUEST + TABLE_AT, 16, VRING_DESC_F_INDIRECT, 0);
    offer(guest, 0);
}
static void spoil_twice(struct guest *guest)
{
    offer(guest, 0);
    offer(guest, 0);
    assert_int_equal(fetch(guest), 1);
}

static void a_split_ring_that_breaks_the_rules_is_refused(void **state)
{
    (void)state;
    refuse_split(spoil_head);
    refuse_split(spoil_next);
    refuse_split(spoil_loop);
    refuse_split(spoil_index);
    refuse_split(spoil_order);
    refuse_split(spoil_length);
    refuse_split(spoil_nested);
    refuse_split(spoil_table_size);
    refuse_split(spoil_table_empty);
    refuse_split(spoil_table_long);
    refuse_split(spoil_table_address);
    refuse_split(spoil_table_loop);
    refuse_split(spoil_table_next);
    refuse_split(spoil_table_not_negotiated);
    refuse_split(spoil_twice);
}

static void a_chain_has_no_more_segments_than_there_is_room_for(void **state)
{
    static struct {
        struct vring_chain chain;
        struct vring_segment behind[2];
    } room;

    (void)state;
    vring_chain_begin(&room.chain);
    for (unsigned i = 0; i < VRING_SEGMENTS_MAX; i++)
        assert_int_equal(vring_chain_add(&room.chain, GUEST, 1, i > 0), 0);
    assert_int_equal(vring_chain_add(&room.chain, GUEST, 1, true), -EPROTO);
    assert_int_equal(room.chain.readable + room.chain.writable, VRING_SEGMENTS_MAX);
}

static void rings_outside_of_memory_or_misaligned_are_refused(void **state)
{
    struct guest *guest = new_guest(false);
    struct vring_config good = guest->ring.config;

    (void)state;
    guest->ring.config.size = 7;
    assert_int_equal(vring_resolve(&guest->ring, &guest->memory), -EINVAL);
    guest->ring.config.size = 2 * VRING_SIZE_MAX;
    assert_int_equal(vring_resolve(&guest->ring, &guest->memory), -EINVAL);
    guest->ring.config = good;
    guest->ring.config.desc = USER + BYTES - 16 * SIZE + 16;
    assert_int_equal(vring_resolve(&guest->ring, &guest->memory), -EFAULT);
    guest->ring.config = good;
    guest->ring.config.used += 2;
    assert_int_equal(vring_resolve(&guest->ring, &guest->memory), -EFAULT);
    guest->ring.config = good;
    guest->ring.config.used = USER + BYTES - 6 - 8 * SIZE + 1;
    assert_int_equal(vring_resolve(&guest->ring, &guest->memory), -EFAULT);
    guest->ring.config = good;
    assert_int_equal(vring_resolve(&guest->ring, &guest->memory), 0);
    free_guest(guest);
}

static void the_event_index_says_when_to_call(void **state)
{
    struct guest *guest = new_guest(false);
    uint16_t *avail = word(guest, AVAIL_AT);

    (void)state;
    avail[2 + SIZE] = 2; /* called when used index 3 is published */
    for (unsigned i = 0; i < 4; i++) {
        put_desc(guest, DESC_AT, i, GUEST, 16, 0, 0);
        offer(guest, (uint16_t)i);
        assert_int_equal(fetch(guest), 1);
        put(guest, 0);
        vring_publish(&guest->ring, &guest->memory);
        /* The first time it is not known what the driver has seen. */
        assert_int_equal(vring_should_call(&guest->ring), i == 0 || i == 2);
    }
    assert_false(vring_want_kicks(&guest->ring, &guest->memory));
    assert_int_equal(word(guest, USED_AT)[2 + 4 * SIZE], 4);
    offer(guest, 0);
    assert_true(vring_want_kicks(&guest->ring, &guest->memory));
    free_guest(guest);
}

/* ---- packed rings ---- */

static void a_packed_chain_is_fetched_and_given_back_on_every_lap(void **state)
{
    struct guest *guest = new_guest(true);
    unsigned at = 0;
    bool wrap = true;

    (void)state;
    assert_int_equal(fetch(guest), 0);
    for (unsigned i = 0; i < 50; i++) {
        unsigned avail[3], used_at = at;

        for (unsigned j = 0, next = at; j < 3; j++, next++)
            avail[j] = (next < SIZE) == wrap ? AVAIL_FLAG : USED_FLAG;
        put_packed(guest, DESC_AT, (at + 1) % SIZE, GUEST + DATA_AT + 16, 512,
                   avail[1] | VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 0);
        put_packed(guest, DESC_AT, (at + 2) % SIZE, GUEST + DATA_AT + 600, 1,
                   avail[2] | VRING_DESC_F_WRITE, 77 + i);
        put_packed(guest, DESC_AT, at, GUEST + DATA_AT, 16, avail[0] | VRING_DESC_F_NEXT, 0);
        assert_int_equal(fetch(guest), 1);
        assert_int_equal(guest->chain.head, 77 + i);
        assert_int_equal(guest->chain.slots, 3);
        assert_int_equal(guest->chain.readable, 1);
        assert_int_equal(guest->chain.writable_bytes, 513);
        put(guest, 513);
        uint16_t *used = word(guest, DESC_AT + 16 * used_at);

        assert_int_equal(used[4], 513);
        assert_int_equal(used[6], 77 + i);
        assert_int_equal(used[7], (wrap ? AVAIL_FLAG | USED_FLAG : 0u) | VRING_DESC_F_WRITE);
        at += 3;
        if (at >= SIZE) {
            at -= SIZE;
            wrap = !wrap;
        }
        assert_int_equal(vring_base(&guest->ring), (at | (unsigned)wrap << 15) * UINT64_C(0x10001));
    }
    free_guest(guest);
}

static void a_packed_ring_that_breaks_the_rules_is_refused(void **state)
{
    (void)state;
    for (unsigned bad = 0; bad < 6; bad++) {
        struct guest *guest = new_guest(true);

        put_packed(guest, TABLE_AT, 0, GUEST, 16, bad == 1 ? VRING_DESC_F_INDIRECT : 0, 0);
        put_packed(guest, DESC_AT, 0, GUEST + TABLE_AT, bad == 2 ? 15 : 16,
                   AVAIL_FLAG | VRING_DESC_F_INDIRECT, 0);
        if (bad == 3)
            guest->ring.config.indirect = false;
        if (bad == 4) /* a chain without an end */
            for (unsigned i = 0; i < SIZE; i++)
                put_packed(guest, DESC_AT, i, GUEST, 16, AVAIL_FLAG | VRING_DESC_F_NEXT, 0);
        if (bad == 5) { /* written, then read */
            put_packed(guest, DESC_AT, 0, GUEST, 16,
                       AVAIL_FLAG | VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 0);
            put_packed(guest, DESC_AT, 1, GUEST, 16, AVAIL_FLAG, 0);
        }
        assert_int_equal(fetch(guest), bad ? -EPROTO : 1);
        free_guest(guest);
    }
}

/* All of it is in flight, and the driver, out of turn, makes a descriptor available again. */
static void a_packed_ring_has_no_more_in_flight_than_its_size(void **state)
{
    struct guest *guest = new_guest(true);

    (void)state;
    for (unsigned i = 0; i < SIZE; i++) {
        put_packed(guest, DESC_AT, i, GUEST, 16, AVAIL_FLAG, i);
        assert_int_equal(fetch(guest), 1);
    }
    put_packed(guest, DESC_AT, 0, GUEST, 16, USED_FLAG, 0);
    assert_int_equal(fetch(guest), -EPROTO);
    free_guest(guest);
}

static void a_packed_base_outside_of_the_ring_is_refused(void **state)
{
    struct guest *guest = new_guest(true);

    (void)state;
    vring_start(&guest->ring, SIZE | 0x8000u);
    assert_int_equal(fetch(guest), -EPROTO);
    vring_start(&guest->ring, (SIZE | 0x8000u) << 16);
    assert_int_equal(fetch(guest), -EPROTO);
    free_guest(guest);
}

static void the_packed_event_says_when_to_call(void **state)
{
    struct guest *guest = new_guest(true);
    uint16_t *event = word(guest, AVAIL_AT);

    (void)state;
    event[0] = 1; /* at descriptor 1 of the second lap, whose wrap counter is 0 */
    event[1] = VRING_PACKED_EVENT_FLAG_DESC;
    for (unsigned i = 0; i < 2 * SIZE; i++) {
        put_packed(guest, DESC_AT, i % SIZE, GUEST, 16, i < SIZE ? AVAIL_FLAG : USED_FLAG, i);
        assert_int_equal(fetch(guest), 1);
        put(guest, 0);
        assert_int_equal(vring_should_call(&guest->ring), i == 0 || i == SIZE + 1);
    }
    event[1] = VRING_PACKED_EVENT_FLAG_DISABLE;
    assert_false(vring_should_call(&guest->ring));
    event[1] = VRING_PACKED_EVENT_FLAG_ENABLE;
    assert_true(vring_should_call(&guest->ring));
    free_guest(guest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses_are_translated_within_their_region),
        cmocka_unit_test(regions_that_wrap_or_overlap_are_refused),
        cmocka_unit_test(a_passed_file_is_mapped_from_its_offset),
        cmocka_unit_test(the_log_has_a_bit_for_each_page_written),
        cmocka_unit_test(a_split_chain_is_fetched_and_given_back),
        cmocka_unit_test(an_indirect_table_is_followed),
        cmocka_unit_test(a_split_ring_that_breaks_the_rules_is_refused),
        cmocka_unit_test(a_chain_has_no_more_segments_than_there_is_room_for),
        cmocka_unit_test(rings_outside_of_memory_or_misaligned_are_refused),
        cmocka_unit_test(the_event_index_says_when_to_call),
        cmocka_unit_test(a_packed_chain_is_fetched_and_given_back_on_every_lap),
        cmocka_unit_test(a_packed_ring_that_breaks_the_rules_is_refused),
        cmocka_unit_test(a_packed_ring_has_no_more_in_flight_than_its_size),
        cmocka_unit_test(a_packed_base_outside_of_the_ring_is_refused),
        cmocka_unit_test(the_packed_event_says_when_to_call),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
