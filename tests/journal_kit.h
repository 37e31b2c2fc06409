/* SPDX-License-Identifier: Apache-2.0 */
/* Journals of ext4 as a kernel would write them, in memory, for jbd2.c to read. */
#ifndef TESTS_JOURNAL_KIT_H
#define TESTS_JOURNAL_KIT_H

#include "jbd2.h"

#define JOURNAL_KIT_BLOCK  1024u
#define JOURNAL_KIT_BLOCKS 64u

/* Features, as in the superblock. */
enum {
    JOURNAL_REVOKE = 1,
    JOURNAL_64BIT = 2,
    JOURNAL_CSUM_V2 = 8,
    JOURNAL_CSUM_V3 = 16,
    JOURNAL_FAST = 32,
    JOURNAL_OLD_CSUM = 1 << 8, /* a compatible feature: checksums in commits alone */
};

struct journal_kit {
    uint8_t bytes[JOURNAL_KIT_BLOCKS * JOURNAL_KIT_BLOCK];
    struct jbd2_journal journal;
    unsigned features;
    uint32_t first, last; /* of the ring */
    uint32_t at;          /* where the next block goes */
    uint32_t sequence;
    uint32_t old_csum;
    int error; /* of reads; 0: none */
};

/* An empty one; `start` is where the log begins. */
void journal_kit_begin(struct journal_kit *kit, unsigned features, uint32_t start);
/* Puts the superblock's checksum right. */
void journal_kit_seal_super(struct journal_kit *kit);

/* What a block of the log, filled with `fill`, is to replace. */
struct journal_kit_block {
    uint64_t block;
    uint8_t fill;
    bool escaped;
};
/* Each returns the number of its first block. */
uint32_t journal_kit_log(struct journal_kit *kit, const struct journal_kit_block *blocks,
                         unsigned count);
uint32_t journal_kit_revoke(struct journal_kit *kit, const uint64_t *blocks, unsigned count);
/* Ends the transaction. */
uint32_t journal_kit_commit(struct journal_kit *kit);

uint8_t *journal_kit_block(struct journal_kit *kit, uint32_t block);

#endif
