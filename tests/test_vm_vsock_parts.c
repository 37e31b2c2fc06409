/* SPDX-License-Identifier: Apache-2.0 */
/* What a vsock device computes by itself: credit, its buffers, headers, the line of a program. */
#include "vsock_buffer.h"
#include "vsock_handshake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

static void test_credit_is_right_across_the_wrap_and_never_negative(void **state)
{
    static const struct {
        uint32_t sent, alloc, taken, left;
    } cases[] = {
        {0, 0, 0, 0},
        {0, 4096, 0, 4096},
        {100, 4096, 0, 3996},
        {4096, 4096, 0, 0},
        {4096, 4096, 4096, 4096},
        {5, 100, UINT32_MAX - 4, 90}, /* ten bytes under way, over the wrap */
        {95, 100, UINT32_MAX - 4, 0},
        {0, UINT32_MAX, 0, UINT32_MAX},
        {200, 100, 0, 0},          /* the guest made its buffer smaller */
        {10, 100, 11, 0},          /* has taken what was not sent */
        {10, 100, 0x80000000u, 0}, /* the same, by far */
        {0x80000000u, 100, 0, 0},  /* takes back what it had taken */
        {10, UINT32_MAX, 11, 0},   /* 2^32 - 1 under way */
        {10, UINT32_MAX, 12, 1},   /* more than a buffer can hold is its own loss */
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct vsock_credit credit = {
            .sent = cases[i].sent, .alloc = cases[i].alloc, .taken = cases[i].taken};

        if (vsock_credit_left(&credit) != cases[i].left)
            print_error("case %u\n", i);
        assert_int_equal(vsock_credit_left(&credit), cases[i].left);
    }
}

static void test_a_guest_hears_of_room_before_it_can_wait_for_it(void **state)
{
    struct vsock_credit credit = {.forwarded = 10, .told = 10};

    (void)state;
    assert_false(vsock_credit_is_news(&credit));
    credit.told = (uint32_t)(10 - VSOCK_BUFFER_BYTES); /* it had filled the whole buffer */
    assert_true(vsock_credit_is_news(&credit));
    credit.told = 9;
    assert_false(vsock_credit_is_news(&credit));
}

/* ---- the buffer ---- */

/* All of it at once, as a program might take it. */
static void expect_bytes(const struct vsock_buffer *buffer, const uint8_t *expected, size_t length)
{
    struct iovec vectors[2];
    unsigned count = vsock_buffer_peek(buffer, vectors);

    for (unsigned i = 0; i < count; i++) {
        assert_in_range(vectors[i].iov_len, 1, length);
        assert_memory_equal(vectors[i].iov_base, expected, vectors[i].iov_len);
        expected += vectors[i].iov_len;
        length -= vectors[i].iov_len;
    }
    assert_int_equal(length, 0);
}

static void test_a_buffer_gives_bytes_in_order_wherever_it_wraps(void **state)
{
    static uint8_t model[1u << 20];
    struct vsock_buffer buffer = {0};
    uint32_t from = 0, to = 0, random = 1;

    (void)state;
    for (size_t i = 0; i < sizeof(model); i++)
        model[i] = (uint8_t)(i * 7 + i / 251);
    while (to + VSOCK_BUFFER_BYTES < sizeof(model)) {
        random = random * 1664525 + 1013904223;
        uint32_t add = (random >> 8) % (VSOCK_BUFFER_BYTES - buffer.length + 1);

        assert_int_equal(vsock_buffer_add(&buffer, model + to, add), 0);
        to += add;
        expect_bytes(&buffer, model + from, to - from);
        random = random * 1664525 + 1013904223;
        uint32_t drop = (random >> 8) % (buffer.length + 1);

        vsock_buffer_drop(&buffer, drop);
        from += drop;
        expect_bytes(&buffer, model + from, to - from);
    }
    vsock_buffer_clear(&buffer);
    assert_null(buffer.bytes);
}

static void test_a_buffer_takes_what_fits_and_no_more(void **state)
{
    static uint8_t data[VSOCK_BUFFER_BYTES + 1];
    struct vsock_buffer buffer = {0};

    (void)state;
    assert_int_equal(vsock_buffer_add(&buffer, data, VSOCK_BUFFER_BYTES + 1), -ENOSPC);
    assert_int_equal(vsock_buffer_add(&buffer, data, 0), 0);
    assert_null(buffer.bytes); /* memory is held only for bytes */
    assert_int_equal(vsock_buffer_add(&buffer, data, VSOCK_BUFFER_BYTES), 0);
    assert_int_equal(vsock_buffer_add(&buffer, data, 1), -ENOSPC);
    assert_int_equal(vsock_buffer_add(&buffer, data, UINT32_MAX), -ENOSPC);
    vsock_buffer_drop(&buffer, 1);
    assert_int_equal(vsock_buffer_add(&buffer, data, 1), 0);
    vsock_buffer_drop(&buffer, VSOCK_BUFFER_BYTES);
    assert_null(buffer.bytes);
}

/* ---- headers ---- */

static void test_a_header_is_little_endian_where_the_standard_says(void **state)
{
    uint8_t bytes[VSOCK_HEADER_BYTES], back[VSOCK_HEADER_BYTES];
    struct vsock_header header;

    (void)state;
    for (unsigned i = 0; i < sizeof(bytes); i++)
        bytes[i] = (uint8_t)(i + 1);
    vsock_header_decode(&header, bytes);
    assert_true(header.src_cid == UINT64_C(0x0807060504030201));
    assert_true(header.dst_cid == UINT64_C(0x100f0e0d0c0b0a09));
    assert_int_equal(header.src_port, 0x14131211);
    assert_int_equal(header.dst_port, 0x18171615);
    assert_int_equal(header.length, 0x1c1b1a19);
    assert_int_equal(header.type, 0x1e1d);
    assert_int_equal(header.op, 0x201f);
    assert_int_equal(header.flags, 0x24232221);
    assert_int_equal(header.buf_alloc, 0x28272625);
    assert_int_equal(header.fwd_cnt, 0x2c2b2a29);
    vsock_header_encode(&header, back);
    assert_memory_equal(back, bytes, sizeof(bytes));
}

/* ---- the line ---- */

static void test_a_program_names_its_port_in_one_way(void **state)
{
    static const struct {
        const char *line;
        bool is_right;
        uint32_t port;
    } cases[] = {
        {"CONNECT 1024", true, 1024},
        {"CONNECT 0", true, 0},
        {"CONNECT 4294967295", true, UINT32_MAX},
        {"CONNECT 0000000052", true, 52},
        {"connect 52", true, 52}, /* as Firecracker takes it */
        {"CONNECT 52\r", true, 52},
        {"CONNECT 4294967296", false, 0},
        {"CONNECT 9999999999", false, 0},
        {"CONNECT 18446744073709551617", false, 0},
        {"CONNECT ", false, 0},
        {"CONNECT", false, 0},
        {"CONNECT  52", false, 0},
        {"CONNECT 52 ", false, 0},
        {"CONNECT -1", false, 0},
        {"CONNECT +1", false, 0},
        {"CONNECT 0x10", false, 0},
        {"CONNECT 5\r2", false, 0},
        {" CONNECT 52", false, 0},
        {"CONNECT\t52", false, 0},
        {"LISTEN 52", false, 0},
        {"\r", false, 0},
        {"", false, 0},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        uint32_t port = 77;
        bool is_right = vsock_handshake_parse(cases[i].line, strlen(cases[i].line), &port);

        if (is_right != cases[i].is_right)
            print_error("\"%s\"\n", cases[i].line);
        assert_int_equal(is_right, cases[i].is_right);
        assert_int_equal(port, is_right ? cases[i].port : 77);
    }
    uint32_t port;

    assert_false(vsock_handshake_parse("CONNECT 5\0002", 11, &port));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_credit_is_right_across_the_wrap_and_never_negative),
        cmocka_unit_test(test_a_guest_hears_of_room_before_it_can_wait_for_it),
        cmocka_unit_test(test_a_buffer_gives_bytes_in_order_wherever_it_wraps),
        cmocka_unit_test(test_a_buffer_takes_what_fits_and_no_more),
        cmocka_unit_test(test_a_header_is_little_endian_where_the_standard_says),
        cmocka_unit_test(test_a_program_names_its_port_in_one_way),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
