/* SPDX-License-Identifier: Apache-2.0 */
/* Freezing the state, sealing dirty nodes, turning the superblock; see checkpoint.h. */
#include "checkpoint.h"

#include "bytes.h"
#include "journal.h"
#include "map.h"

#include <assert.h>
#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

struct pending_node {
    struct pending_node *next;
    struct vd_node *node; /* pinned until it is on disk: it may be evicted then, not before */
    uint8_t *bytes;
    struct vdisk_io_request io;
};

struct checkpoint {
    struct vdisk_image *image;
    struct vd_epoch_keys *keys;
    struct vd_cipher *cipher;
    struct pending_node *nodes;
    struct vd_runs freed;
    uint8_t *superblock;
    bool journal_locked; /* no record is written until the superblock is durable */
    uint32_t journal_used;
    uint64_t journal_seq;
};

/* --- sealing nodes --- */

/* Seals the node at `block` and sets its new reference; the write is queued. */
static int seal_node(struct checkpoint *cp, struct vd_node *node, uint64_t block, unsigned blocks)
{
    struct vdisk_image *image = cp->image;
    size_t length = (size_t)blocks * VD_BLOCK;
    struct pending_node *pending = calloc(1, sizeof(*pending));
    uint8_t *bytes = pending ? vd_buffer_new(length) : NULL;
    if (!bytes) {
        free(pending);
        return -ENOMEM;
    }
    struct vd_ref ref = {
        .block = block,
        .blocks = (uint8_t)blocks,
        .stamp = vd_stamp_take(image, 1),
        .hint = vd_node_hint(node),
    };
    bool plain = node->tree->type == VD_TREE_EPOCHS;
    struct vd_seal_context context = {
        .image_id = image->header.image_id,
        .stamp = ref.stamp,
        .address = node->index,
        .length = (uint32_t)length,
        .kind = plain ? VD_SEAL_EPOCHS : VD_SEAL_NODE,
        .detail = (uint8_t)(node->tree->type * 16 + node->level),
    };
    vd_node_encode(node, bytes, length);
    int r = plain ? vd_tag(image->table_cipher, &context, bytes, ref.tag)
                  : vd_seal(cp->cipher, &context, bytes, bytes, ref.tag);
    pending->bytes = bytes;
    pending->next = cp->nodes;
    cp->nodes = pending;
    if (r)
        return r;
    pending->io = (struct vdisk_io_request){
        .op = VDISK_IO_WRITE, .offset = block * VD_BLOCK, .data = bytes, .length = length};
    vd_node_pin(node);
    pending->node = node;
    node->holder = &pending->node;
    node->ref = ref;
    vd_node_clean(node);
    return 0;
}

/* The version of a node before this checkpoint is no longer needed, unless a snapshot has it. */
static int drop_old(struct vdisk_image *image, struct vd_node *node)
{
    if (!vd_ref_is_node(&node->ref))
        return 0;
    if (node->tree == &image->map &&
        node->ref.stamp <= vd_parent_stamp(image, (node->index + 1) * vd_span(node->level)))
        return 0;
    int r = vd_runs_reserve(&image->alloc.frees, 1);
    if (!r)
        vd_alloc_free(image, node->ref.block, node->ref.blocks);
    return r;
}

/* Seals the dirty nodes of a subtree, children first. */
static int seal_subtree(struct checkpoint *cp, struct vd_node *node)
{
    bool all_zero;
    uint64_t block;
    int r = 0;
    if (node->level > 0) {
        for (unsigned i = 0; i < VD_FANOUT && !r; i++) {
            struct vd_node *kid = node->inner->kid[i];
            if (kid && kid->dirty)
                r = seal_subtree(cp, kid);
        }
    }
    if (!r)
        r = drop_old(cp->image, node);
    if (r)
        return r;
    unsigned blocks = vd_node_blocks(node, &all_zero);
    if (blocks == 0) {
        node->ref = (struct vd_ref){.hint = all_zero};
        vd_node_clean(node);
        return 0;
    }
    r = vd_reserve_take(cp->image, blocks, &block);
    if (r)
        return r;
    vd_alloc_use(cp->image, block, blocks);
    return seal_node(cp, node, block, blocks);
}

static int seal_tree(struct checkpoint *cp, struct vd_tree *tree)
{
    return tree->root && tree->root->dirty ? seal_subtree(cp, tree->root) : 0;
}

/* --- the allocation tree: placing its nodes changes it --- */

static int place_subtree(struct checkpoint *cp, struct vd_node *node, bool *placed)
{
    struct vdisk_image *image = cp->image;
    int r = 0;
    if (!node->placed) {
        r = vd_reserve_take(image, 1, &node->place);
        if (!r)
            r = drop_old(image, node);
        if (r)
            return r;
        node->placed = true;
        *placed = true;
        vd_alloc_use(image, node->place, 1);
    }
    for (unsigned i = 0; node->level > 0 && i < VD_FANOUT && !r; i++) {
        struct vd_node *kid = node->inner->kid[i];
        if (kid && kid->dirty)
            r = place_subtree(cp, kid, placed);
    }
    return r;
}

/* Gives every dirty node a place until no placing dirties another; each node is placed once. */
static int place_alloc(struct checkpoint *cp)
{
    struct vd_tree *tree = &cp->image->alloc.tree;
    for (bool placed = true; placed;) {
        placed = false;
        int r = vd_alloc_apply_frees(cp->image, &cp->freed);
        if (!r && tree->root && tree->root->dirty)
            r = place_subtree(cp, tree->root, &placed);
        if (r)
            return r;
    }
    return 0;
}

static int seal_alloc(struct checkpoint *cp, struct vd_node *node)
{
    int r = 0;
    for (unsigned i = 0; node->level > 0 && i < VD_FANOUT && !r; i++) {
        struct vd_node *kid = node->inner->kid[i];
        if (kid && kid->dirty)
            r = seal_alloc(cp, kid);
    }
    return r ? r : seal_node(cp, node, node->place, 1);
}

/* --- the superblock --- */

static int seal_superblock(struct checkpoint *cp)
{
    struct vdisk_image *image = cp->image;
    struct vd_superblock *super = image->super;
    struct vd_tree *trees[] = {&image->map, &image->alloc.tree, &image->epochs, &image->snaps};
    uint8_t secret[VD_KEY_BYTES];
    super->generation++;
    super->last_stamp = image->stamp;
    for (unsigned i = 0; i < 4; i++) {
        super->height[trees[i]->type] = trees[i]->height;
        super->root[trees[i]->type] = *vd_tree_root_ref(trees[i]);
    }
    super->host_blocks = image->alloc.host_blocks;
    super->used_blocks = image->alloc.used_blocks;
    super->journal_seq = image->journal.seq;
    super->journal_pos = image->journal.pos;
    memcpy(super->journal_prev_tag, image->journal.prev_tag, VD_TAG_BYTES);
    super->reserve_count = vd_reserve_runs(image, super->reserve);

    cp->superblock = vd_buffer_new(VD_BLOCK);
    if (!cp->superblock)
        return -ENOMEM;
    randombytes_buf(cp->superblock, VD_SALT_BYTES);
    vd_superblock_secret(image->master, image->header.image_id, cp->superblock, secret);
    struct vd_cipher *cipher = vd_cipher_new(secret);
    sodium_memzero(secret, sizeof(secret));
    if (!cipher)
        return -ENOMEM;
    struct vd_seal_context context = {
        .image_id = image->header.image_id,
        .length = VD_SUPER_BODY,
        .kind = VD_SEAL_SUPERBLOCK,
    };
    uint8_t *body = cp->superblock + VD_SUPER_BODY_AT;
    vd_superblock_encode(super, body);
    int r = vd_seal(cipher, &context, body, body, cp->superblock + VD_SALT_BYTES);
    if (r)
        sodium_memzero(body, VD_SUPER_BODY);
    vd_cipher_free(cipher);
    return r;
}

/* --- the freeze --- */

static int new_epoch(struct vdisk_image *image)
{
    struct vd_superblock *super = image->super;
    struct vd_node *leaf = NULL;
    if (super->epoch >= VD_EPOCH_MAX)
        return vd_image_fail(image, VDISK_E_LIMIT,
                             "the image was opened for writing too often; rotate its key");
    uint32_t epoch = super->epoch + 1;
    uint8_t height = vd_height_for(epoch / VD_SALTS + 1);
    int r = vd_tree_grow(&image->epochs, height);
    if (!r)
        r = vd_tree_get(&image->epochs, 0, epoch / VD_SALTS, true, &leaf, NULL);
    if (r)
        return r;
    super->epoch = epoch;
    randombytes_buf(super->epoch_salt, VD_SALT_BYTES);
    memcpy(leaf->salts[epoch % VD_SALTS], super->epoch_salt, VD_SALT_BYTES);
    vd_node_dirty(leaf);
    vd_node_unpin(leaf);
    image->stamp = (uint64_t)epoch << VD_STAMP_COUNTER;
    struct vd_journal *j = &image->journal;
    j->seq += j->ring_blocks + 1;
    memset(j->prev_tag, 0, VD_TAG_BYTES);
    return 0;
}

/* Seals all trees as they are now, and the superblock over them. */
static int seal_all(struct checkpoint *cp)
{
    struct vdisk_image *image = cp->image;
    int r = seal_tree(cp, &image->map);
    if (!r)
        r = seal_tree(cp, &image->snaps);
    if (!r)
        r = seal_tree(cp, &image->epochs);
    if (!r)
        r = place_alloc(cp);
    if (!r && image->alloc.tree.root && image->alloc.tree.root->dirty)
        r = seal_alloc(cp, image->alloc.tree.root);
    if (!r)
        vd_reserve_shed(image, &cp->freed);
    return r ? r : seal_superblock(cp);
}

/* What follows a change that is not in the journal must not be replayed over the state before it:
 * an old superblock, put back, would give a state that never was. So the chain of records begins
 * anew, and its first one is not written before the superblock that says so. */
static void begin_chain(struct checkpoint *cp)
{
    struct vdisk_image *image = cp->image;
    vd_lock_exclusive(&image->loop, &image->journal.lock);
    cp->journal_locked = true;
    randombytes_buf(image->journal.prev_tag, VD_TAG_BYTES);
}

/* With the gate held. An error latches the image, since what is in memory is no longer one state;
 * but a change that refuses (*refused) before it changed anything does not. */
static int freeze(struct checkpoint *cp, const struct vd_change *change, bool epoch, int *refused)
{
    struct vdisk_image *image = cp->image;
    int r = epoch ? new_epoch(image) : vd_journal_emit(image);
    if (!r)
        r = vd_keys_get(image, image->super->epoch, &cp->keys);
    if (!r && !(cp->cipher = vd_keys_take(cp->keys)))
        r = -ENOMEM;
    if (!r)
        r = seal_tree(cp, &image->map);
    if (!r && change) {
        bool changed = false;
        r = change->apply(image, change->arg, &changed);
        if (r && !changed) {
            *refused = r;
            r = 0;
        }
        if (changed)
            begin_chain(cp);
    }
    if (!r)
        r = seal_all(cp);
    cp->journal_used = image->journal.used;
    cp->journal_seq = image->journal.seq;
    return r ? vd_image_latch(image, r, "a checkpoint cannot be made") : 0;
}

/* --- writing --- */

static int write_slot(struct vdisk_image *image, uint64_t block, uint8_t *bytes)
{
    int r = vd_io(&image->loop, VDISK_IO_WRITE, block * VD_BLOCK, bytes, VD_BLOCK);
    return r ? r : vd_io(&image->loop, VDISK_IO_SYNC, 0, NULL, 0);
}

static int write_out(struct checkpoint *cp)
{
    struct vdisk_image *image = cp->image;
    uint64_t slot[2] = {2, (UINT64_C(1) << image->header.journal_log2) + 2};
    struct vd_group group;
    vd_group_init(&group, &image->loop);
    for (struct pending_node *p = cp->nodes; p; p = p->next)
        vd_group_io(&group, &p->io);
    int r = vd_group_wait(&group);
    if (!r)
        r = vd_io(&image->loop, VDISK_IO_SYNC, 0, NULL, 0);
    for (unsigned i = 0; i < 2 && !r; i++)
        r = write_slot(image, slot[i ^ image->superblock_b_first], cp->superblock);
    if (r)
        return vd_image_latch(image, r, "a checkpoint cannot be written");
    image->journal.used -= cp->journal_used;
    image->journal.durable = vd_max64(image->journal.durable, cp->journal_seq);
    image->superblock_damaged = image->superblock_b_first = false;
    return 0;
}

static void release(struct checkpoint *cp)
{
    while (cp->nodes) {
        struct pending_node *p = cp->nodes;
        cp->nodes = p->next;
        if (p->node)
            p->node->holder = NULL;
        vd_node_unpin(p->node);
        free(p->bytes);
        free(p);
    }
    if (cp->keys)
        vd_keys_give(cp->keys, cp->cipher);
    vd_keys_put(cp->keys);
    vd_runs_release(&cp->freed);
    free(cp->superblock);
}

/* With checkpoint_running set by the caller. */
static int run_checkpoint(struct vdisk_image *image, const struct vd_change *change, bool epoch)
{
    struct checkpoint cp = {.image = image};
    int refused = 0;
    bool states = change && change->states;
    if (image->failed)
        return vd_image_fail(image, VDISK_E_FAILED,
                             "an earlier write to the image file failed; open it again");
    uint64_t promised = VD_CHECKPOINT_BLOCKS + (change ? change->reserve_blocks : 0);
    bool relief = !change || change->relief;
    int r = vd_reserve_promise(image, promised, relief ? VD_FOR_CHECKPOINT : VD_FOR_WRITE);
    if (r)
        return r;
    if (states)
        vd_lock_exclusive(&image->loop, &image->states);
    vd_lock_exclusive(&image->loop, &image->gate);
    r = freeze(&cp, change, epoch, &refused);
    vd_unlock_exclusive(&image->loop, &image->gate);
    if (states)
        vd_unlock_exclusive(&image->loop, &image->states);
    if (!r)
        r = write_out(&cp);
    if (!r && epoch)
        image->epoch_begun = true;
    if (cp.journal_locked)
        vd_unlock_exclusive(&image->loop, &image->journal.lock);
    if (!r)
        vd_reserve_recycle(image, &cp.freed);
    vd_reserve_settle(image, promised);
    release(&cp);
    return r ? r : refused;
}

static void begin(struct vdisk_image *image)
{
    while (image->checkpoint_running)
        vd_wait(&image->loop, &image->checkpoint_waiters);
    image->checkpoint_running = true;
}

static void end(struct vdisk_image *image, int result)
{
    image->checkpoint_running = false;
    image->checkpoint_result = result;
    image->checkpoints_done++;
    vd_wake_all(&image->loop, &image->checkpoint_waiters);
}

int vd_begin_writing(struct vdisk_image *image)
{
    if (image->epoch_begun)
        return 0;
    if (image->read_only)
        return vd_image_fail(image, -EROFS, "the image is open read-only");
    begin(image);
    int r = image->epoch_begun ? 0 : run_checkpoint(image, NULL, true);
    end(image, r);
    return r;
}

/* The first one since opening begins the epoch, too. */
int vd_checkpoint(struct vdisk_image *image, const struct vd_change *change)
{
    if (image->read_only)
        return vd_image_fail(image, -EROFS, "the image is open read-only");
    begin(image);
    int r = run_checkpoint(image, change, !image->epoch_begun);
    end(image, r);
    return r;
}

int vd_checkpoint_join(struct vdisk_image *image)
{
    if (!image->checkpoint_running)
        return vd_checkpoint(image, NULL);
    uint64_t done = image->checkpoints_done;
    while (image->checkpoints_done == done)
        vd_wait(&image->loop, &image->checkpoint_waiters);
    return image->checkpoint_result ? vd_checkpoint(image, NULL) : 0;
}

static void background(void *arg)
{
    struct vdisk_image *image = arg;
    end(image, run_checkpoint(image, NULL, false));
}

void vd_checkpoint_kick(struct vdisk_image *image)
{
    bool due = image->journal.used >= image->journal.ring_blocks / 2 ||
               image->cache.dirty_bytes > image->cache.limit / 2;
    if (!due || image->checkpoint_running || !image->epoch_begun || image->failed)
        return;
    image->checkpoint_running = true;
    if (vd_loop_spawn(&image->loop, background, image))
        image->checkpoint_running = false;
}
