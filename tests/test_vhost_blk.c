/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of virtio-blk (vdiskd/vhost_blk.c): wherever the driver divides header, data and status,
 * the request is the same, and what is wrong with one is answered or refused.
 */
#include "vhost_blk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#define BYTES     65536u
#define STATUS_AT 40000u
#define SIZE      (UINT64_C(1) << 20)

static uint8_t bytes[BYTES];
static struct vhost_memory memory;
static struct vring_chain chain;
static struct vhost_blk_request request;
static const struct vhost_blk_limits all = {
    .size = SIZE, .flush = true, .discard = true, .zeroes = true};

static int set_up(void **state)
{
    (void)state;
    memset(bytes, 0, sizeof(bytes));
    memset(&memory, 0, sizeof(memory));
    return vhost_memory_add_mapped(&memory, 0, BYTES, 0, bytes, NULL);
}

/* A header at 0 and after it `out` bytes to read; `in` bytes to write, the status last. */
static void lay_out(uint32_t type, uint64_t sector, uint32_t out, uint32_t in)
{
    struct virtio_blk_outhdr header = {.type = type, .sector = sector};

    memcpy(bytes, &header, sizeof(header));
    vring_chain_begin(&chain);
    assert_int_equal(vring_chain_add(&chain, 0, (uint32_t)sizeof(header) + out, false), 0);
    assert_int_equal(vring_chain_add(&chain, STATUS_AT - (in - 1), in, true), 0);
}

static uint8_t parse(const struct vhost_blk_limits *limits)
{
    uint8_t status = 255;

    assert_int_equal(vhost_blk_parse(&request, &chain, &memory, limits, &status), 0);
    return status;
}

static uint8_t parse_range(uint32_t type, uint64_t sector, uint32_t sectors, uint32_t flags)
{
    struct virtio_blk_discard_write_zeroes range = {sector, sectors, flags};

    lay_out(type, 0, sizeof(range), 1);
    memcpy(bytes + 16, &range, sizeof(range));
    return parse(&all);
}

static void reads_and_writes_are_within_the_drive(void **state)
{
    struct vhost_blk_limits read_only = all;

    (void)state;
    read_only.read_only = true;
    lay_out(VIRTIO_BLK_T_IN, 3, 0, 1024 + 1);
    assert_int_equal(parse(&read_only), VIRTIO_BLK_S_OK);
    assert_int_equal(request.kind, VHOST_BLK_READ);
    assert_int_equal(request.offset, 1536);
    assert_int_equal(request.length, 1024);
    lay_out(VIRTIO_BLK_T_OUT, SIZE / 512 - 2, 1024, 1);
    assert_int_equal(parse(&all), VIRTIO_BLK_S_OK);
    assert_int_equal(request.kind, VHOST_BLK_WRITE);
    assert_int_equal(parse(&read_only), VIRTIO_BLK_S_IOERR);
    lay_out(VIRTIO_BLK_T_OUT, SIZE / 512 - 1, 1024, 1);
    assert_int_equal(parse(&all), VIRTIO_BLK_S_IOERR);
    lay_out(VIRTIO_BLK_T_IN, UINT64_MAX / 512 + 1, 0, 512 + 1);
    assert_int_equal(parse(&all), VIRTIO_BLK_S_IOERR);
    lay_out(VIRTIO_BLK_T_IN, UINT64_MAX, 0, 512 + 1);
    assert_int_equal(parse(&all), VIRTIO_BLK_S_IOERR);
    lay_out(VIRTIO_BLK_T_IN, 0, 0, 511 + 1);
    assert_int_equal(parse(&all), VIRTIO_BLK_S_IOERR);
}

static void the_division_into_descriptors_means_nothing(void **state)
{
    struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_OUT, .sector = 8};
    uint8_t data[512];
    uint32_t written;

    (void)state;
    memcpy(bytes, &header, sizeof(header));
    memset(bytes + sizeof(header), 'd', 512);
    vring_chain_begin(&chain);
    for (uint32_t i = 0; i < 16 + 512; i += 11)
        assert_int_equal(vring_chain_add(&chain, i, 16 + 512 - i < 11 ? 16 + 512 - i : 11, false),
                         0);
    assert_int_equal(vring_chain_add(&chain, STATUS_AT, 1, true), 0);
    assert_int_equal(parse(&all), VIRTIO_BLK_S_OK);
    assert_int_equal(request.offset, 4096);
    assert_int_equal(request.length, 512);
    assert_int_equal(vhost_blk_take(&memory, &chain, 0, data, 512), 0);
    assert_int_equal(data[0], 'd');
    assert_int_equal(data[511], 'd');
    assert_int_equal(vhost_blk_take(&memory, &chain, 1, data, 512), -EFAULT);
    bytes[STATUS_AT] = 255;
    assert_int_equal(vhost_blk_answer(&memory, &chain, VIRTIO_BLK_S_OK, &written), 0);
    assert_int_equal(bytes[STATUS_AT], VIRTIO_BLK_S_OK);
    assert_int_equal(written, 1);
}

static void read_data_never_cover_the_status(void **state)
{
    static const uint8_t data[513];
    uint32_t written;

    (void)state;
    lay_out(VIRTIO_BLK_T_IN, 0, 0, 512 + 1);
    bytes[STATUS_AT] = 77;
    assert_int_equal(parse(&all), VIRTIO_BLK_S_OK);
    assert_int_equal(vhost_blk_fill(&memory, &chain, 0, data, 512), 0);
    assert_int_equal(bytes[STATUS_AT], 77);
    assert_int_equal(vhost_blk_fill(&memory, &chain, 0, data, 513), -EFAULT);
    assert_int_equal(vhost_blk_fill(&memory, &chain, UINT64_MAX, data, 2), -EFAULT);
    assert_int_equal(bytes[STATUS_AT], 77);
    assert_int_equal(vhost_blk_answer(&memory, &chain, VIRTIO_BLK_S_OK, &written), 0);
    assert_int_equal(written, 513);
    assert_int_equal(vhost_blk_answer(&memory, &chain, VIRTIO_BLK_S_IOERR, &written), 0);
    assert_int_equal(bytes[STATUS_AT], VIRTIO_BLK_S_IOERR);
    assert_int_equal(written, 1);
}

static void ranges_of_discard_and_zeroes_are_checked(void **state)
{
    (void)state;
    assert_int_equal(parse_range(VIRTIO_BLK_T_DISCARD, 8, 16, 0), VIRTIO_BLK_S_OK);
    assert_int_equal(request.kind, VHOST_BLK_DISCARD);
    assert_int_equal(request.ranges, 1);
    assert_int_equal(request.range[0].offset, 4096);
    assert_int_equal(request.range[0].length, 8192);
    assert_int_equal(parse_range(VIRTIO_BLK_T_DISCARD, 8, 16, 1), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(parse_range(VIRTIO_BLK_T_WRITE_ZEROES, 8, 16, 1), VIRTIO_BLK_S_OK);
    assert_true(request.range[0].unmap);
    assert_int_equal(parse_range(VIRTIO_BLK_T_WRITE_ZEROES, 8, 16, 2), VIRTIO_BLK_S_UNSUPP);
    assert_int_equal(parse_range(VIRTIO_BLK_T_DISCARD, SIZE / 512, 1, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(parse_range(VIRTIO_BLK_T_DISCARD, 1, UINT32_MAX, 0), VIRTIO_BLK_S_IOERR);
    assert_int_equal(parse_range(VIRTIO_BLK_T_DISCARD, UINT64_MAX / 512 + 1, 1, 0),
                     VIRTIO_BLK_S_IOERR);
    memset(bytes, 0, sizeof(bytes)); /* ranges of no sectors are good ones */
    lay_out(VIRTIO_BLK_T_DISCARD, 0, 0, 1);
    assert_int_equal(parse(&all), VIRTIO_BLK_S_IOERR);
    lay_out(VIRTIO_BLK_T_DISCARD, 0, 17, 1);
    assert_int_equal(parse(&all), VIRTIO_BLK_S_IOERR);
    lay_out(VIRTIO_BLK_T_DISCARD, 0, 16 * (VHOST_BLK_RANGES_MAX + 1), 1);
    assert_int_equal(parse(&all), VIRTIO_BLK_S_IOERR);
    lay_out(VIRTIO_BLK_T_DISCARD, 0, 16 * VHOST_BLK_RANGES_MAX, 1);
    assert_int_equal(parse(&all), VIRTIO_BLK_S_OK);
}

static void what_was_not_negotiated_is_not_supported(void **state)
{
    const struct vhost_blk_limits none = {.size = SIZE};

    (void)state;
    lay_out(VIRTIO_BLK_T_FLUSH, 0, 0, 1);
    assert_int_equal(parse(&all), VIRTIO_BLK_S_OK);
    assert_int_equal(parse(&none), VIRTIO_BLK_S_UNSUPP);
    lay_out(VIRTIO_BLK_T_DISCARD, 0, 16, 1);
    assert_int_equal(parse(&none), VIRTIO_BLK_S_UNSUPP);
    lay_out(VIRTIO_BLK_T_WRITE_ZEROES, 0, 16, 1);
    assert_int_equal(parse(&none), VIRTIO_BLK_S_UNSUPP);
    lay_out(VIRTIO_BLK_T_SECURE_ERASE, 0, 16, 1);
    assert_int_equal(parse(&all), VIRTIO_BLK_S_UNSUPP);
    lay_out(0x80000000u, 0, 0, 513);
    assert_int_equal(parse(&all), VIRTIO_BLK_S_UNSUPP);
    lay_out(VIRTIO_BLK_T_GET_ID, 0, 0, 20 + 1);
    assert_int_equal(parse(&none), VIRTIO_BLK_S_OK);
    assert_int_equal(request.length, 20);
    lay_out(VIRTIO_BLK_T_GET_ID, 0, 0, 5 + 1);
    assert_int_equal(parse(&none), VIRTIO_BLK_S_OK);
    assert_int_equal(request.length, 5);
}

static void a_chain_without_room_cannot_be_answered(void **state)
{
    uint8_t status;

    (void)state;
    vring_chain_begin(&chain);
    assert_int_equal(vring_chain_add(&chain, 0, 15, false), 0);
    assert_int_equal(vring_chain_add(&chain, STATUS_AT, 1, true), 0);
    assert_int_equal(vhost_blk_parse(&request, &chain, &memory, &all, &status), -EPROTO);
    vring_chain_begin(&chain);
    assert_int_equal(vring_chain_add(&chain, 0, 16, false), 0);
    assert_int_equal(vhost_blk_parse(&request, &chain, &memory, &all, &status), -EPROTO);
    assert_int_equal(vring_chain_add(&chain, 0, 0, true), 0);
    assert_int_equal(vhost_blk_parse(&request, &chain, &memory, &all, &status), -EPROTO);
    vring_chain_begin(&chain);
    assert_int_equal(vring_chain_add(&chain, BYTES - 8, 16, false), 0);
    assert_int_equal(vring_chain_add(&chain, STATUS_AT, 1, true), 0);
    assert_int_equal(vhost_blk_parse(&request, &chain, &memory, &all, &status), -EPROTO);
}

static void the_configuration_says_what_parsing_allows(void **state)
{
    const struct vhost_blk_device device = {SIZE, 131072, 4, true};
    static const uint8_t id[16] = {0xde, 0xad, 1, 2, 3, 4, 5, 6, 7, 0xff, 9};
    struct virtio_blk_config config;
    char serial[VIRTIO_BLK_ID_BYTES];

    (void)state;
    vhost_blk_config(&config, &device);
    assert_int_equal(config.capacity, SIZE / 512);
    assert_int_equal(config.num_queues, 4);
    assert_int_equal(config.wce, 1);
    assert_int_equal(config.max_discard_seg, VHOST_BLK_RANGES_MAX);
    assert_int_equal(config.opt_io_size, 256);
    /* Header, data and status fit a chain. */
    assert_true(config.seg_max + 2 <= VRING_SEGMENTS_MAX);
    vhost_blk_serial(serial, id);
    assert_memory_equal(serial, "dead01020304050607ff", 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(reads_and_writes_are_within_the_drive, set_up),
        cmocka_unit_test_setup(the_division_into_descriptors_means_nothing, set_up),
        cmocka_unit_test_setup(read_data_never_cover_the_status, set_up),
        cmocka_unit_test_setup(ranges_of_discard_and_zeroes_are_checked, set_up),
        cmocka_unit_test_setup(what_was_not_negotiated_is_not_supported, set_up),
        cmocka_unit_test_setup(a_chain_without_room_cannot_be_answered, set_up),
        cmocka_unit_test_setup(the_configuration_says_what_parsing_allows, set_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
