/* SPDX-License-Identifier: Apache-2.0 */
/* See imageinfo.h. */
#include "imageinfo.h"

#include "json.h"
#include "kinds.h"
#include "times.h"

static void json_public(struct json *json, const char *path, const struct vdisk_public_info *info)
{
    char created[TIMES_TEXT_BYTES];

    json_string(json, "image", path);
    json_number(json, "version", info->version);
    json_hex(json, "image_id", info->image_id, sizeof(info->image_id));
    json_number(json, "cluster_bytes", info->cluster_bytes);
    json_number(json, "journal_bytes", info->journal_bytes);
    json_number(json, "split_bytes", info->split_bytes);
    json_number(json, "file_bytes", info->file_bytes);
    json_bool(json, "header_damaged", info->header_damaged);
    json_open_array(json, "keyslots");
    for (unsigned i = 0; i < info->keyslots; i++) {
        json_open_object(json, NULL);
        json_number(json, "slot", info->slot[i].slot);
        json_string(json, "kind", kinds_key(info->slot[i].kind));
        json_string(json, "created", times_text(created, info->slot[i].created));
        json_close_object(json);
    }
    json_close_array(json);
}

static void json_private(struct json *json, const struct vdisk_info *info)
{
    json_number(json, "size", info->size);
    json_number(json, "used_bytes", info->used_bytes);
    json_string(json, "compress", info->compress ? "zstd" : "none");
    json_signed(json, "compress_level", info->compress_level);
    json_number(json, "snapshots", info->snapshots);
    json_number(json, "epoch", info->epoch);
    json_number(json, "generation", info->generation);
    json_hex(json, "root_tag", info->root_tag, sizeof(info->root_tag));
    json_bool(json, "recovered", info->recovered);
    json_bool(json, "superblock_damaged", info->superblock_damaged);
    if (info->has_source)
        json_string(json, "source", info->source_name);
    else
        json_null(json, "source");
    if (!info->has_base) {
        json_null(json, "base");
        return;
    }
    json_open_object(json, "base");
    json_string(json, "path", info->base_path);
    json_string(json, "snapshot", info->base_snapshot[0] ? info->base_snapshot : NULL);
    json_hex(json, "image_id", info->base_id, sizeof(info->base_id));
    json_close_object(json);
}

void imageinfo_json(FILE *out, const char *path, const struct vdisk_public_info *public_info,
                    const struct vdisk_info *info)
{
    struct json json;

    json_begin(&json, out);
    json_open_object(&json, NULL);
    json_public(&json, path, public_info);
    json_bool(&json, "opened", info != NULL);
    if (info)
        json_private(&json, info);
    json_close_object(&json);
    json_end(&json);
}
