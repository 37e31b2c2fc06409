/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one door to storage, and the door to worker threads.
 *
 * The engine hands requests to submit() and learns of their end in poll(); a completion
 * never runs inside submit(). Everything an image asks of the world outside goes through
 * these two tables, so that a simulator can stand in for both. Neither is thread-safe:
 * one thread owns an io and the images on it.
 *
 * Ordering: requests that overlap in time may reach the medium in any order, and a write
 * that has completed is durable only after a SYNC that was submitted after its completion
 * has itself completed without error.
 */
#ifndef VDISK_IO_H
#define VDISK_IO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vdisk_error;
struct vdisk_io;

enum vdisk_io_op {
    VDISK_IO_READ,     /* bytes past the end of the file read as zeros */
    VDISK_IO_WRITE,    /* extends the file when it ends past its end */
    VDISK_IO_SYNC,     /* fdatasync of every file that was written */
    VDISK_IO_PUNCH,    /* gives the range back to the host; it then reads as zeros. Best effort:
                          0 where the host cannot */
    VDISK_IO_ALLOCATE, /* makes later writes to the range immune to ENOSPC, content unchanged
                          (zeros where there was none); -EOPNOTSUPP where the host cannot */
    VDISK_IO_TRUNCATE, /* sets the length of the file to `offset` */
};

/* Owned by the submitter, untouched by it from submit() until done() is called. */
struct vdisk_io_request {
    enum vdisk_io_op op;
    /* WRITE: through the page cache, where a backend otherwise goes past it: for what is written
     * again soon. As with any write that has completed, the end of the process does not undo it. */
    bool cached;
    uint64_t offset; /* bytes, multiple of 4096 */
    void *data;      /* READ and WRITE: 4096-aligned; else NULL */
    uint64_t length; /* bytes, multiple of 4096 */
    int result;      /* 0 or a negated errno; a short transfer never reaches the submitter */
    void (*done)(struct vdisk_io_request *request); /* called from poll() */
    void *owner;
    struct vdisk_io_request *next; /* the backend's while in flight */
};

struct vdisk_io_ops {
    void (*submit)(struct vdisk_io *io, struct vdisk_io_request *request);
    /* Runs the completions that are ready, or with `wait` at least one if any request is in
     * flight. Returns how many ran. */
    int (*poll)(struct vdisk_io *io, bool wait);
    /* Length of the file in bytes: 0 or a negated errno. */
    int (*size)(struct vdisk_io *io, uint64_t *bytes);
    /* Wall clock in nanoseconds since 1970. */
    int64_t (*now)(struct vdisk_io *io);
    /* Optional: before any access past the first part's end, in how large parts the image comes
     * (SPEC.md 2); 0 is one file. VDISK_E_EXISTS: a new image has no parts yet. -EINVAL, -errno. */
    int (*set_split)(struct vdisk_io *io, uint64_t split_bytes, uint32_t part_set);
    /* Optional: removes every file that this io created (after a failed create). */
    void (*remove)(struct vdisk_io *io);
    /* Frees the io. No request may be in flight. */
    void (*close)(struct vdisk_io *io);
};

/* Backends embed this as their first member. */
struct vdisk_io {
    const struct vdisk_io_ops *ops;
};

/* A piece of pure computation, or a source's reading, that may run on another thread. It gets
 * values, no handles. */
struct vdisk_job {
    void (*run)(struct vdisk_job *job);  /* on any thread */
    void (*done)(struct vdisk_job *job); /* on the owning thread, from poll() */
    struct vdisk_job *next;              /* the pool's while queued */
    bool blocks; /* it may wait for long (a source): not where others wait to compute */
};

struct vdisk_workers;

struct vdisk_workers_ops {
    void (*submit)(struct vdisk_workers *workers, struct vdisk_job *job);
    int (*poll)(struct vdisk_workers *workers, bool wait); /* as vdisk_io_ops.poll */
    unsigned (*count)(struct vdisk_workers *workers);      /* threads, at least 1 */
    void (*close)(struct vdisk_workers *workers);
};

struct vdisk_workers {
    const struct vdisk_workers_ops *ops;
};

enum {
    VDISK_OPEN_READ_ONLY = 1 << 0, /* shared lock; no write ever reaches the files */
    VDISK_OPEN_CREATE = 1 << 1,    /* the file must not exist; mode 0600 */
    VDISK_OPEN_NO_LOCK = 1 << 2,   /* public header of an image in use; reads only */
    VDISK_OPEN_DIRECT = 1 << 3,    /* past the page cache (O_DIRECT), where the file system can */
};

/*
 * The plain backend: pread, pwritev, fdatasync, fallocate on a file, its parts, or a block device.
 * The first file is locked (exclusive, or shared when read-only).
 * Errors: -errno, VDISK_E_IN_USE, VDISK_E_EXISTS; `error` (may be NULL) gets the sentence.
 */
int vdisk_io_plain_open(const char *path, int flags, struct vdisk_io **io,
                        struct vdisk_error *error);

#endif
