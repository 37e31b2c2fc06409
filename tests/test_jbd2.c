/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a journal of ext4 would change (fuse/jbd2.c): with every kind of checksums, torn, forged.
 * scenario_files_journal.sh has those that debugfs and the kernel write.
 */
#include "journal_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

static const unsigned kinds[] = {
    0,
    JOURNAL_64BIT,
    JOURNAL_OLD_CSUM,
    JOURNAL_OLD_CSUM | JOURNAL_64BIT,
    JOURNAL_CSUM_V2,
    JOURNAL_CSUM_V2 | JOURNAL_64BIT,
    JOURNAL_CSUM_V3,
    JOURNAL_CSUM_V3 | JOURNAL_64BIT,
    JOURNAL_CSUM_V3 | JOURNAL_64BIT | JOURNAL_FAST,
};
#define KINDS (sizeof(kinds) / sizeof(*kinds))

static struct journal_kit kit;
static struct jbd2_replay replay;

static void read_it(void)
{
    jbd2_replay_free(&replay);
    assert_int_equal(jbd2_replay_read(&kit.journal, &replay, NULL), 0);
}

static void refuses(int code)
{
    struct vdisk_error error = {0};

    jbd2_replay_free(&replay);
    assert_int_equal(jbd2_replay_read(&kit.journal, &replay, &error), code);
    assert_int_equal(error.code, code);
    assert_int_equal(replay.count, 0);
}

/* The copy of the block is that with so many bytes of `fill`; 0: there is none. */
static void has_copy(uint64_t block, uint8_t fill)
{
    const struct jbd2_copy *copy = jbd2_replay_find(&replay, block);

    if (fill == 0) {
        assert_null(copy);
        return;
    }
    assert_non_null(copy);
    assert_int_equal(copy->block, block);
    assert_int_equal(journal_kit_block(&kit, copy->from)[100], fill);
}

static void put_one(uint64_t block, uint8_t fill)
{
    const struct journal_kit_block one = {.block = block, .fill = fill};

    journal_kit_log(&kit, &one, 1);
}

static void what_was_committed_is_found(void **state)
{
    static const struct journal_kit_block blocks[] = {{.block = 9, .fill = 1},
                                                      {.block = 7, .fill = 2, .escaped = true},
                                                      {.block = 300, .fill = 3}};

    (void)state;
    for (unsigned i = 0; i < KINDS; i++) {
        journal_kit_begin(&kit, kinds[i], 1);
        journal_kit_log(&kit, blocks, 3);
        put_one(12, 4);
        journal_kit_commit(&kit);
        put_one(7, 5);
        journal_kit_commit(&kit);
        put_one(9, 6); /* no commit */
        read_it();
        assert_int_equal(replay.transactions, 2);
        assert_int_equal(replay.count, 4);
        assert_false(replay.is_cut);
        assert_false(replay.has_fast_commits);
        has_copy(9, 1);
        has_copy(7, 5);
        has_copy(300, 3);
        has_copy(12, 4);
        has_copy(8, 0);
        has_copy(0, 0);
        has_copy(UINT64_MAX, 0);
        assert_false(jbd2_replay_find(&replay, 7)->escaped);
    }
}

static void a_copy_that_was_escaped_is_marked(void **state)
{
    static const struct journal_kit_block block = {.block = 7, .fill = 2, .escaped = true};

    (void)state;
    for (unsigned i = 0; i < KINDS; i++) {
        journal_kit_begin(&kit, kinds[i], 1);
        journal_kit_log(&kit, &block, 1);
        journal_kit_commit(&kit);
        read_it();
        assert_true(jbd2_replay_find(&replay, 7)->escaped);
    }
}

static void blocks_of_64_bits(void **state)
{
    const uint64_t block = (UINT64_C(3) << 32) + 5;

    (void)state;
    for (unsigned i = 0; i < KINDS; i++) {
        journal_kit_begin(&kit, kinds[i], 1);
        put_one(block, 1);
        journal_kit_commit(&kit);
        read_it();
        has_copy(block, kinds[i] & JOURNAL_64BIT ? 1 : 0);
        has_copy(5, kinds[i] & JOURNAL_64BIT ? 0 : 1);
    }
}

static void a_revoked_block_is_not_taken_unless_it_came_later(void **state)
{
    static const uint64_t revoked[] = {20, 5, 10};

    (void)state;
    for (unsigned i = 0; i < KINDS; i++) {
        journal_kit_begin(&kit, kinds[i] | JOURNAL_REVOKE, 1);
        put_one(5, 1);
        put_one(10, 1);
        journal_kit_commit(&kit);
        put_one(20, 2); /* in the same transaction: not taken */
        journal_kit_revoke(&kit, revoked, 3);
        journal_kit_commit(&kit);
        put_one(10, 3);
        journal_kit_commit(&kit);
        read_it();
        has_copy(5, 0);
        has_copy(10, 3);
        has_copy(20, 0);
        /* What is revoked in a transaction that did not end counts for nothing. */
        journal_kit_revoke(&kit, revoked, 3);
        read_it();
        has_copy(10, 3);
    }
}

static void the_log_goes_around(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KINDS; i++) {
        journal_kit_begin(&kit, kinds[i], JOURNAL_KIT_BLOCKS - 10);
        for (uint8_t j = 0; j < 15; j++) {
            put_one(j, (uint8_t)(j + 1));
            journal_kit_commit(&kit);
        }
        read_it();
        assert_int_equal(replay.transactions, 15);
        for (uint8_t j = 0; j < 15; j++)
            has_copy(j, (uint8_t)(j + 1));
    }
}

static void what_is_left_of_older_logs_is_not_taken(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KINDS; i++) {
        journal_kit_begin(&kit, kinds[i], 1);
        kit.sequence = 70;
        for (unsigned j = 0; j < 10; j++) {
            put_one(99, 9);
            journal_kit_commit(&kit);
        }
        kit.at = 1;
        kit.sequence = 77;
        put_one(1, 1);
        journal_kit_commit(&kit);
        read_it();
        assert_int_equal(replay.transactions, 1);
        has_copy(99, 0);
    }
}

static void a_clean_journal_changes_nothing(void **state)
{
    (void)state;
    journal_kit_begin(&kit, JOURNAL_CSUM_V3, 1);
    put_one(1, 1);
    journal_kit_commit(&kit);
    memset(kit.bytes + 28, 0, 4);
    journal_kit_seal_super(&kit);
    read_it();
    assert_int_equal(replay.count, 0);
    assert_int_equal(replay.transactions, 0);
}

/* Every byte of the second of three transactions, changed: it and the third are never taken, the
 * first always. */
static void a_torn_transaction_ends_the_log(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KINDS; i++) {
        uint32_t from, to;

        if (!(kinds[i] & (JOURNAL_CSUM_V2 | JOURNAL_CSUM_V3 | JOURNAL_OLD_CSUM)))
            continue;
        journal_kit_begin(&kit, kinds[i], 1);
        put_one(1, 1);
        journal_kit_commit(&kit);
        from = kit.at * JOURNAL_KIT_BLOCK;
        put_one(1, 2);
        put_one(2, 2);
        journal_kit_commit(&kit);
        to = kit.at * JOURNAL_KIT_BLOCK;
        put_one(1, 3);
        journal_kit_commit(&kit);
        for (uint32_t at = from; at < to; at += 1) {
            /* Of a commit in the oldest form nothing but the sum is covered. */
            if (kinds[i] & JOURNAL_OLD_CSUM && at >= to - JOURNAL_KIT_BLOCK)
                break;
            kit.bytes[at] ^= 0x40;
            read_it();
            assert_int_equal(replay.transactions, 1);
            has_copy(1, 1);
            has_copy(2, 0);
            kit.bytes[at] ^= 0x40;
        }
        read_it();
        has_copy(1, 3);
    }
}

static void a_wrong_checksum_is_said(void **state)
{
    uint32_t block;

    (void)state;
    journal_kit_begin(&kit, JOURNAL_CSUM_V3, 1);
    put_one(1, 1);
    block = journal_kit_commit(&kit);
    journal_kit_block(&kit, block)[40] ^= 1;
    read_it();
    assert_true(replay.is_cut);
    assert_int_equal(replay.count, 0);
}

static void fast_commits_are_seen(void **state)
{
    static const uint8_t head[] = {9, 0, 8, 0, 0, 0, 0, 0, 78, 0, 0, 0};

    (void)state;
    journal_kit_begin(&kit, JOURNAL_CSUM_V3 | JOURNAL_FAST, 1);
    put_one(1, 1);
    journal_kit_commit(&kit);
    memcpy(journal_kit_block(&kit, kit.last + 1), head, sizeof(head));
    read_it();
    assert_true(replay.has_fast_commits);
    put_one(1, 2);
    journal_kit_commit(&kit); /* they are older than this */
    read_it();
    assert_false(replay.has_fast_commits);
}

static void a_block_outside_of_the_file_system_ends_the_log(void **state)
{
    (void)state;
    journal_kit_begin(&kit, JOURNAL_CSUM_V3, 1);
    kit.journal.fs_blocks = 100;
    put_one(99, 1);
    journal_kit_commit(&kit);
    put_one(100, 1);
    journal_kit_commit(&kit);
    read_it();
    assert_int_equal(replay.transactions, 1);
    assert_true(replay.is_cut);
}

static void forged_superblocks_are_refused(void **state)
{
    static const struct {
        unsigned at;
        uint8_t value[4];
    } fields[] = {
        {0, {0}},
        {4, {0, 0, 0, 1}},
        {12, {0, 0, 8, 0}},
        {16, {0, 0, 0, 65}},
        {16, {0, 0, 0, 1}},
        {16, {0, 0, 0, 0}},
        {20, {0, 0, 0, 0}},
        {20, {0, 0, 0, 64}},
        {28, {0, 0, 0, 64}},
        {28, {255, 255, 255, 255}},
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
        journal_kit_begin(&kit, JOURNAL_CSUM_V3, 1);
        memcpy(kit.bytes + fields[i].at, fields[i].value, 4);
        journal_kit_seal_super(&kit);
        refuses(VDISK_E_MALFORMED);
    }
    journal_kit_begin(&kit, JOURNAL_CSUM_V3, 1);
    kit.bytes[0x28] = 0x80;
    journal_kit_seal_super(&kit);
    refuses(VDISK_E_UNSUPPORTED);
    journal_kit_begin(&kit, JOURNAL_CSUM_V3, 1);
    kit.bytes[60] ^= 1; /* without a new checksum */
    refuses(VDISK_E_MALFORMED);
    journal_kit_begin(&kit, JOURNAL_CSUM_V3 | JOURNAL_FAST, 1);
    kit.bytes[0x57] = 64;
    journal_kit_seal_super(&kit);
    refuses(VDISK_E_MALFORMED);
}

/* A ring of descriptors that all belong to the transaction under way. */
static void a_log_without_an_end_ends(void **state)
{
    (void)state;
    for (unsigned i = 0; i < KINDS; i++) {
        journal_kit_begin(&kit, kinds[i], 1);
        for (unsigned j = 0; j < 40; j++)
            put_one(j, 1);
        read_it();
        assert_int_equal(replay.count, 0);
    }
}

static void lists_longer_than_their_block_end_the_log(void **state)
{
    static const uint64_t revoked[] = {1};
    uint32_t block;

    (void)state;
    journal_kit_begin(&kit, 0, 1);
    put_one(1, 1);
    journal_kit_commit(&kit);
    block = journal_kit_revoke(&kit, revoked, 1);
    memset(journal_kit_block(&kit, block) + 12, 0xff, 4);
    journal_kit_commit(&kit);
    read_it();
    has_copy(1, 1);
    /* And one whose tags do not end. */
    journal_kit_begin(&kit, 0, 1);
    put_one(1, 1);
    journal_kit_block(&kit, 1)[12 + 7] &= (uint8_t)~8;
    journal_kit_commit(&kit);
    read_it();
    assert_int_equal(replay.transactions, 0);
}

static void what_cannot_be_read_is_an_error(void **state)
{
    (void)state;
    journal_kit_begin(&kit, 0, 1);
    kit.error = VDISK_E_NOT_AUTHENTIC;
    refuses(VDISK_E_NOT_AUTHENTIC);
    kit.error = 0;
    kit.journal.blocks = 0;
    refuses(VDISK_E_MALFORMED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_committed_is_found),
        cmocka_unit_test(a_copy_that_was_escaped_is_marked),
        cmocka_unit_test(blocks_of_64_bits),
        cmocka_unit_test(a_revoked_block_is_not_taken_unless_it_came_later),
        cmocka_unit_test(the_log_goes_around),
        cmocka_unit_test(what_is_left_of_older_logs_is_not_taken),
        cmocka_unit_test(a_clean_journal_changes_nothing),
        cmocka_unit_test(a_torn_transaction_ends_the_log),
        cmocka_unit_test(a_wrong_checksum_is_said),
        cmocka_unit_test(fast_commits_are_seen),
        cmocka_unit_test(a_block_outside_of_the_file_system_ends_the_log),
        cmocka_unit_test(forged_superblocks_are_refused),
        cmocka_unit_test(a_log_without_an_end_ends),
        cmocka_unit_test(lists_longer_than_their_block_end_the_log),
        cmocka_unit_test(what_cannot_be_read_is_an_error),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    jbd2_replay_free(&replay);
    return failed;
}
