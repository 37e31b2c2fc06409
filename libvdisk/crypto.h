/* SPDX-License-Identifier: Apache-2.0 */
/* Sealing (SPEC.md 5) and the derivation of its keys (SPEC.md 4). */
#ifndef VD_CRYPTO_H
#define VD_CRYPTO_H

#include "vdisk/error.h"

#include <stddef.h>
#include <stdint.h>

#define VD_KEY_BYTES  32u
#define VD_SALT_BYTES 32u
#define VD_TAG_BYTES  16u
#define VD_ID_BYTES   16u

enum vd_seal_kind {
    VD_SEAL_RAW = 1,
    VD_SEAL_ZSTD = 2,
    VD_SEAL_NODE = 3,
    VD_SEAL_RECORD = 4,
    VD_SEAL_SUPERBLOCK = 5,
    VD_SEAL_EPOCHS = 6, /* tagged only */
};

struct vd_seal_context {
    const uint8_t *image_id; /* 16 bytes */
    uint64_t stamp;
    uint64_t address;
    uint32_t length; /* of the sealed bytes: a multiple of 16, 16 to 1 MiB */
    enum vd_seal_kind kind;
    uint8_t detail;
    uint64_t extra;
};

/* The cipher contexts under one secret; for one user at a time, of any thread. */
struct vd_cipher;

/* NULL without memory. */
struct vd_cipher *vd_cipher_new(const uint8_t secret[static VD_KEY_BYTES]);
void vd_cipher_free(struct vd_cipher *cipher);

/* `out` may be `plain`. 0 or -EIO (the cryptographic library failed). */
int vd_seal(struct vd_cipher *cipher, const struct vd_seal_context *context, const void *plain,
            void *out, uint8_t tag[static VD_TAG_BYTES]);
/* Verifies, then decrypts; `out` may be `sealed` and is untouched unless the tag matches.
 * 0, VDISK_E_NOT_AUTHENTIC or -EIO. */
int vd_open(struct vd_cipher *cipher, const struct vd_seal_context *context, const void *sealed,
            void *out, const uint8_t tag[static VD_TAG_BYTES]);
/* Only the tag, over bytes that stay as they are. */
int vd_tag(struct vd_cipher *cipher, const struct vd_seal_context *context, const void *bytes,
           uint8_t tag[static VD_TAG_BYTES]);
/* Only verifies. */
int vd_verify(struct vd_cipher *cipher, const struct vd_seal_context *context, const void *sealed,
              const uint8_t tag[static VD_TAG_BYTES]);

/* The keys of an image that hang from its volume key; lives in locked memory. */
struct vd_master {
    uint8_t header[VD_KEY_BYTES];
    uint8_t superblock[VD_KEY_BYTES];
    uint8_t epoch[VD_KEY_BYTES];
};
void vd_master_derive(struct vd_master *master, const uint8_t volume_key[static VD_KEY_BYTES]);
void vd_superblock_secret(const struct vd_master *master,
                          const uint8_t image_id[static VD_ID_BYTES],
                          const uint8_t salt[static VD_SALT_BYTES],
                          uint8_t secret[static VD_KEY_BYTES]);
void vd_epoch_secret(const struct vd_master *master, const uint8_t image_id[static VD_ID_BYTES],
                     uint32_t epoch, const uint8_t salt[static VD_SALT_BYTES],
                     uint8_t secret[static VD_KEY_BYTES]);
void vd_epoch_table_secret(const struct vd_master *master,
                           const uint8_t image_id[static VD_ID_BYTES],
                           uint8_t secret[static VD_KEY_BYTES]);
void vd_key_commitment(const uint8_t volume_key[static VD_KEY_BYTES],
                       const uint8_t image_id[static VD_ID_BYTES], uint8_t commitment[static 32]);

#endif
