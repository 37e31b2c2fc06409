/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A simulated disk behind the I/O seam: deterministic from a seed, hostile within the rules.
 *
 * It knows what is durable and keeps an ordered log of what is not: operations that have
 * completed since the last sync, and those in flight. From both it makes the disks that a
 * crash could leave. Copies share their pages, so that a hundred thousand of them can be
 * opened in a test run.
 *
 * Rules: requests complete in random order, some per poll. A SYNC makes durable exactly the
 * operations that had completed before it was submitted. A write tears at 512-byte sectors.
 * The buffer of a request must not change while in flight (asserted for writes); a read
 * buffer holds garbage until the read is done.
 */
#ifndef SIM_IO_H
#define SIM_IO_H

#include "sim_random.h"
#include "vdisk/io.h"

struct sim;

/* An empty disk; the seed decides the order of completions. Never NULL. */
struct sim *sim_new(uint64_t seed);
/* Also with requests in flight, which then never complete. NULL is allowed. */
void sim_free(struct sim *sim);
/* The disk as the library sees it. Closing that io leaves the disk alone (unsynced operations
 * stay unsynced, as when a process ends), and it can be handed out again. */
struct vdisk_io *sim_io(struct sim *sim);
/* The same disk again: contents, log, settings, faults, clock. No request may be in flight. */
struct sim *sim_clone(const struct sim *sim);

/* Requests complete in the order of submission, all in one poll. */
void sim_set_ordered(struct sim *sim, bool ordered);
/* In `part` of `whole` cases a request is late: it completes only when all that is in flight is
 * late. So others overtake it by far. */
void sim_set_late(struct sim *sim, unsigned part, unsigned whole);
/* At most so many 4 KiB pages that are no holes: what does not fit fails with -ENOSPC, a write
 * perhaps after a part of it has arrived. 0: no limit. */
void sim_set_capacity(struct sim *sim, uint64_t pages);

#define SIM_ANY_OP (-1)

struct sim_fault {
    int op;       /* enum vdisk_io_op, or SIM_ANY_OP */
    uint64_t nth; /* from now on, counted at submission; 1 is the next */
    int error;    /* negated errno */
    bool sticky;  /* all later ones fail as well */
    bool drop;    /* SYNC: a random part of the writes it should have saved is never written,
                     though it can still be read, as on Linux */
};
/* At most 16 at a time. A WRITE that fails may have arrived in part. */
void sim_add_fault(struct sim *sim, const struct sim_fault *fault);
void sim_clear_faults(struct sim *sim);
/* How many requests failed because of a fault. */
uint64_t sim_faults_fired(const struct sim *sim);

enum sim_crash_kind {
    SIM_CRASH_EIO,  /* everything not completed by then, and everything later, fails with -EIO */
    SIM_CRASH_HANG, /* ... never completes */
};
/* The machine stops when more than `op` requests (of the disk's life) are submitted; what is
 * in flight then may or may not have arrived. */
void sim_crash_at(struct sim *sim, uint64_t op, enum sim_crash_kind kind);
bool sim_crashed(const struct sim *sim);
/* Requests submitted so far; those after the crash do not count. */
uint64_t sim_op_count(const struct sim *sim);

enum sim_crash_mode {
    SIM_KEEP_NONE, /* only what is durable */
    SIM_KEEP_ALL,  /* everything, in order: also after a kill, when all that it asked for is done */
    SIM_KEEP_COMPLETED, /* ... what has completed: also after a kill */
    SIM_KEEP_SUBSET,    /* a random subset, each operation whole */
    SIM_KEEP_TORN,      /* a random subset, some operations torn */
    SIM_ONE_MISSING,    /* all but number `seed` modulo their count */
    SIM_ONE_ONLY,       /* only number `seed` modulo their count */
    SIM_KEEP_REORDERED, /* a random subset in random order, some torn */
    SIM_CRASH_MODES,
};
/* The disk after a crash now: a new one, whose seed is `seed`, without faults; the capacity is
 * the same and the clock goes on. `sim` does not change. */
struct sim *sim_crash_image(const struct sim *sim, uint64_t seed, enum sim_crash_mode mode);
/* Operations of which a crash image chooses a subset. */
size_t sim_unsynced(const struct sim *sim);

/* All completed operations become durable: the host has flushed its caches. */
void sim_settle(struct sim *sim);

/* Direct access to the durable bytes, any alignment; writing also changes what reads see. */
void sim_raw_read(const struct sim *sim, uint64_t offset, void *data, uint64_t length);
void sim_raw_write(struct sim *sim, uint64_t offset, const void *data, uint64_t length);
uint64_t sim_raw_size(const struct sim *sim);
void sim_raw_truncate(struct sim *sim, uint64_t bytes);
/* Pages that are no holes, as reads see the disk. */
uint64_t sim_allocated_pages(const struct sim *sim);

/* A disk with the content of a file, all durable; NULL and errno when it cannot be read. */
struct sim *sim_load_file(const char *path, uint64_t seed);
/* The durable content as a sparse file: 0 or a negated errno. */
int sim_save_file(const struct sim *sim, const char *path);

/* Called at each submission before the crash. */
typedef void sim_trace(void *arg, enum vdisk_io_op op, uint64_t offset, uint64_t length);
void sim_set_trace(struct sim *sim, sim_trace *trace, void *arg);

#endif
