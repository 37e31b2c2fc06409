/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decodes a header of any bytes, with the checksum put right so that the parser is reached. What
 * decodes is within the bounds, and encodes to what decodes to the same; where nothing was lost,
 * to the same bytes.
 *
 * The input is cut or filled with zeros to 8192 bytes. What can be unlocked cheaply is tried too.
 */
#include "bytes.h"
#include "header.h"

#include <sodium.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t header_key[VD_KEY_BYTES] = {1};

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void put_checksum(uint8_t bytes[VD_HEADER_BYTES])
{
    memset(bytes + 4064, 0, 32);
    crypto_generichash(bytes + 4064, 32, bytes, VD_HEADER_BYTES, NULL, 0);
}

static void check_bounds(const struct vd_header *header)
{
    require(header->cluster_log2 >= VD_CLUSTER_LOG2_MIN);
    require(header->cluster_log2 <= VD_CLUSTER_LOG2_MAX);
    require(header->journal_log2 >= VD_JOURNAL_LOG2_MIN);
    require(header->journal_log2 <= VD_JOURNAL_LOG2_MAX);
    require(header->generation > 0);
    require(header->split_bytes == 0 || header->split_bytes >= VD_SPLIT_MIN);
    require(header->split_bytes % VD_SPLIT_UNIT == 0);
    for (unsigned i = 0; i < VDISK_KEYSLOTS; i++)
        require(header->slot[i].kind <= VDISK_KEY_RECIPIENT);
}

/* Everything but the MAC, which is under our key now, and the checksum over it. */
static void check_stable(const struct vd_header *header, const uint8_t bytes[VD_HEADER_BYTES])
{
    static uint8_t again[VD_HEADER_BYTES];
    struct vd_header decoded;

    vd_header_encode(header, header_key, again);
    require(memcmp(again, bytes, 4032) == 0);
    require(memcmp(again + 4096, bytes + 4096, 4096) == 0);
    require(vd_header_verify(again, header_key) == 0);
    require(vd_header_decode(&decoded, again, NULL) == 0);
    require(decoded.generation == header->generation);
}

/* With passphrases only where they cost next to nothing. */
static void try_keys(struct vd_header *header)
{
    static const uint8_t identity[VDISK_IDENTITY_BYTES] = {7};
    const struct vdisk_key keys[] = {
        {VDISK_KEY_PASSPHRASE, "passphrase", 10, 0, 0},
        {VDISK_KEY_FILE, "a key file of more than 32 bytes.", 33, 0, 0},
        {VDISK_KEY_IDENTITY, identity, sizeof(identity), 0, 0},
    };
    uint8_t volume_key[VD_KEY_BYTES], commitment[32];
    struct vdisk_keyslot_info info;
    unsigned slot;

    for (unsigned i = 0; i < VDISK_KEYSLOTS; i++) {
        struct vd_keyslot *at = &header->slot[i];

        if (at->kib <= VD_KDF_KIB_MAX && (at->kib > 16 || at->passes > 2))
            at->kib = UINT32_MAX;
        vd_keyslot_info(at, i, &info);
    }
    for (unsigned i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        if (vd_header_unlock(header, &keys[i], &slot, volume_key, NULL) == 0) {
            vd_key_commitment(volume_key, header->image_id, commitment);
            require(memcmp(commitment, header->commitment, sizeof(commitment)) == 0);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t bytes[VD_HEADER_BYTES];
    struct vdisk_error error;
    struct vd_header header;

    require(vdisk_init() == 0);
    memset(bytes, 0, sizeof(bytes));
    memcpy(bytes, data, size < sizeof(bytes) ? size : sizeof(bytes));
    int rc = vd_header_decode(&header, bytes, &error);
    require(rc == 0 || error.code == rc);
    put_checksum(bytes);
    rc = vd_header_decode(&header, bytes, &error);
    require(rc == 0 || rc == VDISK_E_MALFORMED || rc == VDISK_E_UNSUPPORTED);
    require(rc == 0 || error.code == rc);
    if (rc)
        return 0;
    check_bounds(&header);
    check_stable(&header, bytes);
    try_keys(&header);
    return 0;
}
