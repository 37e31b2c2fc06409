/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Measures a vhost-user-blk back end as a guest would use it: a split ring with indirect tables and
 * event index, which sleeps until it is called.
 *
 *     vhost SOCKET MODE BLOCK DEPTH SECONDS
 *
 * MODE is read, write (one block after the other), randread, randwrite, or flush (each write, at
 * random, is followed by a flush, and both count as one). BLOCK is in bytes, of at most 1 MiB;
 * DEPTH is 1 to 128. Prints one line of name=value: mode, block, depth, seconds, iops, mbps (10^6
 * bytes), mean_us, p50_us, p99_us, p999_us. Exit status 1 with a sentence if anything failed.
 */
#include "vhost_client.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RING        128u
#define BLOCK_MAX   (1u << 20)
#define LATENCY_MAX 1000000u /* microseconds that are told apart */

struct run {
    struct client *client;
    const char *mode;
    bool is_write, is_random, flushes;
    uint32_t block;
    unsigned depth;
    uint64_t blocks, next; /* of the drive */
    uint64_t random;
    int64_t began[RING];
    bool flushing[RING];
    uint64_t count, nanoseconds;
    uint32_t histogram[LATENCY_MAX + 1];
};

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

static void need(int result, const char *what)
{
    if (result == 0)
        return;
    fprintf(stderr, "vhost: %s: %s\n", what, strerror(-result));
    exit(1);
}

static uint64_t next_random(struct run *run)
{
    run->random ^= run->random << 13;
    run->random ^= run->random >> 7;
    run->random ^= run->random << 17;
    return run->random;
}

static uint64_t next_offset(struct run *run)
{
    uint64_t at = run->is_random ? next_random(run) % run->blocks : run->next++ % run->blocks;

    return at * run->block;
}

static void begin(struct run *run, int slot)
{
    uint32_t type = run->is_write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN;
    uint64_t stamp = next_random(run);

    if (run->is_write)
        memcpy(client_data(run->client, 0, slot), &stamp, sizeof(stamp));
    run->began[slot] = now_ns();
    client_submit(run->client, 0, slot, type, next_offset(run), run->is_write ? run->block : 0,
                  run->is_write ? 0 : run->block, 1);
}

static void count(struct run *run, int slot, int64_t now)
{
    int64_t spent = now - run->began[slot];
    int64_t microseconds = spent / 1000;

    run->count++;
    run->nanoseconds += (uint64_t)spent;
    run->histogram[microseconds < LATENCY_MAX ? microseconds : LATENCY_MAX]++;
}

/* What has ended is begun anew, until the time is up. How many are in flight. */
static unsigned turn(struct run *run, int64_t end)
{
    struct client_slot *slots = run->client->queue[0].slot;
    unsigned busy = 0;
    int64_t now;

    need(client_wait(run->client, 0), "no answer");
    now = now_ns();
    for (int i = 0; i < (int)run->depth; i++) {
        if (slots[i].ended) {
            slots[i].ended = false;
            need(slots[i].status == VIRTIO_BLK_S_OK ? 0 : -EIO, "a request");
            run->flushing[i] = run->flushes && !run->flushing[i];
            if (run->flushing[i])
                client_submit(run->client, 0, i, VIRTIO_BLK_T_FLUSH, 0, 0, 0, 1);
            else
                count(run, i, now);
            if (!run->flushing[i] && now < end)
                begin(run, i);
        }
        busy += slots[i].busy;
    }
    client_kick(run->client, 0);
    return busy;
}

static double percentile(const struct run *run, double part)
{
    uint64_t seen = 0;

    for (unsigned i = 0; i <= LATENCY_MAX; i++) {
        seen += run->histogram[i];
        if ((double)seen >= part * (double)run->count)
            return i;
    }
    return LATENCY_MAX;
}

static void measure(struct run *run, double seconds)
{
    int64_t start = now_ns(), end = start + (int64_t)(seconds * 1e9);
    double spent;

    for (int i = 0; i < (int)run->depth; i++)
        begin(run, i);
    client_kick(run->client, 0);
    while (turn(run, end) > 0)
        ;
    spent = (double)(now_ns() - start) / 1e9;
    printf("mode=%s block=%u depth=%u seconds=%.2f iops=%.0f mbps=%.1f mean_us=%.1f p50_us=%.0f "
           "p99_us=%.0f p999_us=%.0f\n",
           run->mode, run->block, run->depth, spent, (double)run->count / spent,
           (double)run->count * run->block / spent / 1e6,
           (double)run->nanoseconds / (double)run->count / 1e3, percentile(run, 0.5),
           percentile(run, 0.99), percentile(run, 0.999));
}

static void set_up(struct run *run, const char *socket)
{
    struct client_options options = {
        .queues = 1,
        .ring_size = RING,
        .data_bytes = run->block,
        .without = CLIENT_BIT(VIRTIO_F_RING_PACKED),
    };
    struct virtio_blk_config config;

    need(client_new(&options, &run->client), "memory");
    need(client_connect(run->client, socket), socket);
    need(client_config(run->client, &config), "configuration");
    run->blocks = config.capacity * 512 / run->block;
    need(run->blocks ? 0 : -ENOSPC, "the drive is smaller than a block");
    /* What cannot be compressed. */
    run->random = (uint64_t)now_ns() | 1;
    for (int i = 0; i < (int)run->depth; i++) {
        uint8_t *data = client_data(run->client, 0, i);

        for (uint32_t at = 0; at + 8 <= run->block; at += 8) {
            uint64_t word = next_random(run);

            memcpy(data + at, &word, sizeof(word));
        }
    }
}

static bool parse_mode(struct run *run, const char *mode)
{
    run->mode = mode;
    run->flushes = strcmp(mode, "flush") == 0;
    run->is_random = run->flushes || strncmp(mode, "rand", 4) == 0;
    mode += strncmp(mode, "rand", 4) == 0 ? 4 : 0;
    run->is_write = run->flushes || strcmp(mode, "write") == 0;
    return run->is_write || strcmp(mode, "read") == 0;
}

int main(int argc, char **argv)
{
    static struct run run;
    double seconds = argc == 6 ? strtod(argv[5], NULL) : 0;

    if (argc == 6) {
        run.block = (uint32_t)strtoul(argv[3], NULL, 10);
        run.depth = (unsigned)strtoul(argv[4], NULL, 10);
    }
    if (argc != 6 || !parse_mode(&run, argv[2]) || run.block < 512 || run.block > BLOCK_MAX ||
        run.block % 512 || run.depth < 1 || run.depth > RING || seconds <= 0) {
        fprintf(stderr, "usage: vhost SOCKET read|write|randread|randwrite|flush BLOCK DEPTH "
                        "SECONDS\n");
        return 2;
    }
    set_up(&run, argv[1]);
    measure(&run, seconds);
    client_free(run.client);
    return 0;
}
