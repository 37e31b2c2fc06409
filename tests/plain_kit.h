/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For tests of the plain backend: a directory of their own, shorthands that assert, and a table
 * of system calls that stands in front of the kernel and fails on demand.
 */
#ifndef PLAIN_KIT_H
#define PLAIN_KIT_H

#include "io_plain.h"
#include "vdisk/error.h"

#define PAGE     4096u
#define SPLIT    (4 * PAGE)
#define PART_SET 0x00c0ffeeu

extern char plain_directory[];          /* new for each test */
extern char plain_image[];              /* a path in it */
extern uint8_t plain_buffer[16 * PAGE]; /* a pattern */
extern uint8_t plain_back[16 * PAGE];   /* to read into */
extern struct vdisk_error plain_error;

int plain_set_up(void **state);
int plain_tear_down(void **state);

/* Submits one request and polls: its result. */
int plain_run(struct vdisk_io *io, enum vdisk_io_op op, uint64_t offset, void *data,
              uint64_t length);
/* Queues `count` writes of one block each at these blocks, polls, and leaves the results. */
void plain_write_blocks(struct vdisk_io *io, struct vdisk_io_request *requests,
                        const unsigned *blocks, unsigned count);
struct vdisk_io *plain_open_ok(int flags);
/* Split into SPLIT bytes. */
struct vdisk_io *plain_open_split(int flags);
/* With the calls below. */
struct vdisk_io *plain_open_faked(int flags);
void plain_expect_refused(const char *path, int flags, int code, const char *words);
uint64_t plain_size_of(struct vdisk_io *io);
void plain_shut(struct vdisk_io *io);
/* The path of part n, in static storage. */
const char *plain_part_path(unsigned part);
bool plain_exists(const char *path);

/* How the calls behave, and what they saw; plain_open_faked() resets it. */
struct plain_fake {
    size_t short_bytes; /* 0: no limit for one transfer */
    int interruptions;  /* how many calls fail with EINTR first */
    int read_error, write_error, sync_error, fallocate_error, directory_error;
    off_t bad_offset; /* a transfer over this byte fails with write_error; -1: all */
    bool zero_writes;
    int writes, syncs, directory_syncs, fallocates;
    int last_mode;
};
extern struct plain_fake plain_fake;

#endif
