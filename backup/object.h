/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Objects as such (SPEC.md B4): the header they share, their names, and signatures.
 */
#ifndef BACKUP_OBJECT_H
#define BACKUP_OBJECT_H

#include "store.h"

#define VB_REPO_ID_BYTES     16u
#define VB_HEADER_BYTES      32u
#define VB_SIGNED_HEAD_BYTES 64u
#define VB_SIGNATURE_BYTES   64u
#define VB_SIGN_KEY_BYTES    32u        /* public */
#define VB_SEED_BYTES        32u        /* secret */
#define VB_OBJECT_MAX        (8u << 20) /* of a signed object */

enum vb_object_kind {
    VB_OBJECT_CONFIG = 1,
    VB_OBJECT_SLOT = 2,
    VB_OBJECT_WRITER = 3,
    VB_OBJECT_PACK = 4,
    VB_OBJECT_INDEX = 5,
    VB_OBJECT_MANIFEST = 6,
    VB_OBJECT_PRUNE = 7,
    VB_OBJECT_LEASE = 8,
};

struct vb_header {
    enum vb_object_kind kind;
    uint16_t detail;
    uint8_t repo_id[VB_REPO_ID_BYTES];
};

void vb_header_encode(const struct vb_header *header, uint8_t bytes[static VB_HEADER_BYTES]);
/* VDISK_E_MALFORMED; VDISK_E_UNSUPPORTED for another version. */
int vb_header_decode(struct vb_header *header, const uint8_t *bytes, size_t length);

/* SHA-256. */
void vb_object_name(const void *data, size_t length, struct vb_id *name);

/* A signed object in memory; free `bytes` with free(). */
struct vb_object {
    struct vb_header header;
    struct vb_id name;
    struct vb_id signer; /* public key */
    uint8_t *bytes;
    size_t length;
    const uint8_t *body; /* within bytes */
    size_t body_bytes;
};

/* Builds and signs one. `seed` is that of the Ed25519 key. 0 or -ENOMEM. */
int vb_object_make(const struct vb_header *header, const uint8_t seed[static VB_SEED_BYTES],
                   const void *body, size_t body_bytes, struct vb_object *object);

/*
 * Takes bytes apart and verifies the signature; whether the signer may sign such a thing is the
 * caller's to ask. `bytes` goes over to the object, also on failure, when it is freed.
 * VDISK_E_MALFORMED, VDISK_E_UNSUPPORTED, VDISK_E_NOT_AUTHENTIC (of another repository, too,
 * where repo_id is not NULL).
 */
int vb_object_open(uint8_t *bytes, size_t length, const uint8_t *repo_id, enum vb_object_kind kind,
                   struct vb_object *object);

/* Gets the whole object, compares its name, and opens it. Also -errno of the store. */
int vb_object_get(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                  const uint8_t *repo_id, enum vb_object_kind kind, struct vb_object *object);
/* Puts it under its name. */
int vb_object_put(struct vb_store *store, enum vb_place place, const struct vb_object *object);
void vb_object_release(struct vb_object *object);

/* The names in a place, ascending; free() them. */
int vb_store_names(struct vb_store *store, enum vb_place place, bool trash, struct vb_id **names,
                   size_t *count);

#endif
