/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What comes before and behind the seal: an object's header and signature, a segment's header, the
 * plaintext of a record; and the opening of a sealed record of any bytes (the first chooses).
 */
#include "require.h"
#include "seal.h"

#include <sodium.h>

static const uint8_t repo_id[VB_REPO_ID_BYTES], meta_key[32];

static void try_object(const uint8_t *data, size_t size)
{
    struct vb_object object;
    uint8_t *copy = malloc(size ? size : 1);

    require(copy);
    if (size)
        memcpy(copy, data, size);
    for (int kind = VB_OBJECT_CONFIG; kind <= VB_OBJECT_PRUNE; kind++) {
        uint8_t *bytes = malloc(size ? size : 1);

        require(bytes);
        memcpy(bytes, copy, size);
        if (vb_object_open(bytes, size, repo_id, (enum vb_object_kind)kind, &object) == 0) {
            require(object.body_bytes + VB_SIGNED_HEAD_BYTES + VB_SIGNATURE_BYTES == size);
            vb_object_release(&object);
        }
    }
    free(copy);
}

static void try_plain(const uint8_t *data, size_t size)
{
    const uint8_t *payload;
    size_t length;
    uint8_t codec;

    if (vb_record_decode(data, size, &codec, &payload, &length))
        return;
    require(codec <= 1 && payload >= data && payload + length <= data + size);
}

/* Sealed rightly, so that what is behind it is reached. */
static void try_payload(const uint8_t *data, size_t size)
{
    const struct vb_segment_keys keys = {.repo_id = repo_id, .meta_key = meta_key};
    uint8_t *body, *payload;
    size_t body_bytes, length;

    require(vb_body_seal(&keys, VB_RECORD_INDEX, data, size, (unsigned)(size % 6) + 3, &body,
                         &body_bytes) == 0);
    require(vb_body_open(&keys, VB_RECORD_INDEX, body, body_bytes, &payload, &length) == 0);
    require(length == size && memcmp(payload, data, size) == 0);
    free(payload);
    require(vb_body_open(&keys, VB_RECORD_PRUNE, body, body_bytes, &payload, &length) != 0);
    free(body);
    if (vb_body_open(&keys, VB_RECORD_INDEX, data, size, &payload, &length) == 0)
        free(payload);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const tries[])(const uint8_t *, size_t) = {try_object, try_plain, try_payload};
    static bool begun;

    if (!begun)
        require(sodium_init() >= 0);
    begun = true;
    if (size > 0)
        tries[data[0] % 3](data + 1, size - 1);
    return 0;
}
