/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keys of a repository by role (SPEC.md B3), its config, keyslots and writers (B6).
 */
#ifndef BACKUP_REPO_KEYS_H
#define BACKUP_REPO_KEYS_H

#include "object.h"

#include "vdisk/vdisk.h"

#define VB_KEY_BYTES            32u
#define VB_SLOT_BODY_BYTES      464u
#define VB_SLOT_WRAPPED_BYTES   304u
#define VB_SLOT_PAYLOAD_BYTES   256u
#define VB_CONFIG_BODY_BYTES    16u
#define VB_WRITER_BODY_BYTES    112u
#define VB_WRITER_NAME_MAX      63u
#define VB_SLOTS_MAX            1024u
#define VB_WRITERS_MAX          1024u
#define VB_EMERGENCY_BYTES      20u
#define VB_EMERGENCY_TEXT_BYTES 45u /* 36 characters, 8 dashes, a NUL */
#define VB_LEVEL_DEFAULT        2
#define VB_PAD_DEFAULT          5u

enum vb_role {
    VB_ROLE_READ = 1,
    VB_ROLE_PUT = 2,
    VB_ROLE_MAINTAIN = 3,
};

/* All that a key opens, in locked memory (vdisk_secret_alloc); what the role has not is zero. */
struct vb_keys {
    enum vb_role role;
    uint8_t master[VB_KEY_BYTES];
    uint8_t root_seed[VB_KEY_BYTES];
    uint8_t id_key[VB_KEY_BYTES];
    uint8_t chunk_key[VB_KEY_BYTES], patch_key[VB_KEY_BYTES], node_key[VB_KEY_BYTES];
    uint8_t meta_key[VB_KEY_BYTES];
    uint8_t data_secret[VB_KEY_BYTES];
    uint8_t data_public[VB_KEY_BYTES];
    uint8_t sign_seed[VB_SEED_BYTES];
    struct vb_id root_public;
    struct vb_id sign_public;
};

/* Those of the role read, from the master. `keys->master` and sign_seed are set. */
void vb_keys_derive(struct vb_keys *keys);
/* Those of a weaker role, with a signing key of their own. */
void vb_keys_for_role(const struct vb_keys *read, enum vb_role role, struct vb_keys *keys);
const char *vb_role_name(enum vb_role role);

/* --- config ------------------------------------------------------------------------------- */

struct vb_config {
    uint8_t repo_id[VB_REPO_ID_BYTES];
    struct vb_id root_public;
    uint64_t created; /* seconds since 1970 */
    uint8_t pad;
    int8_t level;
};

void vb_config_encode(const struct vb_config *config, uint8_t body[static VB_CONFIG_BODY_BYTES]);
/* All but repo_id and root_public. VDISK_E_MALFORMED, VDISK_E_UNSUPPORTED. */
int vb_config_decode(struct vb_config *config, const uint8_t *body, size_t length);

/* --- keyslots ----------------------------------------------------------------------------- */

enum vb_slot_kind {
    VB_SLOT_PASSPHRASE = 1,
    VB_SLOT_FILE = 2,
    VB_SLOT_RECIPIENT = 3,
    VB_SLOT_EMERGENCY = 4,
};

struct vb_slot {
    enum vb_slot_kind kind;
    enum vb_role role;
    uint32_t passes, kib;
    uint8_t salt[16], nonce[24];
    uint64_t created; /* seconds since 1970 */
    uint8_t recipient[VDISK_PUBLIC_KEY_BYTES];
    struct vb_id sign_public;
    uint8_t commitment[32];
    uint8_t wrapped[VB_SLOT_WRAPPED_BYTES];
};

void vb_slot_encode(const struct vb_slot *slot, uint8_t body[static VB_SLOT_BODY_BYTES]);
/* VDISK_E_MALFORMED. */
int vb_slot_decode(struct vb_slot *slot, const uint8_t *body, size_t length);

/* Wraps `keys` for a passphrase, key file or recipient, or for the 20 bytes of an emergency key
 * (then `emergency` is true and key->bytes are these). -EINVAL, -ENOMEM. */
int vb_slot_wrap(struct vb_slot *slot, const struct vb_keys *keys, const struct vdisk_key *key,
                 bool emergency, const uint8_t *repo_id, struct vdisk_error *error);
/*
 * Opens it with a passphrase (also if that is an emergency key's text), key file or identity.
 * VDISK_E_WRONG_KEY, VDISK_E_UNSUPPORTED (its cost), -ENOMEM. `keys` is in locked memory. The root
 * key that comes out is compared with `root_public`.
 */
int vb_slot_unwrap(const struct vb_slot *slot, const struct vdisk_key *key, const uint8_t *repo_id,
                   const struct vb_id *root_public, struct vb_keys *keys);
const char *vb_slot_kind_name(enum vb_slot_kind kind);

/* The text of an emergency key, and back: false where it is none or has a slip in it. */
void vb_emergency_text(const uint8_t bytes[static VB_EMERGENCY_BYTES],
                       char text[static VB_EMERGENCY_TEXT_BYTES]);
bool vb_emergency_parse(const void *text, size_t length, uint8_t bytes[static VB_EMERGENCY_BYTES]);

/* --- writers ------------------------------------------------------------------------------ */

struct vb_writer {
    struct vb_id key;
    enum vb_role role;
    bool revocation;
    uint64_t made; /* seconds since 1970 */
    char name[VB_WRITER_NAME_MAX + 1];
    struct vb_id *valid; /* revocation: manifests that still count, ascending */
    uint32_t valid_count;
};

/* free() *body. 0 or -ENOMEM. */
int vb_writer_encode(const struct vb_writer *writer, uint8_t **body, size_t *length);
/* Of a certificate (header detail 1) or revocation (2); vb_writer_release() it. VDISK_E_MALFORMED,
 * -ENOMEM. */
int vb_writer_decode(struct vb_writer *writer, uint16_t detail, const uint8_t *body, size_t length);
void vb_writer_release(struct vb_writer *writer);

#endif
