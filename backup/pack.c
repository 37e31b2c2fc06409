/* SPDX-License-Identifier: Apache-2.0 */
/* The codec of packs' directories (SPEC.md B7); see pack.h. */
#include "pack.h"

#include "cursor.h"

#include <errno.h>
#include <stdlib.h>

static const char end_magic[8] = "VDBKEND\n";

void vb_entry_encode(const struct vb_entry *entry, uint8_t bytes[static VB_ENTRY_BYTES])
{
    memcpy(bytes, entry->id.b, VB_ID_BYTES);
    vb_put_le(bytes + 32, entry->offset, 4);
    vb_put_le(bytes + 36, entry->length, 4);
    vb_put_le(bytes + 40, entry->number, 4);
    vb_put_le(bytes + 44, entry->segment, 2);
    bytes[46] = entry->kind;
    bytes[47] = 0;
}

int vb_entry_decode(struct vb_entry *entry, const uint8_t bytes[static VB_ENTRY_BYTES],
                    uint64_t pack_bytes, unsigned segments)
{
    struct vb_entry decoded = {
        .offset = (uint32_t)vb_get_le(bytes + 32, 4),
        .length = (uint32_t)vb_get_le(bytes + 36, 4),
        .number = (uint32_t)vb_get_le(bytes + 40, 4),
        .segment = (uint16_t)vb_get_le(bytes + 44, 2),
        .kind = bytes[46],
    };

    memcpy(decoded.id.b, bytes, VB_ID_BYTES);
    if (decoded.kind < VB_RECORD_BASE || decoded.kind > VB_RECORD_NODE || bytes[47] ||
        decoded.segment >= segments || decoded.number == VB_NUMBER_DIRECTORY ||
        decoded.length < VB_RECORD_HEAD + VB_TAG_BYTES || decoded.length > VB_RECORD_MAX ||
        decoded.offset < VB_HEADER_BYTES + segments * VB_SEGMENT_BYTES ||
        (uint64_t)decoded.offset + decoded.length + VB_PACK_TRAILER > pack_bytes)
        return VDISK_E_MALFORMED;
    *entry = decoded;
    return 0;
}

static int decode_entries(struct vb_cursor *cursor, uint64_t pack_bytes, unsigned segments,
                          struct vb_entry *entries, uint32_t count)
{
    uint64_t end = 0;

    for (uint32_t i = 0; i < count; i++) {
        const uint8_t *bytes = vb_take(cursor, VB_ENTRY_BYTES);

        if (!bytes || vb_entry_decode(&entries[i], bytes, pack_bytes, segments) ||
            entries[i].offset < end)
            return VDISK_E_MALFORMED;
        end = (uint64_t)entries[i].offset + entries[i].length;
    }
    return 0;
}

int vb_directory_decode(const uint8_t *payload, size_t length, uint64_t pack_bytes,
                        unsigned segments, struct vb_entry **entries, uint32_t *count)
{
    struct vb_cursor cursor = {.at = payload, .end = payload + length};
    uint32_t wanted = (uint32_t)vb_take_le(&cursor, 4);
    struct vb_entry *list;
    int result;

    vb_take_zero(&cursor, 4);
    if (cursor.failed || wanted > VB_PACK_ENTRIES_MAX || pack_bytes > VB_PACK_MAX || segments < 1 ||
        segments > VB_PACK_SEGMENTS ||
        (size_t)(cursor.end - cursor.at) != (size_t)wanted * VB_ENTRY_BYTES)
        return VDISK_E_MALFORMED;
    list = calloc(wanted ? wanted : 1, sizeof(*list));
    if (!list)
        return -ENOMEM;
    result = decode_entries(&cursor, pack_bytes, segments, list, wanted);
    if (result) {
        free(list);
        return result;
    }
    *entries = list;
    *count = wanted;
    return 0;
}

int vb_directory_append(struct vb_sealer *sealer, const struct vb_segment *meta, unsigned pad,
                        const struct vb_entry *entries, uint32_t count, uint8_t *bytes, size_t room,
                        size_t *used)
{
    const struct vb_record_context context = {.number = VB_NUMBER_DIRECTORY,
                                              .kind = VB_RECORD_DIRECTORY};
    size_t packed, at = *used, length = 8 + (size_t)count * VB_ENTRY_BYTES;
    uint8_t *payload = calloc(1, length);
    int result;

    if (!payload)
        return -ENOMEM;
    vb_put_le(payload, count, 4);
    for (uint32_t i = 0; i < count; i++)
        vb_entry_encode(&entries[i], payload + 8 + (size_t)i * VB_ENTRY_BYTES);
    result = vb_sealer_pack(sealer, payload, length, 1, pad, &packed);
    free(payload);
    if (result)
        return result;
    if (at + packed + VB_TAG_BYTES + VB_PACK_TRAILER > room)
        return -E2BIG;
    result = vb_sealer_seal(sealer, meta, &context, bytes + at);
    if (result)
        return result;
    at += packed + VB_TAG_BYTES;
    vb_put_le(bytes + at, packed + VB_TAG_BYTES, 4);
    vb_put_le(bytes + at + 4, 0, 4);
    memcpy(bytes + at + 8, end_magic, sizeof(end_magic));
    *used = at + VB_PACK_TRAILER;
    return 0;
}

static int open_directory(const struct vb_repo *repo, const uint8_t *segment_header,
                          const uint8_t *sealed, size_t sealed_bytes, struct vb_pack *pack)
{
    const struct vb_record_context context = {.number = VB_NUMBER_DIRECTORY,
                                              .kind = VB_RECORD_DIRECTORY};
    struct vb_segment_keys keys;
    struct vb_segment *segment = NULL;
    struct vb_sealer *sealer = NULL;
    const uint8_t *payload;
    size_t length;
    int result;

    vb_repo_segment_keys(repo, &keys);
    if (segment_header[0] != VB_SEGMENT_META)
        return VDISK_E_MALFORMED;
    result = vb_segment_open(&keys, segment_header, &segment);
    if (result == 0)
        result = vb_sealer_new(repo->config.repo_id, &sealer);
    if (result == 0)
        result = vb_sealer_open(sealer, segment, &context, sealed, sealed_bytes, VB_RECORD_META_MAX,
                                &payload, &length);
    if (result == 0)
        result = vb_directory_decode(payload, length, pack->length, pack->segment_count,
                                     &pack->entries, &pack->entry_count);
    vb_sealer_free(sealer);
    vb_segment_free(segment);
    return result;
}

int vb_pack_read_directory(const struct vb_repo *repo, const uint8_t *bytes, size_t length,
                           struct vb_pack *pack)
{
    struct vb_pack read = {.length = length};
    const uint8_t *trailer;
    struct vb_header header;
    size_t head, sealed;
    int result = vb_header_decode(&header, bytes, length);

    if (result)
        return result;
    head = VB_HEADER_BYTES + (size_t)header.detail * VB_SEGMENT_BYTES;
    if (header.kind != VB_OBJECT_PACK || header.detail < 1 || header.detail > VB_PACK_SEGMENTS ||
        length > VB_PACK_MAX || length < head + VB_PACK_TRAILER)
        return VDISK_E_MALFORMED;
    if (memcmp(header.repo_id, repo->config.repo_id, VB_REPO_ID_BYTES) != 0)
        return VDISK_E_NOT_AUTHENTIC;
    trailer = bytes + length - VB_PACK_TRAILER;
    sealed = (size_t)vb_get_le(trailer, 4);
    if (vb_get_le(trailer + 4, 4) || memcmp(trailer + 8, end_magic, sizeof(end_magic)) != 0 ||
        sealed > length - head - VB_PACK_TRAILER)
        return VDISK_E_MALFORMED;
    read.segment_count = header.detail;
    read.segments = malloc(head - VB_HEADER_BYTES);
    if (!read.segments)
        return -ENOMEM;
    memcpy(read.segments, bytes + VB_HEADER_BYTES, head - VB_HEADER_BYTES);
    result = open_directory(repo, bytes + head - VB_SEGMENT_BYTES, trailer - sealed, sealed, &read);
    if (result) {
        vb_pack_release(&read);
        return result;
    }
    *pack = read;
    return 0;
}

void vb_pack_release(struct vb_pack *pack)
{
    free(pack->segments);
    free(pack->entries);
    pack->segments = NULL;
    pack->entries = NULL;
}
