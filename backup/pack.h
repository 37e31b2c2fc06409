/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packs (SPEC.md B7): the codec of their directory, and a packer that many threads fill.
 */
#ifndef BACKUP_PACK_H
#define BACKUP_PACK_H

#include "repo.h"

#define VB_PACK_MAX         (64u << 20)
#define VB_PACK_TARGET      (32u << 20)
#define VB_PACK_ENTRIES_MAX 65536u
#define VB_PACK_SEGMENTS    256u
#define VB_PACK_TRAILER     16u
#define VB_ENTRY_BYTES      48u
#define VB_DIRECTORY_ROOM   (2u << 20) /* that directories of ours need at most */

/* Where a record is within its pack. */
struct vb_entry {
    struct vb_id id;
    uint32_t offset, length; /* bytes */
    uint32_t number;
    uint16_t segment;
    uint8_t kind; /* enum vb_record_kind: base, patch or node */
};

/* What an index says of a pack, and the pack of itself. */
struct vb_pack {
    struct vb_id name;
    struct vb_id origin; /* who stored its records; zero: who signed the index object */
    uint64_t length;     /* bytes */
    bool in_trash;       /* of a loaded index: that is where it is */
    uint16_t segment_count;
    uint32_t entry_count;
    uint8_t *segments; /* segment_count headers */
    struct vb_entry *entries;
};

void vb_entry_encode(const struct vb_entry *entry, uint8_t bytes[static VB_ENTRY_BYTES]);
/* Within its bounds of a pack of `pack_bytes` with `segments`. VDISK_E_MALFORMED. */
int vb_entry_decode(struct vb_entry *entry, const uint8_t bytes[static VB_ENTRY_BYTES],
                    uint64_t pack_bytes, unsigned segments);
/* A directory's payload: allocates `entries`. VDISK_E_MALFORMED, -ENOMEM. */
int vb_directory_decode(const uint8_t *payload, size_t length, uint64_t pack_bytes,
                        unsigned segments, struct vb_entry **entries, uint32_t *count);
/* Segment headers and sealed directory of a whole pack: all that an index says of it. Its name is
 * the caller's to compare. VDISK_E_MALFORMED, VDISK_E_NOT_AUTHENTIC, -ENOMEM. */
int vb_pack_read_directory(const struct vb_repo *repo, const uint8_t *bytes, size_t length,
                           struct vb_pack *pack);
void vb_pack_release(struct vb_pack *pack);
/* Adds directory and trailer to a pack of *used bytes in a buffer of `room`, sealed by its last
 * segment. -ENOMEM, -E2BIG, -EIO. */
int vb_directory_append(struct vb_sealer *sealer, const struct vb_segment *meta, unsigned pad,
                        const struct vb_entry *entries, uint32_t count, uint8_t *bytes, size_t room,
                        size_t *used);

/* --- making packs ------------------------------------------------------------------------- */

struct vb_packer;

/* Called by the packer's thread when a pack has been put (not yet synced); takes `pack` over. */
typedef int vb_packed(void *opaque, struct vb_pack *pack);

/* Makes data packs, or tree packs. Starts a thread, which names packs and puts them. -ENOMEM,
 * -EAGAIN, -EIO. */
int vb_packer_open(struct vb_repo *repo, bool tree, vb_packed *packed, void *opaque,
                   struct vb_packer **out);
/*
 * A record, by any thread, with a sealer of its own. Waits while two packs are full. It is not yet
 * in the store. The first error of the store is that of every later call.
 */
int vb_packer_add(struct vb_packer *packer, struct vb_sealer *sealer, enum vb_record_kind kind,
                  const struct vb_id *id, const void *payload, size_t length);
/* Ends the pack that is being filled; returns when all are put. */
int vb_packer_flush(struct vb_packer *packer);
/* Bytes of packs put so far. */
uint64_t vb_packer_bytes(struct vb_packer *packer);
/* Forgets what was not flushed. NULL is allowed. */
void vb_packer_close(struct vb_packer *packer);

#endif
