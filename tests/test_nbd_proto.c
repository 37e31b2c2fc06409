/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NBD protocol on buffers: options, requests and their judgement, replies, block status
 * (vdiskd/nbd_options.c, nbd_request.c, nbd_extents.c).
 */
#include "nbd_extents.h"
#include "nbd_options.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#define MIB (UINT64_C(1) << 20)

static size_t put_string(uint8_t *out, const char *text)
{
    nbd_put32(out, (uint32_t)strlen(text));
    memcpy(out + 4, text, strlen(text));
    return 4 + strlen(text);
}

static void test_info_options_are_taken_whole_or_not_at_all(void **state)
{
    uint8_t payload[64] = {0}, *copy;
    struct nbd_string name;
    unsigned asked;
    size_t length = put_string(payload, "disk");

    (void)state;
    nbd_put16(payload + length, 2);
    nbd_put16(payload + length + 2, NBD_INFO_BLOCK_SIZE);
    nbd_put16(payload + length + 4, 999);
    length += 6;
    assert_true(nbd_info_parse(payload, length, &name, &asked));
    assert_true(nbd_string_is(&name, "disk"));
    assert_int_equal(asked, 1u << NBD_INFO_BLOCK_SIZE);
    for (size_t cut = 0; cut < length; cut++) {
        copy = malloc(cut ? cut : 1); /* so that a sanitizer sees a read past the end */
        memcpy(copy, payload, cut);
        assert_false(nbd_info_parse(copy, cut, &name, &asked));
        free(copy);
    }
    assert_false(nbd_info_parse(payload, length + 1, &name, &asked));
}

static void test_queries_are_taken_whole_or_not_at_all(void **state)
{
    uint8_t payload[64] = {0};
    struct nbd_queries queries;
    struct nbd_string query, rest;
    size_t length = put_string(payload, "e");

    (void)state;
    nbd_put32(payload + length, 2);
    length += 4;
    length += put_string(payload + length, "base:allocation");
    length += put_string(payload + length, "qemu:");
    for (size_t cut = 0; cut < length; cut++)
        assert_false(nbd_queries_parse(payload, cut, &queries));
    assert_false(nbd_queries_parse(payload, length + 1, &queries));
    assert_true(nbd_queries_parse(payload, length, &queries));
    assert_int_equal(queries.count, 2);
    assert_true(nbd_queries_next(&queries, &query));
    assert_true(nbd_string_is(&query, "base:allocation"));
    assert_true(nbd_queries_next(&queries, &query));
    assert_true(nbd_string_after(&query, "qemu:", &rest));
    assert_int_equal(rest.length, 0);
    assert_false(nbd_queries_next(&queries, &query));
    nbd_put32(payload + 5, UINT32_MAX); /* more than there can be */
    assert_false(nbd_queries_parse(payload, length, &queries));
}

static void test_names_with_zero_bytes_or_too_long_are_refused(void **state)
{
    char out[8];
    struct nbd_string fits = {"1234567", 7}, not = {"12345678", 8}, zero = {"a\0b", 3};

    (void)state;
    assert_true(nbd_string_copy(&fits, out, sizeof(out)));
    assert_string_equal(out, "1234567");
    assert_false(nbd_string_copy(&not, out, sizeof(out)));
    assert_false(nbd_string_copy(&zero, out, sizeof(out)));
}

static uint32_t judge(unsigned command, unsigned flags, uint64_t offset, uint64_t length,
                      struct nbd_terms terms)
{
    struct nbd_request request = {
        .command = (uint16_t)command, .flags = (uint16_t)flags, .offset = offset, .length = length};

    return nbd_request_check(&request, &terms);
}

static void test_requests_past_the_end_have_the_error_of_the_rules(void **state)
{
    const struct nbd_terms terms = {.mode = NBD_STRUCTURED, .contexts = 1, .size = MIB};

    (void)state;
    for (unsigned command = NBD_CMD_READ; command <= NBD_CMD_BLOCK_STATUS; command++) {
        bool is_write = command == NBD_CMD_WRITE || command == NBD_CMD_WRITE_ZEROES;
        uint32_t want = is_write ? NBD_ENOSPC : NBD_EINVAL;

        if (command == NBD_CMD_DISC || command == NBD_CMD_FLUSH)
            continue;
        assert_int_equal(judge(command, 0, MIB - 512, 512, terms), 0);
        assert_int_equal(judge(command, 0, MIB - 512, 513, terms), want);
        assert_int_equal(judge(command, 0, MIB + 1, 1, terms), want);
        assert_int_equal(judge(command, 0, UINT64_MAX, 2, terms), want);
    }
    assert_int_equal(judge(NBD_CMD_FLUSH, 0, 0, 0, terms), 0);
    assert_int_equal(judge(NBD_CMD_FLUSH, 0, 0, 1, terms), NBD_EINVAL);
    assert_int_equal(judge(99, 0, 0, 1, terms), NBD_EINVAL);
}

static void test_what_was_not_agreed_upon_is_refused(void **state)
{
    const struct nbd_terms simple = {.mode = NBD_SIMPLE, .size = 64 * MIB};
    const struct nbd_terms fixed = {.mode = NBD_STRUCTURED, .size = 64 * MIB, .read_only = true};
    const struct nbd_terms extended = {.mode = NBD_EXTENDED, .size = 64 * MIB, .contexts = 1};

    (void)state;
    assert_int_equal(judge(NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 512, simple), NBD_EINVAL);
    assert_int_equal(judge(NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, 512, fixed), 0);
    assert_int_equal(judge(NBD_CMD_BLOCK_STATUS, 0, 0, 512, simple), NBD_EINVAL);
    assert_int_equal(judge(NBD_CMD_BLOCK_STATUS, 0, 0, 0, extended), NBD_EINVAL);
    assert_int_equal(judge(NBD_CMD_WRITE, NBD_CMD_FLAG_PAYLOAD_LEN, 0, 512, simple), NBD_EINVAL);
    assert_int_equal(judge(NBD_CMD_WRITE, NBD_CMD_FLAG_PAYLOAD_LEN, 0, 512, extended), 0);
    assert_int_equal(judge(NBD_CMD_READ, NBD_CMD_FLAG_PAYLOAD_LEN, 0, 512, extended), NBD_EINVAL);
    assert_int_equal(judge(NBD_CMD_WRITE, NBD_CMD_FLAG_NO_HOLE, 0, 512, simple), NBD_EINVAL);
    assert_int_equal(judge(NBD_CMD_WRITE, 0, 0, 512, fixed), NBD_EPERM);
    assert_int_equal(judge(NBD_CMD_TRIM, 0, 0, 512, fixed), NBD_EPERM);
    assert_int_equal(judge(NBD_CMD_WRITE_ZEROES, 0, 0, 512, fixed), NBD_EPERM);
    assert_int_equal(judge(NBD_CMD_READ, 0, 0, NBD_PAYLOAD_MAX + 1, simple), NBD_EINVAL);
    assert_int_equal(judge(NBD_CMD_READ, NBD_CMD_FLAG_DF, 0, NBD_PAYLOAD_MAX + 1, fixed),
                     NBD_EOVERFLOW);
    /* What carries no data may be longer. */
    assert_int_equal(judge(NBD_CMD_TRIM, 0, 0, 64 * MIB, simple), 0);
}

static void test_only_a_fast_zero_may_be_told_that_it_is_not_supported(void **state)
{
    (void)state;
    assert_int_equal(nbd_error_code(-EOPNOTSUPP, true), NBD_ENOTSUP);
    assert_int_equal(nbd_error_code(-EOPNOTSUPP, false), NBD_EINVAL);
    assert_int_equal(nbd_error_code(-ENOSPC, false), NBD_ENOSPC);
    assert_int_equal(nbd_error_code(-10002, false), NBD_EIO);
}

static void test_requests_of_both_headers_are_read(void **state)
{
    uint8_t header[NBD_EXTENDED_REQUEST_BYTES] = {0};
    struct nbd_request request;

    (void)state;
    nbd_put32(header, NBD_REQUEST_MAGIC);
    nbd_put16(header + 6, NBD_CMD_WRITE);
    nbd_put64(header + 8, 77);
    nbd_put64(header + 16, MIB);
    nbd_put32(header + 24, 4096);
    assert_true(nbd_request_parse(NBD_SIMPLE, header, &request));
    assert_int_equal(request.payload, 4096);
    assert_int_equal(request.cookie, 77);
    assert_false(nbd_request_parse(NBD_EXTENDED, header, &request));
    nbd_put32(header, NBD_EXTENDED_REQUEST_MAGIC);
    nbd_put64(header + 24, UINT64_C(1) << 40);
    nbd_put16(header + 6, NBD_CMD_TRIM);
    assert_true(nbd_request_parse(NBD_EXTENDED, header, &request));
    assert_true(request.length == UINT64_C(1) << 40 && request.payload == 0);
    /* A payload comes with whatever says so, and has to be passed over. */
    nbd_put16(header + 4, NBD_CMD_FLAG_PAYLOAD_LEN);
    assert_true(nbd_request_parse(NBD_EXTENDED, header, &request));
    assert_true(request.payload == UINT64_C(1) << 40);
}

static void test_replies_have_the_form_of_the_mode(void **state)
{
    const struct nbd_request read = {
        .command = NBD_CMD_READ, .cookie = 5, .offset = 8, .length = 3};
    const struct nbd_request flush = {.command = NBD_CMD_FLUSH, .cookie = 6};
    uint8_t out[NBD_REPLY_HEADER_MAX];

    (void)state;
    assert_int_equal(nbd_read_reply_encode(out, NBD_SIMPLE, &read, false), 16);
    assert_int_equal(nbd_get32(out), NBD_SIMPLE_REPLY_MAGIC);
    assert_int_equal(nbd_read_reply_encode(out, NBD_STRUCTURED, &read, false), 28);
    assert_int_equal(nbd_get32(out + 16), 8 + 3);
    assert_int_equal(nbd_read_reply_encode(out, NBD_STRUCTURED, &read, true), 32);
    assert_int_equal(nbd_get16(out + 6), NBD_CHUNK_OFFSET_HOLE);
    assert_int_equal(nbd_get32(out + 28), 3);
    assert_int_equal(nbd_reply_encode(out, NBD_STRUCTURED, &flush, 0), 16);
    /* A read's error is a chunk once structured replies are agreed upon. */
    assert_int_equal(nbd_reply_encode(out, NBD_STRUCTURED, &read, NBD_EIO), 26);
    assert_int_equal(nbd_get32(out), NBD_CHUNK_MAGIC);
    /* With extended headers there is no other header. */
    assert_int_equal(nbd_reply_encode(out, NBD_EXTENDED, &flush, 0), 32);
    assert_int_equal(nbd_get32(out), NBD_EXTENDED_CHUNK_MAGIC);
    assert_int_equal(nbd_reply_encode(out, NBD_EXTENDED, &flush, NBD_EIO), 38);
    assert_int_equal(nbd_read_reply_encode(out, NBD_EXTENDED, &read, true), 44);
}

static void test_extents_are_joined_clamped_and_never_empty(void **state)
{
    const struct nbd_request request = {.command = NBD_CMD_BLOCK_STATUS};
    struct nbd_extents extents;
    uint8_t out[128];

    (void)state;
    nbd_extents_begin(&extents, 100, 1000, 3);
    assert_true(nbd_extents_add(&extents, 0, 3));
    assert_int_equal(extents.count, 0);
    assert_true(nbd_extents_add(&extents, 400, 3));
    assert_true(nbd_extents_add(&extents, 100, 3));
    assert_true(nbd_extents_add(&extents, 100, 0));
    assert_false(nbd_extents_add(&extents, 5000, 3));
    assert_int_equal(extents.count, 3);
    assert_int_equal(extents.list[0].length, 500);
    assert_int_equal(extents.list[2].length, 400);
    assert_int_equal(nbd_extents_bytes(&extents, NBD_STRUCTURED), 20 + 4 + 3 * 8);
    nbd_extents_encode(&extents, out, NBD_STRUCTURED, &request, 9, true);
    assert_int_equal(nbd_get32(out + 16), 4 + 3 * 8);
    assert_int_equal(nbd_get32(out + 20), 9);
    assert_int_equal(nbd_get32(out + 24), 500);
    assert_int_equal(nbd_extents_bytes(&extents, NBD_EXTENDED), 32 + 8 + 3 * 16);
    nbd_extents_encode(&extents, out, NBD_EXTENDED, &request, 9, true);
    assert_int_equal(nbd_get16(out + 6), NBD_CHUNK_BLOCK_STATUS_EXT);
    assert_int_equal(nbd_get32(out + 36), 3);
    nbd_extents_free(&extents);

    nbd_extents_begin(&extents, 0, 1000, 1); /* what REQ_ONE asks for */
    assert_true(nbd_extents_add(&extents, 10, 1));
    assert_true(nbd_extents_add(&extents, 10, 1));
    assert_false(nbd_extents_add(&extents, 10, 0));
    assert_int_equal(extents.count, 1);
    assert_int_equal(extents.list[0].length, 20);
    nbd_extents_free(&extents);
}

static void test_a_status_payload_is_bounded(void **state)
{
    uint8_t payload[8 + 4 * (NBD_CONTEXTS_MAX + 1)] = {0};
    uint32_t ids[NBD_CONTEXTS_MAX];
    uint64_t effect;
    unsigned count;

    (void)state;
    nbd_put64(payload, 12345);
    nbd_put32(payload + 12, 7);
    assert_true(nbd_status_payload_parse(payload, 16, &effect, ids, &count));
    assert_true(effect == 12345 && count == 2 && ids[1] == 7);
    assert_true(nbd_status_payload_parse(payload, sizeof(payload) - 4, &effect, ids, &count));
    assert_false(nbd_status_payload_parse(payload, sizeof(payload), &effect, ids, &count));
    assert_false(nbd_status_payload_parse(payload, 7, &effect, ids, &count));
    assert_false(nbd_status_payload_parse(payload, 10, &effect, ids, &count));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_info_options_are_taken_whole_or_not_at_all),
        cmocka_unit_test(test_queries_are_taken_whole_or_not_at_all),
        cmocka_unit_test(test_names_with_zero_bytes_or_too_long_are_refused),
        cmocka_unit_test(test_requests_past_the_end_have_the_error_of_the_rules),
        cmocka_unit_test(test_what_was_not_agreed_upon_is_refused),
        cmocka_unit_test(test_only_a_fast_zero_may_be_told_that_it_is_not_supported),
        cmocka_unit_test(test_requests_of_both_headers_are_read),
        cmocka_unit_test(test_replies_have_the_form_of_the_mode),
        cmocka_unit_test(test_extents_are_joined_clamped_and_never_empty),
        cmocka_unit_test(test_a_status_payload_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
