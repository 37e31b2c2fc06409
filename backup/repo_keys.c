/* SPDX-License-Identifier: Apache-2.0 */
/* Derivation of keys (SPEC.md B3), config and writers (B6); see repo_keys.h. */
#include "repo_keys.h"

#include "cursor.h"
#include "repo.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

#define CHUNK_LOG2 20u
#define BLOCK_LOG2 12u
#define NODE_LOG2  7u
#define PAD_MIN    3u
#define PAD_MAX    8u
#define LEVEL_MIN  (-7)
#define LEVEL_MAX  19

/* --- keys --------------------------------------------------------------------------------- */

void vb_public_of_seed(const uint8_t seed[static VB_SEED_BYTES], struct vb_id *public_key)
{
    uint8_t secret[crypto_sign_SECRETKEYBYTES];

    crypto_sign_seed_keypair(public_key->b, secret, seed);
    sodium_memzero(secret, sizeof(secret));
}

static void derive_ids(struct vb_keys *keys)
{
    crypto_kdf_derive_from_key(keys->chunk_key, VB_KEY_BYTES, 1, "vdisk_id", keys->id_key);
    crypto_kdf_derive_from_key(keys->patch_key, VB_KEY_BYTES, 2, "vdisk_id", keys->id_key);
    crypto_kdf_derive_from_key(keys->node_key, VB_KEY_BYTES, 3, "vdisk_id", keys->id_key);
}

void vb_keys_derive(struct vb_keys *keys)
{
    keys->role = VB_ROLE_READ;
    crypto_kdf_derive_from_key(keys->root_seed, VB_KEY_BYTES, 1, "vdiskbak", keys->master);
    crypto_kdf_derive_from_key(keys->id_key, VB_KEY_BYTES, 2, "vdiskbak", keys->master);
    crypto_kdf_derive_from_key(keys->meta_key, VB_KEY_BYTES, 3, "vdiskbak", keys->master);
    crypto_kdf_derive_from_key(keys->data_secret, VB_KEY_BYTES, 4, "vdiskbak", keys->master);
    derive_ids(keys);
    crypto_scalarmult_base(keys->data_public, keys->data_secret);
    vb_public_of_seed(keys->root_seed, &keys->root_public);
    vb_public_of_seed(keys->sign_seed, &keys->sign_public);
}

void vb_keys_for_role(const struct vb_keys *read, enum vb_role role, struct vb_keys *keys)
{
    memset(keys, 0, sizeof(*keys));
    randombytes_buf(keys->sign_seed, sizeof(keys->sign_seed));
    if (role == VB_ROLE_READ) {
        memcpy(keys->master, read->master, VB_KEY_BYTES);
        vb_keys_derive(keys);
        return;
    }
    keys->role = role;
    keys->root_public = read->root_public;
    memcpy(keys->meta_key, read->meta_key, VB_KEY_BYTES);
    if (role == VB_ROLE_PUT) {
        memcpy(keys->id_key, read->id_key, VB_KEY_BYTES);
        memcpy(keys->data_public, read->data_public, VB_KEY_BYTES);
        derive_ids(keys);
    } else {
        memcpy(keys->node_key, read->node_key, VB_KEY_BYTES);
    }
    vb_public_of_seed(keys->sign_seed, &keys->sign_public);
}

const char *vb_role_name(enum vb_role role)
{
    return role == VB_ROLE_READ ? "read" : role == VB_ROLE_PUT ? "put" : "maintain";
}

/* --- config ------------------------------------------------------------------------------- */

void vb_config_encode(const struct vb_config *config, uint8_t body[static VB_CONFIG_BODY_BYTES])
{
    memset(body, 0, VB_CONFIG_BODY_BYTES);
    vb_put_le(body, config->created, 8);
    body[8] = CHUNK_LOG2;
    body[9] = BLOCK_LOG2;
    body[10] = NODE_LOG2;
    body[11] = config->pad;
    body[12] = (uint8_t)config->level;
}

int vb_config_decode(struct vb_config *config, const uint8_t *body, size_t length)
{
    int8_t level;

    if (length != VB_CONFIG_BODY_BYTES || !sodium_is_zero(body + 13, 3))
        return VDISK_E_MALFORMED;
    if (body[8] != CHUNK_LOG2 || body[9] != BLOCK_LOG2 || body[10] != NODE_LOG2)
        return VDISK_E_UNSUPPORTED;
    level = (int8_t)body[12];
    if ((body[11] && (body[11] < PAD_MIN || body[11] > PAD_MAX)) || level < LEVEL_MIN ||
        level > LEVEL_MAX)
        return VDISK_E_MALFORMED;
    config->created = vb_get_le(body, 8);
    config->pad = body[11];
    config->level = level;
    return 0;
}

/* --- writers ------------------------------------------------------------------------------ */

int vb_writer_encode(const struct vb_writer *writer, uint8_t **body, size_t *length)
{
    size_t names = (size_t)writer->valid_count * VB_ID_BYTES;
    uint8_t *bytes = calloc(1, VB_WRITER_BODY_BYTES + names);
    size_t name_bytes = strlen(writer->name);

    if (!bytes)
        return -ENOMEM;
    memcpy(bytes, writer->key.b, VB_ID_BYTES);
    bytes[32] = (uint8_t)writer->role;
    bytes[33] = (uint8_t)name_bytes;
    vb_put_le(bytes + 36, writer->valid_count, 4);
    vb_put_le(bytes + 40, writer->made, 8);
    memcpy(bytes + 48, writer->name, name_bytes);
    if (names)
        memcpy(bytes + VB_WRITER_BODY_BYTES, writer->valid, names);
    *body = bytes;
    *length = VB_WRITER_BODY_BYTES + names;
    return 0;
}

static bool is_plain_text(const uint8_t *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (text[i] < 0x20 || text[i] == 0x7f)
            return false;
    }
    return true;
}

static bool is_ascending(const struct vb_id *ids, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        if (vb_id_compare(&ids[i - 1], &ids[i]) >= 0)
            return false;
    }
    return true;
}

int vb_writer_decode(struct vb_writer *writer, uint16_t detail, const uint8_t *body, size_t length)
{
    struct vb_cursor cursor = {.at = body, .end = body + length};
    struct vb_writer decoded = {.revocation = detail == 2};
    const uint8_t *names, *text;
    size_t name_bytes;

    vb_take_bytes(&cursor, decoded.key.b, VB_ID_BYTES);
    decoded.role = (enum vb_role)vb_take_le(&cursor, 1);
    name_bytes = (size_t)vb_take_le(&cursor, 1);
    vb_take_zero(&cursor, 2);
    decoded.valid_count = (uint32_t)vb_take_le(&cursor, 4);
    decoded.made = vb_take_le(&cursor, 8);
    text = vb_take(&cursor, VB_WRITER_NAME_MAX + 1);
    names = vb_take(&cursor, (size_t)decoded.valid_count * VB_ID_BYTES);
    if (cursor.failed || cursor.at != cursor.end || (detail != 1 && detail != 2) ||
        decoded.role < VB_ROLE_READ || decoded.role > VB_ROLE_MAINTAIN ||
        name_bytes > VB_WRITER_NAME_MAX || !is_plain_text(text, name_bytes) ||
        !sodium_is_zero(text + name_bytes, VB_WRITER_NAME_MAX + 1 - name_bytes) ||
        (detail == 1 && decoded.valid_count))
        return VDISK_E_MALFORMED;
    memcpy(decoded.name, text, name_bytes);
    if (decoded.valid_count) {
        decoded.valid = calloc(decoded.valid_count, VB_ID_BYTES);
        if (!decoded.valid)
            return -ENOMEM;
        memcpy(decoded.valid, names, (size_t)decoded.valid_count * VB_ID_BYTES);
    }
    if (!is_ascending(decoded.valid, decoded.valid_count)) {
        free(decoded.valid);
        return VDISK_E_MALFORMED;
    }
    *writer = decoded;
    return 0;
}

void vb_writer_release(struct vb_writer *writer)
{
    free(writer->valid);
    writer->valid = NULL;
}
