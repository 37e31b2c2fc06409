/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory of a guest as its front end shares it: a table of regions, each with a guest-physical
 * and a user address, and the log of the pages that were written (for live migration).
 *
 * What is in that memory changes under us, and what addresses say is hostile: everything is copied
 * in and out, by guest address, and translated each time, so that a region may be removed while
 * requests are in flight (their copies then fail). Belongs to one thread.
 */
#ifndef VDISKD_VHOST_MEMORY_H
#define VDISKD_VHOST_MEMORY_H

#include "vhost_mapping.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VHOST_REGIONS_MAX 64u
#define VHOST_LOG_PAGE    4096u

struct vhost_region {
    uint64_t guest, user;          /* addresses */
    uint64_t size;                 /* bytes */
    uint8_t *host;                 /* where its first byte is mapped */
    struct vhost_mapping *mapping; /* NULL: the memory is the caller's */
};

struct vhost_log {
    uint8_t *bits; /* of guest pages; NULL: none */
    uint64_t bytes;
    struct vhost_mapping *mapping;
    bool enabled; /* VHOST_F_LOG_ALL is negotiated */
};

struct vhost_memory {
    struct vhost_region region[VHOST_REGIONS_MAX];
    unsigned count;
    struct vhost_log log;
    /* The front end took away what it had shared; nothing that was read since is of any use. */
    volatile sig_atomic_t lost;
};

/* Unmaps everything; afterwards the table is empty. The log stays. */
void vhost_memory_clear(struct vhost_memory *memory);

/*
 * Maps `size` bytes of fd from `offset`. The descriptor stays the caller's. -EINVAL: a range that
 * wraps, overlaps another or is longer than the file; VDISK_E_LIMIT: too many; -errno.
 */
int vhost_memory_add(struct vhost_memory *memory, uint64_t guest, uint64_t size, uint64_t user,
                     uint64_t offset, int fd, struct vdisk_error *error);
/* The same for memory that is there already, and stays the caller's. */
int vhost_memory_add_mapped(struct vhost_memory *memory, uint64_t guest, uint64_t size,
                            uint64_t user, void *host, struct vdisk_error *error);
/* The region of exactly these addresses and size. VDISK_E_NOT_FOUND. */
int vhost_memory_remove(struct vhost_memory *memory, uint64_t guest, uint64_t size, uint64_t user,
                        struct vdisk_error *error);

/* Where `length` bytes from a user address are, all in one region; NULL: not in the table. */
void *vhost_memory_user(const struct vhost_memory *memory, uint64_t user, uint64_t length);
/* The guest address of a user address. False: not in the table. */
bool vhost_memory_user_to_guest(const struct vhost_memory *memory, uint64_t user, uint64_t *guest);

/* Copies between guest memory (which may cross adjoining regions) and ours. -EFAULT: not in the
 * table, or lost; then part may have been copied. A write is logged. */
int vhost_memory_read(const struct vhost_memory *memory, uint64_t guest, void *to, size_t length);
int vhost_memory_write(struct vhost_memory *memory, uint64_t guest, const void *from,
                       size_t length);

/* Maps `size` bytes of fd from `offset` as the log, in place of the one before. */
int vhost_log_set(struct vhost_memory *memory, uint64_t size, uint64_t offset, int fd,
                  struct vdisk_error *error);
void vhost_log_clear(struct vhost_log *log);
/* Marks what pages [address, address + length) touches; what the log does not cover is left. */
void vhost_log_mark(struct vhost_log *log, uint64_t address, uint64_t length);

#endif
