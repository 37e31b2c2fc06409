/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The open image: what its modules share. See ARCHITECTURE.md for the life of a write.
 *
 * Locks, in the order in which they are taken:
 *   filling      guest blocks: they are filled once; exclusive over all to put another live state
 *                in place, or to end filling
 *   range        guest blocks: a write excludes reads and writes of the same blocks
 *   states       shared by whoever reads through a tree; exclusive to replace or free whole trees
 *   gate         shared by whoever changes the live map; exclusive to freeze it
 *   journal.lock exclusive to write records
 */
#ifndef VD_IMAGE_H
#define VD_IMAGE_H

#include "alloc.h"
#include "crypto.h"
#include "format.h"
#include "loop.h"
#include "pool.h"
#include "tree.h"
#include "vdisk/vdisk.h"

struct vd_epoch_keys;
struct vd_secrets;
struct vd_cluster_cache;
struct vd_codec;

struct vd_journal {
    uint32_t ring_blocks;
    uint32_t pos;     /* where the next record goes */
    uint32_t used;    /* blocks from the tail to pos: still needed */
    uint64_t seq;     /* of the next record */
    uint64_t durable; /* records below are known durable */
    uint8_t prev_tag[VD_TAG_BYTES];
    uint8_t *pending; /* encoded operations since the last record */
    size_t pending_bytes, pending_room;
    uint32_t pending_count;
    uint64_t added, kept;    /* operations ever; of these, in records whose write has completed */
    uint64_t records, syncs; /* since it was opened */
    /* The first of the pending operations are also in the last record: one block that no sync was
     * meant to cover yet, so that it may be written again with more of them. 0: none. */
    size_t loose_bytes;
    uint32_t loose_count;
    uint8_t loose_prev_tag[VD_TAG_BYTES]; /* of the record before it */
    bool leading; /* the last record names data on its way (vd_journal_lead): nobody else emits */
    bool rewrite; /* the last record names data that did not arrive: the next takes its place */
    struct vd_waitqueue lead_waiters;
    uint32_t pending_blocks;  /* at most this many blocks of ring for what is pending */
    uint32_t reserved_blocks; /* for writes in flight */
    struct vd_rwlock lock;
};

struct vd_commit {
    uint64_t wanted, done; /* tickets of flushes */
    int failed_result;
    uint64_t failed; /* tickets up to here failed */
    bool running;
    struct vd_waitqueue waiters;
    uint64_t changes, expected; /* since the last flush; before it */
};

struct vdisk_image {
    struct vd_loop loop; /* of a base: a view of the overlay's */
    struct vdisk_error error;
    struct vd_header header;
    struct vd_master *master; /* locked memory */
    uint8_t *volume_key;      /* locked memory */
    struct vd_superblock
        *super; /* locked memory; roots and counters are current only in a checkpoint */
    int slot_used;
    const struct vdisk_opener *opener; /* of its bases; NULL: plain files */
    bool read_only;
    bool epoch_begun; /* a checkpoint of this opening's epoch is durable */
    bool recovered, header_damaged, superblock_damaged;
    bool superblock_behind; /* what is called damaged is authentic, but older */
    /* Copy B is the damaged or older one and is written first: never the only good one. */
    bool header_b_first, superblock_b_first;
    int failed; /* 0, or the error that latched the image */

    uint64_t stamp; /* last one taken */
    uint64_t size;  /* of the drive, as requests see it */
    struct vd_tree map, epochs, snaps;
    struct vd_alloc alloc;
    struct vd_node_cache cache;
    struct vd_waitqueue load_waiters;
    uint64_t deleting_parent_stamp; /* of the parent of super->deleting */

    struct vd_epoch_keys *keys; /* a list, most recently used first */
    unsigned key_count;
    struct vd_cipher *table_cipher;
    struct vd_secrets *secrets; /* locked memory for them, a list */

    struct vd_journal journal;
    struct vd_commit commit;
    bool checkpoint_running;
    uint64_t checkpoints_done;
    int checkpoint_result; /* of the last one */
    struct vd_waitqueue checkpoint_waiters;

    struct vd_range_lock range;
    struct vd_rwlock states, gate;
    struct vd_rwlock full;              /* exclusive to those who wait for room on the disk */
    struct vd_waitqueue settle_waiters; /* for a promise of the reserve to be over */
    struct vd_rwlock header_lock;       /* exclusive to write the header; apart from the others */
    struct vd_cluster_cache *clusters;
    struct vd_codec *codecs; /* idle ones */
    struct vd_pool pool;

    size_t cache_bytes; /* for it and its bases */
    struct vdisk_image *base;
    struct vdisk_snapshot *base_snapshot;
    unsigned depth;              /* images above this one in a chain */
    struct vdisk_source *source; /* of an image that is being filled; NULL without one */
    bool without_source;
    struct vd_range_lock filling; /* guest blocks that are being filled; before `range` */
    struct vd_rwlock fill_turn;   /* exclusive to look for the next piece */
    unsigned fills;               /* pieces in memory */
    struct vd_waitqueue fill_waiters;

    struct vdisk_request *incoming_head, *incoming_tail; /* not yet started */
    struct vdisk_request *ended_head, *ended_tail;       /* to be handed out */
    unsigned requests, running_requests;
    int64_t clock; /* when not 0, the time for new snapshots (rotation keeps the old ones') */
    struct vdisk_snapshot *snapshots;
};

struct vdisk_snapshot {
    struct vdisk_image *image;
    struct vdisk_snapshot *next;
    struct vd_snap snap;
    struct vd_tree map;
};

static inline uint64_t vd_cluster_bytes(const struct vdisk_image *image)
{
    return UINT64_C(1) << image->header.cluster_log2;
}

static inline uint32_t vd_cluster_blocks(const struct vdisk_image *image)
{
    return 1u << (image->header.cluster_log2 - 12);
}

static inline uint64_t vd_guest_blocks(uint64_t size)
{
    return (size + VD_BLOCK - 1) / VD_BLOCK;
}

/* First block of the data area. */
static inline uint64_t vd_data_start(const struct vdisk_image *image)
{
    return (UINT64_C(1) << image->header.journal_log2) + 4;
}

/* Records the sentence and returns the code. */
int vd_image_fail(struct vdisk_image *image, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int vd_image_corrupt(struct vdisk_image *image, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Gives an error that has no sentence of its own a general one. Returns the code. */
int vd_image_explain(struct vdisk_image *image, int code);
/* Nothing may be written any more. Returns the code. */
int vd_image_latch(struct vdisk_image *image, int code, const char *what);

/* The next `count` stamps; returns the first. */
uint64_t vd_stamp_take(struct vdisk_image *image, uint64_t count);

/* Runs `entry` in a coroutine and the loop until it has ended. */
int vd_run(struct vdisk_image *image, int (*entry)(struct vdisk_image *image, void *arg),
           void *arg);

/* 4096-aligned memory; NULL without. */
void *vd_buffer_new(size_t bytes);

/* --- keyring.c --- */
/* The keys of an epoch, referenced. May wait. */
int vd_keys_get(struct vdisk_image *image, uint32_t epoch, struct vd_epoch_keys **out);
void vd_keys_put(struct vd_epoch_keys *keys);
/* A cipher for one user; NULL without memory. */
struct vd_cipher *vd_keys_take(struct vd_epoch_keys *keys);
void vd_keys_give(struct vd_epoch_keys *keys, struct vd_cipher *cipher);
void vd_keyring_release(struct vdisk_image *image);

#endif
