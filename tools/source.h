/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a drive is copied from: a file or block device, or an NBD server.
 *
 * Reads are begun with start() and end in wait(), in any order; a file's end in start() already.
 * A failing function says why in `error`.
 */
#ifndef TOOLS_SOURCE_H
#define TOOLS_SOURCE_H

#include "nbd_client.h"

#include "vdisk/error.h"

#include <stdbool.h>
#include <stdint.h>

#define SOURCE_READS_MAX NBD_CLIENT_IN_FLIGHT
#define SOURCE_PIECE_MAX NBD_CLIENT_REQUEST_MAX

struct source;

struct source_ops {
    /* How far the range at `offset` goes, up to `size`, and whether it reads as zeros. */
    int (*range)(struct source *source, uint64_t offset, uint64_t *length, bool *is_zero);
    int (*start)(struct source *source, struct nbd_read *read);
    int (*wait)(struct source *source);
    void (*close)(struct source *source);
};

struct source {
    const struct source_ops *ops;
    const char *name; /* for messages; the opener's */
    uint64_t size;    /* bytes, of any alignment */
    int fd;
    bool has_holes; /* the file system tells */
    struct nbd_client *client;
    uint64_t known_offset, known_end; /* NBD: the last state that came */
    bool known_zero;
    struct vdisk_error error;
};

/* A regular file or a block device. 0 or an error, with source->error. */
int source_open_file(struct source *source, const char *path);
int source_open_nbd(struct source *source, const char *name, const struct nbd_address *address);
void source_close(struct source *source);

#endif
