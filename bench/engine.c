/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Figures of the engine that no command shows alone: opening a large image, snapshots, diffs.
 * engine FOLDER [GIB]: makes its images in FOLDER (about GIB, 10 by default, are written), prints
 * a line for each figure: name, value, unit, what it was measured on.
 */
#include "vdisk/vdisk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)

static const uint8_t key_bytes[32] = {1, 2, 3};
static const struct vdisk_key key = {
    .kind = VDISK_KEY_FILE, .bytes = key_bytes, .length = sizeof(key_bytes)};

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void need(int r, const char *what)
{
    if (r) {
        fprintf(stderr, "engine: %s: %s\n", what, vdisk_strerror(r));
        exit(1);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t count)
{
    qsort(values, count, sizeof(*values), by_value);
    return values[count / 2];
}

static struct vdisk_image *create(const char *path, uint64_t size)
{
    struct vdisk_create_options options = {.struct_bytes = sizeof(options), .size = size};
    struct vdisk_image *image;
    unlink(path);
    need(vdisk_create(path, &options, &key, &image, NULL), "create");
    return image;
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Pieces of 1 MiB, spread evenly over the drive. */
static void fill(struct vdisk_image *image, uint64_t bytes)
{
    uint64_t *data, pieces = bytes / MIB, stride = vdisk_size(image) / pieces / MIB * MIB;
    uint64_t seed = 88172645463325252u;
    data = aligned_alloc(4096, MIB);
    for (size_t i = 0; i < MIB / 8; i++)
        data[i] = next_random(&seed);
    for (uint64_t i = 0; i < pieces; i++) {
        data[0] = i;
        need(vdisk_write(image, i * stride, data, MIB), "write");
    }
    free(data);
}

/* In a child, so that the memory is that of the opening alone. */
static void measure_open(const char *path, double *ms, double *rss_mib)
{
    int fds[2];
    struct rusage usage;
    if (pipe(fds))
        exit(1);
    pid_t child = fork();
    if (child == 0) {
        struct vdisk_open_options options = {.struct_bytes = sizeof(options), .read_only = true};
        struct vdisk_image *image;
        uint8_t block[4096];
        double from = now_ms();
        need(vdisk_open(path, &options, &key, &image, NULL), "open");
        need(vdisk_read(image, vdisk_size(image) / 2, block, sizeof(block)), "read");
        double taken = now_ms() - from;
        vdisk_close(image, NULL);
        _exit(write(fds[1], &taken, sizeof(taken)) != sizeof(taken));
    }
    int status;
    wait4(child, &status, 0, &usage);
    if (status || read(fds[0], ms, sizeof(*ms)) != sizeof(*ms))
        exit(1);
    *rss_mib = (double)usage.ru_maxrss / 1024;
    close(fds[0]);
    close(fds[1]);
}

static void bench_open(const char *path, uint64_t bytes)
{
    double ms[9], rss = 0;
    struct vdisk_image *image = create(path, TIB);
    double from = now_ms();
    fill(image, bytes);
    need(vdisk_close(image, NULL), "close");
    printf("fill %.0f MB/s raw, 1 MiB writes, one thread, no workers\n",
           (double)bytes / 1e3 / (now_ms() - from));
    for (unsigned i = 0; i < 9; i++)
        measure_open(path, &ms[i], &rss);
    printf("open %.2f ms 1 TiB with %.1f GiB written, to the end of the first read\n",
           median(ms, 9), (double)bytes / (double)GIB);
    printf("open_memory %.1f MiB peak of the process\n", rss);
}

static double snapshot_median(struct vdisk_image *image, unsigned *number)
{
    double ms[21];
    char name[32];
    uint8_t block[4096];
    for (unsigned i = 0; i < 21; i++) {
        memset(block, (int)*number, sizeof(block));
        need(vdisk_write(image, (uint64_t)*number * MIB, block, sizeof(block)), "write");
        snprintf(name, sizeof(name), "s%u", (*number)++);
        double from = now_ms();
        need(vdisk_snapshot_create(image, name), "snapshot");
        ms[i] = now_ms() - from;
    }
    return median(ms, 21);
}

static void bench_snapshots(const char *path)
{
    struct vdisk_image *image;
    unsigned number = 0;
    char name[32];
    need(vdisk_open(path, NULL, &key, &image, NULL), "open");
    printf("snapshot_first %.2f ms median of 21, none before, 1 TiB\n",
           snapshot_median(image, &number));
    while (number < 1000) {
        snprintf(name, sizeof(name), "s%u", number++);
        need(vdisk_snapshot_create(image, name), "snapshot");
    }
    printf("snapshot_1000 %.2f ms median of 21, 1000 before\n", snapshot_median(image, &number));
    need(vdisk_close(image, NULL), "close");
}

static bool count_range(void *opaque, const struct vdisk_extent *extent)
{
    *(uint64_t *)opaque += extent->length / 4096;
    return true;
}

static void bench_diff(const char *path)
{
    struct vdisk_image *image = create(path, 100 * GIB);
    struct vdisk_snapshot *before;
    uint64_t seed = 1, blocks = 0;
    uint8_t block[4096] = {1};
    double ms[9];
    fill(image, GIB);
    need(vdisk_snapshot_create(image, "before"), "snapshot");
    for (unsigned i = 0; i < 200; i++) {
        block[0] = 1; /* not all zeros, which would be no change */
        memcpy(block + 1, &i, sizeof(i));
        need(vdisk_write(image, next_random(&seed) % (100 * GIB / 4096) * 4096, block, 4096),
             "write");
    }
    need(vdisk_close(image, NULL), "close");
    for (unsigned i = 0; i < 9; i++) {
        need(vdisk_open(path, NULL, &key, &image, NULL), "open");
        double from = now_ms();
        need(vdisk_snapshot_open(image, "before", &before), "open snapshot");
        blocks = 0;
        need(vdisk_diff(image, before, NULL, count_range, &blocks), "diff");
        ms[i] = now_ms() - from;
        vdisk_snapshot_close(before);
        vdisk_abandon(image);
    }
    printf("diff %.2f ms %llu changed blocks in 100 GiB, nothing cached in the process\n",
           median(ms, 9), (unsigned long long)blocks);
}

int main(int argc, char **argv)
{
    char path[4096];
    if (argc < 2) {
        fprintf(stderr, "usage: engine FOLDER [GIB]\n");
        return 2;
    }
    uint64_t bytes = (argc > 2 ? strtoull(argv[2], NULL, 10) : 10) * GIB;
    need(vdisk_init(), "init");
    snprintf(path, sizeof(path), "%s/engine.vdk", argv[1]);
    bench_open(path, bytes);
    bench_snapshots(path);
    unlink(path);
    bench_diff(path);
    unlink(path);
    return 0;
}
