/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The bounds of the public functions: sizes, offsets, names; what can be opened and by how many;
 * copies of the header and the superblock; a base that changed; space given back. Keys are in
 * test_image_keys.c.
 */
#include "bytes.h"
#include "vdisk/vdisk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB     (UINT64_C(1) << 20)
#define LOG2    7u /* of the journal */
#define COPY_B  (UINT64_C(4096) << LOG2)
#define HEADER  8192u
#define SLOT_AT 8192u /* of a superblock, from the copy's header */

static const uint8_t key_bytes[32] = "any 32 bytes are as good as this";
static const struct vdisk_key key = {
    .kind = VDISK_KEY_FILE, .bytes = key_bytes, .length = sizeof(key_bytes)};

static char directory[PATH_MAX], path[PATH_MAX + 32];
static struct vdisk_error error;
static struct vdisk_image *image;

static int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    (void)state;
    snprintf(directory, sizeof(directory), "%s/vdisk-image-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(directory) || chmod(directory, 0755))
        return -1;
    snprintf(path, sizeof(path), "%s/a.vdk", directory);
    error = (struct vdisk_error){0};
    image = NULL;
    return 0;
}

static int tear_down(void **state)
{
    char command[PATH_MAX + 16];
    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

static int create_with(uint64_t size, uint64_t cluster, uint64_t split, uint32_t journal_log2)
{
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = size,
                                           .cluster_bytes = cluster,
                                           .split_bytes = split,
                                           .journal_log2 = journal_log2};
    return vdisk_create(path, &options, &key, &image, &error);
}

static void create_ok(uint64_t size)
{
    assert_int_equal(create_with(size, 0, 0, LOG2), 0);
}

static int open_with(bool read_only)
{
    struct vdisk_open_options options = {.struct_bytes = sizeof(options), .read_only = read_only};
    error = (struct vdisk_error){0};
    return vdisk_open(path, &options, &key, &image, &error);
}

static void shut(void)
{
    assert_int_equal(vdisk_close(image, &error), 0);
    image = NULL;
}

static void expect_error(int result, int code)
{
    assert_int_equal(result, code);
    assert_int_equal(error.code, code);
    assert_true(error.text[0] && !strchr(error.text, '\n'));
}

static void expect_last(int result, int code)
{
    assert_int_equal(result, code);
    assert_int_equal(vdisk_last_error(image)->code, code);
    assert_true(vdisk_last_error(image)->text[0]);
}

static void patch(uint64_t offset, const void *data, size_t length)
{
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, data, length, (off_t)offset), length);
    close(fd);
}

static void peek(uint64_t offset, void *data, size_t length)
{
    int fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, data, length, (off_t)offset), length);
    close(fd);
}

/* ---- sizes and offsets ---- */

static void test_sizes_that_no_drive_can_have(void **state)
{
    static const uint64_t sizes[] = {0,
                                     1,
                                     511,
                                     513,
                                     4095,
                                     VDISK_SIZE_MAX + 512,
                                     UINT64_C(1) << 63,
                                     UINT64_MAX,
                                     UINT64_MAX - 511};
    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        expect_error(create_with(sizes[i], 0, 0, 0), -EINVAL);
        assert_int_equal(access(path, F_OK), -1);
    }
    create_ok(MIB);
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        expect_last(vdisk_resize(image, sizes[i], true), -EINVAL);
    assert_int_equal(vdisk_size(image), MIB);
    shut();
}

static void test_geometries_that_no_image_can_have(void **state)
{
    (void)state;
    expect_error(create_with(MIB, 8192, 0, 0), -EINVAL);
    expect_error(create_with(MIB, 65537, 0, 0), -EINVAL);
    expect_error(create_with(MIB, 2 * MIB, 0, 0), -EINVAL);
    expect_error(create_with(MIB, 0, 0, 4), -EINVAL);
    expect_error(create_with(MIB, 0, 0, 17), -EINVAL);
    expect_error(create_with(MIB, 0, 0, UINT32_MAX), -EINVAL);
    expect_error(create_with(MIB, 0, 1, 0), -EINVAL);
    expect_error(create_with(MIB, 0, 8 * MIB, 0), -EINVAL);
    expect_error(create_with(MIB, 0, 16 * MIB + 4096, 0), -EINVAL);
    expect_error(create_with(MIB, 0, 16 * MIB, 12), -EINVAL);
    assert_int_equal(access(path, F_OK), -1);
}

static void test_a_larger_drive_has_a_larger_journal(void **state)
{
    static const struct {
        uint64_t size;
        unsigned log2;
    } drive[] = {
        {MIB, 9}, {512 * MIB - 512, 9}, {512 * MIB, 10}, {1024 * MIB, 11}, {VDISK_SIZE_MAX, 11}};
    struct vdisk_figures figures;
    (void)state;
    for (unsigned i = 0; i < sizeof(drive) / sizeof(drive[0]); i++) {
        assert_int_equal(create_with(drive[i].size, 0, 0, 0), 0);
        vdisk_get_figures(image, &figures);
        assert_int_equal(figures.journal_bytes, ((1u << drive[i].log2) - 4) * 4096);
        shut();
        assert_int_equal(unlink(path), 0);
    }
}

static void test_the_smallest_and_the_largest_drive(void **state)
{
    static const uint64_t sizes[] = {512, VDISK_SIZE_MAX};
    uint8_t data[512], back[512];
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        create_ok(sizes[i]);
        memset(data, 7 + (int)i, sizeof(data));
        assert_int_equal(vdisk_write(image, sizes[i] - 512, data, 512), 0);
        assert_int_equal(vdisk_read(image, sizes[i] - 512, back, 512), 0);
        assert_memory_equal(data, back, 512);
        assert_int_equal(vdisk_discard(image, 0, sizes[i]), 0);
        assert_int_equal(vdisk_read(image, sizes[i] - 512, back, 512), 0);
        assert_true(vd_is_zero(back, 512));
        assert_int_equal(vdisk_write(image, sizes[i] - 512, data, 512), 0);
        assert_int_equal(vdisk_snapshot_create(image, "s"), 0);
        shut();
        assert_int_equal(open_with(false), 0);
        assert_int_equal(vdisk_size(image), sizes[i]);
        assert_int_equal(vdisk_read(image, sizes[i] - 512, back, 512), 0);
        assert_memory_equal(data, back, 512);
        assert_int_equal(vdisk_check(image, NULL, NULL), 0);
        shut();
        assert_int_equal(unlink(path), 0);
    }
}

static void test_ranges_out_of_the_drive_are_refused(void **state)
{
    static const struct {
        uint64_t offset, length;
    } range[] = {
        {MIB, 1},
        {MIB - 1, 2},
        {MIB + 1, 0},
        {0, MIB + 1},
        {1, MIB},
        {UINT64_MAX, 1},
        {UINT64_MAX, UINT64_MAX},
        {1, UINT64_MAX},
        {4096, 0 - 4096ull},
        {UINT64_C(1) << 63, 512},
    };
    static uint8_t data[4096];
    (void)state;
    create_ok(MIB);
    for (unsigned i = 0; i < sizeof(range) / sizeof(range[0]); i++) {
        expect_last(vdisk_read(image, range[i].offset, data, range[i].length), -EINVAL);
        expect_last(vdisk_write(image, range[i].offset, data, range[i].length), -EINVAL);
        expect_last(vdisk_discard(image, range[i].offset, range[i].length), -EINVAL);
        expect_last(vdisk_zero(image, range[i].offset, range[i].length), -EINVAL);
    }
    assert_int_equal(vdisk_read(image, MIB, data, 0), 0);
    assert_int_equal(vdisk_write(image, MIB, data, 0), 0);
    assert_int_equal(vdisk_discard(image, MIB, 0), 0);
    assert_int_equal(vdisk_zero(image, 0, 0), 0);
    shut();
}

static void test_a_request_has_a_greatest_length(void **state)
{
    uint8_t byte = 0;
    (void)state;
    create_ok(4 * VDISK_REQUEST_MAX);
    expect_last(vdisk_read(image, 0, &byte, VDISK_REQUEST_MAX + 1), -EINVAL);
    expect_last(vdisk_write(image, 0, &byte, VDISK_REQUEST_MAX + 1), -EINVAL);
    assert_int_equal(vdisk_discard(image, 0, 4 * VDISK_REQUEST_MAX), 0);
    shut();
}

static bool ignore_extent(void *opaque, const struct vdisk_extent *extent)
{
    (void)extent;
    ++*(unsigned *)opaque;
    return true;
}

static void test_the_map_has_the_same_bounds(void **state)
{
    unsigned n = 0;
    (void)state;
    create_ok(MIB);
    expect_last(vdisk_map(image, NULL, 0, MIB + 1, false, ignore_extent, &n), -EINVAL);
    expect_last(vdisk_map(image, NULL, UINT64_MAX, 2, false, ignore_extent, &n), -EINVAL);
    assert_int_equal(vdisk_map(image, NULL, MIB, 0, false, ignore_extent, &n), 0);
    assert_int_equal(n, 0);
    assert_int_equal(vdisk_map(image, NULL, 100, 1, true, ignore_extent, &n), 0);
    assert_int_equal(n, 1);
    shut();
}

/* ---- names ---- */

static void test_names_of_snapshots(void **state)
{
    static const char *const bad[] = {"",
                                      "a\nb",
                                      "\n",
                                      "a/b",
                                      "a@b",
                                      "tab\t",
                                      "\x7f",
                                      "\xff",
                                      "\xc3",
                                      "a\xc3(",
                                      "\xc0\xaf",
                                      "\xed\xa0\x80",
                                      "\xf5\x80\x80\x80",
                                      "\xe2\x82"};
    static const char *const good[] = {
        "a", " ", ".", "..", "-x", "\xc3\xa9", "\xf0\x9f\x98\x80", "a b \"c\" 'd' \\ $e"};
    char name[258];
    (void)state;
    create_ok(MIB);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        expect_last(vdisk_snapshot_create(image, bad[i]), -EINVAL);
    memset(name, 'n', 256);
    name[256] = 0;
    expect_last(vdisk_snapshot_create(image, name), -EINVAL);
    name[255] = 0;
    assert_int_equal(vdisk_snapshot_create(image, name), 0);
    expect_last(vdisk_snapshot_create(image, name), VDISK_E_EXISTS);
    for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_int_equal(vdisk_snapshot_create(image, good[i]), 0);
    shut();
    assert_int_equal(open_with(false), 0);
    assert_int_equal(vdisk_snapshot_delete(image, name), 0);
    expect_last(vdisk_snapshot_delete(image, name), VDISK_E_NOT_FOUND);
    expect_last(vdisk_snapshot_rollback(image, "nobody"), VDISK_E_NOT_FOUND);
    struct vdisk_snapshot *snapshot = NULL;
    expect_last(vdisk_snapshot_open(image, "nobody", &snapshot), VDISK_E_NOT_FOUND);
    expect_last(vdisk_snapshot_open(image, "", &snapshot), VDISK_E_NOT_FOUND);
    for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_int_equal(vdisk_snapshot_delete(image, good[i]), 0);
    assert_int_equal(vdisk_check(image, NULL, NULL), 0);
    shut();
}

static void request_done(struct vdisk_request *request)
{
    *(bool *)request->owner = true;
}

static void test_snapshots_are_read_only_and_have_their_own_size(void **state)
{
    struct vdisk_snapshot *snapshot;
    static uint8_t data[4096];
    bool done = false;
    (void)state;
    create_ok(MIB);
    assert_int_equal(vdisk_snapshot_create(image, "small"), 0);
    assert_int_equal(vdisk_resize(image, 4 * MIB, false), 0);
    assert_int_equal(vdisk_snapshot_open(image, "small", &snapshot), 0);
    expect_last(vdisk_snapshot_read(snapshot, MIB, data, 1), -EINVAL);
    assert_int_equal(vdisk_snapshot_read(snapshot, MIB - 4096, data, 4096), 0);
    struct vdisk_request request = {.op = VDISK_WRITE,
                                    .length = 4096,
                                    .data = data,
                                    .snapshot = snapshot,
                                    .done = request_done,
                                    .owner = &done};
    vdisk_submit(image, &request);
    while (!done)
        vdisk_poll(image, true);
    assert_int_equal(request.result, -EROFS);
    expect_last(vdisk_snapshot_delete(image, "small"), VDISK_E_IN_USE);
    vdisk_snapshot_close(snapshot);
    assert_int_equal(vdisk_snapshot_delete(image, "small"), 0);
    shut();
}

/* ---- who may open what ---- */

static void test_an_image_is_open_for_writing_once(void **state)
{
    struct vdisk_image *first;
    int status = 0;
    (void)state;
    create_ok(MIB);
    first = image;
    expect_error(open_with(false), VDISK_E_IN_USE);
    expect_error(open_with(true), VDISK_E_IN_USE);
    expect_error(create_with(MIB, 0, 0, 0), VDISK_E_EXISTS);
    pid_t child = fork();
    if (child == 0)
        _exit(open_with(false) == VDISK_E_IN_USE && open_with(true) == VDISK_E_IN_USE ? 0 : 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    image = first;
    shut();

    struct vdisk_image *reader;
    assert_int_equal(open_with(true), 0);
    reader = image;
    assert_int_equal(open_with(true), 0);
    expect_error(open_with(false), VDISK_E_IN_USE);
    shut();
    image = reader;
    shut();
    assert_int_equal(open_with(false), 0);
    shut();
}

static void test_a_child_that_dies_leaves_the_image_free(void **state)
{
    uint8_t data[512] = {1}, back[512];
    int status = 0;
    (void)state;
    create_ok(MIB);
    shut();
    pid_t child = fork();
    if (child == 0) {
        bool ok = open_with(false) == 0 && vdisk_write(image, 512, data, 512) == 0 &&
                  vdisk_flush(image) == 0;
        _exit(ok ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(open_with(false), 0);
    assert_int_equal(vdisk_read(image, 512, back, 512), 0);
    assert_memory_equal(data, back, 512);
    struct vdisk_info info;
    vdisk_get_info(image, &info);
    assert_true(info.recovered);
    shut();
}

/* Of a process that has no rights: 0 when it met what it should. */
static int without_rights(void)
{
    struct vdisk_create_options options = {.struct_bytes = sizeof(options), .size = MIB};
    /* What is above the folder may be closed to it. */
    if (chdir(directory) || (geteuid() == 0 && (setgid(65534) || setuid(65534))))
        return 1;
    memmove(path, path + strlen(directory) + 1, strlen(path) - strlen(directory));
    if (open_with(false) != -EACCES || !error.text[0])
        return 2;
    if (open_with(true) || vdisk_close(image, NULL))
        return 3;
    return vdisk_create("b.vdk", &options, &key, &image, &error) == -EACCES ? 0 : 4;
}

static void test_a_read_only_file_in_a_read_only_directory(void **state)
{
    int status = 0;
    (void)state;
    create_ok(MIB);
    shut();
    assert_int_equal(chmod(path, 0444), 0);
    assert_int_equal(chmod(directory, 0555), 0);
    pid_t child = fork();
    if (child == 0)
        _exit(without_rights());
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(chmod(directory, 0755), 0);
    assert_int_equal(status, 0);
}

static void test_a_read_only_image_is_not_changed(void **state)
{
    static uint8_t before[64 * 4096], after[64 * 4096];
    uint8_t data[512] = {1};
    unsigned slot;
    (void)state;
    create_ok(MIB);
    assert_int_equal(vdisk_write(image, 0, data, 512), 0);
    assert_int_equal(vdisk_flush(image), 0);
    vdisk_abandon(image); /* so that there is something to recover */
    peek(0, before, sizeof(before));
    assert_int_equal(open_with(true), 0);
    expect_last(vdisk_write(image, 0, data, 512), -EROFS);
    expect_last(vdisk_zero(image, 0, 512), -EROFS);
    expect_last(vdisk_discard(image, 0, 512), -EROFS);
    expect_last(vdisk_resize(image, 2 * MIB, false), -EROFS);
    expect_last(vdisk_snapshot_create(image, "s"), -EROFS);
    expect_last(vdisk_snapshot_delete(image, "s"), -EROFS);
    expect_last(vdisk_snapshot_rollback(image, "s"), -EROFS);
    expect_last(vdisk_checkpoint(image), -EROFS);
    expect_last(vdisk_compact(image, NULL, NULL, NULL), -EROFS);
    expect_last(vdisk_key_add(image, &key, &slot), -EROFS);
    expect_last(vdisk_key_remove(image, 0), -EROFS);
    assert_int_equal(vdisk_flush(image), 0);
    shut();
    peek(0, after, sizeof(after));
    assert_memory_equal(before, after, sizeof(before));
}

/* ---- what is no image ---- */

static void expect_no_image(int code)
{
    struct vdisk_public_info info;
    expect_error(open_with(false), code);
    expect_error(open_with(true), code);
    expect_error(vdisk_probe(path, &info, &error), code);
}

static void write_file(const void *data, size_t length)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, data, length), length);
    close(fd);
}

static void test_what_is_no_image(void **state)
{
    static uint8_t garbage[300000];
    (void)state;
    expect_no_image(-ENOENT);
    assert_int_equal(mkdir(path, 0755), 0);
    assert_int_not_equal(open_with(false), 0);
    assert_true(error.text[0]);
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_not_equal(open_with(false), 0);
    assert_int_not_equal(open_with(true), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink(path, path), 0);
    assert_int_not_equal(open_with(true), 0);
    assert_int_equal(unlink(path), 0);

    write_file("", 0);
    expect_no_image(VDISK_E_MALFORMED);
    write_file("x", 1);
    expect_no_image(VDISK_E_MALFORMED);
    randombytes_buf(garbage, sizeof(garbage));
    write_file(garbage, sizeof(garbage));
    expect_no_image(VDISK_E_MALFORMED);
    static const uint8_t magic[12] = "\x89VDISK\r\n\1\0\0";
    memcpy(garbage, magic, sizeof(magic));
    write_file(garbage, sizeof(garbage));
    expect_no_image(VDISK_E_MALFORMED);
    assert_int_equal(create_with(MIB, 0, 0, 0), VDISK_E_EXISTS);
}

static void test_truncated_images_are_refused_and_never_crash(void **state)
{
    static uint8_t data[300000];
    struct stat status;
    (void)state;
    create_ok(4 * MIB);
    randombytes_buf(data, sizeof(data));
    assert_int_equal(vdisk_write(image, 0, data, sizeof(data)), 0);
    shut();
    assert_int_equal(stat(path, &status), 0);
    for (off_t size = status.st_size - status.st_size % 4096; size > 0;
         size = size > 700000 ? size - 65536 : size - 3 * 4096) {
        assert_int_equal(truncate(path, size), 0);
        if (open_with(true) == 0) {
            int r = vdisk_read(image, 0, data, sizeof(data));
            assert_true(r == 0 || r == VDISK_E_NOT_AUTHENTIC || r == VDISK_E_MALFORMED);
            (void)vdisk_check(image, NULL, NULL);
            shut();
        } else {
            assert_true(error.text[0]);
        }
    }
    assert_int_equal(truncate(path, 4096), 0);
    expect_no_image(VDISK_E_MALFORMED);
}

/* The header with another version, and a checksum to match. */
static void test_a_newer_version_is_named(void **state)
{
    static const struct {
        unsigned at;
        uint8_t value;
    } change[] = {{8, 2}, {40, 1}, {47, 0x80}};
    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        uint8_t bytes[HEADER];
        create_ok(MIB);
        shut();
        peek(0, bytes, HEADER);
        bytes[change[i].at] = change[i].value;
        memset(bytes + 4064, 0, 32);
        uint8_t sum[32];
        crypto_generichash(sum, 32, bytes, HEADER, NULL, 0);
        memcpy(bytes + 4064, sum, 32);
        patch(0, bytes, HEADER);
        patch(COPY_B, bytes, HEADER);
        expect_no_image(VDISK_E_UNSUPPORTED);
        assert_int_equal(unlink(path), 0);
    }
}

/* ---- copies ---- */

static void destroy(uint64_t offset)
{
    uint8_t garbage[4096];
    randombytes_buf(garbage, sizeof(garbage));
    patch(offset, garbage, sizeof(garbage));
}

static void expect_damage(bool header, bool superblock)
{
    struct vdisk_info info;
    vdisk_get_info(image, &info);
    assert_true(info.header_damaged == header);
    assert_true(info.superblock_damaged == superblock);
}

static void test_one_copy_of_the_header_is_enough_and_mended(void **state)
{
    static const uint64_t places[] = {0, 4096, COPY_B, COPY_B + 4096};
    struct vdisk_public_info public;
    (void)state;
    create_ok(MIB);
    shut();
    for (unsigned i = 0; i < 4; i++) {
        destroy(places[i]);
        assert_int_equal(vdisk_probe(path, &public, &error), 0);
        assert_true(public.header_damaged);
        assert_int_equal(open_with(true), 0);
        expect_damage(true, false);
        shut();
        assert_int_equal(open_with(false), 0);
        expect_damage(true, false);
        shut();
        assert_int_equal(open_with(true), 0);
        expect_damage(false, false);
        shut();
    }
    destroy(0);
    destroy(COPY_B);
    expect_no_image(VDISK_E_MALFORMED);
}

static void test_one_superblock_slot_is_enough_and_mended(void **state)
{
    static const uint64_t places[] = {SLOT_AT, COPY_B + SLOT_AT};
    (void)state;
    create_ok(MIB);
    shut();
    for (unsigned i = 0; i < 2; i++) {
        destroy(places[i]);
        assert_int_equal(open_with(true), 0);
        expect_damage(false, true);
        shut();
        assert_int_equal(open_with(false), 0);
        shut();
        assert_int_equal(open_with(true), 0);
        expect_damage(false, false);
        shut();
    }
    destroy(places[0]);
    destroy(places[1]);
    expect_error(open_with(true), VDISK_E_NOT_AUTHENTIC);
    expect_error(open_with(false), VDISK_E_NOT_AUTHENTIC);
}

static void test_check_mends_copies_when_asked(void **state)
{
    struct vdisk_check_options options = {.struct_bytes = sizeof(options), .repair = true};
    struct vdisk_check_result result;
    (void)state;
    create_ok(MIB);
    shut();
    destroy(0);
    destroy(COPY_B + SLOT_AT);
    assert_int_equal(open_with(false), 0);
    assert_int_equal(vdisk_check(image, &options, &result), 0);
    assert_int_equal(result.repaired, 2);
    shut();
    assert_int_equal(open_with(true), 0);
    expect_damage(false, false);
    assert_int_equal(vdisk_check(image, NULL, NULL), 0);
    shut();
}

/* ---- a base that is not the one ---- */

static void test_an_overlay_refuses_a_changed_base(void **state)
{
    char top[PATH_MAX + 32], moved[PATH_MAX + 32];
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options), .base_path = path, .base_key = &key};
    struct vdisk_open_options open = {.struct_bytes = sizeof(open)};
    struct vdisk_image *overlay = NULL;
    uint8_t data[512] = {5}, back[512];
    (void)state;
    snprintf(top, sizeof(top), "%s/top.vdk", directory);
    snprintf(moved, sizeof(moved), "%s/moved.vdk", directory);
    create_ok(MIB);
    assert_int_equal(vdisk_write(image, 0, data, 512), 0);
    assert_int_equal(vdisk_snapshot_create(image, "s"), 0);
    shut();
    assert_int_equal(vdisk_create(top, &options, &key, &overlay, &error), 0);
    assert_int_equal(vdisk_read(overlay, 0, back, 512), 0);
    assert_memory_equal(data, back, 512);
    expect_error(open_with(false), VDISK_E_IN_USE); /* the base is being read */
    assert_int_equal(vdisk_close(overlay, NULL), 0);

    assert_int_equal(rename(path, moved), 0);
    assert_int_not_equal(vdisk_open(top, &open, &key, &overlay, &error), 0);
    open.base_path = moved;
    assert_int_equal(vdisk_open(top, &open, &key, &overlay, &error), 0);
    assert_int_equal(vdisk_close(overlay, NULL), 0);
    open.base_path = NULL;
    create_ok(MIB); /* another image in its place */
    shut();
    expect_error(vdisk_open(top, &open, &key, &overlay, &error), VDISK_E_BASE_CHANGED);
    assert_int_equal(rename(moved, path), 0);
    assert_int_equal(open_with(false), 0);
    data[0] = 6;
    assert_int_equal(vdisk_write(image, 0, data, 512), 0);
    shut();
    expect_error(vdisk_open(top, &open, &key, &overlay, &error), VDISK_E_BASE_CHANGED);
    assert_int_equal(unlink(top), 0);

    options.base_snapshot = "s"; /* which stays, whatever the live state does */
    assert_int_equal(vdisk_create(top, &options, &key, &overlay, &error), 0);
    assert_int_equal(vdisk_close(overlay, NULL), 0);
    assert_int_equal(open_with(false), 0);
    assert_int_equal(vdisk_write(image, 4096, data, 512), 0);
    shut();
    assert_int_equal(vdisk_open(top, &open, &key, &overlay, &error), 0);
    assert_int_equal(vdisk_read(overlay, 0, back, 512), 0);
    assert_int_equal(back[0], 5);
    assert_int_equal(vdisk_close(overlay, NULL), 0);
    assert_int_equal(open_with(false), 0);
    assert_int_equal(vdisk_snapshot_delete(image, "s"), 0);
    shut();
    expect_error(vdisk_open(top, &open, &key, &overlay, &error), VDISK_E_BASE_CHANGED);
}

/* ---- space ---- */

static uint64_t host_bytes(void)
{
    struct stat status;
    sync();
    assert_int_equal(stat(path, &status), 0);
    return (uint64_t)status.st_blocks * 512;
}

static void test_discarded_space_goes_back_to_the_host(void **state)
{
    uint8_t *data = malloc(32 * MIB);
    (void)state;
    assert_non_null(data);
    randombytes_buf(data, 32 * MIB);
    create_ok(64 * MIB);
    assert_int_equal(vdisk_write(image, 0, data, 32 * MIB), 0);
    assert_int_equal(vdisk_checkpoint(image), 0);
    uint64_t full = host_bytes();
    assert_true(full >= 32 * MIB);
    assert_int_equal(vdisk_discard(image, 0, 24 * MIB), 0);
    assert_int_equal(vdisk_checkpoint(image), 0);
    assert_true(host_bytes() < full - 23 * MIB);
    assert_int_equal(vdisk_zero(image, 24 * MIB, 8 * MIB), 0);
    shut();
    assert_true(host_bytes() < 6 * MIB);
    free(data);
}

static void test_an_empty_large_drive_takes_little_space(void **state)
{
    (void)state;
    create_ok(VDISK_SIZE_MAX);
    shut();
    assert_true(host_bytes() < 6 * MIB);
}

static struct vdisk_figures figures_of(void)
{
    struct vdisk_figures figures;
    vdisk_get_figures(image, &figures);
    return figures;
}

static void test_an_image_tells_what_its_cache_and_journal_do(void **state)
{
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options), .size = 64 * MIB, .journal_log2 = LOG2, .compress = true};
    static uint8_t cluster[128 * 1024];
    uint8_t block[4096];
    (void)state;
    assert_int_equal(vdisk_create(path, &options, &key, &image, &error), 0);
    struct vdisk_figures before = figures_of(), now;
    assert_int_equal(before.journal_bytes, ((1u << LOG2) - 4) * 4096);

    memset(cluster, 'x', sizeof(cluster));
    assert_int_equal(vdisk_write(image, 0, cluster, sizeof(cluster)), 0);
    now = figures_of();
    assert_int_equal(now.journal_records, before.journal_records);
    assert_true(now.dirty_bytes > before.dirty_bytes && now.dirty_bytes <= now.nodes.bytes);
    assert_int_equal(vdisk_flush(image), 0);
    now = figures_of();
    assert_int_equal(now.journal_records, before.journal_records + 1);
    assert_int_equal(now.journal_syncs, before.journal_syncs + 1);
    assert_int_equal(now.journal_used_bytes, before.journal_used_bytes + 4096);
    assert_int_equal(vdisk_checkpoint(image), 0);
    now = figures_of();
    assert_int_equal(now.checkpoints, before.checkpoints + 1);
    assert_int_equal(now.journal_used_bytes, 0);
    assert_int_equal(now.dirty_bytes, 0);
    shut();

    assert_int_equal(open_with(true), 0);
    before = figures_of();
    assert_int_equal(vdisk_read(image, 0, block, sizeof(block)), 0);
    now = figures_of();
    assert_true(now.nodes.misses > before.nodes.misses);
    assert_true(now.nodes.bytes > 0 && now.nodes.bytes <= now.nodes.limit_bytes);
    assert_int_equal(now.clusters.misses, 1);
    assert_int_equal(now.clusters.bytes, sizeof(cluster));
    assert_true(now.clusters.limit_bytes >= now.clusters.bytes);
    before = now;
    assert_int_equal(vdisk_read(image, 4096, block, sizeof(block)), 0);
    now = figures_of();
    assert_int_equal(now.nodes.misses, before.nodes.misses);
    assert_true(now.nodes.hits > before.nodes.hits);
    assert_int_equal(now.clusters.hits, before.clusters.hits + 1);
    assert_int_equal(now.clusters.misses, 1);
    shut();
}

static void test_a_cache_that_gets_less_lets_go(void **state)
{
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options), .size = 1024 * MIB, .journal_log2 = LOG2};
    uint8_t block[4096];
    struct vdisk_figures now;
    (void)state;
    assert_int_equal(vdisk_create(path, &options, &key, &image, &error), 0);
    for (uint64_t at = 0; at < 1024 * MIB; at += 2 * MIB) {
        memset(block, (int)(at / MIB) + 1, sizeof(block));
        assert_int_equal(vdisk_write(image, at, block, sizeof(block)), 0);
    }
    shut();

    assert_int_equal(open_with(true), 0);
    for (unsigned round = 0; round < 2; round++) {
        for (uint64_t at = 0; at < 1024 * MIB; at += 2 * MIB) {
            assert_int_equal(vdisk_read(image, at, block, sizeof(block)), 0);
            assert_int_equal(block[4095], (uint8_t)(at / MIB + 1));
        }
        now = figures_of();
        if (round == 0) {
            assert_true(now.nodes.bytes > 4 * 65536);
            vdisk_set_cache(image, 65536);
            now = figures_of();
        }
        assert_int_equal(now.nodes.limit_bytes, 65536 / 4 * 3);
        assert_true(now.nodes.bytes <= now.nodes.limit_bytes);
    }
    shut();
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_sizes_that_no_drive_can_have),
        TEST(test_geometries_that_no_image_can_have),
        TEST(test_a_larger_drive_has_a_larger_journal),
        TEST(test_the_smallest_and_the_largest_drive),
        TEST(test_ranges_out_of_the_drive_are_refused),
        TEST(test_a_request_has_a_greatest_length),
        TEST(test_the_map_has_the_same_bounds),
        TEST(test_names_of_snapshots),
        TEST(test_snapshots_are_read_only_and_have_their_own_size),
        TEST(test_an_image_is_open_for_writing_once),
        TEST(test_a_child_that_dies_leaves_the_image_free),
        TEST(test_a_read_only_file_in_a_read_only_directory),
        TEST(test_a_read_only_image_is_not_changed),
        TEST(test_what_is_no_image),
        TEST(test_truncated_images_are_refused_and_never_crash),
        TEST(test_a_newer_version_is_named),
        TEST(test_one_copy_of_the_header_is_enough_and_mended),
        TEST(test_one_superblock_slot_is_enough_and_mended),
        TEST(test_check_mends_copies_when_asked),
        TEST(test_an_overlay_refuses_a_changed_base),
        TEST(test_discarded_space_goes_back_to_the_host),
        TEST(test_an_empty_large_drive_takes_little_space),
        TEST(test_an_image_tells_what_its_cache_and_journal_do),
        TEST(test_a_cache_that_gets_less_lets_go),
    };
    if (vdisk_init())
        return 1;
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
