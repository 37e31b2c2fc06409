/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keyslots of a repository and emergency keys (SPEC.md B6); see repo_keys.h.
 *
 * Invariants:
 * - No cost that comes from a file is run before it was found within bounds.
 * - Keys leave vb_slot_unwrap() only if the slot's commitment and the root key match.
 * - Key-encryption keys and payloads are wiped on every path.
 */
#include "cursor.h"
#include "repo.h"
#include "report.h"

#include <ctype.h>
#include <errno.h>
#include <openssl/sha.h>
#include <sodium.h>
#include <stdlib.h>
#include <time.h>

#define KDF_PASSES_MAX 16u
#define KDF_KIB_MIN    8u
#define KDF_KIB_MAX    (1u << 20)
#define KEY_FILE_MIN   32u /* a file of fewer bytes is stretched like a passphrase */
#define SEALED_BYTES   (VB_SLOT_PAYLOAD_BYTES + crypto_aead_xchacha20poly1305_ietf_ABYTES)
#define BOUND_BYTES    32u /* what the AEAD binds of the body */
#define LABEL_AD       "vdisk backup keyslot"
#define AD_BYTES       (sizeof(LABEL_AD) - 1 + VB_REPO_ID_BYTES + BOUND_BYTES)

_Static_assert(SEALED_BYTES == 272, "the format has 272 bytes");
_Static_assert(VB_SLOT_PAYLOAD_BYTES + crypto_box_SEALBYTES == VB_SLOT_WRAPPED_BYTES,
               "the format has 304 bytes for the box");

const char *vb_slot_kind_name(enum vb_slot_kind kind)
{
    static const char *const names[] = {"", "passphrase", "file", "recipient", "emergency"};

    return names[kind];
}

/* --- codec -------------------------------------------------------------------------------- */

void vb_slot_encode(
    const struct vb_slot *slot,
    uint8_t body[static VB_SLOT_BODY_BYTES]) /* NOLINT(readability-non-const-parameter): written */
{
    struct vb_pen pen = {.at = body, .end = body + VB_SLOT_BODY_BYTES};

    vb_write_le(&pen, slot->kind, 1);
    vb_write_le(&pen, slot->role, 1);
    vb_write_zero(&pen, 2);
    vb_write_le(&pen, slot->passes, 4);
    vb_write_le(&pen, slot->kib, 4);
    vb_write_zero(&pen, 4);
    vb_write_bytes(&pen, slot->salt, sizeof(slot->salt));
    vb_write_bytes(&pen, slot->nonce, sizeof(slot->nonce));
    vb_write_le(&pen, slot->created, 8);
    vb_write_bytes(&pen, slot->recipient, sizeof(slot->recipient));
    vb_write_bytes(&pen, slot->sign_public.b, VB_ID_BYTES);
    vb_write_bytes(&pen, slot->commitment, sizeof(slot->commitment));
    vb_write_bytes(&pen, slot->wrapped, sizeof(slot->wrapped));
}

static bool unused_is_zero(const struct vb_slot *slot)
{
    if (slot->kind == VB_SLOT_RECIPIENT)
        return slot->passes == 0 && slot->kib == 0 &&
               sodium_is_zero(slot->salt, sizeof(slot->salt)) &&
               sodium_is_zero(slot->nonce, sizeof(slot->nonce)) &&
               sodium_is_zero(slot->commitment, sizeof(slot->commitment));
    return sodium_is_zero(slot->recipient, sizeof(slot->recipient)) &&
           sodium_is_zero(slot->wrapped + SEALED_BYTES, VB_SLOT_WRAPPED_BYTES - SEALED_BYTES) &&
           (slot->kind != VB_SLOT_EMERGENCY || (slot->passes == 0 && slot->kib == 0));
}

int vb_slot_decode(struct vb_slot *slot, const uint8_t *body, size_t length)
{
    struct vb_cursor cursor = {.at = body, .end = body + length};
    struct vb_slot decoded = {.passes = 0};
    unsigned kind = (unsigned)vb_take_le(&cursor, 1), role = (unsigned)vb_take_le(&cursor, 1);

    vb_take_zero(&cursor, 2);
    decoded.passes = (uint32_t)vb_take_le(&cursor, 4);
    decoded.kib = (uint32_t)vb_take_le(&cursor, 4);
    vb_take_zero(&cursor, 4);
    vb_take_bytes(&cursor, decoded.salt, sizeof(decoded.salt));
    vb_take_bytes(&cursor, decoded.nonce, sizeof(decoded.nonce));
    decoded.created = vb_take_le(&cursor, 8);
    vb_take_bytes(&cursor, decoded.recipient, sizeof(decoded.recipient));
    vb_take_bytes(&cursor, decoded.sign_public.b, VB_ID_BYTES);
    vb_take_bytes(&cursor, decoded.commitment, sizeof(decoded.commitment));
    vb_take_bytes(&cursor, decoded.wrapped, sizeof(decoded.wrapped));
    if (cursor.failed || cursor.at != cursor.end || kind < VB_SLOT_PASSPHRASE ||
        kind > VB_SLOT_EMERGENCY || role < VB_ROLE_READ || role > VB_ROLE_MAINTAIN)
        return VDISK_E_MALFORMED;
    decoded.kind = (enum vb_slot_kind)kind;
    decoded.role = (enum vb_role)role;
    if (!unused_is_zero(&decoded))
        return VDISK_E_MALFORMED;
    *slot = decoded;
    return 0;
}

static void put_payload(const struct vb_keys *keys, uint8_t payload[static VB_SLOT_PAYLOAD_BYTES])
{
    memset(payload, 0, VB_SLOT_PAYLOAD_BYTES);
    if (keys->role == VB_ROLE_READ) {
        memcpy(payload, keys->master, VB_KEY_BYTES);
    } else {
        memcpy(payload + 96, keys->meta_key, VB_KEY_BYTES);
        if (keys->role == VB_ROLE_PUT) {
            memcpy(payload + 32, keys->id_key, VB_KEY_BYTES);
            memcpy(payload + 128, keys->data_public, VB_KEY_BYTES);
        } else {
            memcpy(payload + 64, keys->node_key, VB_KEY_BYTES);
        }
    }
    memcpy(payload + 160, keys->root_public.b, VB_KEY_BYTES);
    memcpy(payload + 192, keys->sign_seed, VB_KEY_BYTES);
}

static void take_payload(const uint8_t payload[static VB_SLOT_PAYLOAD_BYTES], enum vb_role role,
                         struct vb_keys *keys)
{
    memset(keys, 0, sizeof(*keys));
    keys->role = role;
    memcpy(keys->master, payload, VB_KEY_BYTES);
    memcpy(keys->id_key, payload + 32, VB_KEY_BYTES);
    memcpy(keys->node_key, payload + 64, VB_KEY_BYTES);
    memcpy(keys->meta_key, payload + 96, VB_KEY_BYTES);
    memcpy(keys->data_public, payload + 128, VB_KEY_BYTES);
    memcpy(keys->root_public.b, payload + 160, VB_KEY_BYTES);
    memcpy(keys->sign_seed, payload + 192, VB_KEY_BYTES);
    vb_public_of_seed(keys->sign_seed, &keys->sign_public);
    if (role == VB_ROLE_READ) {
        vb_keys_derive(keys);
    } else if (role == VB_ROLE_PUT) {
        crypto_kdf_derive_from_key(keys->chunk_key, VB_KEY_BYTES, 1, "vdisk_id", keys->id_key);
        crypto_kdf_derive_from_key(keys->patch_key, VB_KEY_BYTES, 2, "vdisk_id", keys->id_key);
        crypto_kdf_derive_from_key(keys->node_key, VB_KEY_BYTES, 3, "vdisk_id", keys->id_key);
    }
}

/* --- keys of a slot ----------------------------------------------------------------------- */

static bool cost_valid(const struct vb_slot *slot)
{
    return slot->passes >= 1 && slot->passes <= KDF_PASSES_MAX && slot->kib >= KDF_KIB_MIN &&
           slot->kib <= KDF_KIB_MAX;
}

static void hash_key(const char *label, const struct vb_slot *slot, const void *bytes,
                     size_t length, uint8_t kek[static VB_KEY_BYTES])
{
    crypto_generichash_state state;

    crypto_generichash_init(&state, NULL, 0, VB_KEY_BYTES);
    crypto_generichash_update(&state, (const uint8_t *)label, strlen(label));
    crypto_generichash_update(&state, slot->salt, sizeof(slot->salt));
    crypto_generichash_update(&state, bytes, length);
    crypto_generichash_final(&state, kek, VB_KEY_BYTES);
    sodium_memzero(&state, sizeof(state));
}

/* Of a slot that is not a recipient's, whose cost is valid. 0 or -ENOMEM. */
static int derive_kek(const struct vb_slot *slot, const void *bytes, size_t length,
                      uint8_t kek[static VB_KEY_BYTES])
{
    if (slot->kind == VB_SLOT_EMERGENCY) {
        hash_key("vdisk emergency", slot, bytes, length, kek);
        return 0;
    }
    if (slot->kind == VB_SLOT_FILE && slot->passes == 0) {
        hash_key("vdisk backup file", slot, bytes, length, kek);
        return 0;
    }
    if (crypto_pwhash_argon2id(kek, VB_KEY_BYTES, bytes, length, slot->salt, slot->passes,
                               (size_t)slot->kib * 1024, crypto_pwhash_argon2id_ALG_ARGON2ID13))
        return -ENOMEM;
    return 0;
}

static void make_commitment(const uint8_t kek[static VB_KEY_BYTES], const uint8_t *repo_id,
                            uint8_t commitment[static 32])
{
    crypto_generichash_state state;
    static const uint8_t label[] = "vdisk backup slot";

    crypto_generichash_init(&state, kek, VB_KEY_BYTES, 32);
    crypto_generichash_update(&state, label, sizeof(label) - 1);
    crypto_generichash_update(&state, repo_id, VB_REPO_ID_BYTES);
    crypto_generichash_final(&state, commitment, 32);
    sodium_memzero(&state, sizeof(state));
}

static void make_ad(const struct vb_slot *slot, const uint8_t *repo_id, uint8_t ad[static AD_BYTES])
{
    uint8_t body[VB_SLOT_BODY_BYTES];

    vb_slot_encode(slot, body);
    memcpy(ad, LABEL_AD, sizeof(LABEL_AD) - 1);
    memcpy(ad + sizeof(LABEL_AD) - 1, repo_id, VB_REPO_ID_BYTES);
    memcpy(ad + sizeof(LABEL_AD) - 1 + VB_REPO_ID_BYTES, body, BOUND_BYTES);
}

/* --- wrapping ----------------------------------------------------------------------------- */

static int choose_cost(struct vb_slot *slot, const struct vdisk_key *key, struct vdisk_error *error)
{
    if (key->length == 0)
        return error_set(error, -EINVAL, "the key is empty");
    if (slot->kind == VB_SLOT_EMERGENCY ||
        (slot->kind == VB_SLOT_FILE && key->length >= KEY_FILE_MIN && key->kdf_passes == 0 &&
         key->kdf_kib == 0))
        return 0;
    slot->passes = key->kdf_passes ? key->kdf_passes : VDISK_DEFAULT_KDF_PASSES;
    slot->kib = key->kdf_kib ? key->kdf_kib : VDISK_DEFAULT_KDF_KIB;
    if (!cost_valid(slot))
        return error_set(error, -EINVAL, "the cost of the key derivation is outside the limits");
    return 0;
}

static int wrap_secret(struct vb_slot *slot, const struct vdisk_key *key, const uint8_t *payload,
                       const uint8_t *repo_id, struct vdisk_error *error)
{
    uint8_t kek[VB_KEY_BYTES], ad[AD_BYTES];
    int result = choose_cost(slot, key, error);

    if (result)
        return result;
    randombytes_buf(slot->salt, sizeof(slot->salt));
    randombytes_buf(slot->nonce, sizeof(slot->nonce));
    result = derive_kek(slot, key->bytes, key->length, kek);
    if (result) {
        error_set(error, result, "out of memory: the key derivation needs %u KiB", slot->kib);
    } else {
        make_commitment(kek, repo_id, slot->commitment);
        make_ad(slot, repo_id, ad);
        crypto_aead_xchacha20poly1305_ietf_encrypt(slot->wrapped, NULL, payload,
                                                   VB_SLOT_PAYLOAD_BYTES, ad, sizeof(ad), NULL,
                                                   slot->nonce, kek);
    }
    sodium_memzero(kek, sizeof(kek));
    return result;
}

static int wrap_recipient(struct vb_slot *slot, const struct vdisk_key *key, const uint8_t *payload,
                          struct vdisk_error *error)
{
    if (key->length != VDISK_PUBLIC_KEY_BYTES)
        return error_set(error, -EINVAL, "this is not a public key");
    memcpy(slot->recipient, key->bytes, sizeof(slot->recipient));
    if (crypto_box_seal(slot->wrapped, payload, VB_SLOT_PAYLOAD_BYTES, slot->recipient))
        return error_set(error, -EINVAL, "this is not a valid public key");
    return 0;
}

static int slot_kind(const struct vdisk_key *key, bool emergency)
{
    if (emergency)
        return VB_SLOT_EMERGENCY;
    switch (key->kind) {
    case VDISK_KEY_PASSPHRASE:
        return VB_SLOT_PASSPHRASE;
    case VDISK_KEY_FILE:
        return VB_SLOT_FILE;
    case VDISK_KEY_RECIPIENT:
        return VB_SLOT_RECIPIENT;
    default:
        return -EINVAL;
    }
}

int vb_slot_wrap(struct vb_slot *slot, const struct vb_keys *keys, const struct vdisk_key *key,
                 bool emergency, const uint8_t *repo_id, struct vdisk_error *error)
{
    struct vb_slot made = {.role = keys->role, .sign_public = keys->sign_public};
    int result, kind = slot_kind(key, emergency);
    uint8_t *payload;

    if (kind < 0)
        return error_set(error, kind,
                         "a keyslot is made for a passphrase, a key file or a "
                         "recipient's public key");
    made.kind = (enum vb_slot_kind)kind;
    made.created = (uint64_t)time(NULL);
    payload = vdisk_secret_alloc(VB_SLOT_PAYLOAD_BYTES);
    if (!payload)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    put_payload(keys, payload);
    result = made.kind == VB_SLOT_RECIPIENT ? wrap_recipient(&made, key, payload, error)
                                            : wrap_secret(&made, key, payload, repo_id, error);
    vdisk_secret_free(payload);
    if (result == 0)
        *slot = made;
    return result;
}

/* --- unwrapping --------------------------------------------------------------------------- */

static int unwrap_secret(const struct vb_slot *slot, const void *bytes, size_t length,
                         const uint8_t *repo_id, uint8_t *payload)
{
    uint8_t kek[VB_KEY_BYTES], ad[AD_BYTES], commitment[32];
    bool is_direct =
        slot->kind == VB_SLOT_EMERGENCY || (slot->kind == VB_SLOT_FILE && slot->passes == 0);
    int result;

    if (length == 0 || (slot->kind == VB_SLOT_FILE && is_direct && length < KEY_FILE_MIN))
        return VDISK_E_WRONG_KEY;
    if (!is_direct && !cost_valid(slot))
        return VDISK_E_UNSUPPORTED;
    result = derive_kek(slot, bytes, length, kek);
    if (result == 0) {
        make_commitment(kek, repo_id, commitment);
        make_ad(slot, repo_id, ad);
        if (sodium_memcmp(commitment, slot->commitment, sizeof(commitment)) ||
            crypto_aead_xchacha20poly1305_ietf_decrypt(
                payload, NULL, NULL, slot->wrapped, SEALED_BYTES, ad, sizeof(ad), slot->nonce, kek))
            result = VDISK_E_WRONG_KEY;
    }
    sodium_memzero(kek, sizeof(kek));
    return result;
}

static int unwrap_identity(const struct vb_slot *slot, const struct vdisk_key *key,
                           uint8_t *payload)
{
    uint8_t public_key[VDISK_PUBLIC_KEY_BYTES];

    if (key->length != VDISK_IDENTITY_BYTES || crypto_scalarmult_base(public_key, key->bytes) ||
        memcmp(public_key, slot->recipient, sizeof(public_key)) != 0 ||
        crypto_box_seal_open(payload, slot->wrapped, VB_SLOT_WRAPPED_BYTES, public_key, key->bytes))
        return VDISK_E_WRONG_KEY;
    return 0;
}

static int unwrap(const struct vb_slot *slot, const struct vdisk_key *key, const uint8_t *repo_id,
                  uint8_t *payload)
{
    uint8_t emergency[VB_EMERGENCY_BYTES];
    int result = VDISK_E_WRONG_KEY;

    switch (slot->kind) {
    case VB_SLOT_PASSPHRASE:
        if (key->kind == VDISK_KEY_PASSPHRASE)
            result = unwrap_secret(slot, key->bytes, key->length, repo_id, payload);
        break;
    case VB_SLOT_FILE:
        if (key->kind == VDISK_KEY_FILE)
            result = unwrap_secret(slot, key->bytes, key->length, repo_id, payload);
        break;
    case VB_SLOT_RECIPIENT:
        if (key->kind == VDISK_KEY_IDENTITY)
            result = unwrap_identity(slot, key, payload);
        break;
    case VB_SLOT_EMERGENCY:
        if ((key->kind == VDISK_KEY_PASSPHRASE || key->kind == VDISK_KEY_FILE) &&
            vb_emergency_parse(key->bytes, key->length, emergency))
            result = unwrap_secret(slot, emergency, sizeof(emergency), repo_id, payload);
        sodium_memzero(emergency, sizeof(emergency));
        break;
    }
    return result;
}

int vb_slot_unwrap(const struct vb_slot *slot, const struct vdisk_key *key, const uint8_t *repo_id,
                   const struct vb_id *root_public, struct vb_keys *keys)
{
    uint8_t *payload = vdisk_secret_alloc(VB_SLOT_PAYLOAD_BYTES);
    int result;

    if (!payload)
        return -ENOMEM;
    result = unwrap(slot, key, repo_id, payload);
    if (result == 0) {
        take_payload(payload, slot->role, keys);
        if (!vb_id_equal(&keys->root_public, root_public) ||
            !vb_id_equal(&keys->sign_public, &slot->sign_public)) {
            sodium_memzero(keys, sizeof(*keys));
            result = VDISK_E_NOT_AUTHENTIC;
        }
    }
    vdisk_secret_free(payload);
    return result;
}

/* --- emergency keys ----------------------------------------------------------------------- */

#define EMERGENCY_CHARS 36u
#define GROUP_CHARS     4u

static const char alphabet[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/* The bytes and 20 bits of their hash, 180 bits in all. */
static void with_checksum(const uint8_t bytes[static VB_EMERGENCY_BYTES],
                          uint8_t all[static VB_EMERGENCY_BYTES + 3])
{
    uint8_t hash[SHA256_DIGEST_LENGTH];

    SHA256(bytes, VB_EMERGENCY_BYTES, hash);
    memcpy(all, bytes, VB_EMERGENCY_BYTES);
    memcpy(all + VB_EMERGENCY_BYTES, hash, 3);
    all[VB_EMERGENCY_BYTES + 2] &= 0xf0;
    sodium_memzero(hash, sizeof(hash));
}

static unsigned five_bits(const uint8_t *bytes, unsigned at)
{
    unsigned value = 0;

    for (unsigned bit = 5 * at; bit < 5 * at + 5; bit++)
        value = value << 1 | (bytes[bit / 8] >> (7 - bit % 8) & 1u);
    return value;
}

void vb_emergency_text(const uint8_t bytes[static VB_EMERGENCY_BYTES],
                       char text[static VB_EMERGENCY_TEXT_BYTES])
{
    uint8_t all[VB_EMERGENCY_BYTES + 3];
    char *at = text;

    with_checksum(bytes, all);
    for (unsigned i = 0; i < EMERGENCY_CHARS; i++) {
        if (i && i % GROUP_CHARS == 0)
            *at++ = '-';
        *at++ = alphabet[five_bits(all, i)];
    }
    *at = '\0';
    sodium_memzero(all, sizeof(all));
}

static int digit(int c)
{
    const char *at;

    c = toupper(c);
    c = c == 'O' ? '0' : c == 'I' || c == 'L' ? '1' : c;
    at = c ? strchr(alphabet, c) : NULL;
    return at ? (int)(at - alphabet) : -1;
}

bool vb_emergency_parse(const void *text, size_t length, uint8_t bytes[static VB_EMERGENCY_BYTES])
{
    uint8_t all[VB_EMERGENCY_BYTES + 3] = {0}, right[VB_EMERGENCY_BYTES + 3];
    const uint8_t *at = text;
    unsigned count = 0;
    bool valid = true;

    for (size_t i = 0; i < length && valid; i++) {
        int value;

        if (at[i] == '-' || isspace(at[i]))
            continue;
        value = digit(at[i]);
        valid = value >= 0 && count < EMERGENCY_CHARS;
        for (unsigned bit = 0; valid && bit < 5; bit++) {
            unsigned place = 5 * count + bit;

            all[place / 8] |= (uint8_t)(((unsigned)value >> (4 - bit) & 1u) << (7 - place % 8));
        }
        count++;
    }
    with_checksum(all, right);
    valid = valid && count == EMERGENCY_CHARS && sodium_memcmp(all, right, sizeof(all)) == 0;
    if (valid)
        memcpy(bytes, all, VB_EMERGENCY_BYTES);
    sodium_memzero(all, sizeof(all));
    sodium_memzero(right, sizeof(right));
    return valid;
}
