/* SPDX-License-Identifier: Apache-2.0 */
/* Codecs of manifests and prune records (SPEC.md B10); see manifest.h. */
#include "manifest.h"

#include "cursor.h"
#include "json.h"

#include <errno.h>
#include <stdlib.h>

#define PRUNED_MIN_BYTES (VB_ID_BYTES + VB_DRIVE_ID_BYTES + 8u + 1u)

/* --- texts -------------------------------------------------------------------------------- */

static void write_text(struct vb_pen *pen, const char *text)
{
    size_t length = strlen(text);

    vb_write_le(pen, length, 1);
    vb_write_bytes(pen, text, length);
}

/* UTF-8 without control characters; there is a NUL behind it. */
static bool is_text(const char *text, size_t length)
{
    size_t at = 0;

    while (at < length) {
        const unsigned char *c = (const unsigned char *)text + at;
        unsigned sequence = json_utf8_length(c);

        if (*c < 0x20 || *c == 0x7f || sequence == 0 || sequence > length - at)
            return false;
        at += sequence;
    }
    return true;
}

/* At most `max` bytes; `text` has room for a NUL. */
static bool take_text(struct vb_cursor *cursor, size_t max, char *text)
{
    size_t length = (size_t)vb_take_le(cursor, 1);
    const uint8_t *bytes = vb_take(cursor, length);

    if (!bytes || length > max)
        return false;
    memcpy(text, bytes, length);
    text[length] = '\0';
    return is_text(text, length);
}

bool vb_text_set(char *to, size_t room, const char *text)
{
    size_t length = strlen(text);

    if (length >= room || !is_text(text, length))
        return false;
    memcpy(to, text, length + 1);
    return true;
}

/* --- manifests ---------------------------------------------------------------------------- */

size_t vb_manifest_encode(const struct vb_manifest *manifest, uint8_t bytes[static VB_MANIFEST_MAX])
{
    struct vb_pen pen = {.at = bytes, .end = bytes + VB_MANIFEST_MAX};

    vb_write_bytes(&pen, manifest->drive, VB_DRIVE_ID_BYTES);
    vb_write_le(&pen, manifest->sequence, 8);
    vb_write_le(&pen, manifest->size, 8);
    vb_write_le(&pen, (uint64_t)manifest->created, 8);
    vb_write_le(&pen, manifest->immutable_until, 8);
    vb_write_bytes(&pen, manifest->previous.b, VB_ID_BYTES);
    vb_write_bytes(&pen, manifest->root.b, VB_ID_BYTES);
    vb_write_le(&pen, manifest->level, 1);
    vb_write_le(&pen, manifest->consistency, 1);
    vb_write_le(&pen, manifest->source, 1);
    vb_write_le(&pen, manifest->compress, 1);
    vb_write_le(&pen, (uint8_t)manifest->compress_level, 1);
    vb_write_zero(&pen, 3);
    vb_write_le(&pen, manifest->cluster_bytes, 4);
    vb_write_zero(&pen, 4);
    vb_write_le(&pen, manifest->snapshot_id, 8);
    vb_write_bytes(&pen, manifest->snapshot_tag, VDISK_TAG_BYTES);
    vb_write_le(&pen, manifest->bytes_read, 8);
    vb_write_le(&pen, manifest->bytes_stored, 8);
    vb_write_le(&pen, manifest->bytes_data, 8);
    write_text(&pen, manifest->drive_name);
    write_text(&pen, manifest->host);
    write_text(&pen, manifest->snapshot_name);
    vb_write_le(&pen, manifest->tag_count, 1);
    for (unsigned i = 0; i < manifest->tag_count; i++)
        write_text(&pen, manifest->tag[i]);
    return (size_t)(pen.at - bytes);
}

static void take_numbers(struct vb_cursor *cursor, struct vb_manifest *manifest)
{
    vb_take_bytes(cursor, manifest->drive, VB_DRIVE_ID_BYTES);
    manifest->sequence = vb_take_le(cursor, 8);
    manifest->size = vb_take_le(cursor, 8);
    manifest->created = (int64_t)vb_take_le(cursor, 8);
    manifest->immutable_until = vb_take_le(cursor, 8);
    vb_take_bytes(cursor, manifest->previous.b, VB_ID_BYTES);
    vb_take_bytes(cursor, manifest->root.b, VB_ID_BYTES);
    manifest->level = (uint8_t)vb_take_le(cursor, 1);
    manifest->consistency = (uint8_t)vb_take_le(cursor, 1);
    manifest->source = (uint8_t)vb_take_le(cursor, 1);
    cursor->failed |= cursor->at<cursor->end && * cursor->at> 1;
    manifest->compress = vb_take_le(cursor, 1) == 1;
    manifest->compress_level = (int8_t)(uint8_t)vb_take_le(cursor, 1);
    vb_take_zero(cursor, 3);
    manifest->cluster_bytes = (uint32_t)vb_take_le(cursor, 4);
    vb_take_zero(cursor, 4);
    manifest->snapshot_id = vb_take_le(cursor, 8);
    vb_take_bytes(cursor, manifest->snapshot_tag, VDISK_TAG_BYTES);
    manifest->bytes_read = vb_take_le(cursor, 8);
    manifest->bytes_stored = vb_take_le(cursor, 8);
    manifest->bytes_data = vb_take_le(cursor, 8);
}

static bool numbers_right(const struct vb_manifest *manifest)
{
    return manifest->sequence > 0 && manifest->size > 0 && manifest->size <= VDISK_SIZE_MAX &&
           manifest->created >= 0 && manifest->level == vb_tree_level(manifest->size) &&
           manifest->consistency >= VB_CONSISTENT_CRASH &&
           manifest->consistency <= VB_CONSISTENT_APPLICATION &&
           manifest->source >= VB_FROM_IMAGE && manifest->source <= VB_FROM_NBD &&
           manifest->compress_level >= VB_CODEC_LEVEL_MIN &&
           manifest->compress_level <= VB_CODEC_LEVEL_MAX &&
           manifest->cluster_bytes <= VB_CLUSTER_MAX &&
           (manifest->cluster_bytes & (manifest->cluster_bytes - 1)) == 0;
}

int vb_manifest_decode(struct vb_manifest *manifest, const uint8_t *bytes, size_t length)
{
    struct vb_cursor cursor = {.at = bytes, .end = bytes + length};

    memset(manifest, 0, sizeof(*manifest));
    take_numbers(&cursor, manifest);
    if (cursor.failed || length > VB_MANIFEST_MAX || !numbers_right(manifest) ||
        !take_text(&cursor, VB_TEXT_MAX, manifest->drive_name) ||
        !take_text(&cursor, VB_TEXT_MAX, manifest->host) ||
        !take_text(&cursor, VB_TEXT_MAX, manifest->snapshot_name))
        return VDISK_E_MALFORMED;
    manifest->tag_count = (unsigned)vb_take_le(&cursor, 1);
    if (manifest->tag_count > VB_TAGS_MAX)
        return VDISK_E_MALFORMED;
    for (unsigned i = 0; i < manifest->tag_count; i++) {
        if (!take_text(&cursor, VB_TAG_TEXT_MAX, manifest->tag[i]))
            return VDISK_E_MALFORMED;
    }
    return cursor.failed || cursor.at != cursor.end ? VDISK_E_MALFORMED : 0;
}

/* --- prune records ------------------------------------------------------------------------ */

int vb_prune_encode(const struct vb_prune *prune, uint8_t **bytes, size_t *length)
{
    size_t room = 16;
    struct vb_pen pen;
    uint8_t *out;

    for (uint32_t i = 0; i < prune->count; i++)
        room += PRUNED_MIN_BYTES + strlen(prune->removed[i].reason);
    out = malloc(room);
    if (!out)
        return -ENOMEM;
    pen = (struct vb_pen){.at = out, .end = out + room};
    vb_write_le(&pen, prune->when, 8);
    vb_write_le(&pen, prune->count, 4);
    vb_write_zero(&pen, 4);
    for (uint32_t i = 0; i < prune->count; i++) {
        const struct vb_pruned *removed = &prune->removed[i];

        vb_write_bytes(&pen, removed->name.b, VB_ID_BYTES);
        vb_write_bytes(&pen, removed->drive, VB_DRIVE_ID_BYTES);
        vb_write_le(&pen, removed->sequence, 8);
        write_text(&pen, removed->reason);
    }
    *bytes = out;
    *length = room;
    return 0;
}

int vb_prune_decode(struct vb_prune *prune, const uint8_t *bytes, size_t length)
{
    struct vb_cursor cursor = {.at = bytes, .end = bytes + length};
    struct vb_prune decoded = {.when = vb_take_le(&cursor, 8)};
    bool right = true;

    decoded.count = (uint32_t)vb_take_le(&cursor, 4);
    vb_take_zero(&cursor, 4);
    if (cursor.failed || decoded.count > VB_PRUNE_ENTRIES_MAX ||
        (size_t)(cursor.end - cursor.at) / PRUNED_MIN_BYTES < decoded.count)
        return VDISK_E_MALFORMED;
    decoded.removed = calloc(decoded.count ? decoded.count : 1, sizeof(*decoded.removed));
    if (!decoded.removed)
        return -ENOMEM;
    for (uint32_t i = 0; i < decoded.count && right; i++) {
        struct vb_pruned *removed = &decoded.removed[i];

        vb_take_bytes(&cursor, removed->name.b, VB_ID_BYTES);
        vb_take_bytes(&cursor, removed->drive, VB_DRIVE_ID_BYTES);
        removed->sequence = vb_take_le(&cursor, 8);
        right = take_text(&cursor, VB_TEXT_MAX, removed->reason);
    }
    if (!right || cursor.failed || cursor.at != cursor.end) {
        free(decoded.removed);
        return VDISK_E_MALFORMED;
    }
    *prune = decoded;
    return 0;
}

/* --- putting ------------------------------------------------------------------------------ */

static int put(struct vb_repo *repo, enum vb_object_kind kind, enum vb_record_kind record,
               const uint8_t *payload, size_t length, struct vb_id *name)
{
    struct vb_header header = {.kind = kind};
    struct vb_segment_keys keys;
    struct vb_object object = {0};
    uint8_t *body = NULL;
    size_t body_bytes;
    int result;

    vb_repo_segment_keys(repo, &keys);
    memcpy(header.repo_id, repo->config.repo_id, VB_REPO_ID_BYTES);
    result = vb_body_seal(&keys, record, payload, length, repo->config.pad, &body, &body_bytes);
    if (result == 0)
        result = vb_object_make(&header, repo->keys->sign_seed, body, body_bytes, &object);
    if (result == 0)
        result = vb_object_put(repo->store, VB_BACKUPS, &object);
    if (result == 0)
        *name = object.name;
    vb_object_release(&object);
    free(body);
    return result;
}

int vb_manifest_put(struct vb_repo *repo, const struct vb_manifest *manifest, struct vb_id *name)
{
    uint8_t *bytes = malloc(VB_MANIFEST_MAX);
    int result;

    if (!bytes)
        return -ENOMEM;
    result = put(repo, VB_OBJECT_MANIFEST, VB_RECORD_MANIFEST, bytes,
                 vb_manifest_encode(manifest, bytes), name);
    free(bytes);
    return result;
}

int vb_prune_put(struct vb_repo *repo, const struct vb_prune *prune, struct vb_id *name)
{
    uint8_t *bytes;
    size_t length;
    int result = vb_prune_encode(prune, &bytes, &length);

    if (result)
        return result;
    result = put(repo, VB_OBJECT_PRUNE, VB_RECORD_PRUNE, bytes, length, name);
    free(bytes);
    return result;
}
