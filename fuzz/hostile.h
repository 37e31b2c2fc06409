/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small image of which any structure can be replaced by something else, sealed as if by someone
 * who has the key: what lies behind the authentication has to hold by itself.
 */
#ifndef HOSTILE_H
#define HOSTILE_H

#include "format.h"
#include "sim_io.h"

#define HOSTILE_PIECES_MAX 96u
#define HOSTILE_BYTES_MAX  (VD_NODE_BLOCKS_MAX * VD_BLOCK)

/* A superblock's body, a node, or the journal's record. */
struct hostile_piece {
    struct vd_seal_context context;
    uint8_t secret[VD_KEY_BYTES];
    uint64_t offset;    /* of the sealed bytes in the file */
    int parent;         /* the piece that holds the tag; -1: the tag lies in the file */
    uint64_t tag_at;    /* its offset in the parent's plaintext, or in the file */
    uint64_t second_at; /* superblocks: offset of the other slot, 0 for others */
    uint8_t *plain;     /* context.length bytes */
};

struct hostile {
    struct sim *disk;
    uint8_t image_id[VD_ID_BYTES];
    unsigned count;
    struct hostile_piece piece[HOSTILE_PIECES_MAX];
};

/* Closed, or with a record in the journal. Never NULL. */
struct hostile *hostile_new(bool closed);
/* A copy of the disk in which the piece holds `plain` instead. */
struct sim *hostile_disk(const struct hostile *h, unsigned number, const uint8_t *plain);

#endif
