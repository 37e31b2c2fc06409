/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file of a suspended guest: an image, so that all of it is sealed, whose drive holds
 *
 *     0        magic (16 bytes), version (le32), bytes of the manifest (le32), of the stream
 * (le64); written last 4096     the manifest, JSON 1 MiB    the stream of vdisk-vmm
 * (vmm/vm_stream.h)
 *
 * The manifest is
 *
 *     {"name": "web", "memory": bytes, "cpus": N, "suspended": seconds since 1970,
 *      "nets": ["tap=t0,mac=02:...", ...], "vsock", "kernel", "initrd", "command", "firmware": as
 * on the command line of vdisk-vmm, where it has them, "drives": [{"image_id": HEX, and "snapshot",
 * "snapshot_id", "is_live": whether the guest has what the snapshot was taken of, or the snapshot
 * itself; or "root_tag": HEX, of a drive that is read-only}, ...]}
 */
#ifndef TOOLS_STATEFILE_H
#define TOOLS_STATEFILE_H

#include "newimage.h"

#include "vdisk/vdisk.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#define STATEFILE_PIECE (1u << 20) /* what a write of the stream has, but for the last */

/* All functions return an exit status, having reported, unless they say otherwise. */

struct statefile_writer;

/* Makes it, with room for the state of a guest of that much memory. */
int statefile_create(const char *path, const struct vdisk_key *key, uint64_t memory,
                     struct statefile_writer **out);
int statefile_put_manifest(struct statefile_writer *writer, const json_t *manifest);
/* Where the next piece of the stream goes; STATEFILE_PIECE bytes. */
int statefile_buffer(struct statefile_writer *writer, uint8_t **buffer);
/* So many of them are the stream's. */
void statefile_append(struct statefile_writer *writer, uint32_t length);
/* All is written and durable, or else the file is removed. */
int statefile_finish(struct statefile_writer *writer);
/* Removes it. NULL is allowed. */
void statefile_discard(struct statefile_writer *writer);

struct statefile {
    const char *path;
    struct vdisk_workers *workers;
    struct vdisk_image *image;
    json_t *manifest;
    uint64_t stream_bytes;
};

/* After success statefile_close() is due. */
int statefile_open(const char *path, const struct vdisk_key *key, struct statefile *out);
void statefile_close(struct statefile *file);

/* The stream from its beginning, some of it read ahead. It is freed before the file is closed. */
struct statefile_reader;

int statefile_reader_new(const struct statefile *file, struct statefile_reader **out);
/* The next piece, which is good until the next call; *length is 0 after the last. */
int statefile_next(struct statefile_reader *reader, const uint8_t **data, uint64_t *length);
/* NULL is allowed. */
void statefile_reader_free(struct statefile_reader *reader);

#endif
