/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal (SPEC.md 14): what changed the map since the last checkpoint.
 *
 * Invariant: used + pending_blocks + reserved_blocks <= ring_blocks. Whoever is going to add
 * operations reserves ring space first, so that a flush always finds room.
 *
 * A record that is written so that single writes outlive the process (vd_journal_keep) is written
 * again, with those that follow, while it is one block and no sync has begun that is to make it
 * durable: vd_journal_emit, from which every such sync starts, ends that.
 *
 * A record may lead: it is written beside the data that it names, where a flush is about to follow,
 * so that the flush does not wait for one after the other. Until that data has arrived nobody else
 * emits, so that no sync covers the record; if it does not arrive, a record without it takes its
 * place.
 */
#ifndef VD_JOURNAL_H
#define VD_JOURNAL_H

#include "image.h"

/* Ring blocks that operations of so many bytes take at most, in a record of their own. */
uint32_t vd_journal_cost(size_t op_bytes);
/* Waits until there is room, and reserves it. No lock may be held. Latched images fail. */
int vd_journal_admit(struct vdisk_image *image, uint32_t blocks);
/* Memory for so many more bytes of operations. Never waits. -ENOMEM. */
int vd_journal_ready(struct vdisk_image *image, size_t op_bytes);
/* Notes an operation that was applied. vd_journal_ready made room. */
void vd_journal_add(struct vdisk_image *image, const struct vd_op *op);
/* The reservation ends: its blocks now stand for what was added. */
void vd_journal_settle(struct vdisk_image *image, uint32_t blocks, bool added);
/* Writes what is pending as records; not yet durable. Latches on failure. May wait. */
int vd_journal_emit(struct vdisk_image *image);
/* Every operation that was added before is in a record that outlives this process when this
 * returns 0. Latches on failure. May wait. */
int vd_journal_keep(struct vdisk_image *image);
/* Whether a record may be written with so many bytes of operations before their data has arrived.
 * Never waits. */
bool vd_journal_may_lead(const struct vdisk_image *image, size_t op_bytes);
/* What vd_journal_lead_emit added to the pending operations. */
struct vd_lead {
    size_t at, bytes;
    uint32_t count;
    uint64_t added;
};
/* Begins a record that leads; between vd_journal_may_lead and the emission nothing may wait. The
 * operations are added in between. */
void vd_journal_lead(struct vdisk_image *image, struct vd_lead *lead);
/* Writes it. Latches on failure. May wait. */
int vd_journal_lead_emit(struct vdisk_image *image, struct vd_lead *lead);
/* Whether the data arrived and the operations were applied; if not, they are taken out of the
 * journal. Latches on failure. May wait. */
void vd_journal_lead_end(struct vdisk_image *image, const struct vd_lead *lead, bool arrived);
/* A change is done. If as many came before the last flush, the next is likely to follow: the record
 * is written while the client still makes up its mind. May wait. */
void vd_journal_expect(struct vdisk_image *image);
/* Whether the change that begins now is likely to be the last before a flush. */
bool vd_journal_expects_flush(const struct vdisk_image *image);
/* A flush came. */
void vd_journal_note_flush(struct vdisk_image *image);
/* Everything that completed before is durable when this returns 0. May wait. */
int vd_commit(struct vdisk_image *image);

/* --- recover.c --- */
/* Reads the journal and applies it in memory (SPEC.md 15). May wait. */
int vd_journal_recover(struct vdisk_image *image);

#endif
