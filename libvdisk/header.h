/* SPDX-License-Identifier: Apache-2.0 */
/* The public header and its keyslots (SPEC.md 6, 7): codec, choice between copies, MAC. */
#ifndef VD_HEADER_H
#define VD_HEADER_H

#include "crypto.h"
#include "vdisk/vdisk.h"

#define VD_BLOCK            4096u
#define VD_HEADER_BYTES     8192u
#define VD_CLUSTER_LOG2_MIN 14u
#define VD_CLUSTER_LOG2_MAX 20u
#define VD_JOURNAL_LOG2_MIN 5u
#define VD_JOURNAL_LOG2_MAX 16u
#define VD_SPLIT_UNIT       (1u << 20)
#define VD_SPLIT_MIN        (16u << 20)
#define VD_KDF_PASSES_MAX   16u
#define VD_KDF_KIB_MAX      (1024u * 1024)
#define VD_KDF_KIB_MIN      8u
#define VD_KEYSLOT_BYTES    256u

struct vd_keyslot {
    uint8_t kind; /* 0 empty, else enum vdisk_key_kind */
    uint32_t passes, kib;
    uint8_t salt[16];
    uint8_t nonce[24];
    uint64_t created;
    uint8_t wrapped[80];
    uint8_t public_key[32];
};

/* Decoded and bounds-checked. */
struct vd_header {
    uint8_t image_id[VD_ID_BYTES];
    uint64_t generation;
    uint64_t compat_features;
    uint8_t cluster_log2, journal_log2;
    uint32_t part_set;
    uint64_t split_bytes;
    uint8_t commitment[32];
    struct vd_keyslot slot[VDISK_KEYSLOTS];
};

/* 0; VDISK_E_MALFORMED (magic, checksum or a bound); VDISK_E_UNSUPPORTED (version, feature). */
int vd_header_decode(struct vd_header *header, const uint8_t bytes[static VD_HEADER_BYTES],
                     struct vdisk_error *error);
/* With MAC (under `header_key`) and checksum. */
void vd_header_encode(const struct vd_header *header, const uint8_t header_key[static VD_KEY_BYTES],
                      uint8_t bytes[static VD_HEADER_BYTES]);
/* 0 or VDISK_E_NOT_AUTHENTIC. */
int vd_header_verify(const uint8_t bytes[static VD_HEADER_BYTES],
                     const uint8_t header_key[static VD_KEY_BYTES]);

/* One slot of the keyslot block; used by the two functions above. 0 or VDISK_E_MALFORMED (unknown
 * kind, or a byte that must be zero). Costs are not judged here but by vd_header_unlock(). */
int vd_keyslot_decode(struct vd_keyslot *slot, const uint8_t bytes[static VD_KEYSLOT_BYTES],
                      struct vdisk_error *error);
void vd_keyslot_encode(const struct vd_keyslot *slot, uint8_t bytes[static VD_KEYSLOT_BYTES]);

/* Wraps the volume key into `slot` for `key`. Passphrases take the time of Argon2id, as do key
 * files of fewer than 32 bytes and those for which the key names a cost. `slot` is untouched on
 * failure. 0, -EINVAL (kind, length or cost), -ENOMEM. */
int vd_keyslot_wrap(struct vd_keyslot *slot, const struct vdisk_key *key,
                    const uint8_t image_id[static VD_ID_BYTES],
                    const uint8_t volume_key[static VD_KEY_BYTES], uint64_t created,
                    struct vdisk_error *error);
/* Tries every slot of the key's kind. On success gives the slot's number and the volume key, which
 * matched the commitment; nothing is written on failure. A slot whose cost is out of bounds is
 * passed over, and is the reason given when no other opens. 0, VDISK_E_WRONG_KEY,
 * VDISK_E_UNSUPPORTED (a cost out of bounds), -EINVAL (kind or length of the key), -ENOMEM. */
int vd_header_unlock(const struct vd_header *header, const struct vdisk_key *key, unsigned *slot,
                     uint8_t volume_key[static VD_KEY_BYTES], struct vdisk_error *error);
void vd_keyslot_info(const struct vd_keyslot *slot, unsigned number,
                     struct vdisk_keyslot_info *info);

#endif
