/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Files of small file systems (fuse/ext_files.c), those of fuzz/corpus/ext_files: paths, and every
 * way in which they can be damaged. scenario_files.sh has larger ones that are whole.
 */
#include "ext_listing.h"
#include "memory_drive.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BYTES 65536u

static const char *const names[] = {"ext2", "ext4", "ext4_checksums", "ext4_extents"};
#define IMAGES (sizeof(names) / sizeof(*names))

static uint8_t image[IMAGES][BYTES], bytes[BYTES];
static struct memory_drive memory;
static struct ext_files *files;

static int start(void **state)
{
    const char *source = getenv("VDISK_SRC");
    char path[4096];

    (void)state;
    for (unsigned i = 0; i < IMAGES; i++) {
        FILE *file;

        snprintf(path, sizeof(path), "%s/fuzz/corpus/ext_files/%s", source ? source : ".",
                 names[i]);
        file = fopen(path, "rb");
        if (!file || fread(image[i], 1, BYTES, file) == 0)
            return -1;
        fclose(file);
    }
    return 0;
}

static int open_it(unsigned which)
{
    memcpy(bytes, image[which], BYTES);
    memory_drive_init(&memory, bytes, BYTES, BYTES);
    return ext_files_open(&memory.drive, &files, NULL);
}

static void is_at(const char *path, bool follow, int wanted, mode_t type)
{
    struct stat status;
    uint32_t inode;

    assert_int_equal(ext_files_walk(files, path, follow, &inode), wanted);
    if (wanted)
        return;
    assert_int_equal(ext_files_stat(files, inode, &status), 0);
    assert_int_equal(status.st_mode & S_IFMT, type);
    assert_int_equal(status.st_ino, inode);
}

static void paths_lead_where_they_do(void **state)
{
    (void)state;
    for (unsigned i = 0; i < IMAGES; i++) {
        char longer[EXT_FILES_PATH_MAX + 10], name[300];

        assert_int_equal(open_it(i), 0);
        is_at("", true, 0, S_IFDIR);
        is_at("/", true, 0, S_IFDIR);
        is_at("///a//", true, 0, S_IFDIR);
        is_at("a/f", true, 0, S_IFREG);
        is_at("/a/../a/./f", true, 0, S_IFREG);
        is_at("/../../a/f", true, 0, S_IFREG);
        is_at("/a/f/", true, -ENOTDIR, 0);
        is_at("/a/f/x", true, -ENOTDIR, 0);
        is_at("/a/f/..", true, -ENOTDIR, 0);
        is_at("/a/nothing", true, -ENOENT, 0);
        is_at("/nothing/f", true, -ENOENT, 0);
        is_at("/b/abs", false, 0, S_IFLNK);
        is_at("/b/abs", true, 0, S_IFDIR);
        is_at("/b/abs/", false, 0, S_IFDIR);
        is_at("/b/abs/../data", true, 0, S_IFREG);
        is_at("/a/link", true, -ENOENT, 0); /* to b, beside it */
        is_at("/long", true, -ENOENT, 0);
        memset(longer, 'x', sizeof(longer));
        longer[sizeof(longer) - 1] = 0;
        is_at(longer, true, -ENAMETOOLONG, 0);
        memset(name, 'x', sizeof(name));
        name[256] = 0;
        is_at(name, true, -ENAMETOOLONG, 0);
        name[255] = 0;
        is_at(name, true, -ENOENT, 0);
        ext_files_close(files);
    }
}

/* The target of a short link is in its inode. */
static void links_in_a_circle_end(void **state)
{
    static const char target[] = "/b/c";
    uint8_t *at;

    (void)state;
    assert_int_equal(open_it(0), 0);
    ext_files_close(files);
    at = memmem(bytes, BYTES, target, sizeof(target));
    assert_non_null(at);
    memcpy(at, "/b/abs", 7);
    at[-36] = 6; /* its length: i_size is 36 bytes in front of i_block */
    assert_int_equal(ext_files_open(&memory.drive, &files, NULL), 0);
    is_at("/b/abs", true, -ELOOP, 0);
    is_at("/b/abs", false, 0, S_IFLNK);
    ext_files_close(files);
}

static void data_is_read_in_any_pieces(void **state)
{
    static uint8_t whole[30000], part[30000];

    (void)state;
    for (unsigned i = 0; i < IMAGES; i++) {
        uint32_t inode;
        int64_t size;

        assert_int_equal(open_it(i), 0);
        assert_int_equal(ext_files_walk(files, "/b/sparse", true, &inode), 0);
        size = ext_files_read(files, inode, 0, whole, sizeof(whole));
        assert_int_equal(size, 20 * 1024 + 2);
        assert_memory_equal(whole + size - 3, "\0y\n", 3);
        srand(i + 1);
        for (unsigned j = 0; j < 200; j++) {
            uint64_t offset = (uint64_t)rand() % 21000, length = (uint64_t)rand() % 9000;
            int64_t got = ext_files_read(files, inode, offset, part, length), want = 0;

            if (offset < (uint64_t)size)
                want = size - (int64_t)offset < (int64_t)length ? size - (int64_t)offset
                                                                : (int64_t)length;
            assert_int_equal(got, want);
            assert_memory_equal(part, whole + offset, (size_t)got);
        }
        ext_files_close(files);
    }
}

/* Where a plan says that the data is, it is. */
static void a_plan_says_where_the_data_is(void **state)
{
    static const char *const paths[] = {"/b/data", "/b/sparse", "/inl", "/a/f"};
    static uint8_t whole[30000], planned[30000];

    (void)state;
    for (unsigned i = 0; i < IMAGES * 4; i++) {
        struct ext_piece pieces[8];
        unsigned count = 8;
        uint64_t done = 0;
        uint32_t inode;
        int64_t size, got;

        assert_int_equal(open_it(i / 4), 0);
        assert_int_equal(ext_files_walk(files, paths[i % 4], true, &inode), 0);
        size = ext_files_read(files, inode, 0, whole, sizeof(whole));
        got = ext_files_plan(files, inode, 0, sizeof(planned), pieces, &count);
        if (got != -EOPNOTSUPP) {
            assert_int_equal(got, size);
            for (unsigned j = 0; j < count; j++) {
                if (pieces[j].offset == EXT_PIECE_ZEROS)
                    memset(planned + done, 0, pieces[j].length);
                else
                    memcpy(planned + done, bytes + pieces[j].offset, pieces[j].length);
                done += pieces[j].length;
            }
            assert_int_equal(done, size);
            assert_memory_equal(planned, whole, done);
        }
        ext_files_close(files);
    }
}

static void what_is_no_file_system_is_said(void **state)
{
    struct vdisk_error error = {0};

    (void)state;
    memset(bytes, 0, BYTES);
    memory_drive_init(&memory, bytes, BYTES, BYTES);
    assert_int_equal(ext_files_open(&memory.drive, &files, &error), VDISK_E_NOT_FOUND);
    memory.drive.size = 2000;
    assert_int_equal(ext_files_open(&memory.drive, &files, &error), VDISK_E_NOT_FOUND);
    assert_int_equal(open_it(1), 0);
    ext_files_close(files);
    memory.drive.size = BYTES - 1024; /* cut off */
    assert_int_equal(ext_files_open(&memory.drive, &files, &error), VDISK_E_MALFORMED);
    memory.drive.size = BYTES;
    bytes[1024 + 0x63] = 0x80; /* an incompatible feature that nobody knows */
    assert_int_equal(ext_files_open(&memory.drive, &files, &error), VDISK_E_UNSUPPORTED);
    assert_int_equal(error.code, VDISK_E_UNSUPPORTED);
}

static void forged_sizes_of_the_file_system_ask_for_no_memory(void **state)
{
    struct vdisk_error error = {0};

    (void)state;
    assert_int_equal(open_it(3), 0);
    ext_files_close(files);
    memory.drive.size = UINT64_C(1) << 50;
    memset(bytes + 1024 + 4, 0xff, 4); /* blocks */
    bytes[1024 + 0x20] = 1;            /* of a group */
    bytes[1024 + 0x21] = 0;
    assert_int_equal(ext_files_open(&memory.drive, &files, &error), VDISK_E_LIMIT);
    bytes[1024 + 0x20] = 0;
    assert_int_equal(ext_files_open(&memory.drive, &files, &error), VDISK_E_MALFORMED);
    bytes[1024 + 0x18] = 200; /* block size */
    assert_int_equal(ext_files_open(&memory.drive, &files, &error), VDISK_E_MALFORMED);
}

static void a_drive_that_fails_is_an_error_that_says_so(void **state)
{
    struct ext_listing listing;
    uint32_t inode;

    (void)state;
    memcpy(bytes, image[1], BYTES);
    memory_drive_init(&memory, bytes, BYTES, BYTES);
    memory.error = VDISK_E_NOT_AUTHENTIC;
    memory.bad_length = BYTES;
    assert_int_equal(ext_files_open(&memory.drive, &files, NULL), VDISK_E_NOT_AUTHENTIC);
    memory.bad_offset = 4096; /* behind the superblock and the groups */
    assert_int_equal(ext_files_open(&memory.drive, &files, NULL), 0);
    assert_int_equal(ext_listing_read(files, EXT_FILES_ROOT, &listing), VDISK_E_NOT_AUTHENTIC);
    assert_int_equal(ext_files_walk(files, "/a", true, &inode), VDISK_E_NOT_AUTHENTIC);
    memory.error = 0;
    assert_int_equal(ext_files_walk(files, "/a", true, &inode), 0);
    ext_files_close(files);
}

/* All that there is, not far down. */
static void look_around(uint32_t folder, unsigned depth)
{
    static uint8_t data[4096];
    struct ext_listing listing;

    if (depth == 0 || ext_listing_read(files, folder, &listing))
        return;
    for (size_t i = 0; i < listing.count; i++) {
        char target[EXT_FILES_PATH_MAX];
        struct stat status;
        uint32_t inode = listing.entry[i].inode;

        if (ext_files_stat(files, inode, &status))
            continue;
        if (S_ISDIR(status.st_mode))
            look_around(inode, depth - 1);
        else if (S_ISLNK(status.st_mode))
            (void)ext_files_readlink(files, inode, target);
        else
            (void)ext_files_read(files, inode, 0, data, sizeof(data));
    }
    ext_listing_free(&listing);
}

/* Every byte in turn (with VDISK_TEST_LONG; else some): nothing breaks, and all ends. */
static void any_changed_byte_does_no_harm(void **state)
{
    const char *is_long = getenv("VDISK_TEST_LONG");
    uint32_t step = is_long && strcmp(is_long, "1") == 0 ? 1 : 29;

    (void)state;
    for (unsigned i = 0; i < IMAGES; i++) {
        for (uint32_t at = i; at < BYTES; at += step) {
            memcpy(bytes, image[i], BYTES);
            memory_drive_init(&memory, bytes, BYTES, BYTES);
            bytes[at] ^= (uint8_t)(1u << at % 8);
            if (ext_files_open(&memory.drive, &files, NULL))
                continue;
            look_around(EXT_FILES_ROOT, 4);
            ext_files_close(files);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paths_lead_where_they_do),
        cmocka_unit_test(links_in_a_circle_end),
        cmocka_unit_test(data_is_read_in_any_pieces),
        cmocka_unit_test(a_plan_says_where_the_data_is),
        cmocka_unit_test(what_is_no_file_system_is_said),
        cmocka_unit_test(forged_sizes_of_the_file_system_ask_for_no_memory),
        cmocka_unit_test(a_drive_that_fails_is_an_error_that_says_so),
        cmocka_unit_test(any_changed_byte_does_no_harm),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
