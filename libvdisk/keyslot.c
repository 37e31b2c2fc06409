/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keyslots (SPEC.md 7): their codec, wrapping the volume key for what a person holds, and
 * unwrapping it.
 *
 * Invariants:
 * - No cost that comes from a file is run before it was found within bounds.
 * - An unwrapped key leaves this file only after it matched the key commitment: AEADs do not
 *   commit to their keys, and one slot could be made to open to two volume keys.
 * - Key-encryption keys and candidates for the volume key are wiped on every path.
 */
#include "bytes.h"
#include "error.h"
#include "header.h"

#include <errno.h>
#include <sodium.h>

/* Offsets in a slot. */
enum offset {
    OFFSET_KIND = 0,
    OFFSET_ZERO_A = 1,
    OFFSET_PASSES = 4,
    OFFSET_KIB = 8,
    OFFSET_ZERO_B = 12,
    OFFSET_SALT = 16,
    OFFSET_NONCE = 32,
    OFFSET_CREATED = 56,
    OFFSET_WRAPPED = 64,
    OFFSET_PUBLIC_KEY = 144,
    OFFSET_PADDING = 176,
};

#define BOUND_BYTES    OFFSET_NONCE /* what the AEAD binds of a slot: all before the nonce */
#define WRAPPED_BYTES  (VD_KEY_BYTES + crypto_aead_xchacha20poly1305_ietf_ABYTES)
#define KEY_FILE_MIN   32u /* a file of fewer bytes is stretched like a passphrase */
#define LABEL_AD       "vdisk keyslot"
#define LABEL_KEY_FILE "vdisk key file"
#define AD_BYTES       (sizeof(LABEL_AD) - 1 + VD_ID_BYTES + BOUND_BYTES)

_Static_assert(WRAPPED_BYTES == 48, "the format has 48 bytes for the wrapped key");
_Static_assert(VD_KEY_BYTES + crypto_box_SEALBYTES == 80, "the format has 80 bytes for the box");
_Static_assert(crypto_pwhash_argon2id_SALTBYTES == 16, "the format has 16 bytes for the salt");
_Static_assert(crypto_aead_xchacha20poly1305_ietf_NPUBBYTES == 24, "length of the nonce");

/* --- codec ------------------------------------------------------------------------------ */

int vd_keyslot_decode(struct vd_keyslot *slot, const uint8_t bytes[static VD_KEYSLOT_BYTES],
                      struct vdisk_error *error)
{
    bool zero;

    switch (bytes[OFFSET_KIND]) {
    case 0:
        zero = vd_is_zero(bytes, VD_KEYSLOT_BYTES);
        break;
    case VDISK_KEY_PASSPHRASE:
    case VDISK_KEY_FILE:
        zero = vd_is_zero(bytes + OFFSET_WRAPPED + WRAPPED_BYTES,
                          VD_KEYSLOT_BYTES - OFFSET_WRAPPED - WRAPPED_BYTES);
        break;
    case VDISK_KEY_RECIPIENT:
        zero = vd_is_zero(bytes + OFFSET_PASSES, OFFSET_CREATED - OFFSET_PASSES);
        break;
    default:
        return vd_corrupt(error, VDISK_E_MALFORMED, "malformed keyslot: unknown kind %u",
                          bytes[OFFSET_KIND]);
    }
    if (!zero || !vd_is_zero(bytes + OFFSET_ZERO_A, OFFSET_PASSES - OFFSET_ZERO_A) ||
        !vd_is_zero(bytes + OFFSET_ZERO_B, OFFSET_SALT - OFFSET_ZERO_B) ||
        !vd_is_zero(bytes + OFFSET_PADDING, VD_KEYSLOT_BYTES - OFFSET_PADDING))
        return vd_corrupt(error, VDISK_E_MALFORMED,
                          "malformed keyslot: bytes that must be zero are not");
    slot->kind = bytes[OFFSET_KIND];
    slot->passes = vd_get32(bytes + OFFSET_PASSES);
    slot->kib = vd_get32(bytes + OFFSET_KIB);
    memcpy(slot->salt, bytes + OFFSET_SALT, sizeof(slot->salt));
    memcpy(slot->nonce, bytes + OFFSET_NONCE, sizeof(slot->nonce));
    slot->created = vd_get64(bytes + OFFSET_CREATED);
    memcpy(slot->wrapped, bytes + OFFSET_WRAPPED, sizeof(slot->wrapped));
    memcpy(slot->public_key, bytes + OFFSET_PUBLIC_KEY, sizeof(slot->public_key));
    return 0;
}

void vd_keyslot_encode(const struct vd_keyslot *slot, uint8_t bytes[static VD_KEYSLOT_BYTES])
{
    memset(bytes, 0, VD_KEYSLOT_BYTES);
    bytes[OFFSET_KIND] = slot->kind;
    vd_put32(bytes + OFFSET_PASSES, slot->passes);
    vd_put32(bytes + OFFSET_KIB, slot->kib);
    memcpy(bytes + OFFSET_SALT, slot->salt, sizeof(slot->salt));
    memcpy(bytes + OFFSET_NONCE, slot->nonce, sizeof(slot->nonce));
    vd_put64(bytes + OFFSET_CREATED, slot->created);
    memcpy(bytes + OFFSET_WRAPPED, slot->wrapped, sizeof(slot->wrapped));
    memcpy(bytes + OFFSET_PUBLIC_KEY, slot->public_key, sizeof(slot->public_key));
}

/* --- keys of a slot --------------------------------------------------------------------- */

static bool cost_valid(uint32_t passes, uint32_t kib)
{
    return passes >= 1 && passes <= VD_KDF_PASSES_MAX && kib >= VD_KDF_KIB_MIN &&
           kib <= VD_KDF_KIB_MAX;
}

/* A slot of kind 2 with the content itself as the key, unstretched. */
static bool is_direct(const struct vd_keyslot *slot)
{
    return slot->kind == VDISK_KEY_FILE && slot->passes == 0;
}

/* The key-encryption key of a slot of kind 1 or 2 whose cost is valid. 0 or -ENOMEM. */
static int derive_kek(const struct vd_keyslot *slot, const struct vdisk_key *key,
                      uint8_t kek[VD_KEY_BYTES])
{
    if (is_direct(slot)) {
        crypto_generichash_state state;

        crypto_generichash_init(&state, NULL, 0, VD_KEY_BYTES);
        crypto_generichash_update(&state, (const uint8_t *)LABEL_KEY_FILE,
                                  sizeof(LABEL_KEY_FILE) - 1);
        crypto_generichash_update(&state, slot->salt, sizeof(slot->salt));
        crypto_generichash_update(&state, key->bytes, key->length);
        crypto_generichash_final(&state, kek, VD_KEY_BYTES);
        sodium_memzero(&state, sizeof(state));
        return 0;
    }
    /* With a cost in bounds, lack of memory is all that can go wrong. */
    if (crypto_pwhash_argon2id(kek, VD_KEY_BYTES, key->bytes, key->length, slot->salt, slot->passes,
                               (size_t)slot->kib * 1024, crypto_pwhash_argon2id_ALG_ARGON2ID13))
        return -ENOMEM;
    return 0;
}

static void make_ad(const struct vd_keyslot *slot, const uint8_t *image_id, uint8_t ad[AD_BYTES])
{
    uint8_t bytes[VD_KEYSLOT_BYTES];

    vd_keyslot_encode(slot, bytes);
    memcpy(ad, LABEL_AD, sizeof(LABEL_AD) - 1);
    memcpy(ad + sizeof(LABEL_AD) - 1, image_id, VD_ID_BYTES);
    memcpy(ad + sizeof(LABEL_AD) - 1 + VD_ID_BYTES, bytes, BOUND_BYTES);
}

/* --- wrapping --------------------------------------------------------------------------- */

static int wrap_for_recipient(struct vd_keyslot *slot, const struct vdisk_key *key,
                              const uint8_t *volume_key, struct vdisk_error *error)
{
    if (key->length != VDISK_PUBLIC_KEY_BYTES)
        return vd_fail(error, -EINVAL, "a recipient's public key has %u bytes, not %zu",
                       VDISK_PUBLIC_KEY_BYTES, key->length);
    memcpy(slot->public_key, key->bytes, sizeof(slot->public_key));
    if (crypto_box_seal(slot->wrapped, volume_key, VD_KEY_BYTES, slot->public_key))
        return vd_fail(error, -EINVAL, "this is not a valid public key");
    return 0;
}

static int choose_cost(struct vd_keyslot *slot, const struct vdisk_key *key,
                       struct vdisk_error *error)
{
    if (key->length == 0)
        return vd_fail(error, -EINVAL, "the %s is empty",
                       key->kind == VDISK_KEY_FILE ? "key file" : "passphrase");
    if (key->length > crypto_pwhash_argon2id_PASSWD_MAX)
        return vd_fail(error, -EINVAL, "the key is too long");
    if (key->kind == VDISK_KEY_FILE && key->length >= KEY_FILE_MIN && key->kdf_passes == 0 &&
        key->kdf_kib == 0)
        return 0;
    slot->passes = key->kdf_passes ? key->kdf_passes : VDISK_DEFAULT_KDF_PASSES;
    slot->kib = key->kdf_kib ? key->kdf_kib : VDISK_DEFAULT_KDF_KIB;
    if (!cost_valid(slot->passes, slot->kib))
        return vd_fail(error, -EINVAL,
                       "key derivation of %u passes over %u KiB is outside the limits (1 to %u "
                       "passes, %u KiB to %u KiB)",
                       slot->passes, slot->kib, VD_KDF_PASSES_MAX, VD_KDF_KIB_MIN, VD_KDF_KIB_MAX);
    return 0;
}

static int wrap_for_secret(struct vd_keyslot *slot, const struct vdisk_key *key,
                           const uint8_t *image_id, const uint8_t *volume_key,
                           struct vdisk_error *error)
{
    uint8_t kek[VD_KEY_BYTES], ad[AD_BYTES];

    int rc = choose_cost(slot, key, error);
    if (rc)
        return rc;
    randombytes_buf(slot->salt, sizeof(slot->salt));
    randombytes_buf(slot->nonce, sizeof(slot->nonce));
    rc = derive_kek(slot, key, kek);
    if (rc) {
        vd_fail(error, rc, "out of memory: the key derivation needs %u KiB", slot->kib);
    } else {
        make_ad(slot, image_id, ad);
        crypto_aead_xchacha20poly1305_ietf_encrypt(slot->wrapped, NULL, volume_key, VD_KEY_BYTES,
                                                   ad, sizeof(ad), NULL, slot->nonce, kek);
    }
    sodium_memzero(kek, sizeof(kek));
    return rc;
}

int vd_keyslot_wrap(struct vd_keyslot *slot, const struct vdisk_key *key,
                    const uint8_t image_id[static VD_ID_BYTES],
                    const uint8_t volume_key[static VD_KEY_BYTES], uint64_t created,
                    struct vdisk_error *error)
{
    struct vd_keyslot made = {.created = created};
    int rc;

    switch (key->kind) {
    case VDISK_KEY_RECIPIENT:
        made.kind = VDISK_KEY_RECIPIENT;
        rc = wrap_for_recipient(&made, key, volume_key, error);
        break;
    case VDISK_KEY_PASSPHRASE:
    case VDISK_KEY_FILE:
        made.kind = (uint8_t)key->kind;
        rc = wrap_for_secret(&made, key, image_id, volume_key, error);
        break;
    default:
        rc = vd_fail(error, -EINVAL,
                     "a keyslot is made for a passphrase, a key file or a recipient's public key");
    }
    if (rc == 0)
        *slot = made;
    return rc;
}

/* --- unlocking -------------------------------------------------------------------------- */

/* 0, VDISK_E_WRONG_KEY (not this slot), VDISK_E_UNSUPPORTED or -ENOMEM. */
static int unwrap_with_secret(const struct vd_keyslot *slot, const struct vdisk_key *key,
                              const uint8_t *image_id, uint8_t candidate[VD_KEY_BYTES])
{
    uint8_t kek[VD_KEY_BYTES], ad[AD_BYTES];

    if (is_direct(slot) ? key->length < KEY_FILE_MIN : key->length == 0)
        return VDISK_E_WRONG_KEY;
    if (!is_direct(slot) && !cost_valid(slot->passes, slot->kib))
        return VDISK_E_UNSUPPORTED;
    int rc = derive_kek(slot, key, kek);
    if (rc == 0) {
        make_ad(slot, image_id, ad);
        if (crypto_aead_xchacha20poly1305_ietf_decrypt(candidate, NULL, NULL, slot->wrapped,
                                                       WRAPPED_BYTES, ad, sizeof(ad), slot->nonce,
                                                       kek))
            rc = VDISK_E_WRONG_KEY;
    }
    sodium_memzero(kek, sizeof(kek));
    return rc;
}

/* 0 or VDISK_E_WRONG_KEY. */
static int unwrap_with_identity(const struct vd_keyslot *slot, const uint8_t *identity,
                                uint8_t candidate[VD_KEY_BYTES])
{
    uint8_t public_key[VDISK_PUBLIC_KEY_BYTES];

    if (crypto_scalarmult_base(public_key, identity) ||
        memcmp(public_key, slot->public_key, sizeof(public_key)) != 0 ||
        crypto_box_seal_open(candidate, slot->wrapped, sizeof(slot->wrapped), public_key, identity))
        return VDISK_E_WRONG_KEY;
    return 0;
}

static int unwrap(const struct vd_header *header, const struct vd_keyslot *slot,
                  const struct vdisk_key *key, uint8_t candidate[VD_KEY_BYTES])
{
    uint8_t commitment[32];

    int rc = slot->kind == VDISK_KEY_RECIPIENT
                 ? unwrap_with_identity(slot, key->bytes, candidate)
                 : unwrap_with_secret(slot, key, header->image_id, candidate);
    if (rc)
        return rc;
    vd_key_commitment(candidate, header->image_id, commitment);
    return sodium_memcmp(commitment, header->commitment, sizeof(commitment)) ? VDISK_E_WRONG_KEY
                                                                             : 0;
}

/* The kind of slot that the key may open, or -EINVAL. */
static int kind_to_open(const struct vdisk_key *key, struct vdisk_error *error)
{
    switch (key->kind) {
    case VDISK_KEY_PASSPHRASE:
    case VDISK_KEY_FILE:
        if (key->length > crypto_pwhash_argon2id_PASSWD_MAX)
            return vd_fail(error, -EINVAL, "the key is too long");
        return (int)key->kind;
    case VDISK_KEY_IDENTITY:
        if (key->length != VDISK_IDENTITY_BYTES)
            return vd_fail(error, -EINVAL, "an identity has %u bytes, not %zu",
                           VDISK_IDENTITY_BYTES, key->length);
        return VDISK_KEY_RECIPIENT;
    default:
        return vd_fail(error, -EINVAL,
                       "an image is opened with a passphrase, a key file or an identity");
    }
}

static int explain(int rc, const struct vd_keyslot *slot, unsigned number,
                   struct vdisk_error *error)
{
    switch (rc) {
    case VDISK_E_UNSUPPORTED:
        return vd_fail(error, rc,
                       "keyslot %u asks for a key derivation of %u passes over %u KiB, outside the "
                       "limits (1 to %u passes, %u KiB to %u KiB)",
                       number, slot->passes, slot->kib, VD_KDF_PASSES_MAX, VD_KDF_KIB_MIN,
                       VD_KDF_KIB_MAX);
    case -ENOMEM:
        return vd_fail(error, rc, "out of memory: the key derivation of keyslot %u needs %u KiB",
                       number, slot->kib);
    default:
        return vd_fail(error, rc, "wrong key: it opens none of the keyslots");
    }
}

int vd_header_unlock(const struct vd_header *header, const struct vdisk_key *key, unsigned *slot,
                     uint8_t volume_key[static VD_KEY_BYTES], struct vdisk_error *error)
{
    uint8_t candidate[VD_KEY_BYTES];
    int worst = VDISK_E_WRONG_KEY;
    unsigned worst_slot = 0;

    int kind = kind_to_open(key, error);
    if (kind < 0)
        return kind;
    for (unsigned i = 0; i < VDISK_KEYSLOTS; i++) {
        if (header->slot[i].kind != kind)
            continue;
        int rc = unwrap(header, &header->slot[i], key, candidate);
        if (rc == 0) {
            memcpy(volume_key, candidate, VD_KEY_BYTES);
            sodium_memzero(candidate, sizeof(candidate));
            *slot = i;
            return 0;
        }
        if (rc != VDISK_E_WRONG_KEY && worst == VDISK_E_WRONG_KEY) {
            worst = rc;
            worst_slot = i;
        }
    }
    sodium_memzero(candidate, sizeof(candidate));
    return explain(worst, &header->slot[worst_slot], worst_slot, error);
}

/* --- for the caller --------------------------------------------------------------------- */

void vdisk_identity_generate(uint8_t identity[VDISK_IDENTITY_BYTES],
                             uint8_t public_key[VDISK_PUBLIC_KEY_BYTES])
{
    crypto_box_keypair(public_key, identity);
}

void vd_keyslot_info(const struct vd_keyslot *slot, unsigned number,
                     struct vdisk_keyslot_info *info)
{
    memset(info, 0, sizeof(*info));
    info->slot = number;
    info->kind = (enum vdisk_key_kind)slot->kind;
    info->kdf_passes = slot->passes;
    info->kdf_kib = slot->kib;
    info->created = slot->created > INT64_MAX ? INT64_MAX : (int64_t)slot->created;
    memcpy(info->public_key, slot->public_key, sizeof(info->public_key));
}
