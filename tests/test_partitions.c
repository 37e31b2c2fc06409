/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tables of partitions made by hand, good and hostile. scenario_files.sh has some that real tools
 * made.
 */
#include "bytes.h"
#include "fsprobe.h"
#include "memory_drive.h"
#include "partitions.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdlib.h>

#define DRIVE_BYTES (UINT64_C(1) << 20)
#define ENTRIES     128u

static uint8_t bytes[DRIVE_BYTES];
static struct memory_drive memory;
static struct partitions found;

static int start(void **state)
{
    (void)state;
    memset(bytes, 0, sizeof(bytes));
    memory_drive_init(&memory, bytes, sizeof(bytes), sizeof(bytes));
    return 0;
}

static void look(void)
{
    assert_int_equal(partitions_read(&memory.drive, &found), 0);
}

static void is_at(unsigned i, unsigned number, uint64_t offset, uint64_t length)
{
    assert_true(i < found.count);
    assert_int_equal(found.partition[i].number, number);
    assert_int_equal(found.partition[i].offset, offset);
    assert_int_equal(found.partition[i].length, length);
}

/* --- MBR ---------------------------------------------------------------------------------- */

static void put_mbr(uint64_t sector, unsigned i, uint8_t type, uint32_t first, uint32_t count)
{
    uint8_t *at = bytes + sector * 512 + 446 + i * 16;

    at[4] = type;
    vd_put32(at + 8, first);
    vd_put32(at + 12, count);
    bytes[sector * 512 + 510] = 0x55;
    bytes[sector * 512 + 511] = 0xaa;
}

static void a_drive_without_a_table_has_none(void **state)
{
    (void)state;
    look();
    assert_int_equal(found.table, PARTITIONS_NONE);
    assert_int_equal(found.count, 0);
    memory.drive.size = 100;
    look();
    memory.drive.size = 0;
    look();
    assert_int_equal(found.count, 0);
}

static void primary_partitions_keep_their_numbers(void **state)
{
    (void)state;
    vd_put32(bytes + 440, 0xc0ffee12);
    put_mbr(0, 0, 0x83, 64, 100);
    put_mbr(0, 3, 0x07, 200, 10);
    look();
    assert_int_equal(found.table, PARTITIONS_MBR);
    assert_int_equal(found.count, 2);
    is_at(0, 1, 64 * 512, 100 * 512);
    is_at(1, 4, 200 * 512, 10 * 512);
    assert_string_equal(found.partition[1].type, "0x07");
    assert_string_equal(found.partition[1].uuid, "c0ffee12-04");
    assert_ptr_equal(partitions_find(&found, 4), &found.partition[1]);
    assert_null(partitions_find(&found, 2));
}

static void logical_partitions_are_counted_from_5(void **state)
{
    (void)state;
    put_mbr(0, 0, 0x83, 1, 9);
    put_mbr(0, 1, 0x05, 100, 400);
    put_mbr(100, 0, 0x83, 2, 50);  /* relative to its own sector */
    put_mbr(100, 1, 0x05, 60, 60); /* relative to the first */
    put_mbr(160, 0, 0x82, 3, 7);
    look();
    assert_int_equal(found.count, 3);
    is_at(1, 5, 102 * 512, 50 * 512);
    is_at(2, 6, 163 * 512, 7 * 512);
}

static void a_chain_that_leads_back_ends(void **state)
{
    (void)state;
    put_mbr(0, 0, 0x0f, 100, 400);
    put_mbr(100, 0, 0x83, 1, 5);
    put_mbr(100, 1, 0x05, 20, 5);
    put_mbr(120, 0, 0x83, 1, 5);
    put_mbr(120, 1, 0x05, 0, 5); /* to the first */
    look();
    assert_int_equal(found.count, 2);
    put_mbr(120, 1, 0x05, 20, 5); /* to itself */
    look();
    assert_int_equal(found.count, 2);
    put_mbr(120, 1, 0x05, UINT32_MAX, 5); /* nowhere */
    look();
    assert_int_equal(found.count, 2);
    put_mbr(0, 1, 0x05, 100, 400); /* and the same chain once more: as many names for it */
    look();
    assert_int_equal(found.count, 4);
}

static void a_long_chain_ends(void **state)
{
    (void)state;
    put_mbr(0, 0, 0x05, 1, 2000);
    for (uint32_t i = 1; i < 2000; i++) {
        put_mbr(i, 0, 0x83, 1, 1);
        put_mbr(i, 1, 0x05, i, 1);
    }
    look();
    assert_int_equal(found.count, PARTITIONS_MAX);
}

static void what_is_not_on_the_drive_is_left_out_or_cut_off(void **state)
{
    (void)state;
    put_mbr(0, 0, 0x83, DRIVE_BYTES / 512, 5);
    put_mbr(0, 1, 0x83, UINT32_MAX, UINT32_MAX);
    put_mbr(0, 2, 0x83, DRIVE_BYTES / 512 - 2, 100);
    put_mbr(0, 3, 0x83, 7, 0);
    look();
    assert_int_equal(found.count, 1);
    is_at(0, 3, DRIVE_BYTES - 1024, 1024);
}

static void partitions_may_overlap(void **state)
{
    (void)state;
    put_mbr(0, 0, 0x83, 10, 50);
    put_mbr(0, 1, 0x83, 20, 50);
    put_mbr(0, 2, 0x83, 0, 2048); /* all of it */
    look();
    assert_int_equal(found.count, 3);
    is_at(2, 3, 0, DRIVE_BYTES);
}

static void the_boot_sector_of_a_file_system_is_no_table(void **state)
{
    (void)state;
    put_mbr(0, 0, 0x83, 10, 50);
    bytes[446] = 0x12; /* a part of a program, where 0 or 0x80 would be */
    look();
    assert_int_equal(found.count, 0);
    bytes[446] = 0x80;
    look();
    assert_int_equal(found.count, 1);
    memcpy(bytes + 82, "FAT32   ", 8);
    look();
    assert_int_equal(found.count, 0);
}

static void a_sector_that_cannot_be_read_is_an_error(void **state)
{
    (void)state;
    put_mbr(0, 0, 0x83, 64, 100);
    put_mbr(0, 1, 0x05, 100, 400);
    memory.error = VDISK_E_NOT_AUTHENTIC;
    memory.bad_length = 1;
    assert_int_equal(partitions_read(&memory.drive, &found), VDISK_E_NOT_AUTHENTIC);
    memory.bad_offset = 100 * 512;
    assert_int_equal(partitions_read(&memory.drive, &found), VDISK_E_NOT_AUTHENTIC);
    assert_int_equal(found.count, 1); /* what was found before */
}

/* --- GPT ---------------------------------------------------------------------------------- */

static uint32_t crc_of(const uint8_t *data, size_t length)
{
    uint32_t crc = UINT32_MAX;

    for (size_t i = 0; i < length * 8; i++)
        crc = crc >> 1 ^ ((crc ^ (uint32_t)data[i / 8] >> i % 8) & 1 ? 0xedb88320 : 0);
    return ~crc;
}

/* One copy, whose header is in sector `where` and whose table begins in sector `table`. */
static void seal_gpt(uint32_t sector, uint64_t where, uint64_t table, uint32_t count)
{
    uint8_t *header = bytes + where * sector;

    memcpy(header, "EFI PART\0\0\1\0", 12);
    vd_put32(header + 12, 92);
    vd_put32(header + 16, 0);
    vd_put64(header + 24, where);
    vd_put64(header + 72, table);
    vd_put32(header + 80, count);
    vd_put32(header + 84, 128);
    vd_put32(header + 88, crc_of(bytes + table * sector, (size_t)count * 128));
    vd_put32(header + 16, crc_of(header, 92));
}

static uint8_t *put_entry(uint32_t sector, uint64_t table, unsigned i, uint64_t first,
                          uint64_t last)
{
    uint8_t *entry = bytes + table * sector + i * 128;

    for (unsigned j = 0; j < 32; j++)
        entry[j] = (uint8_t)(j + 1);
    vd_put64(entry + 32, first);
    vd_put64(entry + 40, last);
    return entry;
}

static void put_both(uint64_t first, uint64_t last)
{
    uint64_t end = DRIVE_BYTES / 512;

    put_mbr(0, 0, 0xee, 1, UINT32_MAX);
    put_entry(512, 2, 2, first, last);
    put_entry(512, end - 33, 2, first, last);
    seal_gpt(512, 1, 2, ENTRIES);
    seal_gpt(512, end - 1, end - 33, ENTRIES);
}

static void a_gpt_is_read(void **state)
{
    uint8_t *entry;

    (void)state;
    put_mbr(0, 0, 0xee, 1, UINT32_MAX);
    entry = put_entry(512, 2, 0, 100, 199);
    memcpy(entry + 56, "r\0o\0o\0t\0 \0\xe9\0\xac\x20\x3d\xd8\x00\xde\x01\0", 21);
    put_entry(512, 2, 9, 300, 300);
    seal_gpt(512, 1, 2, ENTRIES);
    look();
    assert_int_equal(found.table, PARTITIONS_GPT);
    assert_int_equal(found.count, 2);
    is_at(0, 1, 100 * 512, 100 * 512);
    is_at(1, 10, 300 * 512, 512);
    assert_string_equal(found.partition[0].type, "04030201-0605-0807-090A-0B0C0D0E0F10");
    assert_string_equal(found.partition[0].uuid, "14131211-1615-1817-191a-1b1c1d1e1f20");
    assert_string_equal(found.partition[0].name, "root \xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80?");
    assert_string_equal(found.partition[1].name, "");
}

static void a_name_of_36_units_and_half_a_pair_fits(void **state)
{
    uint8_t *entry;

    (void)state;
    put_mbr(0, 0, 0xee, 1, UINT32_MAX);
    entry = put_entry(512, 2, 0, 100, 199);
    for (unsigned i = 0; i < 36; i++)
        vd_put16(entry + 56 + 2 * i, 0x4e2d);
    vd_put16(entry + 56 + 70, 0xd83d); /* the other half is behind the end */
    seal_gpt(512, 1, 2, ENTRIES);
    look();
    assert_int_equal(strlen(found.partition[0].name), 35 * 3 + 1);
    assert_int_equal(found.partition[0].name[35 * 3], '?');
}

static void either_copy_is_enough(void **state)
{
    (void)state;
    put_both(100, 199);
    bytes[512 + 30] ^= 1; /* the first header */
    look();
    is_at(0, 3, 100 * 512, 100 * 512);
    bytes[512 + 30] ^= 1;
    bytes[1024 + 2 * 128] ^= 1; /* the first table */
    look();
    is_at(0, 3, 100 * 512, 100 * 512);
    memory.error = VDISK_E_NOT_AUTHENTIC; /* all of the first */
    memory.bad_offset = 512;
    memory.bad_length = 33 * 512;
    look();
    is_at(0, 3, 100 * 512, 100 * 512);
    memory.bad_length = DRIVE_BYTES;
    assert_int_equal(partitions_read(&memory.drive, &found), VDISK_E_NOT_AUTHENTIC);
}

static void without_a_good_copy_there_is_nothing(void **state)
{
    (void)state;
    put_both(100, 199);
    bytes[512 + 30] ^= 1;
    bytes[DRIVE_BYTES - 512 + 30] ^= 1;
    look();
    assert_int_equal(found.table, PARTITIONS_NONE);
    assert_int_equal(found.count, 0);
}

static void sectors_of_4096_bytes(void **state)
{
    (void)state;
    put_mbr(0, 0, 0xee, 1, UINT32_MAX);
    put_entry(4096, 2, 0, 100, 109);
    seal_gpt(4096, 1, 2, ENTRIES);
    look();
    is_at(0, 1, 100 * 4096, 10 * 4096);
}

static void forged_ranges_do_no_harm(void **state)
{
    static const uint64_t ranges[][2] = {
        {200, 100},
        {UINT64_MAX, UINT64_MAX},
        {0, UINT64_MAX},
        {UINT64_MAX - 1, UINT64_MAX - 1},
        {DRIVE_BYTES / 512, DRIVE_BYTES / 512},
    };

    for (unsigned i = 0; i < sizeof(ranges) / sizeof(*ranges); i++) {
        start(state);
        put_both(ranges[i][0], ranges[i][1]);
        look();
        assert_int_equal(found.table, PARTITIONS_GPT);
        assert_int_equal(found.count, 0);
    }
    start(state);
    put_both(DRIVE_BYTES / 512 - 1, UINT64_MAX - 1);
    look();
    is_at(0, 3, DRIVE_BYTES - 512, 512);
}

static void forged_headers_are_refused(void **state)
{
    static const struct {
        unsigned at;
        uint64_t value;
    } fields[] = {
        {12, 91}, {12, 513}, {72, UINT64_MAX}, {72, DRIVE_BYTES / 512}, {80, 0}, {80, UINT32_MAX},
        {84, 0},  {84, 64},  {84, 127},        {84, UINT32_MAX},
    };

    for (unsigned i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
        uint8_t *header = bytes + 512;
        uint32_t length;

        start(state);
        put_mbr(0, 0, 0xee, 1, UINT32_MAX);
        put_entry(512, 2, 0, 100, 199);
        seal_gpt(512, 1, 2, ENTRIES);
        if (fields[i].at == 72)
            vd_put64(header + 72, fields[i].value);
        else
            vd_put32(header + fields[i].at, (uint32_t)fields[i].value);
        length = vd_get32(header + 12);
        vd_put32(header + 16, 0);
        vd_put32(header + 16, crc_of(header, length < 600 ? length : 600));
        look();
        assert_int_equal(found.count, 0);
    }
}

static void more_entries_than_there_is_room_for(void **state)
{
    (void)state;
    put_mbr(0, 0, 0xee, 1, UINT32_MAX);
    for (unsigned i = 0; i < 1000; i++)
        put_entry(512, 2, i, 100 + i, 100 + i);
    seal_gpt(512, 1, 2, 1000);
    look();
    assert_int_equal(found.count, PARTITIONS_MAX);
}

/* --- what is on them ---------------------------------------------------------------------- */

static void swap_space_is_known_by_its_superblock(void **state)
{
    struct fsprobe probe;
    struct drive part;

    (void)state;
    vd_put32(bytes + 65536 + 1024, 1);   /* version */
    vd_put32(bytes + 65536 + 1028, 100); /* last page */
    memcpy(bytes + 65536 + 1052, "my\x07swap", 7);
    memcpy(bytes + 65536 + 4086, "SWAPSPACE2", 10);
    drive_of_range(&part, &memory.drive, 65536, 500000);
    assert_int_equal(part.size, 500000);
    assert_int_equal(fsprobe_drive(&part, &probe), 0);
    assert_string_equal(probe.kind, "swap");
    assert_string_equal(probe.label, "my?swap");
    drive_of_range(&part, &memory.drive, 0, UINT64_MAX);
    assert_int_equal(part.size, DRIVE_BYTES);
    assert_int_equal(fsprobe_drive(&part, &probe), 0);
    assert_string_equal(probe.kind, "");
}

static void a_drive_of_any_size_is_probed(void **state)
{
    static const uint64_t sizes[] = {
        0, 1, 511, 4097, 1 << 20, (2 << 20) + 65537, UINT64_C(1) << 56};
    struct fsprobe probe;

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        memory.drive.size = sizes[i];
        assert_int_equal(fsprobe_drive(&memory.drive, &probe), 0);
        assert_string_equal(probe.kind, "");
    }
    memory.error = -EIO;
    memory.bad_length = 1;
    assert_int_equal(fsprobe_drive(&memory.drive, &probe), -EIO);
}

static void a_range_ends_where_the_drive_does(void **state)
{
    struct drive part, inner;
    uint8_t byte;

    (void)state;
    bytes[1000] = 7;
    drive_of_range(&part, &memory.drive, 1000, 10);
    assert_int_equal(drive_get(&part, 0, &byte, 1), 0);
    assert_int_equal(byte, 7);
    assert_int_equal(drive_get(&part, 10, &byte, 1), -EINVAL);
    assert_int_equal(drive_get(&part, UINT64_MAX, &byte, 2), -EINVAL);
    assert_int_equal(drive_get(&part, 10, &byte, 0), 0);
    drive_of_range(&inner, &part, 5, UINT64_MAX);
    assert_int_equal(inner.size, 5);
    drive_of_range(&inner, &part, 11, 1);
    assert_int_equal(inner.size, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_drive_without_a_table_has_none, start),
        cmocka_unit_test_setup(primary_partitions_keep_their_numbers, start),
        cmocka_unit_test_setup(logical_partitions_are_counted_from_5, start),
        cmocka_unit_test_setup(a_chain_that_leads_back_ends, start),
        cmocka_unit_test_setup(a_long_chain_ends, start),
        cmocka_unit_test_setup(what_is_not_on_the_drive_is_left_out_or_cut_off, start),
        cmocka_unit_test_setup(partitions_may_overlap, start),
        cmocka_unit_test_setup(the_boot_sector_of_a_file_system_is_no_table, start),
        cmocka_unit_test_setup(a_sector_that_cannot_be_read_is_an_error, start),
        cmocka_unit_test_setup(a_gpt_is_read, start),
        cmocka_unit_test_setup(a_name_of_36_units_and_half_a_pair_fits, start),
        cmocka_unit_test_setup(either_copy_is_enough, start),
        cmocka_unit_test_setup(without_a_good_copy_there_is_nothing, start),
        cmocka_unit_test_setup(sectors_of_4096_bytes, start),
        cmocka_unit_test_setup(forged_ranges_do_no_harm, start),
        cmocka_unit_test_setup(forged_headers_are_refused, start),
        cmocka_unit_test_setup(more_entries_than_there_is_room_for, start),
        cmocka_unit_test_setup(swap_space_is_known_by_its_superblock, start),
        cmocka_unit_test_setup(a_drive_of_any_size_is_probed, start),
        cmocka_unit_test_setup(a_range_ends_where_the_drive_does, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
