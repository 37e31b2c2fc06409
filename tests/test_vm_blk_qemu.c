/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A drive that is served by another's back end: QEMU's storage daemon, where it is installed. It
 * has neither packed rings nor in-flight memory; else what a guest sees of it is the same.
 */
#include "vm_disk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK  4096u
#define BLOCKS 64u
#define SIZE   (UINT64_C(4) << 20)
#define QUEUES 2u

static char directory[64], path[80], image[80];
static struct vm_rig rig;
static struct disk disk;
static pid_t daemon_pid;
static uint8_t data[BLOCK], back[BLOCK];

/* A request takes so many nanoseconds; 0: as long as a file needs. */
static unsigned latency;

/* 0; ENOENT: it is not installed. */
static int start_daemon(bool writable)
{
    char blockdev[200], export[300];
    const char *arguments[] = {
        "qemu-storage-daemon", "--blockdev", blockdev, "--export", export, NULL};

    if (latency)
        snprintf(blockdev, sizeof(blockdev),
                 "driver=null-co,node-name=f,size=%llu,read-zeroes=on,latency-ns=%u",
                 (unsigned long long)SIZE, latency);
    else
        snprintf(blockdev, sizeof(blockdev), "driver=file,node-name=f,filename=%s", image);
    snprintf(export, sizeof(export),
             "type=vhost-user-blk,id=e,node-name=f,addr.type=unix,addr.path=%s,num-queues=%u,"
             "writable=%s",
             path, QUEUES, writable ? "on" : "off");
    unlink(path);
    return posix_spawnp(&daemon_pid, arguments[0], NULL, NULL, (char **)(uintptr_t)arguments,
                        environ);
}

static void stop_daemon(void)
{
    if (daemon_pid > 0) {
        kill(daemon_pid, SIGKILL);
        (void)waitpid(daemon_pid, NULL, 0);
    }
    daemon_pid = 0;
}

static void opened(bool writable)
{
    struct virtio_blk_options options = disk_options(&disk, path);
    int rc = start_daemon(writable);

    if (rc == ENOENT) {
        print_message("there is no qemu-storage-daemon\n");
        skip();
    }
    assert_int_equal(rc, 0);
    options.queues = QUEUES;
    options.read_only = !writable;
    disk_open(&disk, &rig, 0, &options);
}

static void write_and_read(unsigned queue, unsigned block, uint8_t seed)
{
    memset(data, seed, sizeof(data));
    memcpy(data, &block, sizeof(block));
    assert_int_equal(disk_do(&disk, queue, VIRTIO_BLK_T_OUT, block * BLOCK, data, BLOCK),
                     VIRTIO_BLK_S_OK);
    assert_int_equal(disk_do(&disk, queue, VIRTIO_BLK_T_IN, block * BLOCK, back, BLOCK),
                     VIRTIO_BLK_S_OK);
    assert_memory_equal(back, data, BLOCK);
}

static void test_requests_are_done(void **state)
{
    (void)state;
    opened(true);
    disk_begin(&disk, 0);
    assert_int_equal(disk_capacity(&disk), SIZE);
    for (unsigned i = 0; i < 2 * BLOCKS; i++)
        write_and_read(i % QUEUES, i, (uint8_t)i);
    assert_int_equal(disk_do(&disk, 0, VIRTIO_BLK_T_FLUSH, 0, NULL, 0), VIRTIO_BLK_S_OK);
    disk_close(&disk);
}

static void test_a_reset_and_a_pause_are_survived(void **state)
{
    (void)state;
    opened(true);
    for (unsigned i = 0; i < 10; i++) {
        disk_begin(&disk, 0);
        write_and_read(0, i, (uint8_t)i);
        virtio_pause(disk.device);
        virtio_resume(disk.device);
        write_and_read(1, i, (uint8_t)(i + 100));
        disk_reset(&disk);
    }
    assert_int_equal(disk_lines(&disk), 0);
    disk_close(&disk);
}

/* Of a queue that is served by then. */
static void submit_reads(unsigned count)
{
    assert_int_equal(disk_do(&disk, 0, VIRTIO_BLK_T_IN, 0, back, BLOCK), VIRTIO_BLK_S_OK);
    for (unsigned i = 0; i < count; i++)
        client_submit(disk.client, 0, client_slot(disk.client, 0), VIRTIO_BLK_T_IN, 0, 0, BLOCK, 1);
    client_kick(disk.client, 0);
}

static void test_a_pause_and_a_reset_wait_for_what_is_in_flight(void **state)
{
    (void)state;
    latency = 20000000;
    opened(true);
    disk_begin(&disk, 0);
    for (unsigned i = 0; i < 3; i++) {
        submit_reads(8);
        virtio_pause(disk.device);
        assert_int_equal(client_poll(disk.client, 0), 8);
        virtio_resume(disk.device);
    }
    submit_reads(8);
    disk_reset(&disk);
    assert_int_equal(client_poll(disk.client, 0), 8);
    assert_int_equal(disk_lines(&disk), 0);
    disk_close(&disk);
}

static void test_the_end_of_an_idle_one_is_not_seen(void **state)
{
    (void)state;
    opened(true);
    disk_begin(&disk, 0);
    for (unsigned i = 0; i < 3; i++) {
        write_and_read(0, i, (uint8_t)i);
        stop_daemon();
        disk_wait_lines(&disk, 2 * i + 1);
        /* What is asked meanwhile waits. */
        int slot = client_slot(disk.client, 1);

        client_submit(disk.client, 1, slot, VIRTIO_BLK_T_IN, i * BLOCK, 0, BLOCK, 1);
        client_kick(disk.client, 1);
        assert_int_equal(start_daemon(true), 0);
        assert_int_equal(client_wait(disk.client, 1), 0);
        assert_int_equal(disk.client->queue[1].slot[slot].status, VIRTIO_BLK_S_OK);
        assert_memory_equal(client_data(disk.client, 1, slot), data, BLOCK);
        disk_wait_lines(&disk, 2 * i + 2);
    }
    assert_false(disk_needs_reset(&disk));
    disk_close(&disk);
}

/* It keeps no account of what it has taken, for another to find. */
static void test_the_end_of_a_busy_one_is_told_to_the_guest(void **state)
{
    (void)state;
    opened(true);
    disk_begin(&disk, 0);
    write_and_read(0, 0, 1);
    kill(daemon_pid, SIGSTOP);
    client_submit(disk.client, 0, client_slot(disk.client, 0), VIRTIO_BLK_T_IN, 0, 0, BLOCK, 1);
    client_kick(disk.client, 0);
    stop_daemon();
    assert_int_equal(start_daemon(true), 0);
    assert_true(disk_wait_needs_reset(&disk));
    assert_true(disk_has_told(&disk, "cannot know which requests were in flight"));
    disk_reset(&disk);
    disk_begin(&disk, 0);
    write_and_read(0, 0, 2);
    disk_close(&disk);
}

static void test_a_read_only_drive_is_one(void **state)
{
    (void)state;
    opened(false);
    disk_begin(&disk, 0);
    assert_int_equal(disk_do(&disk, 0, VIRTIO_BLK_T_IN, 0, back, BLOCK), VIRTIO_BLK_S_OK);
    assert_int_equal(disk_do(&disk, 0, VIRTIO_BLK_T_OUT, 0, data, BLOCK), VIRTIO_BLK_S_IOERR);
    disk_close(&disk);
}

static int begin(void **state)
{
    const char *tmp = getenv("TMPDIR");
    int fd;

    (void)state;
    latency = 0;
    snprintf(directory, sizeof(directory), "%s/vdisk-qemu-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof(path), "%s/s", directory);
    snprintf(image, sizeof(image), "%s/raw", directory);
    fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, (off_t)SIZE))
        return -1;
    close(fd);
    vm_rig_open(&rig, DISK_MEMORY);
    return 0;
}

static int end(void **state)
{
    (void)state;
    stop_daemon();
    vm_rig_close(&rig);
    unlink(path);
    unlink(image);
    return rmdir(directory);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_requests_are_done),
        TEST(test_a_reset_and_a_pause_are_survived),
        TEST(test_a_pause_and_a_reset_wait_for_what_is_in_flight),
        TEST(test_the_end_of_an_idle_one_is_not_seen),
        TEST(test_the_end_of_a_busy_one_is_told_to_the_guest),
        TEST(test_a_read_only_drive_is_one),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
