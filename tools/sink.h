/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where a drive is copied to: a stream, a file, a block device, or another format by way of NBD.
 *
 * Every byte of the copied range is handed over once, in order unless the sink says that it takes
 * any, as data or as zeros. A failing function says why in `error`; nothing is called after that.
 */
#ifndef TOOLS_SINK_H
#define TOOLS_SINK_H

#include "vdisk/error.h"

#include <stdbool.h>
#include <stdint.h>

struct nbd_client;
struct sink;

struct sink_ops {
    int (*data)(struct sink *sink, uint64_t offset, const void *data, uint64_t length);
    int (*zeros)(struct sink *sink, uint64_t offset, uint64_t length);
};

struct sink {
    const struct sink_ops *ops;
    const char *name; /* for messages */
    int fd;
    /* Pieces in any order, on several threads at once that have a copy of the sink each; else in
     * order, on the thread that signals interrupt. */
    bool any_order;
    int direct_fd; /* the file once more, for long runs beside the page cache; or -1 */
    struct nbd_client *client;
    struct vdisk_error error;
};

/* In order to a pipe or the like; zeros are written. */
void sink_stream(struct sink *sink, const char *name, int fd);
/* A new file that has its full length already and reads as zeros: zeros are left out, also those
 * within data. */
void sink_file(struct sink *sink, const char *name, int fd);
/* For a file whose data nobody is about to read: long runs of pages, from memory that begins at a
 * page, go to the disk without a copy in the page cache, which costs more than their decryption.
 * Where the file system does not have that nothing changes. Closed before the file is. */
void sink_open_direct(struct sink *sink);
void sink_close_direct(struct sink *sink);
/* A block device with whatever was on it: zeros are written too. */
void sink_device(struct sink *sink, const char *name, int fd);
/* A new drive behind an NBD server, reading as zeros. */
void sink_nbd(struct sink *sink, const char *name, struct nbd_client *client);

#endif
