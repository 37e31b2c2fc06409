/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The index (SPEC.md B8): which record is where. In memory a sorted array; read-only but for
 * vb_index_add(), so that any thread may look things up.
 */
#ifndef BACKUP_REPO_INDEX_H
#define BACKUP_REPO_INDEX_H

#include "pack.h"

#define VB_INDEX_ENTRIES_MAX 65536u

struct vb_index;

/* A record that was found. */
struct vb_found {
    const struct vb_pack *pack; /* without entries */
    const struct vb_entry *entry;
    bool trusted; /* may be taken for our own (vb_repo_trusts), wherever it is */
};

/* What could not be used, for verify. `object` is an index object; error says why. */
typedef void vb_index_bad(void *opaque, enum vb_place place, const struct vb_id *object, int error);

/*
 * Loads all index objects of a place (VB_INDEX_DATA or VB_INDEX_TREE) and the list of packs that
 * are there or in the trash, from where they can be read, too. Index objects that are not right are
 * passed over, and told to `bad` (NULL allowed): what they named is then missing, which is found
 * out where it is needed.
 */
int vb_index_load(struct vb_repo *repo, enum vb_place place, vb_index_bad *bad, void *opaque,
                  struct vb_index **out);
/* NULL is allowed. */
void vb_index_free(struct vb_index *index);

/* How many there are of an id and a kind, and each of them; those in the trash last, and in the
 * same order whoever loads them. */
unsigned vb_index_count(const struct vb_index *index, enum vb_record_kind kind,
                        const struct vb_id *id);
void vb_index_get(const struct vb_index *index, enum vb_record_kind kind, const struct vb_id *id,
                  unsigned which, struct vb_found *found);
/* One that may be taken for our own, not in the trash; false: there is none. */
bool vb_index_find_trusted(const struct vb_index *index, enum vb_record_kind kind,
                           const struct vb_id *id, struct vb_found *found);
/* The number of the pack that it is in, below vb_index_packs(). */
size_t vb_index_pack_number(const struct vb_index *index, const struct vb_found *found);

/* All packs that are known, also those that are not there (then length 0 in *stored), and those in
 * the trash. One that two index objects name is there twice. */
size_t vb_index_packs(const struct vb_index *index);
const struct vb_pack *vb_index_pack(const struct vb_index *index, size_t which, uint64_t *stored);
/* The number of entries; those of a pack that is there have consecutive numbers, in its order. */
size_t vb_index_entries(const struct vb_index *index);
void vb_index_entry(const struct vb_index *index, size_t number, struct vb_found *found);
size_t vb_index_number(const struct vb_index *index, const struct vb_found *found);
size_t vb_index_pack_first(const struct vb_index *index, size_t which);

/* The codec: packs with their entries. Encode: free() *payload. Decode: release each, then free()
 * the array. VDISK_E_MALFORMED, -ENOMEM. */
int vb_index_encode(const struct vb_pack *packs, size_t count, uint8_t **payload, size_t *length);
int vb_index_decode(const uint8_t *payload, size_t length, struct vb_pack **packs, size_t *count);

/*
 * The packs that one index object names, with their origins: the signer, or whom it names for it.
 * Errors of vb_object_get() and vb_index_decode(); VDISK_E_NOT_AUTHENTIC where the signer may not
 * say that.
 */
int vb_index_read(struct vb_repo *repo, enum vb_place place, const struct vb_id *name,
                  struct vb_id *signer, struct vb_pack **packs, size_t *count);

/* How many of the packs, from the first on, go into one index object; at least one. */
size_t vb_index_fitting(const struct vb_pack *packs, size_t count);
/* Seals, signs and puts an index object about packs that are put; sync() is the caller's. */
int vb_index_put(struct vb_repo *repo, enum vb_place place, const struct vb_pack *packs,
                 size_t count);

#endif
