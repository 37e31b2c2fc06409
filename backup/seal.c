/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segments and records (SPEC.md B5); see seal.h.
 *
 * Invariants:
 * - A segment's secret is used only after its commitment was compared.
 * - Plaintext leaves vb_sealer_open() only after its tag was verified.
 * - A number is sealed once in a segment: numbers are given out by the packer under its lock.
 */
#include "seal.h"

#include "cursor.h"

#include "vdisk/vdisk.h"

#include <errno.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sodium.h>
#include <stdlib.h>
#include <zstd.h>

#define SECRET_BYTES     32u
#define SALT_BYTES       32u
#define COMMITMENT_BYTES 32u
#define BOX_BYTES        (SECRET_BYTES + crypto_box_SEALBYTES)
#define AD_BYTES         (VB_REPO_ID_BYTES + 8 + VB_ID_BYTES)
#define NONCE_BYTES      12u
#define UNIT             16u /* to which every record is padded */
#define TABLES_LOG2      14

enum offset {
    OFFSET_KIND = 0,
    OFFSET_SECRET = 8,
    OFFSET_COMMITMENT = 88,
    OFFSET_END = 120,
};

_Static_assert(BOX_BYTES == OFFSET_COMMITMENT - OFFSET_SECRET, "the format has 80 bytes");

struct vb_segment {
    uint8_t key[32]; /* of records */
};

/* --- segments ----------------------------------------------------------------------------- */

static void hash_begin(crypto_generichash_state *state, const uint8_t *key, const char *label,
                       const uint8_t *repo_id)
{
    crypto_generichash_init(state, key, 32, 32);
    crypto_generichash_update(state, (const uint8_t *)label, strlen(label));
    crypto_generichash_update(state, repo_id, VB_REPO_ID_BYTES);
}

static void commit(const uint8_t secret[static SECRET_BYTES], const uint8_t *repo_id, uint8_t kind,
                   uint8_t commitment[static COMMITMENT_BYTES])
{
    crypto_generichash_state state;

    hash_begin(&state, secret, "vdisk segment commitment", repo_id);
    crypto_generichash_update(&state, &kind, 1);
    crypto_generichash_final(&state, commitment, COMMITMENT_BYTES);
    sodium_memzero(&state, sizeof(state));
}

static void meta_secret(const struct vb_segment_keys *keys, const uint8_t salt[static SALT_BYTES],
                        uint8_t secret[static SECRET_BYTES])
{
    crypto_generichash_state state;

    hash_begin(&state, keys->meta_key, "vdisk segment", keys->repo_id);
    crypto_generichash_update(&state, salt, SALT_BYTES);
    crypto_generichash_final(&state, secret, SECRET_BYTES);
    sodium_memzero(&state, sizeof(state));
}

static int use_secret(const uint8_t secret[static SECRET_BYTES], struct vb_segment **out)
{
    struct vb_segment *segment = vdisk_secret_alloc(sizeof(*segment));

    if (!segment)
        return -ENOMEM;
    crypto_kdf_derive_from_key(segment->key, sizeof(segment->key), 1, "vdiskseg", secret);
    *out = segment;
    return 0;
}

int vb_segment_make(const struct vb_segment_keys *keys, enum vb_segment_kind kind,
                    uint8_t header[static VB_SEGMENT_BYTES], struct vb_segment **out)
{
    uint8_t secret[SECRET_BYTES];
    int result = 0;

    if (kind == VB_SEGMENT_DATA ? !keys->data_public : !keys->meta_key)
        return VDISK_E_WRONG_KEY;
    memset(header, 0, VB_SEGMENT_BYTES);
    header[OFFSET_KIND] = (uint8_t)kind;
    if (kind == VB_SEGMENT_DATA) {
        randombytes_buf(secret, sizeof(secret));
        if (crypto_box_seal(header + OFFSET_SECRET, secret, sizeof(secret), keys->data_public))
            result = -EIO;
    } else {
        randombytes_buf(header + OFFSET_SECRET, SALT_BYTES);
        meta_secret(keys, header + OFFSET_SECRET, secret);
    }
    commit(secret, keys->repo_id, (uint8_t)kind, header + OFFSET_COMMITMENT);
    if (result == 0)
        result = use_secret(secret, out);
    sodium_memzero(secret, sizeof(secret));
    return result;
}

static int find_secret(const struct vb_segment_keys *keys, const uint8_t *header,
                       uint8_t secret[static SECRET_BYTES])
{
    if (header[OFFSET_KIND] == VB_SEGMENT_DATA) {
        if (!keys->data_secret || !keys->data_public)
            return VDISK_E_WRONG_KEY;
        return crypto_box_seal_open(secret, header + OFFSET_SECRET, BOX_BYTES, keys->data_public,
                                    keys->data_secret)
                   ? VDISK_E_NOT_AUTHENTIC
                   : 0;
    }
    if (!keys->meta_key)
        return VDISK_E_WRONG_KEY;
    meta_secret(keys, header + OFFSET_SECRET, secret);
    return 0;
}

int vb_segment_open(const struct vb_segment_keys *keys,
                    const uint8_t header[static VB_SEGMENT_BYTES], struct vb_segment **out)
{
    uint8_t secret[SECRET_BYTES], commitment[COMMITMENT_BYTES];
    uint8_t kind = header[OFFSET_KIND];
    size_t used = kind == VB_SEGMENT_DATA ? BOX_BYTES : SALT_BYTES;
    int result;

    if ((kind != VB_SEGMENT_DATA && kind != VB_SEGMENT_META) ||
        !sodium_is_zero(header + 1, OFFSET_SECRET - 1) ||
        !sodium_is_zero(header + OFFSET_SECRET + used, BOX_BYTES - used) ||
        !sodium_is_zero(header + OFFSET_END, VB_SEGMENT_BYTES - OFFSET_END))
        return VDISK_E_MALFORMED;
    result = find_secret(keys, header, secret);
    if (result == 0) {
        commit(secret, keys->repo_id, kind, commitment);
        if (sodium_memcmp(commitment, header + OFFSET_COMMITMENT, sizeof(commitment)))
            result = VDISK_E_NOT_AUTHENTIC;
    }
    if (result == 0)
        result = use_secret(secret, out);
    sodium_memzero(secret, sizeof(secret));
    return result;
}

void vb_segment_free(struct vb_segment *segment)
{
    vdisk_secret_free(segment);
}

/* --- the plaintext of records ---------------------------------------------------------------- */

static unsigned log2_of(size_t value)
{
    unsigned log = 0;

    while (value >>= 1)
        log++;
    return log;
}

size_t vb_padded(size_t length, unsigned pad)
{
    unsigned log = log2_of(length);
    size_t unit = pad && log > pad ? (size_t)1 << (log - pad) : UNIT;

    if (unit < UNIT)
        unit = UNIT;
    return (length + unit - 1) / unit * unit;
}

int vb_record_decode(const uint8_t *plain, size_t length, uint8_t *codec, const uint8_t **payload,
                     size_t *payload_bytes)
{
    struct vb_cursor cursor = {.at = plain, .end = plain + length};
    uint8_t kind = (uint8_t)vb_take_le(&cursor, 1);
    const uint8_t *bytes;
    size_t count;

    vb_take_zero(&cursor, 3);
    count = (size_t)vb_take_le(&cursor, 4);
    bytes = vb_take(&cursor, count);
    /* More padding than any policy makes. */
    if (cursor.failed || kind > 1 || !sodium_is_zero(cursor.at, (size_t)(cursor.end - cursor.at)) ||
        length > (VB_RECORD_HEAD + count) / 8 + VB_RECORD_HEAD + count + UNIT)
        return VDISK_E_MALFORMED;
    *codec = kind;
    *payload = bytes;
    *payload_bytes = count;
    return 0;
}

/* --- sealers ------------------------------------------------------------------------------ */

struct vb_sealer {
    uint8_t repo_id[VB_REPO_ID_BYTES];
    EVP_CIPHER_CTX *cipher;
    ZSTD_CCtx *compress;
    ZSTD_DCtx *decompress;
    uint8_t *plain; /* of a record, packed or decrypted */
    size_t plain_room, packed;
    uint8_t *payload; /* decompressed */
    size_t payload_room;
    uint8_t *into; /* the caller's, for one of so many bytes; or NULL */
    size_t into_bytes;
};

int vb_sealer_new(const uint8_t repo_id[static VB_REPO_ID_BYTES], struct vb_sealer **out)
{
    struct vb_sealer *sealer = calloc(1, sizeof(*sealer));

    if (!sealer)
        return -ENOMEM;
    memcpy(sealer->repo_id, repo_id, VB_REPO_ID_BYTES);
    sealer->cipher = EVP_CIPHER_CTX_new();
    if (!sealer->cipher) {
        free(sealer);
        return -ENOMEM;
    }
    *out = sealer;
    return 0;
}

void vb_sealer_free(struct vb_sealer *sealer)
{
    if (!sealer)
        return;
    EVP_CIPHER_CTX_free(sealer->cipher);
    ZSTD_freeCCtx(sealer->compress);
    ZSTD_freeDCtx(sealer->decompress);
    if (sealer->plain)
        sodium_memzero(sealer->plain, sealer->plain_room);
    if (sealer->payload)
        sodium_memzero(sealer->payload, sealer->payload_room);
    free(sealer->plain);
    free(sealer->payload);
    free(sealer);
}

/* Their content is not kept. */
static bool make_room(uint8_t **buffer, size_t *room, size_t needed)
{
    uint8_t *bytes;

    if (needed <= *room)
        return true;
    bytes = malloc(needed);
    if (!bytes)
        return false;
    if (*buffer)
        sodium_memzero(*buffer, *room);
    free(*buffer);
    *buffer = bytes;
    *room = needed;
    return true;
}

/* Smaller tables than zstd's own for these levels stay in a processor's cache: for 3 % of size, a
 * quarter less time. None of this can fail with a level in its bounds. */
static void set_level(ZSTD_CCtx *context, int level)
{
    int hash = level >= 2 && level <= 4 ? TABLES_LOG2 : 0;
    int chain = level >= 3 && level <= 4 ? TABLES_LOG2 : 0;

    ZSTD_CCtx_setParameter(context, ZSTD_c_compressionLevel, level);
    ZSTD_CCtx_setParameter(context, ZSTD_c_hashLog, hash);
    ZSTD_CCtx_setParameter(context, ZSTD_c_chainLog, chain);
}

int vb_sealer_pack(struct vb_sealer *sealer, const void *payload, size_t length, int level,
                   unsigned pad, size_t *packed)
{
    size_t room = VB_RECORD_HEAD + ZSTD_compressBound(length);
    size_t stored;
    uint8_t codec = 1;

    if (length > VB_RECORD_META_MAX)
        return -E2BIG;
    if (!sealer->compress)
        sealer->compress = ZSTD_createCCtx();
    if (!sealer->compress ||
        !make_room(&sealer->plain, &sealer->plain_room, vb_padded(room, 3) + UNIT))
        return -ENOMEM;
    set_level(sealer->compress, level);
    stored = ZSTD_compress2(sealer->compress, sealer->plain + VB_RECORD_HEAD, room - VB_RECORD_HEAD,
                            payload, length);
    if (ZSTD_isError(stored) || stored >= length) {
        codec = 0;
        stored = length;
        if (length)
            memcpy(sealer->plain + VB_RECORD_HEAD, payload, length);
    }
    memset(sealer->plain, 0, VB_RECORD_HEAD);
    sealer->plain[0] = codec;
    vb_put_le(sealer->plain + 4, stored, 4);
    sealer->packed = vb_padded(VB_RECORD_HEAD + stored, pad);
    memset(sealer->plain + VB_RECORD_HEAD + stored, 0, sealer->packed - VB_RECORD_HEAD - stored);
    *packed = sealer->packed;
    return 0;
}

static void make_context(const struct vb_sealer *sealer, const struct vb_record_context *context,
                         uint8_t nonce[static NONCE_BYTES], uint8_t ad[static AD_BYTES])
{
    memset(nonce, 0, NONCE_BYTES);
    vb_put_le(nonce, context->number, 8);
    memset(ad, 0, AD_BYTES);
    memcpy(ad, sealer->repo_id, VB_REPO_ID_BYTES);
    ad[VB_REPO_ID_BYTES] = (uint8_t)context->kind;
    memcpy(ad + VB_REPO_ID_BYTES + 8, context->id.b, VB_ID_BYTES);
}

int vb_sealer_seal(struct vb_sealer *sealer, const struct vb_segment *segment,
                   const struct vb_record_context *context, uint8_t *out)
{
    uint8_t nonce[NONCE_BYTES], ad[AD_BYTES];
    int length;

    make_context(sealer, context, nonce, ad);
    if (EVP_EncryptInit_ex(sealer->cipher, EVP_aes_256_gcm(), NULL, segment->key, nonce) != 1 ||
        EVP_EncryptUpdate(sealer->cipher, NULL, &length, ad, AD_BYTES) != 1 ||
        EVP_EncryptUpdate(sealer->cipher, out, &length, sealer->plain, (int)sealer->packed) != 1 ||
        EVP_EncryptFinal_ex(sealer->cipher, out + sealer->packed, &length) != 1 ||
        EVP_CIPHER_CTX_ctrl(sealer->cipher, EVP_CTRL_GCM_GET_TAG, VB_TAG_BYTES,
                            out + sealer->packed) != 1)
        return -EIO;
    return 0;
}

static int decrypt(struct vb_sealer *sealer, const struct vb_segment *segment,
                   const struct vb_record_context *context, const uint8_t *sealed, size_t length)
{
    uint8_t nonce[NONCE_BYTES], ad[AD_BYTES], tag[VB_TAG_BYTES];
    int done;

    make_context(sealer, context, nonce, ad);
    memcpy(tag, sealed + length, sizeof(tag));
    if (EVP_DecryptInit_ex(sealer->cipher, EVP_aes_256_gcm(), NULL, segment->key, nonce) != 1 ||
        EVP_DecryptUpdate(sealer->cipher, NULL, &done, ad, AD_BYTES) != 1 ||
        EVP_DecryptUpdate(sealer->cipher, sealer->plain, &done, sealed, (int)length) != 1 ||
        EVP_CIPHER_CTX_ctrl(sealer->cipher, EVP_CTRL_GCM_SET_TAG, VB_TAG_BYTES, tag) != 1)
        return -EIO;
    if (EVP_DecryptFinal_ex(sealer->cipher, sealer->plain + length, &done) != 1)
        return VDISK_E_NOT_AUTHENTIC;
    return 0;
}

void vb_sealer_into(struct vb_sealer *sealer, uint8_t *bytes, size_t length)
{
    sealer->into = bytes;
    sealer->into_bytes = bytes ? length : 0;
}

static int decompress(struct vb_sealer *sealer, const uint8_t *frame, size_t length, size_t limit,
                      const uint8_t **payload, size_t *payload_bytes)
{
    unsigned long long size = ZSTD_getFrameContentSize(frame, length);
    uint8_t *to;

    if (size == ZSTD_CONTENTSIZE_ERROR || size == ZSTD_CONTENTSIZE_UNKNOWN || size > limit ||
        ZSTD_findFrameCompressedSize(frame, length) != length)
        return VDISK_E_MALFORMED;
    if (!sealer->decompress)
        sealer->decompress = ZSTD_createDCtx();
    if (!sealer->decompress)
        return -ENOMEM;
    to = size == sealer->into_bytes ? sealer->into : NULL;
    if (!to && !make_room(&sealer->payload, &sealer->payload_room, size ? (size_t)size : 1))
        return -ENOMEM;
    to = to ? to : sealer->payload;
    if (ZSTD_decompressDCtx(sealer->decompress, to, (size_t)size, frame, length) != size)
        return VDISK_E_MALFORMED;
    *payload = to;
    *payload_bytes = (size_t)size;
    return 0;
}

int vb_sealer_open(struct vb_sealer *sealer, const struct vb_segment *segment,
                   const struct vb_record_context *context, const uint8_t *sealed, size_t length,
                   size_t limit, const uint8_t **payload, size_t *payload_bytes)
{
    const uint8_t *stored;
    size_t stored_bytes;
    uint8_t codec;
    int result;

    if (length < VB_TAG_BYTES + VB_RECORD_HEAD || length > VB_RECORD_META_MAX)
        return VDISK_E_MALFORMED;
    length -= VB_TAG_BYTES;
    if (!make_room(&sealer->plain, &sealer->plain_room, length + UNIT))
        return -ENOMEM;
    result = decrypt(sealer, segment, context, sealed, length);
    if (result == 0)
        result = vb_record_decode(sealer->plain, length, &codec, &stored, &stored_bytes);
    if (result)
        return result;
    if (codec == 1)
        return decompress(sealer, stored, stored_bytes, limit, payload, payload_bytes);
    if (stored_bytes > limit)
        return VDISK_E_MALFORMED;
    *payload = stored;
    *payload_bytes = stored_bytes;
    return 0;
}

/* --- ids ---------------------------------------------------------------------------------- */

void vb_id_of(const uint8_t key[static 32], const void *data, size_t length, struct vb_id *id)
{
    unsigned bytes = 0;

    HMAC(EVP_sha256(), key, 32, data, length, id->b, &bytes);
}

/* --- bodies ------------------------------------------------------------------------------- */

#define BODY_LEVEL 3

int vb_body_seal(const struct vb_segment_keys *keys, enum vb_record_kind kind, const void *payload,
                 size_t length, unsigned pad, uint8_t **body, size_t *body_bytes)
{
    const struct vb_record_context context = {.number = 0, .kind = kind};
    uint8_t header[VB_SEGMENT_BYTES], *bytes = NULL;
    struct vb_segment *segment = NULL;
    struct vb_sealer *sealer = NULL;
    size_t packed;
    int result = vb_segment_make(keys, VB_SEGMENT_META, header, &segment);

    if (result == 0)
        result = vb_sealer_new(keys->repo_id, &sealer);
    if (result == 0)
        result = vb_sealer_pack(sealer, payload, length, BODY_LEVEL, pad, &packed);
    if (result == 0) {
        bytes = malloc(VB_SEGMENT_BYTES + packed + VB_TAG_BYTES);
        result = bytes ? 0 : -ENOMEM;
    }
    if (result == 0) {
        memcpy(bytes, header, VB_SEGMENT_BYTES);
        result = vb_sealer_seal(sealer, segment, &context, bytes + VB_SEGMENT_BYTES);
    }
    vb_sealer_free(sealer);
    vb_segment_free(segment);
    if (result) {
        free(bytes);
        return result;
    }
    *body = bytes;
    *body_bytes = VB_SEGMENT_BYTES + packed + VB_TAG_BYTES;
    return 0;
}

int vb_body_open(const struct vb_segment_keys *keys, enum vb_record_kind kind, const uint8_t *body,
                 size_t body_bytes, uint8_t **payload, size_t *length)
{
    const struct vb_record_context context = {.number = 0, .kind = kind};
    struct vb_segment *segment = NULL;
    struct vb_sealer *sealer = NULL;
    const uint8_t *opened;
    size_t opened_bytes;
    uint8_t *copy = NULL;
    int result;

    if (body_bytes < VB_SEGMENT_BYTES || body[0] != VB_SEGMENT_META)
        return VDISK_E_MALFORMED;
    result = vb_segment_open(keys, body, &segment);
    if (result == 0)
        result = vb_sealer_new(keys->repo_id, &sealer);
    if (result == 0)
        result = vb_sealer_open(sealer, segment, &context, body + VB_SEGMENT_BYTES,
                                body_bytes - VB_SEGMENT_BYTES, VB_RECORD_META_MAX, &opened,
                                &opened_bytes);
    if (result == 0) {
        copy = malloc(opened_bytes ? opened_bytes : 1);
        result = copy ? 0 : -ENOMEM;
    }
    if (result == 0) {
        memcpy(copy, opened, opened_bytes);
        *payload = copy;
        *length = opened_bytes;
    }
    vb_sealer_free(sealer);
    vb_segment_free(segment);
    return result;
}
