/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Pages that the guest gives up are punched out of the memfd, and so gone for everybody who maps
 * it; an access makes a new one of zeros. Page numbers and ranges are the guest's: what is not RAM
 * fails the device.
 *
 * A round is bounded by the work that it costs, in units of a page punched by itself; a request's
 * work is bounded by how much it may name.
 */
#include "virtio_balloon.h"

#include "queue.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#define PAGE         (UINT64_C(1) << VIRTIO_BALLOON_PFN_SHIFT)
#define BIT(number)  (UINT64_C(1) << (number))
#define QUEUES       5u
#define PAGES_MAX    1024u                 /* of a request: no driver names more */
#define REPORTED_MAX (UINT64_C(256) << 20) /* bytes of a request: more is not taken back */
#define ROUND        1024u                 /* units */
#define UNIT_BYTES   (UINT64_C(64) << 10)  /* of one range: about a unit */
#define STATS_MAX    64u
#define NONE         (-1)

enum {
    INFLATE,
    DEFLATE,
    STATS,
};

struct balloon {
    struct virtio_device device; /* first */
    struct vm_queues *queues;
    uint32_t target, actual; /* pages */
    int held;                /* the driver's buffer for stats, by its head; NONE */
    uint64_t stats[VIRTIO_BALLOON_S_NR];
};

static struct balloon *balloon_of(struct virtio_device *device)
{
    return (struct balloon *)device;
}

/* ---- configuration ---- */

static void read_config(struct virtio_device *device, uint32_t offset, uint8_t *data, unsigned size)
{
    const struct balloon *balloon = balloon_of(device);
    const uint32_t config[2] = {htole32(balloon->target), htole32(balloon->actual)};

    memcpy(data, (const uint8_t *)config + offset, size);
}

/* A driver writes `actual`, as a whole; and what one wrote that does not run is not kept. */
static void write_config(struct virtio_device *device, uint32_t offset, const uint8_t *data,
                         unsigned size)
{
    uint32_t value;

    if (offset != offsetof(struct virtio_balloon_config, actual) || size != sizeof(value) ||
        !virtio_serves(device))
        return;
    memcpy(&value, data, sizeof(value));
    balloon_of(device)->actual = le32toh(value);
}

int virtio_balloon_set(struct virtio_device *device, uint64_t bytes)
{
    if (bytes % PAGE || bytes > device->memory->size || bytes / PAGE > UINT32_MAX)
        return -EINVAL;
    pthread_mutex_lock(&device->lock);
    balloon_of(device)->target = (uint32_t)(bytes / PAGE);
    virtio_config_changed(device);
    pthread_mutex_unlock(&device->lock);
    return 0;
}

uint64_t virtio_balloon_actual(struct virtio_device *device)
{
    uint64_t bytes;

    pthread_mutex_lock(&device->lock);
    bytes = balloon_of(device)->actual * PAGE;
    pthread_mutex_unlock(&device->lock);
    return bytes < device->memory->size ? bytes : device->memory->size;
}

/* ---- giving memory back ---- */

static const struct vm_region *region_of(const struct vm_memory *memory, uint64_t guest,
                                         uint64_t length)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct vm_region *region = &memory->region[i];
        uint64_t at = guest - region->guest;

        if (at < region->size && length <= region->size - at)
            return region;
    }
    return NULL;
}

/* Whole pages within a region. Where the host cannot, they stay, and that is all. */
static void punch(const struct vm_memory *memory, const struct vm_region *region, uint64_t guest,
                  uint64_t length)
{
    uint64_t offset = region->offset + (guest - region->guest);

    if (length > 0)
        (void)fallocate(memory->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
                        (off_t)length);
}

static int by_number(const void *a, const void *b)
{
    const uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

    return (left > right) - (left < right);
}

/* Those that adjoin go together; regions do not (layout.h). */
static void punch_pages(const struct vm_memory *memory, const uint32_t *page, unsigned count)
{
    for (unsigned i = 0, next; i < count; i = next) {
        const struct vm_region *region = region_of(memory, page[i] * PAGE, PAGE);

        next = i + 1;
        while (next < count && page[next] <= page[next - 1] + 1)
            next++;
        punch(memory, region, page[i] * PAGE, (page[next - 1] - page[i] + 1) * PAGE);
    }
}

/* Each returns the units of work, or -EPROTO. */

static int inflate(struct balloon *balloon)
{
    const struct vring_chain *chain = &balloon->queues->chain;
    const struct vm_memory *memory = balloon->device.memory;
    const unsigned count = (unsigned)(chain->readable_bytes / sizeof(uint32_t));
    uint32_t page[PAGES_MAX];

    if (chain->writable > 0 || chain->readable_bytes % sizeof(page[0]) ||
        chain->readable_bytes > sizeof(page) ||
        vm_queue_read(balloon->queues, 0, page, count * sizeof(page[0])))
        return -EPROTO;
    for (unsigned i = 0; i < count; i++) {
        page[i] = le32toh(page[i]);
        if (!region_of(memory, page[i] * PAGE, PAGE))
            return -EPROTO;
    }
    qsort(page, count, sizeof(page[0]), by_number);
    punch_pages(memory, page, count);
    return 1 + (int)count;
}

/* The pages come back by being used. */
static int deflate(const struct balloon *balloon)
{
    return balloon->queues->chain.writable > 0 ? -EPROTO : 1;
}

static int report(struct balloon *balloon)
{
    const struct vring_chain *chain = &balloon->queues->chain;
    const struct vm_memory *memory = balloon->device.memory;
    uint64_t left = REPORTED_MAX;

    if (chain->readable > 0 || !virtio_has(&balloon->device, VIRTIO_BALLOON_F_REPORTING))
        return -EPROTO;
    for (unsigned i = 0; i < chain->writable; i++)
        if (!region_of(memory, chain->segment[i].guest, chain->segment[i].length))
            return -EPROTO;
    for (unsigned i = 0; i < chain->writable && left > 0; i++) {
        const struct vring_segment *segment = &chain->segment[i];
        uint64_t from = (segment->guest + PAGE - 1) / PAGE * PAGE;
        uint64_t to = (segment->guest + segment->length) / PAGE * PAGE;
        uint64_t length = to > from ? to - from : 0;

        length = length < left ? length : left;
        punch(memory, region_of(memory, segment->guest, segment->length), from, length);
        left -= length;
    }
    return 1 + (int)chain->writable + (int)((REPORTED_MAX - left) / UNIT_BYTES);
}

/* ---- stats ---- */

static void forget_stats(struct balloon *balloon)
{
    balloon->held = NONE;
    for (unsigned i = 0; i < VIRTIO_BALLOON_S_NR; i++)
        balloon->stats[i] = VIRTIO_BALLOON_UNKNOWN;
}

/* The chain that was fetched; it stays with us until somebody asks. */
static int read_stats(struct balloon *balloon)
{
    const struct vring_chain *chain = &balloon->queues->chain;
    struct virtio_balloon_stat stats[STATS_MAX];
    uint64_t count = chain->readable_bytes / sizeof(stats[0]);

    count = count < STATS_MAX ? count : STATS_MAX;
    if (chain->writable > 0 ||
        vm_queue_read(balloon->queues, 0, stats, (size_t)count * sizeof(stats[0])))
        return -EPROTO;
    forget_stats(balloon);
    for (unsigned i = 0; i < count; i++)
        if (le16toh(stats[i].tag) < VIRTIO_BALLOON_S_NR)
            balloon->stats[le16toh(stats[i].tag)] = le64toh(stats[i].val);
    balloon->held = chain->head;
    return 0;
}

static void take_stats(struct balloon *balloon)
{
    int rc;

    if (balloon->held != NONE)
        return;
    rc = vm_queue_fetch(balloon->queues, STATS);
    if (rc > 0)
        rc = read_stats(balloon);
    if (rc < 0)
        virtio_fail(&balloon->device);
}

void virtio_balloon_ask(struct virtio_device *device)
{
    struct balloon *balloon = balloon_of(device);

    pthread_mutex_lock(&device->lock);
    if (balloon->held != NONE && virtio_serves(device)) {
        vm_queue_put(balloon->queues, STATS, (uint16_t)balloon->held, 1, 0);
        vm_queue_publish(balloon->queues, STATS, device);
        balloon->held = NONE;
        virtio_kick(device, STATS); /* for one that gave more than one */
    }
    pthread_mutex_unlock(&device->lock);
}

void virtio_balloon_stats(struct virtio_device *device, uint64_t stats[VIRTIO_BALLOON_S_NR])
{
    pthread_mutex_lock(&device->lock);
    memcpy(stats, balloon_of(device)->stats, sizeof(balloon_of(device)->stats));
    pthread_mutex_unlock(&device->lock);
}

/* ---- the device ---- */

/* Queue 3 would be that of hints, which are not offered. By the letter reports come on queue 4
 * nevertheless; but drivers number only the queues that they use. */
static int serve(struct balloon *balloon, unsigned queue)
{
    if (queue == INFLATE)
        return inflate(balloon);
    return queue == DEFLATE ? deflate(balloon) : report(balloon);
}

static void kicked(struct virtio_device *device, unsigned queue)
{
    struct balloon *balloon = balloon_of(device);
    struct vm_queues *queues = balloon->queues;
    unsigned work = 0;
    int rc = 0;

    if (queue == STATS && virtio_has(device, VIRTIO_BALLOON_F_STATS_VQ)) {
        take_stats(balloon);
        return;
    }
    while (work < ROUND && (rc = vm_queue_fetch(queues, queue)) > 0) {
        rc = serve(balloon, queue);
        if (rc < 0)
            break;
        vm_queue_put(queues, queue, queues->chain.head, queues->chain.slots, 0);
        work += (unsigned)rc;
    }
    if (work > 0)
        vm_queue_publish(queues, queue, device);
    if (rc < 0)
        virtio_fail(device);
    else if (work >= ROUND)
        virtio_kick(device, queue);
}

static int start(struct virtio_device *device)
{
    return vm_queues_start(balloon_of(device)->queues, device);
}

/* A guest that begins anew has all of its memory again. */
static void stop(struct virtio_device *device, bool keep)
{
    struct balloon *balloon = balloon_of(device);

    vm_queues_stop(balloon->queues, keep);
    if (keep)
        return;
    forget_stats(balloon);
    balloon->actual = 0;
}

static int save(struct virtio_device *device, json_t *to, struct vdisk_error *error)
{
    const struct balloon *balloon = balloon_of(device);

    (void)error;
    return json_object_set_new(to, "target", json_integer(balloon->target)) ||
                   json_object_set_new(to, "actual", json_integer(balloon->actual)) ||
                   json_object_set_new(to, "held", json_integer(balloon->held)) ||
                   json_object_set_new(to, "queues", vm_queues_save(balloon->queues))
               ? -ENOMEM
               : 0;
}

static int load(struct virtio_device *device, const json_t *from, struct vdisk_error *error)
{
    struct balloon *balloon = balloon_of(device);
    json_int_t target, actual, held;
    json_t *queues;

    (void)error;
    if (json_unpack((json_t *)from, "{s:I, s:I, s:I, s:o!}", "target", &target, "actual", &actual,
                    "held", &held, "queues", &queues) ||
        target < 0 || target > (json_int_t)(device->memory->size / PAGE) || actual < 0 ||
        actual > UINT32_MAX || held < NONE || held >= (json_int_t)device->queue[STATS].size)
        return -EINVAL;
    balloon->target = (uint32_t)target;
    balloon->actual = (uint32_t)actual;
    balloon->held = (int)held;
    return vm_queues_load(balloon->queues, queues);
}

static void free_balloon(struct virtio_device *device)
{
    vm_queues_free(balloon_of(device)->queues);
    free(device);
}

int virtio_balloon_new(const struct vm_memory *memory, struct reactor *reactor,
                       struct virtio_device **out)
{
    static const struct virtio_ops ops = {
        .read_config = read_config,
        .write_config = write_config,
        .start = start,
        .stop = stop,
        .kicked = kicked,
        .save = save,
        .load = load,
        .free = free_balloon,
    };
    struct balloon *balloon = calloc(1, sizeof(*balloon));
    int rc = -ENOMEM;

    if (!balloon)
        return rc;
    balloon->device = (struct virtio_device){
        .ops = &ops,
        .name = "balloon",
        .id = VIRTIO_ID_BALLOON,
        .offered = VM_QUEUE_FEATURES | BIT(VIRTIO_BALLOON_F_STATS_VQ) |
                   BIT(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) | BIT(VIRTIO_BALLOON_F_REPORTING),
        .queues = QUEUES,
        .queue_max = 128,
        .config_bytes = 2 * sizeof(uint32_t),
    };
    forget_stats(balloon);
    balloon->queues = vm_queues_new(memory, QUEUES);
    if (balloon->queues)
        rc = virtio_init(&balloon->device, memory, reactor);
    if (rc) {
        vm_queues_free(balloon->queues);
        free(balloon);
        return rc;
    }
    *out = &balloon->device;
    return 0;
}
