/* SPDX-License-Identifier: Apache-2.0 */
/* Headers, names and signatures of objects (SPEC.md B4); see object.h. */
#include "object.h"

#include "cursor.h"

#include <errno.h>
#include <openssl/sha.h>
#include <sodium.h>
#include <stdlib.h>

#define VERSION 1u

static const uint8_t magic[8] = {0x89, 'V', 'D', 'B', 'K', '\r', '\n', 0x1a};

void vb_header_encode(const struct vb_header *header, uint8_t bytes[static VB_HEADER_BYTES])
{
    memset(bytes, 0, VB_HEADER_BYTES);
    memcpy(bytes, magic, sizeof(magic));
    bytes[8] = VERSION;
    bytes[9] = (uint8_t)header->kind;
    vb_put_le(bytes + 10, header->detail, 2);
    memcpy(bytes + 16, header->repo_id, VB_REPO_ID_BYTES);
}

int vb_header_decode(struct vb_header *header, const uint8_t *bytes, size_t length)
{
    struct vb_cursor cursor = {.at = bytes, .end = bytes + length};
    const uint8_t *start = vb_take(&cursor, sizeof(magic));
    uint64_t version = vb_take_le(&cursor, 1), kind = vb_take_le(&cursor, 1);
    struct vb_header decoded = {.detail = (uint16_t)vb_take_le(&cursor, 2)};

    vb_take_zero(&cursor, 4);
    vb_take_bytes(&cursor, decoded.repo_id, sizeof(decoded.repo_id));
    if (!start || memcmp(start, magic, sizeof(magic)) != 0)
        return VDISK_E_MALFORMED;
    if (version != VERSION)
        return VDISK_E_UNSUPPORTED;
    if (cursor.failed || kind < VB_OBJECT_CONFIG || kind > VB_OBJECT_LEASE)
        return VDISK_E_MALFORMED;
    decoded.kind = (enum vb_object_kind)kind;
    *header = decoded;
    return 0;
}

void vb_object_name(const void *data, size_t length, struct vb_id *name)
{
    SHA256(data, length, name->b);
}

/* --- signed objects ----------------------------------------------------------------------- */

int vb_object_make(const struct vb_header *header, const uint8_t seed[static VB_SEED_BYTES],
                   const void *body, size_t body_bytes, struct vb_object *object)
{
    uint8_t secret[crypto_sign_SECRETKEYBYTES];
    struct vb_object made = {.header = *header, .body_bytes = body_bytes};

    made.length = VB_SIGNED_HEAD_BYTES + body_bytes + VB_SIGNATURE_BYTES;
    made.bytes = malloc(made.length);
    if (!made.bytes)
        return -ENOMEM;
    made.body = made.bytes + VB_SIGNED_HEAD_BYTES;
    crypto_sign_seed_keypair(made.signer.b, secret, seed);
    vb_header_encode(header, made.bytes);
    memcpy(made.bytes + VB_HEADER_BYTES, made.signer.b, VB_SIGN_KEY_BYTES);
    if (body_bytes)
        memcpy(made.bytes + VB_SIGNED_HEAD_BYTES, body, body_bytes);
    crypto_sign_detached(made.bytes + made.length - VB_SIGNATURE_BYTES, NULL, made.bytes,
                         made.length - VB_SIGNATURE_BYTES, secret);
    sodium_memzero(secret, sizeof(secret));
    vb_object_name(made.bytes, made.length, &made.name);
    *object = made;
    return 0;
}

static int take_apart(struct vb_object *object, const uint8_t *repo_id, enum vb_object_kind kind)
{
    int result = vb_header_decode(&object->header, object->bytes, object->length);

    if (result)
        return result;
    if (object->length < VB_SIGNED_HEAD_BYTES + VB_SIGNATURE_BYTES || object->header.kind != kind)
        return VDISK_E_MALFORMED;
    if (repo_id && memcmp(object->header.repo_id, repo_id, VB_REPO_ID_BYTES) != 0)
        return VDISK_E_NOT_AUTHENTIC;
    memcpy(object->signer.b, object->bytes + VB_HEADER_BYTES, VB_SIGN_KEY_BYTES);
    object->body = object->bytes + VB_SIGNED_HEAD_BYTES;
    object->body_bytes = object->length - VB_SIGNED_HEAD_BYTES - VB_SIGNATURE_BYTES;
    if (crypto_sign_verify_detached(object->bytes + object->length - VB_SIGNATURE_BYTES,
                                    object->bytes, object->length - VB_SIGNATURE_BYTES,
                                    object->signer.b))
        return VDISK_E_NOT_AUTHENTIC;
    return 0;
}

int vb_object_open(uint8_t *bytes, size_t length, const uint8_t *repo_id, enum vb_object_kind kind,
                   struct vb_object *object)
{
    struct vb_object opened = {.bytes = bytes, .length = length};
    int result = take_apart(&opened, repo_id, kind);

    if (result) {
        free(bytes);
        return result;
    }
    vb_object_name(bytes, length, &opened.name);
    *object = opened;
    return 0;
}

int vb_object_get(struct vb_store *store, enum vb_place place, const struct vb_id *name,
                  const uint8_t *repo_id, enum vb_object_kind kind, struct vb_object *object)
{
    struct vb_object opened;
    uint64_t length;
    uint8_t *bytes;
    int result = store->ops->length(store, place, name, &length);

    if (result)
        return result;
    if (length > VB_OBJECT_MAX || length < VB_SIGNED_HEAD_BYTES + VB_SIGNATURE_BYTES)
        return VDISK_E_MALFORMED;
    bytes = malloc(length);
    if (!bytes)
        return -ENOMEM;
    result = store->ops->get(store, place, name, 0, bytes, length);
    if (result) {
        free(bytes);
        return result;
    }
    result = vb_object_open(bytes, length, repo_id, kind, &opened);
    if (result)
        return result;
    if (place != VB_CONFIG && !vb_id_equal(&opened.name, name)) {
        vb_object_release(&opened);
        return VDISK_E_NOT_AUTHENTIC;
    }
    *object = opened;
    return 0;
}

int vb_object_put(struct vb_store *store, enum vb_place place, const struct vb_object *object)
{
    return store->ops->put(store, place, &object->name, object->bytes, object->length);
}

void vb_object_release(struct vb_object *object)
{
    free(object->bytes);
    memset(object, 0, sizeof(*object));
}

/* --- lists -------------------------------------------------------------------------------- */

struct names {
    struct vb_id *list;
    size_t count, room;
    bool no_memory;
};

static bool add_name(void *opaque, const struct vb_id *name, uint64_t bytes)
{
    struct names *names = opaque;

    (void)bytes;
    if (names->count == names->room) {
        size_t room = names->room ? 2 * names->room : 64;
        struct vb_id *list = reallocarray(names->list, room, sizeof(*list));

        names->no_memory = !list;
        if (!list)
            return false;
        names->list = list;
        names->room = room;
    }
    names->list[names->count++] = *name;
    return true;
}

int vb_store_names(struct vb_store *store, enum vb_place place, bool trash, struct vb_id **names,
                   size_t *count)
{
    struct names found = {0};
    int result = store->ops->list(store, place, trash, add_name, &found);

    if (result == 0 && found.no_memory)
        result = -ENOMEM;
    if (result) {
        free(found.list);
        return result;
    }
    if (found.count)
        qsort(found.list, found.count, sizeof(*found.list), vb_id_compare);
    *names = found.list;
    *count = found.count;
    return 0;
}
