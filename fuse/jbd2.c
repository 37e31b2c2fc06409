/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log is a ring of blocks: descriptors, each followed by the blocks that its tags name, lists
 * of revoked blocks, and a commit at the end of each transaction. Numbers are big-endian.
 */
#include "jbd2.h"

#include "report.h"

#include <errno.h>
#include <ext2fs/ext2fs.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC          UINT32_C(0xc03b3998)
#define HEADER_BYTES   12u
#define UUID_BYTES     16u
#define CSUM_CRC32     1u
#define CSUM_CRC32C    4u
#define FAST_COMMITS   256u /* blocks, where the superblock says nothing */
#define FAST_HEAD_TAG  9u
#define SUPER_BYTES    1024u
#define TAIL_BYTES     4u /* the checksum at the end of descriptors and lists */
#define REVOKE_HEADER  16u
#define FIRST_CAPACITY 256u

enum block_type {
    DESCRIPTOR = 1,
    COMMIT = 2,
    SUPER_V1 = 3,
    SUPER_V2 = 4,
    REVOKE = 5,
};

enum {
    COMPAT_CHECKSUM = 1,
    INCOMPAT_REVOKE = 1,
    INCOMPAT_64BIT = 2,
    INCOMPAT_ASYNC = 4,
    INCOMPAT_CSUM_V2 = 8,
    INCOMPAT_CSUM_V3 = 16,
    INCOMPAT_FAST = 32,
    INCOMPAT_KNOWN = 63,
    TAG_ESCAPED = 1,
    TAG_SAME_UUID = 2,
    TAG_LAST = 8,
};

/* `age` is a sequence number, counted from the oldest in the log. */
struct record {
    uint64_t block;
    uint32_t from; /* copies only */
    uint32_t age : 31;
    uint32_t escaped : 1;
};

struct records {
    struct record *record;
    size_t count, capacity;
    size_t committed;
};

struct super {
    uint32_t first, last; /* the ring is from `first` to before `last` */
    uint32_t fast;        /* where the fast commits are; 0: nowhere */
    uint32_t start;       /* 0: the journal is clean */
    uint32_t sequence;
    uint32_t compat, incompat;
    uint32_t seed;
};

struct walk {
    const struct jbd2_journal *journal;
    struct super super;
    uint32_t at, left; /* the next block of the ring, and how many have not been read */
    uint32_t age;
    uint32_t plain_crc; /* of the transaction, in the oldest form of checksums */
    uint8_t *control, *data;
    struct records copies, revoked;
    bool is_cut;
};

/* What becomes of the log at a block. */
enum {
    GO_ON = 0,
    ENDS = 1
};

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static uint64_t get64(const uint8_t *p)
{
    return (uint64_t)get32(p) << 32 | get32(p + 4);
}

static bool has_sums(const struct super *super)
{
    return super->incompat & (INCOMPAT_CSUM_V2 | INCOMPAT_CSUM_V3);
}

/* --- records ------------------------------------------------------------------------------ */

static int add(struct records *records, const struct record *record)
{
    if (records->count == records->capacity) {
        size_t capacity = records->capacity ? 2 * records->capacity : FIRST_CAPACITY;
        struct record *larger;

        if (records->count >= JBD2_RECORDS_MAX)
            return VDISK_E_LIMIT;
        larger = reallocarray(records->record, capacity, sizeof(*larger));
        if (!larger)
            return -ENOMEM;
        records->record = larger;
        records->capacity = capacity;
    }
    records->record[records->count++] = *record;
    return 0;
}

/* By block, the newest first. Within a transaction a block comes once, unless someone forged it. */
static int compare(const void *a, const void *b)
{
    const struct record *x = a, *y = b;

    if (x->block != y->block)
        return x->block < y->block ? -1 : 1;
    if (x->age != y->age)
        return x->age > y->age ? -1 : 1;
    return (x->from < y->from) - (x->from > y->from);
}

static void sort(struct records *records)
{
    records->count = records->committed;
    if (records->count > 0)
        qsort(records->record, records->count, sizeof(*records->record), compare);
}

/* --- the superblock ----------------------------------------------------------------------- */

static int malformed(struct vdisk_error *error, const char *what)
{
    return error_set(error, VDISK_E_MALFORMED, "its journal is not one: %s", what);
}

static bool super_sum_is_right(uint8_t *bytes)
{
    uint32_t stored = get32(bytes + 0xfc);

    memset(bytes + 0xfc, 0, 4);
    return ext2fs_crc32c_le(~0u, bytes, SUPER_BYTES) == stored;
}

static int decode_features(struct super *super, uint8_t *bytes, struct vdisk_error *error)
{
    uint32_t fast = get32(bytes + 0x54);

    super->compat = get32(bytes + 0x24);
    super->incompat = get32(bytes + 0x28);
    if (super->incompat & ~(uint32_t)INCOMPAT_KNOWN)
        return error_set(error, VDISK_E_UNSUPPORTED, "its journal has features unknown here (%#x)",
                         super->incompat & ~(uint32_t)INCOMPAT_KNOWN);
    super->seed = ext2fs_crc32c_le(~0u, bytes + 0x30, UUID_BYTES);
    if (has_sums(super) && (bytes[0x50] != CSUM_CRC32C || !super_sum_is_right(bytes)))
        return malformed(error, "the checksum of its superblock is wrong");
    if (super->incompat & INCOMPAT_FAST) {
        fast = fast ? fast : FAST_COMMITS;
        if (fast < 2 || fast >= super->last)
            return malformed(error, "its parts do not fit");
        super->last -= fast;
        super->fast = super->last + 1; /* the block between is not used */
    }
    return 0;
}

static int read_super(struct walk *walk, struct vdisk_error *error)
{
    const struct jbd2_journal *journal = walk->journal;
    struct super *super = &walk->super;
    uint8_t *bytes = walk->control;
    int result = journal->read(journal->owner, 0, bytes);

    if (result)
        return error_set(error, result, "%s", vdisk_strerror(result));
    if (get32(bytes) != MAGIC || (get32(bytes + 4) != SUPER_V1 && get32(bytes + 4) != SUPER_V2))
        return malformed(error, "it has no superblock");
    if (get32(bytes + 12) != journal->block_bytes)
        return malformed(error, "its blocks are of another size");
    super->last = get32(bytes + 16);
    super->first = get32(bytes + 20);
    super->sequence = get32(bytes + 24);
    super->start = get32(bytes + 28);
    if (super->last > journal->blocks)
        return malformed(error, "it is longer than its file");
    if (get32(bytes + 4) == SUPER_V2)
        result = decode_features(super, bytes, error);
    if (result)
        return result;
    if (super->first == 0 || super->first >= super->last || super->start >= super->last ||
        (super->start > 0 && super->start < super->first))
        return malformed(error, "its bounds are wrong");
    return 0;
}

/* --- the log ------------------------------------------------------------------------------ */

/* The next block of the ring, once around. */
static int next_block(struct walk *walk, uint8_t *data, uint32_t *where)
{
    const struct jbd2_journal *journal = walk->journal;

    if (walk->left == 0)
        return ENDS;
    walk->left--;
    *where = walk->at++;
    if (walk->at == walk->super.last)
        walk->at = walk->super.first;
    return journal->read(journal->owner, *where, data);
}

/* Of a descriptor or a list, whose checksum is at its end. */
static bool tail_is_right(struct walk *walk)
{
    uint32_t bytes = walk->journal->block_bytes, stored;

    if (!has_sums(&walk->super))
        return true;
    stored = get32(walk->control + bytes - TAIL_BYTES);
    memset(walk->control + bytes - TAIL_BYTES, 0, TAIL_BYTES);
    return ext2fs_crc32c_le(walk->super.seed, walk->control, bytes) == stored;
}

static bool commit_is_right(struct walk *walk)
{
    uint32_t bytes = walk->journal->block_bytes, stored = get32(walk->control + 16);

    if (has_sums(&walk->super)) {
        memset(walk->control + 16, 0, 4);
        return ext2fs_crc32c_le(walk->super.seed, walk->control, bytes) == stored;
    }
    /* Where no checksum was made, both bytes are zero. */
    if (!(walk->super.compat & COMPAT_CHECKSUM) || walk->control[12] == 0)
        return true;
    return walk->control[12] == CSUM_CRC32 && walk->control[13] == 4 && stored == walk->plain_crc;
}

static int cut(struct walk *walk)
{
    walk->is_cut = true;
    return ENDS;
}

struct tag {
    uint64_t block;
    uint32_t flags, sum;
};

static uint32_t tag_bytes(const struct super *super)
{
    if (super->incompat & INCOMPAT_CSUM_V3)
        return 16;
    return 8 + (super->incompat & INCOMPAT_CSUM_V2 ? 2 : 0) +
           (super->incompat & INCOMPAT_64BIT ? 4 : 0);
}

static struct tag decode_tag(const struct super *super, const uint8_t *at)
{
    struct tag tag = {.block = get32(at)};

    if (super->incompat & INCOMPAT_CSUM_V3) {
        tag.flags = get32(at + 4);
        tag.sum = get32(at + 12);
    } else {
        tag.sum = get16(at + 4);
        tag.flags = get16(at + 6);
    }
    if (super->incompat & INCOMPAT_64BIT)
        tag.block |= (uint64_t)get32(at + 8) << 32;
    return tag;
}

static bool data_is_right(const struct walk *walk, const struct tag *tag)
{
    uint32_t sequence = walk->super.sequence + walk->age, crc;
    const uint8_t number[4] = {(uint8_t)(sequence >> 24), (uint8_t)(sequence >> 16),
                               (uint8_t)(sequence >> 8), (uint8_t)sequence};

    if (!has_sums(&walk->super))
        return true;
    crc = ext2fs_crc32c_le(walk->super.seed, number, sizeof(number));
    crc = ext2fs_crc32c_le(crc, walk->data, walk->journal->block_bytes);
    return tag->sum == (walk->super.incompat & INCOMPAT_CSUM_V3 ? crc : crc & 0xffff);
}

/* The block that belongs to a tag. */
static int take_data(struct walk *walk, const struct tag *tag)
{
    struct record record = {.block = tag->block, .age = walk->age & INT32_MAX};
    uint32_t where;
    int result = next_block(walk, walk->data, &where);

    if (result)
        return result;
    if (walk->super.compat & COMPAT_CHECKSUM)
        walk->plain_crc = ext2fs_crc32_be(walk->plain_crc, walk->data, walk->journal->block_bytes);
    if (!data_is_right(walk, tag) || tag->block >= walk->journal->fs_blocks)
        return cut(walk);
    record.from = where;
    record.escaped = (tag->flags & TAG_ESCAPED) != 0;
    return add(&walk->copies, &record);
}

static int take_descriptor(struct walk *walk)
{
    uint32_t each = tag_bytes(&walk->super), at = HEADER_BYTES;
    uint32_t end = walk->journal->block_bytes - (has_sums(&walk->super) ? TAIL_BYTES : 0);
    int result = GO_ON;

    if (walk->super.compat & COMPAT_CHECKSUM)
        walk->plain_crc =
            ext2fs_crc32_be(walk->plain_crc, walk->control, walk->journal->block_bytes);
    if (!tail_is_right(walk))
        return cut(walk);
    while (result == GO_ON && at + each <= end) {
        struct tag tag = decode_tag(&walk->super, walk->control + at);

        result = take_data(walk, &tag);
        if (tag.flags & TAG_LAST)
            break;
        at += each + (tag.flags & TAG_SAME_UUID ? 0 : UUID_BYTES);
    }
    return result;
}

static int take_revoked(struct walk *walk)
{
    bool is_wide = walk->super.incompat & INCOMPAT_64BIT;
    uint32_t end = get32(walk->control + HEADER_BYTES), each = is_wide ? 8 : 4;
    uint32_t room = walk->journal->block_bytes - (has_sums(&walk->super) ? TAIL_BYTES : 0);
    int result = GO_ON;

    if (!tail_is_right(walk) || end > room)
        return cut(walk);
    for (uint32_t at = REVOKE_HEADER; result == GO_ON && at + each <= end; at += each) {
        const uint8_t *entry = walk->control + at;
        struct record record = {
            .block = is_wide ? get64(entry) : get32(entry),
            .age = walk->age & INT32_MAX,
        };

        result = add(&walk->revoked, &record);
    }
    return result;
}

static int take_commit(struct walk *walk)
{
    if (!commit_is_right(walk))
        return cut(walk);
    walk->copies.committed = walk->copies.count;
    walk->revoked.committed = walk->revoked.count;
    walk->plain_crc = ~0u;
    walk->age++;
    return GO_ON;
}

static int walk_log(struct walk *walk)
{
    int result = GO_ON;

    walk->at = walk->super.start;
    walk->left = walk->super.last - walk->super.first;
    walk->plain_crc = ~0u;
    while (result == GO_ON) {
        uint32_t where;

        result = next_block(walk, walk->control, &where);
        if (result)
            break;
        /* What is not of this transaction is older: behind the end of the log. */
        if (get32(walk->control) != MAGIC ||
            get32(walk->control + 8) != walk->super.sequence + walk->age)
            break;
        switch (get32(walk->control + 4)) {
        case DESCRIPTOR:
            result = take_descriptor(walk);
            break;
        case REVOKE:
            result = take_revoked(walk);
            break;
        case COMMIT:
            result = take_commit(walk);
            break;
        default:
            result = ENDS;
        }
    }
    return result == ENDS ? 0 : result;
}

/* A first block with a head for the transaction under way when the log ended. */
static int look_for_fast_commits(struct walk *walk, bool *found)
{
    const struct jbd2_journal *journal = walk->journal;
    const uint8_t *bytes = walk->control;
    uint32_t sequence = walk->super.sequence + walk->age;
    int result;

    *found = false;
    if (walk->super.fast == 0 || walk->super.start == 0)
        return 0;
    result = journal->read(journal->owner, walk->super.fast, walk->control);
    if (result)
        return result;
    *found = bytes[0] == FAST_HEAD_TAG && bytes[1] == 0 && bytes[8] == (uint8_t)sequence &&
             bytes[9] == (uint8_t)(sequence >> 8) && bytes[10] == (uint8_t)(sequence >> 16) &&
             bytes[11] == (uint8_t)(sequence >> 24);
    return 0;
}

/* Of each block the newest copy, unless it was revoked in its transaction or a later one. */
static int choose(struct walk *walk, struct jbd2_replay *out)
{
    const struct records *copies = &walk->copies, *revoked = &walk->revoked;
    size_t r = 0;

    sort(&walk->copies);
    sort(&walk->revoked);
    if (copies->count == 0)
        return 0;
    out->copy = calloc(copies->count, sizeof(*out->copy));
    if (!out->copy)
        return -ENOMEM;
    for (size_t i = 0; i < copies->count; i++) {
        const struct record *copy = &copies->record[i];

        if (i > 0 && copies->record[i - 1].block == copy->block)
            continue;
        while (r < revoked->count && revoked->record[r].block < copy->block)
            r++;
        if (r < revoked->count && revoked->record[r].block == copy->block &&
            revoked->record[r].age >= copy->age)
            continue;
        out->copy[out->count++] =
            (struct jbd2_copy){.block = copy->block, .from = copy->from, .escaped = copy->escaped};
    }
    return 0;
}

static int gather(struct walk *walk, struct jbd2_replay *out, struct vdisk_error *error)
{
    int result = read_super(walk, error);

    if (result)
        return result;
    if (walk->super.start > 0)
        result = walk_log(walk);
    if (result == 0)
        result = look_for_fast_commits(walk, &out->has_fast_commits);
    if (result == 0)
        result = choose(walk, out);
    out->transactions = walk->age;
    out->is_cut = walk->is_cut;
    if (result)
        error_set(error, result, "its journal: %s", vdisk_strerror(result));
    return result;
}

int jbd2_replay_read(const struct jbd2_journal *journal, struct jbd2_replay *out,
                     struct vdisk_error *error)
{
    struct walk walk = {.journal = journal};
    int result = -ENOMEM;

    memset(out, 0, sizeof(*out));
    if (journal->blocks == 0 || journal->block_bytes < JBD2_BLOCK_BYTES_MIN ||
        journal->block_bytes > JBD2_BLOCK_BYTES_MAX)
        return malformed(error, "it is empty");
    walk.control = malloc(journal->block_bytes);
    walk.data = malloc(journal->block_bytes);
    if (walk.control && walk.data)
        result = gather(&walk, out, error);
    else
        error_set(error, result, "%s", vdisk_strerror(result));
    free(walk.control);
    free(walk.data);
    free(walk.copies.record);
    free(walk.revoked.record);
    if (result)
        jbd2_replay_free(out);
    return result;
}

void jbd2_replay_free(struct jbd2_replay *replay)
{
    free(replay->copy);
    memset(replay, 0, sizeof(*replay));
}

const struct jbd2_copy *jbd2_replay_find(const struct jbd2_replay *replay, uint64_t block)
{
    size_t low = 0, high = replay->count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (replay->copy[middle].block == block)
            return &replay->copy[middle];
        if (replay->copy[middle].block < block)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}
