/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What backup_create.c (the main thread: leaves, tree, index, manifest) and create_chunk.c (the
 * threads: chunks) share.
 */
#ifndef BACKUP_CREATE_IMPL_H
#define BACKUP_CREATE_IMPL_H

#include "backup_create.h"
#include "crew.h"
#include "idset.h"

#include <pthread.h>

#define LEAF_BYTES ((uint64_t)VB_NODE_CHILDREN * VB_CHUNK_BYTES)

struct leaf_job;

/* A chunk to be looked at. */
struct chunk_task {
    struct vb_task task; /* first */
    struct leaf_job *job;
    unsigned slot;
    bool touched;
    uint8_t changed[VB_BITMAP_BYTES]; /* blocks; the others are as in `before`, or zeros */
    uint8_t data[VB_BITMAP_BYTES];    /* of these, those that are not known to be zeros */
    struct vb_node_entry before, after;
    int result;
};

/* A leaf of the tree in the making. */
struct leaf_job {
    bool used;
    uint64_t index;
    unsigned pending;
    struct vb_node node;
    struct chunk_task task[VB_NODE_CHILDREN];
};

/* Shared by the threads; all that is written is under the mutex. */
struct chunk_shared {
    struct vb_repo *repo;
    struct vb_drive *drive;
    struct vb_packer *packer;
    pthread_mutex_t mutex;
    struct vb_index *data;      /* loaded when it is first needed */
    struct vb_idset fresh;      /* what this backup stores */
    uint8_t *pack_used;         /* of the index: records were taken from it */
    pthread_mutex_t zero_mutex; /* of the two below, taken before the other one */
    struct vb_id zero_base;
    bool has_zero_base; /* it is stored */
    struct vb_create_result counts;
    struct vdisk_error error; /* of the first that failed */
};

extern const struct vb_crew_ops vb_chunk_ops; /* opaque: struct chunk_shared */

/* With the mutex free. */
int vb_chunk_load_index(struct chunk_shared *shared);

static inline bool has_bit(const uint8_t *bitmap, unsigned bit)
{
    return bitmap[bit / 8] >> (bit % 8) & 1;
}

static inline void set_bit(uint8_t *bitmap, unsigned bit)
{
    bitmap[bit / 8] |= (uint8_t)(1u << (bit % 8));
}

#endif
