/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Computation that may be shared out to the workers: slices of an array, each with the cipher and
 * the codec it needs, taken on the owning thread and given back there.
 */
#ifndef VD_TASKS_H
#define VD_TASKS_H

#include "image.h"

struct vd_codec; /* zstd contexts; for one user at a time */

struct vd_task {
    struct vd_group_job job;
    struct vd_task *next;
    unsigned from, to; /* the slice */
    void *arg;
    struct vd_cipher *cipher;
    struct vd_codec *codec;
    struct vd_epoch_keys *keys;
    int result;
    void (*work)(struct vd_task *task);
};

struct vd_tasks {
    struct vdisk_image *image;
    struct vd_group group;
    struct vd_task *list;
    int result;
};

void vd_tasks_init(struct vd_tasks *tasks, struct vdisk_image *image);
/* Shares the elements [from, to) of arg out among at most as many workers as give each
 * `grain` elements. keys may be NULL (no cipher). Without workers, or for one slice with
 * `inline_ok`, works at once. */
void vd_tasks_add(struct vd_tasks *tasks, unsigned from, unsigned to, unsigned grain, void *arg,
                  struct vd_epoch_keys *keys, bool codec, void (*work)(struct vd_task *task));
/* Waits for all; the first error. */
int vd_tasks_wait(struct vd_tasks *tasks);

/* --- compress.c --- */
/* NULL without memory. */
struct vd_codec *vd_codec_take(struct vdisk_image *image);
void vd_codec_give(struct vdisk_image *image, struct vd_codec *codec);
void vd_codecs_release(struct vdisk_image *image);
/* Compressed length, or 0 when it does not fit into `room`. */
uint32_t vd_compress(struct vd_codec *codec, int level, const void *data, size_t length, void *out,
                     size_t room);
/* 0, or VDISK_E_MALFORMED when the frame is not exactly `length` bytes. */
int vd_decompress(struct vd_codec *codec, const void *packed, size_t packed_length, void *out,
                  size_t length);

#endif
