/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The public header (SPEC.md 6): codec, checksum, MAC.
 *
 * Decoding is the door: it is given bytes that anybody may have written, and what passes it is
 * within every bound of the format. That does not make it authentic; vd_header_verify() does, once
 * a keyslot was unlocked.
 */
#include "header.h"
#include "bytes.h"
#include "error.h"

#include <assert.h>
#include <sodium.h>

#define VERSION 1u

enum offset {
    OFFSET_MAGIC = 0,
    OFFSET_VERSION = 8,
    OFFSET_LENGTH = 12,
    OFFSET_IMAGE_ID = 16,
    OFFSET_GENERATION = 32,
    OFFSET_INCOMPATIBLE = 40,
    OFFSET_COMPATIBLE = 48,
    OFFSET_CLUSTER_LOG2 = 56,
    OFFSET_JOURNAL_LOG2 = 57,
    OFFSET_ZERO = 58,
    OFFSET_PART_SET = 60,
    OFFSET_SPLIT = 64,
    OFFSET_COMMITMENT = 72,
    OFFSET_PADDING = 104,
    OFFSET_MAC = 4032,
    OFFSET_CHECKSUM = 4064,
    OFFSET_SLOTS = 4096,
};

#define HASH_BYTES 32u

_Static_assert(OFFSET_MAC + HASH_BYTES == OFFSET_CHECKSUM, "MAC and checksum are neighbours");
_Static_assert(OFFSET_CHECKSUM + HASH_BYTES == OFFSET_SLOTS, "the checksum ends the block");
_Static_assert(OFFSET_SLOTS + VDISK_KEYSLOTS * VD_KEYSLOT_BYTES == VD_HEADER_BYTES,
               "the slots fill the second block");

static const uint8_t magic[8] = {0x89, 'V', 'D', 'I', 'S', 'K', '\r', '\n'};

/* H(key, bytes with everything from `from` to the end of the first block taken as zero). */
static void hash_with_zeros(const uint8_t *bytes, size_t from, const uint8_t *key,
                            uint8_t out[HASH_BYTES])
{
    static const uint8_t zeros[2 * HASH_BYTES];
    crypto_generichash_state state;

    crypto_generichash_init(&state, key, key ? VD_KEY_BYTES : 0, HASH_BYTES);
    crypto_generichash_update(&state, bytes, from);
    crypto_generichash_update(&state, zeros, OFFSET_SLOTS - from);
    crypto_generichash_update(&state, bytes + OFFSET_SLOTS, VD_HEADER_BYTES - OFFSET_SLOTS);
    crypto_generichash_final(&state, out, HASH_BYTES);
    sodium_memzero(&state, sizeof(state));
}

/* Magic, checksum, version, features: whether this is a header that we can read at all. */
static int check_frame(const uint8_t *bytes, struct vdisk_error *error)
{
    uint8_t checksum[HASH_BYTES];

    if (memcmp(bytes + OFFSET_MAGIC, magic, sizeof(magic)) != 0)
        return vd_corrupt(error, VDISK_E_MALFORMED, "not a vdisk image (no magic number)");
    hash_with_zeros(bytes, OFFSET_CHECKSUM, NULL, checksum);
    if (memcmp(bytes + OFFSET_CHECKSUM, checksum, sizeof(checksum)) != 0)
        return vd_corrupt(error, VDISK_E_MALFORMED, "the header is damaged (checksum)");
    uint32_t version = vd_get32(bytes + OFFSET_VERSION);
    if (version != VERSION)
        return vd_fail(error, VDISK_E_UNSUPPORTED,
                       "the image has format version %u; this program knows version %u", version,
                       VERSION);
    uint64_t features = vd_get64(bytes + OFFSET_INCOMPATIBLE);
    if (features)
        return vd_fail(error, VDISK_E_UNSUPPORTED,
                       "the image uses features that this program does not know (%#llx)",
                       (unsigned long long)features);
    if (vd_get32(bytes + OFFSET_LENGTH) != VD_HEADER_BYTES)
        return vd_corrupt(error, VDISK_E_MALFORMED, "malformed header: its length is not %u",
                          VD_HEADER_BYTES);
    if (!vd_is_zero(bytes + OFFSET_ZERO, OFFSET_PART_SET - OFFSET_ZERO) ||
        !vd_is_zero(bytes + OFFSET_PADDING, OFFSET_MAC - OFFSET_PADDING))
        return vd_corrupt(error, VDISK_E_MALFORMED,
                          "malformed header: bytes that must be zero are not");
    return 0;
}

static bool split_valid(uint64_t split_bytes)
{
    return split_bytes == 0 || (split_bytes >= VD_SPLIT_MIN && split_bytes % VD_SPLIT_UNIT == 0);
}

/* NULL, or the name of the field that is out of bounds. */
static const char *out_of_bounds(const struct vd_header *header)
{
    if (header->generation == 0)
        return "generation";
    if (header->cluster_log2 < VD_CLUSTER_LOG2_MIN || header->cluster_log2 > VD_CLUSTER_LOG2_MAX)
        return "cluster size";
    if (header->journal_log2 < VD_JOURNAL_LOG2_MIN || header->journal_log2 > VD_JOURNAL_LOG2_MAX)
        return "journal size";
    if (!split_valid(header->split_bytes))
        return "split size";
    return NULL;
}

int vd_header_decode(struct vd_header *header, const uint8_t bytes[static VD_HEADER_BYTES],
                     struct vdisk_error *error)
{
    struct vd_header decoded = {0};

    int rc = check_frame(bytes, error);
    if (rc)
        return rc;
    memcpy(decoded.image_id, bytes + OFFSET_IMAGE_ID, VD_ID_BYTES);
    decoded.generation = vd_get64(bytes + OFFSET_GENERATION);
    decoded.compat_features = vd_get64(bytes + OFFSET_COMPATIBLE);
    decoded.cluster_log2 = bytes[OFFSET_CLUSTER_LOG2];
    decoded.journal_log2 = bytes[OFFSET_JOURNAL_LOG2];
    decoded.part_set = vd_get32(bytes + OFFSET_PART_SET);
    decoded.split_bytes = vd_get64(bytes + OFFSET_SPLIT);
    memcpy(decoded.commitment, bytes + OFFSET_COMMITMENT, sizeof(decoded.commitment));
    const char *field = out_of_bounds(&decoded);
    if (field)
        return vd_corrupt(error, VDISK_E_MALFORMED, "malformed header: %s out of bounds", field);
    for (unsigned i = 0; i < VDISK_KEYSLOTS; i++) {
        rc =
            vd_keyslot_decode(&decoded.slot[i], bytes + OFFSET_SLOTS + i * VD_KEYSLOT_BYTES, error);
        if (rc)
            return rc;
    }
    *header = decoded;
    return 0;
}

void vd_header_encode(const struct vd_header *header, const uint8_t header_key[static VD_KEY_BYTES],
                      uint8_t bytes[static VD_HEADER_BYTES])
{
    assert(!out_of_bounds(header));
    memset(bytes, 0, VD_HEADER_BYTES);
    memcpy(bytes + OFFSET_MAGIC, magic, sizeof(magic));
    vd_put32(bytes + OFFSET_VERSION, VERSION);
    vd_put32(bytes + OFFSET_LENGTH, VD_HEADER_BYTES);
    memcpy(bytes + OFFSET_IMAGE_ID, header->image_id, VD_ID_BYTES);
    vd_put64(bytes + OFFSET_GENERATION, header->generation);
    vd_put64(bytes + OFFSET_COMPATIBLE, header->compat_features);
    bytes[OFFSET_CLUSTER_LOG2] = header->cluster_log2;
    bytes[OFFSET_JOURNAL_LOG2] = header->journal_log2;
    vd_put32(bytes + OFFSET_PART_SET, header->part_set);
    vd_put64(bytes + OFFSET_SPLIT, header->split_bytes);
    memcpy(bytes + OFFSET_COMMITMENT, header->commitment, sizeof(header->commitment));
    for (unsigned i = 0; i < VDISK_KEYSLOTS; i++)
        vd_keyslot_encode(&header->slot[i], bytes + OFFSET_SLOTS + i * VD_KEYSLOT_BYTES);
    hash_with_zeros(bytes, OFFSET_MAC, header_key, bytes + OFFSET_MAC);
    hash_with_zeros(bytes, OFFSET_CHECKSUM, NULL, bytes + OFFSET_CHECKSUM);
}

int vd_header_verify(const uint8_t bytes[static VD_HEADER_BYTES],
                     const uint8_t header_key[static VD_KEY_BYTES])
{
    uint8_t mac[HASH_BYTES];

    hash_with_zeros(bytes, OFFSET_MAC, header_key, mac);
    int rc = sodium_memcmp(mac, bytes + OFFSET_MAC, sizeof(mac)) ? VDISK_E_NOT_AUTHENTIC : 0;
    sodium_memzero(mac, sizeof(mac));
    return rc;
}
