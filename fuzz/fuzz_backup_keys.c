/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decodes the body of a keyslot, config, writer or lease of any bytes (the first chooses), or an
 * emergency key. What decodes is within its bounds and encodes to the same bytes.
 */
#include "lease.h"
#include "repo.h"
#include "require.h"

static void try_slot(const uint8_t *data, size_t size)
{
    uint8_t again[VB_SLOT_BODY_BYTES];
    struct vb_slot slot;
    int result = vb_slot_decode(&slot, data, size);

    require(result == 0 || result == VDISK_E_MALFORMED);
    if (result)
        return;
    require(slot.role >= VB_ROLE_READ && slot.role <= VB_ROLE_MAINTAIN);
    require(vb_slot_kind_name(slot.kind)[0]);
    vb_slot_encode(&slot, again);
    require(size == sizeof(again) && memcmp(again, data, size) == 0);
}

static void try_config(const uint8_t *data, size_t size)
{
    uint8_t again[VB_CONFIG_BODY_BYTES];
    struct vb_config config = {0};
    int result = vb_config_decode(&config, data, size);

    require(result == 0 || result == VDISK_E_MALFORMED || result == VDISK_E_UNSUPPORTED);
    if (result)
        return;
    require(config.pad == 0 || (config.pad >= 3 && config.pad <= 8));
    require(config.level >= -7 && config.level <= 19);
    vb_config_encode(&config, again);
    require(size == sizeof(again) && memcmp(again, data, size) == 0);
}

static void try_writer(const uint8_t *data, size_t size)
{
    for (uint16_t detail = 1; detail <= 2; detail++) {
        struct vb_writer writer;
        uint8_t *again;
        size_t length;

        if (vb_writer_decode(&writer, detail, data, size))
            continue;
        for (uint32_t i = 1; i < writer.valid_count; i++)
            require(vb_id_compare(&writer.valid[i - 1], &writer.valid[i]) < 0);
        require(vb_writer_encode(&writer, &again, &length) == 0);
        require(length == size && memcmp(again, data, size) == 0);
        free(again);
        vb_writer_release(&writer);
    }
}

static void try_lease(const uint8_t *data, size_t size)
{
    static const struct vb_repo repo;
    uint8_t again[VB_LEASE_BYTES];
    struct vb_lease lease;

    if (vb_lease_decode(&repo, &lease, data, size))
        return;
    vb_lease_encode(&repo, &lease, again);
    require(size == sizeof(again) && memcmp(again, data, size) == 0);
}

static void try_emergency(const uint8_t *data, size_t size)
{
    uint8_t bytes[VB_EMERGENCY_BYTES], again[VB_EMERGENCY_BYTES];
    char text[VB_EMERGENCY_TEXT_BYTES];

    if (!vb_emergency_parse(data, size, bytes))
        return;
    vb_emergency_text(bytes, text);
    require(vb_emergency_parse(text, strlen(text), again));
    require(memcmp(bytes, again, sizeof(bytes)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const tries[])(const uint8_t *, size_t) = {try_slot, try_config, try_writer,
                                                             try_lease, try_emergency};

    if (size > 0)
        tries[data[0] % 5](data + 1, size - 1);
    return 0;
}
