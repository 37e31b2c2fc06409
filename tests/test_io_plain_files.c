/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The plain backend and the files it stands on (libvdisk/io_plain_open.c): opening, locks,
 * split images, removal.
 */
#include "plain_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- opening ---- */

static void test_a_new_image_is_private_and_must_be_new(void **state)
{
    struct vdisk_io *io = plain_open_ok(VDISK_OPEN_CREATE);
    struct stat status;

    (void)state;
    assert_int_equal(stat(plain_image, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    plain_expect_refused(plain_image, VDISK_OPEN_CREATE, VDISK_E_EXISTS, "already exists");
    plain_shut(io);
    plain_expect_refused(plain_image, VDISK_OPEN_CREATE, VDISK_E_EXISTS, "already exists");
    plain_expect_refused(plain_image, VDISK_OPEN_CREATE | VDISK_OPEN_READ_ONLY, -EINVAL,
                         "read-only");
}

static void test_what_cannot_be_an_image_is_refused_at_once(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char path[PATH_MAX + 32];
    int fd;

    (void)state;
    plain_expect_refused(plain_image, 0, -ENOENT, "no such file");
    plain_expect_refused(plain_directory, 0, -EISDIR, "is a directory");
    plain_expect_refused(plain_directory, VDISK_OPEN_READ_ONLY, -EISDIR, "is a directory");
    plain_expect_refused("/dev/null", 0, -EINVAL, "character device");
    snprintf(path, sizeof(path), "%s/none/a.vdk", plain_directory);
    plain_expect_refused(path, VDISK_OPEN_CREATE, -ENOENT, "directory does not exist");
    snprintf(path, sizeof(path), "%s/pipe", plain_directory);
    assert_int_equal(mkfifo(path, 0600), 0);
    plain_expect_refused(path, 0, -EINVAL, "named pipe");
    plain_expect_refused(path, VDISK_OPEN_READ_ONLY, -EINVAL, "named pipe");
    snprintf(path, sizeof(path), "%s/socket", plain_directory);
    if (strlen(path) < sizeof(address.sun_path)) {
        strcpy(address.sun_path, path);
        fd = socket(AF_UNIX, SOCK_STREAM, 0);
        assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
        plain_expect_refused(path, 0, -EINVAL, "socket");
        close(fd);
    }
}

static void test_missing_permission_is_said_so(void **state)
{
    int status = 0;
    pid_t child;

    (void)state;
    plain_shut(plain_open_ok(VDISK_OPEN_CREATE));
    assert_int_equal(chmod(plain_image, 0400), 0);
    assert_int_equal(chmod(plain_directory, 0755), 0);
    child = fork(); /* root may write everything, so it becomes somebody else */
    if (child == 0) {
        struct vdisk_io *io = NULL;

        if (geteuid() == 0 && setresuid(65534, 65534, 65534) < 0)
            _exit(2);
        _exit(vdisk_io_plain_open(plain_image, 0, &io, &plain_error) != -EACCES ||
              strcmp(plain_error.text, "permission denied") != 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2) {
        print_message("cannot become another user\n");
        skip();
    }
    assert_int_equal(status, 0);
}

static void test_a_read_only_io_changes_nothing(void **state)
{
    struct vdisk_io *io;

    (void)state;
    io = plain_open_ok(VDISK_OPEN_CREATE);
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer, PAGE), 0);
    plain_shut(io);
    for (int flags = VDISK_OPEN_READ_ONLY; flags <= VDISK_OPEN_NO_LOCK; flags <<= 2) {
        io = plain_open_ok(flags);
        assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer + PAGE, PAGE), -EROFS);
        assert_int_equal(plain_run(io, VDISK_IO_PUNCH, 0, NULL, PAGE), -EROFS);
        assert_int_equal(plain_run(io, VDISK_IO_ALLOCATE, 0, NULL, PAGE), -EROFS);
        assert_int_equal(plain_run(io, VDISK_IO_TRUNCATE, 0, NULL, 0), -EROFS);
        assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
        assert_int_equal(plain_run(io, VDISK_IO_READ, 0, plain_back, PAGE), 0);
        assert_memory_equal(plain_back, plain_buffer, PAGE);
        plain_shut(io);
    }
}

static void test_the_descriptor_is_not_inherited(void **state)
{
    struct vdisk_io *io = plain_open_ok(VDISK_OPEN_CREATE);
    int probe = open("/dev/null", O_RDONLY);

    (void)state;
    for (int fd = 3; fd < probe; fd++) {
        char link[64], target[PATH_MAX];
        ssize_t length;

        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        length = readlink(link, target, sizeof(target) - 1);
        if (length < 0)
            continue;
        target[length] = '\0';
        if (strncmp(target, plain_directory, strlen(plain_directory)) == 0)
            assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    }
    close(probe);
    plain_shut(io);
}

static void test_a_symbolic_link_is_followed(void **state)
{
    char link[PATH_MAX + 32];
    struct vdisk_io *io;

    (void)state;
    io = plain_open_split(VDISK_OPEN_CREATE);
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, SPLIT, plain_buffer, PAGE), 0);
    plain_shut(io);
    snprintf(link, sizeof(link), "%s/elsewhere", plain_directory);
    assert_int_equal(mkdir(link, 0700), 0);
    strcat(link, "/link");
    assert_int_equal(symlink("../a.vdk", link), 0);
    assert_int_equal(vdisk_io_plain_open(link, 0, &io, NULL), 0);
    assert_int_equal(io->ops->set_split(io, SPLIT, PART_SET), 0);
    assert_int_equal(plain_run(io, VDISK_IO_READ, SPLIT, plain_back, PAGE), 0);
    assert_memory_equal(plain_back, plain_buffer,
                        PAGE); /* the parts lie beside the file, not the link */
    plain_shut(io);
}

/* ---- locks ---- */

/* What another process is told when it opens the image. */
static int open_elsewhere(int flags)
{
    pid_t child = fork();
    int status = 0;

    if (child == 0) {
        struct vdisk_io *io = NULL;
        int result = vdisk_io_plain_open(plain_image, flags, &io, NULL);

        _exit(result == 0 ? 0 : result == VDISK_E_IN_USE ? 1 : 2);
    }
    assert_true(child > 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_a_writer_keeps_all_others_out(void **state)
{
    struct vdisk_io *io = plain_open_ok(VDISK_OPEN_CREATE);

    (void)state;
    assert_int_equal(open_elsewhere(0), 1);
    assert_int_equal(open_elsewhere(VDISK_OPEN_READ_ONLY), 1);
    assert_int_equal(open_elsewhere(VDISK_OPEN_NO_LOCK), 0);
    plain_expect_refused(plain_image, 0, VDISK_E_IN_USE, "in use by another process");
    plain_shut(io);
    assert_int_equal(open_elsewhere(0), 0);
}

static void test_readers_share_and_keep_writers_out(void **state)
{
    struct vdisk_io *io;

    (void)state;
    plain_shut(plain_open_ok(VDISK_OPEN_CREATE));
    io = plain_open_ok(VDISK_OPEN_READ_ONLY);
    assert_int_equal(open_elsewhere(VDISK_OPEN_READ_ONLY), 0);
    assert_int_equal(open_elsewhere(0), 1);
    plain_shut(io);
    assert_int_equal(open_elsewhere(0), 0);
}

/* ---- split images ---- */

static void test_a_split_image_is_one_range_of_bytes(void **state)
{
    struct vdisk_io *io = plain_open_split(VDISK_OPEN_CREATE);
    struct stat status;

    (void)state;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, SPLIT - PAGE, plain_buffer, 6 * PAGE), 0);
    assert_int_equal(plain_size_of(io), SPLIT + 5 * PAGE);
    assert_true(plain_exists(plain_part_path(1)));
    assert_true(plain_exists(plain_part_path(2)));
    assert_false(plain_exists(plain_part_path(3)));
    assert_int_equal(stat(plain_part_path(1), &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    assert_int_equal(status.st_size, SPLIT);
    plain_shut(io);

    io = plain_open_split(VDISK_OPEN_READ_ONLY);
    assert_int_equal(plain_size_of(io), SPLIT + 5 * PAGE);
    assert_int_equal(plain_run(io, VDISK_IO_READ, SPLIT - PAGE, plain_back, 6 * PAGE), 0);
    assert_memory_equal(plain_back, plain_buffer, 6 * PAGE);
    plain_shut(io);
}

static void test_merged_writes_are_cut_at_part_borders(void **state)
{
    struct vdisk_io *io = plain_open_faked(VDISK_OPEN_CREATE);
    struct vdisk_io_request requests[10];

    (void)state;
    assert_int_equal(io->ops->set_split(io, SPLIT, PART_SET), 0);
    plain_write_blocks(io, requests, (const unsigned[]){1, 2, 3, 4, 5, 6, 7, 8, 9, 10}, 10);
    assert_int_equal(plain_fake.writes, 3);
    assert_int_equal(plain_run(io, VDISK_IO_READ, PAGE, plain_back, 10 * PAGE), 0);
    assert_memory_equal(plain_back, plain_buffer, 10 * PAGE);
    plain_fake.short_bytes = 1500;
    plain_write_blocks(io, requests, (const unsigned[]){2, 3, 4, 5}, 4);
    assert_int_equal(plain_run(io, VDISK_IO_READ, 2 * PAGE, plain_back, 4 * PAGE), 0);
    assert_memory_equal(plain_back, plain_buffer, 4 * PAGE);
    plain_shut(io);
}

static void test_a_missing_part_reads_as_zeros(void **state)
{
    struct vdisk_io *io = plain_open_split(VDISK_OPEN_CREATE);
    static const uint8_t zeros[PAGE];

    (void)state;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 2 * SPLIT, plain_buffer, PAGE), 0);
    assert_false(plain_exists(plain_part_path(1)));
    assert_int_equal(plain_size_of(io), 2 * SPLIT + PAGE);
    memset(plain_back, 0xff, sizeof(plain_back));
    assert_int_equal(plain_run(io, VDISK_IO_READ, SPLIT, plain_back, 4 * PAGE), 0);
    assert_memory_equal(plain_back, zeros, PAGE);
    assert_int_equal(plain_run(io, VDISK_IO_READ, (uint64_t)SPLIT * 5000, plain_back, PAGE), 0);
    assert_memory_equal(plain_back, zeros, PAGE);
    assert_int_equal(plain_run(io, VDISK_IO_PUNCH, SPLIT, NULL, 100 * SPLIT), 0);
    assert_false(plain_exists(plain_part_path(1)));
    assert_false(plain_exists(plain_part_path(3)));
    plain_shut(io);
}

static void test_parts_are_synced_with_their_names(void **state)
{
    struct vdisk_io *io = plain_open_faked(VDISK_OPEN_CREATE);

    (void)state;
    assert_int_equal(io->ops->set_split(io, SPLIT, PART_SET), 0);
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    plain_fake.syncs = plain_fake.directory_syncs = 0;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer, 12 * PAGE), 0);
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    assert_int_equal(plain_fake.syncs, 3);
    assert_int_equal(plain_fake.directory_syncs, 1);
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, SPLIT, plain_buffer, PAGE), 0);
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    assert_int_equal(plain_fake.syncs, 4);
    assert_int_equal(plain_fake.directory_syncs, 1);
    assert_int_equal(plain_run(io, VDISK_IO_TRUNCATE, SPLIT, NULL, 0), 0);
    assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
    assert_int_equal(plain_fake.directory_syncs, 2);
    plain_shut(io);
}

static void test_the_first_sync_reaches_the_parts_in_use_and_their_names(void **state)
{
    struct vdisk_io *io = plain_open_split(VDISK_OPEN_CREATE);

    (void)state;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer, 12 * PAGE), 0);
    plain_shut(io); /* killed before a sync */
    io = plain_open_faked(0);
    assert_int_equal(io->ops->set_split(io, SPLIT, PART_SET), 0);
    assert_int_equal(plain_run(io, VDISK_IO_READ, SPLIT, plain_back, PAGE), 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(plain_run(io, VDISK_IO_SYNC, 0, NULL, 0), 0);
        assert_int_equal(plain_fake.syncs, 2);
        assert_int_equal(plain_fake.directory_syncs, 1);
    }
    plain_shut(io);
}

static void test_truncating_a_split_image_removes_later_parts(void **state)
{
    struct vdisk_io *io = plain_open_split(VDISK_OPEN_CREATE);
    struct stat status;

    (void)state;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer, 12 * PAGE), 0);
    assert_int_equal(plain_run(io, VDISK_IO_TRUNCATE, 2 * SPLIT, NULL, 0), 0);
    assert_true(plain_exists(plain_part_path(1)));
    assert_false(plain_exists(plain_part_path(2)));
    assert_int_equal(plain_size_of(io), 2 * SPLIT);
    assert_int_equal(plain_run(io, VDISK_IO_TRUNCATE, SPLIT + PAGE, NULL, 0), 0);
    assert_int_equal(stat(plain_part_path(1), &status), 0);
    assert_int_equal(status.st_size, PAGE);
    assert_int_equal(plain_run(io, VDISK_IO_TRUNCATE, 3 * SPLIT + PAGE, NULL, 0), 0);
    assert_int_equal(plain_size_of(io), 3 * SPLIT + PAGE);
    assert_int_equal(plain_run(io, VDISK_IO_TRUNCATE, 0, NULL, 0), 0);
    assert_false(plain_exists(plain_part_path(1)));
    assert_int_equal(plain_size_of(io), 0);
    plain_shut(io);
}

static void test_split_settings_are_checked(void **state)
{
    struct vdisk_io *io = plain_open_ok(VDISK_OPEN_CREATE);
    int fd;

    (void)state;
    assert_int_equal(io->ops->set_split(io, 0, 7), 0);
    assert_int_equal(io->ops->set_split(io, 1000, PART_SET), -EINVAL);
    assert_int_equal(io->ops->set_split(io, UINT64_MAX - 4095, PART_SET), -EINVAL);
    assert_int_equal(io->ops->set_split(io, SPLIT, PART_SET), 0);
    assert_int_equal(io->ops->set_split(io, SPLIT, PART_SET), 0);
    assert_int_equal(io->ops->set_split(io, 2 * SPLIT, PART_SET), -EINVAL);
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, (uint64_t)SPLIT * 1000, plain_buffer, PAGE),
                     -EFBIG);
    assert_int_equal(plain_run(io, VDISK_IO_TRUNCATE, (uint64_t)SPLIT * 1001, NULL, 0), -EFBIG);
    io->ops->remove(io);
    plain_shut(io);

    fd = open(plain_part_path(1), O_WRONLY | O_CREAT, 0600); /* another image's */
    close(fd);
    io = plain_open_ok(VDISK_OPEN_CREATE);
    assert_int_equal(io->ops->set_split(io, SPLIT, PART_SET), VDISK_E_EXISTS);
    io->ops->remove(io);
    plain_shut(io);
    assert_true(plain_exists(plain_part_path(1)));
}

static void test_remove_takes_back_what_create_made(void **state)
{
    struct vdisk_io *io = plain_open_split(VDISK_OPEN_CREATE);
    int fd;

    (void)state;
    assert_int_equal(plain_run(io, VDISK_IO_WRITE, 0, plain_buffer, 12 * PAGE), 0);
    assert_int_equal(unlink(plain_part_path(2)), 0); /* somebody replaces a part */
    fd = open(plain_part_path(2), O_WRONLY | O_CREAT, 0600);
    close(fd);
    io->ops->remove(io);
    plain_shut(io);
    assert_false(plain_exists(plain_image));
    assert_false(plain_exists(plain_part_path(1)));
    assert_true(plain_exists(plain_part_path(2)));

    plain_shut(plain_open_ok(VDISK_OPEN_CREATE));
    io = plain_open_ok(0);
    io->ops->remove(io); /* this io did not create it */
    plain_shut(io);
    assert_true(plain_exists(plain_image));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, plain_set_up, plain_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_new_image_is_private_and_must_be_new),
        TEST(test_what_cannot_be_an_image_is_refused_at_once),
        TEST(test_missing_permission_is_said_so),
        TEST(test_a_read_only_io_changes_nothing),
        TEST(test_the_descriptor_is_not_inherited),
        TEST(test_a_symbolic_link_is_followed),
        TEST(test_a_writer_keeps_all_others_out),
        TEST(test_readers_share_and_keep_writers_out),
        TEST(test_a_split_image_is_one_range_of_bytes),
        TEST(test_merged_writes_are_cut_at_part_borders),
        TEST(test_a_missing_part_reads_as_zeros),
        TEST(test_parts_are_synced_with_their_names),
        TEST(test_the_first_sync_reaches_the_parts_in_use_and_their_names),
        TEST(test_truncating_a_split_image_removes_later_parts),
        TEST(test_split_settings_are_checked),
        TEST(test_remove_takes_back_what_create_made),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
