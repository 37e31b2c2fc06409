/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The one seal of the format (SPEC.md 5) and the derivation of keys (SPEC.md 4).
 *
 * Invariants:
 * - h, the universal hash of a piece, never leaves a function of this file but through the PRF.
 *   That is what makes a repeated stamp harmless for the tag; GMAC's fixed nonce is fatal without.
 * - Nothing is decrypted, and no output touched, before its tag was compared, in constant time.
 * - Derived keys on the stack are wiped on every path. OpenSSL keeps the key schedules on its
 *   heap and wipes them when a context is freed.
 *
 * Speed: the keys of a context are set once. A call sets only the IV, which leaves key schedule and
 * GHASH table alone; at 4 KiB a new key for each call would cost as much as the data. GMAC goes
 * through modes.h: by EVP it is the same code behind 100 to 200 ns of parameters, a fifth at 4 KiB.
 */
#include "crypto.h"
#include "bytes.h"
#include "vdisk/vdisk.h"

#include <assert.h>
#include <errno.h>
#include <openssl/evp.h>
#include <openssl/modes.h>
#include <sodium.h>
#include <stdlib.h>

#define CONTEXT_BYTES 64u
#define XTS_KEY_BYTES 64u
#define SEAL_MIN      16u
#define SEAL_MAX      (1u << 20)

#define KDF_MAIN      "vdisk_v1"
#define KDF_CIPHER    "vdiskxts"
#define KDF_HASH      "vdiskmac"
#define KDF_PRF       "vdiskprf"

_Static_assert(sizeof(KDF_MAIN) - 1 == crypto_kdf_CONTEXTBYTES, "length of a KDF context");
_Static_assert(crypto_kdf_KEYBYTES == VD_KEY_BYTES, "length of a key");

struct vd_cipher {
    EVP_CIPHER_CTX *encrypt, *decrypt; /* AES-256-XTS */
    EVP_CIPHER_CTX *hash_block;        /* AES-256-ECB under the hash key, for `hash` */
    GCM128_CONTEXT *hash;              /* only ever given additional data */
    EVP_CIPHER_CTX *prf;               /* AES-256-ECB */
};

int vdisk_init(void)
{
    return sodium_init() < 0 ? -EIO : 0;
}

/* --- seal ------------------------------------------------------------------------------- */

/* NULL on failure. */
static EVP_CIPHER_CTX *keyed(const EVP_CIPHER *cipher, const uint8_t *key, int encrypt)
{
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();

    if (!ctx)
        return NULL;
    if (EVP_CipherInit_ex2(ctx, cipher, key, NULL, encrypt, NULL) != 1) {
        EVP_CIPHER_CTX_free(ctx);
        return NULL;
    }
    return ctx;
}

static void encrypt_block(const uint8_t in[16], uint8_t out[16], const void *key)
{
    int done;

    /* One block under a key that is set: there is nothing left that could fail. */
    (void)EVP_EncryptUpdate((EVP_CIPHER_CTX *)(uintptr_t)key, out, &done, in, 16);
}

struct vd_cipher *vd_cipher_new(const uint8_t secret[static VD_KEY_BYTES])
{
    uint8_t xts_key[XTS_KEY_BYTES], hash_key[VD_KEY_BYTES], prf_key[VD_KEY_BYTES];
    struct vd_cipher *cipher = calloc(1, sizeof(*cipher));

    if (!cipher)
        return NULL;
    crypto_kdf_derive_from_key(xts_key, sizeof(xts_key), 1, KDF_CIPHER, secret);
    crypto_kdf_derive_from_key(hash_key, sizeof(hash_key), 2, KDF_HASH, secret);
    crypto_kdf_derive_from_key(prf_key, sizeof(prf_key), 3, KDF_PRF, secret);
    cipher->encrypt = keyed(EVP_aes_256_xts(), xts_key, 1);
    cipher->decrypt = keyed(EVP_aes_256_xts(), xts_key, 0);
    cipher->hash_block = keyed(EVP_aes_256_ecb(), hash_key, 1);
    cipher->prf = keyed(EVP_aes_256_ecb(), prf_key, 1);
    sodium_memzero(xts_key, sizeof(xts_key));
    sodium_memzero(hash_key, sizeof(hash_key));
    sodium_memzero(prf_key, sizeof(prf_key));
    if (!cipher->encrypt || !cipher->decrypt || !cipher->hash_block || !cipher->prf)
        goto failed;
    /* Only where it matters: OpenSSL sets it again at every new IV. */
    if (EVP_CIPHER_CTX_set_padding(cipher->prf, 0) != 1 ||
        EVP_CIPHER_CTX_set_padding(cipher->hash_block, 0) != 1)
        goto failed;
    cipher->hash = CRYPTO_gcm128_new(cipher->hash_block, encrypt_block);
    if (!cipher->hash)
        goto failed;
    return cipher;

failed:
    vd_cipher_free(cipher);
    return NULL;
}

void vd_cipher_free(struct vd_cipher *cipher)
{
    if (!cipher)
        return;
    EVP_CIPHER_CTX_free(cipher->encrypt);
    EVP_CIPHER_CTX_free(cipher->decrypt);
    CRYPTO_gcm128_release(cipher->hash); /* NULL is allowed */
    EVP_CIPHER_CTX_free(cipher->hash_block);
    EVP_CIPHER_CTX_free(cipher->prf);
    free(cipher);
}

static void encode_context(const struct vd_seal_context *context, uint8_t bytes[CONTEXT_BYTES])
{
    memset(bytes, 0, CONTEXT_BYTES);
    memcpy(bytes, context->image_id, VD_ID_BYTES);
    vd_put64(bytes + 16, context->stamp);
    vd_put64(bytes + 24, context->address);
    vd_put32(bytes + 32, context->length);
    bytes[36] = (uint8_t)context->kind;
    bytes[37] = context->detail;
    vd_put64(bytes + 40, context->extra);
}

static int compute_tag(struct vd_cipher *cipher, const struct vd_seal_context *context,
                       const void *sealed, uint8_t tag[VD_TAG_BYTES])
{
    static const uint8_t zero_iv[12];
    uint8_t bytes[CONTEXT_BYTES], h[VD_TAG_BYTES];
    int done, ok;

    encode_context(context, bytes);
    CRYPTO_gcm128_setiv(cipher->hash, zero_iv, sizeof(zero_iv));
    ok = CRYPTO_gcm128_aad(cipher->hash, bytes, sizeof(bytes)) == 0 &&
         CRYPTO_gcm128_aad(cipher->hash, sealed, context->length) == 0;
    CRYPTO_gcm128_tag(cipher->hash, h, sizeof(h));
    ok = ok && EVP_EncryptUpdate(cipher->prf, tag, &done, h, sizeof(h)) == 1 && done == sizeof(h);
    sodium_memzero(h, sizeof(h));
    return ok ? 0 : -EIO;
}

static int run_xts(EVP_CIPHER_CTX *ctx, const struct vd_seal_context *context, const void *in,
                   void *out)
{
    uint8_t tweak[16] = {0};
    int done;

    vd_put64(tweak, context->stamp);
    /* -1: the direction stays that of the key schedule. */
    if (EVP_CipherInit_ex2(ctx, NULL, NULL, tweak, -1, NULL) != 1 ||
        EVP_CipherUpdate(ctx, out, &done, in, (int)context->length) != 1 ||
        done != (int)context->length)
        return -EIO;
    return 0;
}

static void check_context(const struct vd_seal_context *context)
{
    assert(context->length >= SEAL_MIN && context->length <= SEAL_MAX);
    assert(context->length % 16 == 0);
    (void)context;
}

int vd_seal(struct vd_cipher *cipher, const struct vd_seal_context *context, const void *plain,
            void *out, uint8_t tag[static VD_TAG_BYTES])
{
    check_context(context);
    int rc = run_xts(cipher->encrypt, context, plain, out);
    if (rc)
        return rc;
    return compute_tag(cipher, context, out, tag);
}

int vd_tag(struct vd_cipher *cipher, const struct vd_seal_context *context, const void *bytes,
           uint8_t tag[static VD_TAG_BYTES])
{
    check_context(context);
    return compute_tag(cipher, context, bytes, tag);
}

int vd_verify(struct vd_cipher *cipher, const struct vd_seal_context *context, const void *sealed,
              const uint8_t tag[static VD_TAG_BYTES])
{
    uint8_t computed[VD_TAG_BYTES];

    check_context(context);
    int rc = compute_tag(cipher, context, sealed, computed);
    if (rc)
        return rc;
    rc = sodium_memcmp(computed, tag, sizeof(computed)) ? VDISK_E_NOT_AUTHENTIC : 0;
    /* The right tag of a forged piece would be a forgery in the hands of who finds it. */
    sodium_memzero(computed, sizeof(computed));
    return rc;
}

int vd_open(struct vd_cipher *cipher, const struct vd_seal_context *context, const void *sealed,
            void *out, const uint8_t tag[static VD_TAG_BYTES])
{
    int rc = vd_verify(cipher, context, sealed, tag);
    if (rc)
        return rc;
    return run_xts(cipher->decrypt, context, sealed, out);
}

/* --- keys ------------------------------------------------------------------------------- */

/* H(key, label | image_id | number | salt); `number` and `salt` may be NULL. */
static void derive(const uint8_t *key, const char *label, const uint8_t *image_id,
                   const uint32_t *number, const uint8_t *salt, uint8_t out[32])
{
    crypto_generichash_state state;
    uint8_t bytes[4];

    crypto_generichash_init(&state, key, VD_KEY_BYTES, 32);
    crypto_generichash_update(&state, (const uint8_t *)label, strlen(label));
    crypto_generichash_update(&state, image_id, VD_ID_BYTES);
    if (number) {
        vd_put32(bytes, *number);
        crypto_generichash_update(&state, bytes, sizeof(bytes));
    }
    if (salt)
        crypto_generichash_update(&state, salt, VD_SALT_BYTES);
    crypto_generichash_final(&state, out, 32);
    sodium_memzero(&state, sizeof(state));
}

void vd_master_derive(struct vd_master *master, const uint8_t volume_key[static VD_KEY_BYTES])
{
    crypto_kdf_derive_from_key(master->header, VD_KEY_BYTES, 1, KDF_MAIN, volume_key);
    crypto_kdf_derive_from_key(master->superblock, VD_KEY_BYTES, 2, KDF_MAIN, volume_key);
    crypto_kdf_derive_from_key(master->epoch, VD_KEY_BYTES, 3, KDF_MAIN, volume_key);
}

void vd_superblock_secret(const struct vd_master *master,
                          const uint8_t image_id[static VD_ID_BYTES],
                          const uint8_t salt[static VD_SALT_BYTES],
                          uint8_t secret[static VD_KEY_BYTES])
{
    derive(master->superblock, "super", image_id, NULL, salt, secret);
}

void vd_epoch_secret(const struct vd_master *master, const uint8_t image_id[static VD_ID_BYTES],
                     uint32_t epoch, const uint8_t salt[static VD_SALT_BYTES],
                     uint8_t secret[static VD_KEY_BYTES])
{
    derive(master->epoch, "epoch", image_id, &epoch, salt, secret);
}

void vd_epoch_table_secret(const struct vd_master *master,
                           const uint8_t image_id[static VD_ID_BYTES],
                           uint8_t secret[static VD_KEY_BYTES])
{
    derive(master->epoch, "table", image_id, NULL, NULL, secret);
}

void vd_key_commitment(const uint8_t volume_key[static VD_KEY_BYTES],
                       const uint8_t image_id[static VD_ID_BYTES], uint8_t commitment[static 32])
{
    derive(volume_key, "vdisk key commitment", image_id, NULL, NULL, commitment);
}
