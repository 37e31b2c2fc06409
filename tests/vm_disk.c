/* SPDX-License-Identifier: Apache-2.0 */
/* A guest with drives; see vm_disk.h. */
#include "vm_disk.h"

#include "vhost_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define NUMBER_BYTES (UINT64_C(32) << 20) /* memory of a drive's rings */
#define STEP_US      1000u
#define STEPS        20000u

/* ---- what it tells ---- */

static void hear(void *opaque, const char *what)
{
    struct disk *disk = opaque;
    size_t length;

    pthread_mutex_lock(&disk->lock);
    length = strlen(disk->told);
    if (length + strlen(what) + 2 <= sizeof(disk->told)) {
        strcpy(disk->told + length, what);
        strcat(disk->told, "\n");
    }
    disk->lines++;
    pthread_mutex_unlock(&disk->lock);
}

bool disk_has_told(struct disk *disk, const char *what)
{
    pthread_mutex_lock(&disk->lock);
    bool has = strstr(disk->told, what);

    pthread_mutex_unlock(&disk->lock);
    return has;
}

unsigned disk_lines(struct disk *disk)
{
    pthread_mutex_lock(&disk->lock);
    unsigned lines = disk->lines;

    pthread_mutex_unlock(&disk->lock);
    return lines;
}

bool disk_wait_told(struct disk *disk, const char *what)
{
    for (unsigned i = 0; i < STEPS && !disk_has_told(disk, what); i++)
        usleep(STEP_US);
    return disk_has_told(disk, what);
}

void disk_wait_lines(struct disk *disk, unsigned count)
{
    for (unsigned i = 0; i < STEPS && disk_lines(disk) < count; i++)
        usleep(STEP_US);
    assert_int_equal(disk_lines(disk), count);
}

/* ---- the guest ---- */

struct virtio_blk_options disk_options(struct disk *disk, const char *socket)
{
    return (struct virtio_blk_options){
        .name = "drive 0", .socket = socket, .queues = 1, .told = hear, .opaque = disk};
}

void disk_open(struct disk *disk, struct vm_rig *rig, unsigned number,
               const struct virtio_blk_options *options)
{
    struct vdisk_error error = {.code = 0};
    struct client *client = calloc(1, sizeof(*client));
    int rc = 0;

    memset(disk, 0, sizeof(*disk));
    assert_non_null(client);
    pthread_mutex_init(&disk->lock, NULL);
    /* The server may not listen yet. */
    for (unsigned i = 0; i < STEPS; i++) {
        rc = virtio_blk_new(options, &rig->memory, rig->reactor, &disk->device, &error);
        if (rc != -ENOENT && rc != -ECONNREFUSED && rc != -EPIPE)
            break;
        usleep(STEP_US);
    }
    if (rc)
        fail_msg("%s", error.text);
    disk->rig = rig;
    disk->client = client;
    disk->at = number * NUMBER_BYTES;
    client->options = (struct client_options){
        .queues = disk->device->queues, .ring_size = DISK_RING, .data_bytes = DISK_DATA};
    client->memory = vm_memory_at(&rig->memory, CLIENT_GUEST, 1);
    assert_non_null(client->memory);
    vm_driver_open(&disk->driver, rig, disk->device);
}

void disk_close(struct disk *disk)
{
    vm_driver_close(&disk->driver);
    free(disk->client);
    pthread_mutex_destroy(&disk->lock);
}

static void write_address(const struct disk *disk, uint32_t low, uint64_t user)
{
    uint64_t guest = client_guest(disk->client, (const void *)(uintptr_t)user);

    vm_driver_write(&disk->driver, low, (uint32_t)guest);
    vm_driver_write(&disk->driver, low + 4, (uint32_t)(guest >> 32));
}

static void set_queue(struct disk *disk, unsigned index)
{
    struct client *client = disk->client;
    struct client_queue *queue = &client->queue[index];
    size_t bytes = client_queue_bytes(&client->options);
    struct vhost_wire_address address;

    assert_true((index + 1) * bytes <= NUMBER_BYTES);
    client_queue_init(client, index, client->memory + disk->at + index * bytes);
    queue->kick = disk->device->kick[index];
    queue->call = disk->device->line.fd;
    client_queue_address(client, index, &address);
    vm_driver_write(&disk->driver, VIRTIO_MMIO_QUEUE_SEL, index);
    vm_driver_write(&disk->driver, VIRTIO_MMIO_QUEUE_NUM, DISK_RING);
    write_address(disk, VIRTIO_MMIO_QUEUE_DESC_LOW, address.desc);
    write_address(disk, VIRTIO_MMIO_QUEUE_AVAIL_LOW, address.avail);
    write_address(disk, VIRTIO_MMIO_QUEUE_USED_LOW, address.used);
    vm_driver_write(&disk->driver, VIRTIO_MMIO_QUEUE_READY, 1);
    assert_int_equal(vm_driver_read(&disk->driver, VIRTIO_MMIO_QUEUE_READY), 1);
}

void disk_prepare(struct disk *disk, uint64_t without)
{
    assert_true(vm_driver_negotiate(&disk->driver, ~without));
    disk->client->features = disk->driver.features;
    for (unsigned i = 0; i < disk->device->queues; i++)
        set_queue(disk, i);
}

void disk_begin(struct disk *disk, uint64_t without)
{
    disk_prepare(disk, without);
    vm_driver_go(&disk->driver);
    assert_int_equal(vm_driver_status(&disk->driver), 0xf);
}

void disk_reset(struct disk *disk)
{
    vm_driver_reset(&disk->driver);
}

int disk_do(struct disk *disk, unsigned queue, uint32_t type, uint64_t offset, void *data,
            uint32_t length)
{
    return client_request(disk->client, queue, type, offset, data, length);
}

uint64_t disk_capacity(const struct disk *disk)
{
    uint32_t low, high, generation;

    do {
        generation = vm_driver_read(&disk->driver, VIRTIO_MMIO_CONFIG_GENERATION);
        low = vm_driver_config(&disk->driver, 0, 4);
        high = vm_driver_config(&disk->driver, 4, 4);
    } while (vm_driver_read(&disk->driver, VIRTIO_MMIO_CONFIG_GENERATION) != generation);
    return ((uint64_t)high << 32 | low) * 512;
}

bool disk_needs_reset(const struct disk *disk)
{
    return vm_driver_status(&disk->driver) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

bool disk_wait_needs_reset(const struct disk *disk)
{
    for (unsigned i = 0; i < STEPS && !disk_needs_reset(disk); i++)
        usleep(STEP_US);
    return disk_needs_reset(disk);
}

/* ---- the back end ----
 *
 * A test has threads by the time it wants another server, and cannot fork then; a process that has
 * none does it, for each byte that comes.
 */

static int wire;
static pid_t parent;

static void obey(int fd)
{
    pid_t server = 0;
    char order;

    while (recv(fd, &order, 1, 0) == 1) {
        if (order == 'b')
            server = kit_fork(false);
        else if (order == 'f' || order == 'c')
            kill(server, order == 'f' ? SIGSTOP : SIGCONT);
        if (order == 'k' && server > 0) {
            kill(server, SIGKILL);
            (void)waitpid(server, NULL, 0);
            server = 0;
        }
        (void)!send(fd, &order, 1, MSG_NOSIGNAL);
    }
    if (server > 0) {
        kill(server, SIGKILL);
        (void)waitpid(server, NULL, 0);
    }
    _exit(0);
}

void server_prepare(void)
{
    int pair[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
    parent = fork();
    assert_true(parent >= 0);
    if (parent == 0) {
        (void)prctl(PR_SET_PDEATHSIG, SIGTERM);
        close(pair[0]);
        obey(pair[1]);
    }
    close(pair[1]);
    wire = pair[0];
}

static void order(char what)
{
    char answer;

    assert_int_equal(send(wire, &what, 1, MSG_NOSIGNAL), 1);
    assert_int_equal(recv(wire, &answer, 1, 0), 1);
    assert_int_equal(answer, what);
}

void server_begin(void)
{
    order('b');
}

void server_kill(void)
{
    order('k');
}

void server_freeze(bool frozen)
{
    order(frozen ? 'f' : 'c');
}

void server_finish(void)
{
    close(wire);
    (void)waitpid(parent, NULL, 0);
}
