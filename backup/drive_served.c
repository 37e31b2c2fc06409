/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image that a vdiskd has open (SPEC.md B11, 2 and 6); see backup_drive.h.
 *
 * Management makes and deletes the snapshots, NBD gives the data: the new snapshot's is the export,
 * what has changed since the one before is its dirty bitmap. The first connection keeps both from
 * being deleted, so what is listed behind it is what is read.
 */
#include "backup_drive.h"

#include "drive_snapshots.h"
#include "report.h"
#include "served.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

struct vb_served {
    struct served_export of;
    const struct vb_served_options *options;
    struct nbd_address address; /* of the snapshot */
    struct vb_drive *drive;
    char name[VDISK_NAME_MAX + 1];
    bool made; /* the snapshot */
};

/* --- what the daemon tells ---------------------------------------------------------------------
 */

static int no_sense(struct vdisk_error *error)
{
    return error_set(error, -EPROTO,
                     "what vdiskd says of the image makes no sense; it may be of "
                     "another version");
}

static bool take_hex(const json_t *object, const char *field, uint8_t *to, size_t length)
{
    const char *text = json_string_value(json_object_get(object, field));
    size_t got;

    return text && sodium_hex2bin(to, length, text, strlen(text), NULL, &got, NULL) == 0 &&
           got == length;
}

static bool take_number(const json_t *object, const char *field, uint64_t *to)
{
    const json_t *value = json_object_get(object, field);

    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return false;
    *to = (uint64_t)json_integer_value(value);
    return true;
}

static bool take_snapshot(const json_t *entry, struct vdisk_snapshot_info *info)
{
    const char *name = json_string_value(json_object_get(entry, "name"));
    uint64_t created;

    memset(info, 0, sizeof(*info));
    if (!name || strlen(name) >= sizeof(info->name) || !take_number(entry, "id", &info->id) ||
        !take_number(entry, "size_bytes", &info->size) ||
        !take_number(entry, "created_ns", &created) ||
        !take_hex(entry, "root_tag", info->root_tag, sizeof(info->root_tag)))
        return false;
    memcpy(info->name, name, strlen(name) + 1);
    info->created = (int64_t)created;
    return true;
}

/* vb_snapshots_release() is due after any result. */
static int list_snapshots(const struct vb_served *served, struct vb_snapshots *list,
                          struct vdisk_error *error)
{
    json_t *told = NULL, *entry;
    size_t i;
    int result = served_list(&served->of, &told, error);

    *list = (struct vb_snapshots){.info = NULL};
    json_array_foreach(told, i, entry)
    {
        struct vdisk_snapshot_info info;

        if (result == 0 && !take_snapshot(entry, &info))
            result = no_sense(error);
        if (result == 0 && vb_snapshots_add(list, &info))
            result = error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    }
    json_decref(told);
    return result;
}

static int take_facts(const struct vb_served *served, struct vb_manifest *manifest,
                      struct vdisk_error *error)
{
    const json_t *about = served->of.about;
    const char *compress = json_string_value(json_object_get(about, "compress"));
    json_int_t level = json_integer_value(json_object_get(about, "compress_level"));
    uint64_t cluster;

    if (!compress || !take_hex(about, "image_id", manifest->drive, sizeof(manifest->drive)) ||
        !take_number(about, "size_bytes", &manifest->size) ||
        !take_number(about, "cluster_bytes", &cluster) || cluster > VB_CLUSTER_MAX ||
        (cluster & (cluster - 1)) || level < VB_CODEC_LEVEL_MIN || level > VB_CODEC_LEVEL_MAX ||
        !json_is_string(json_object_get(about, "image")))
        return no_sense(error);
    manifest->compress = strcmp(compress, "none") != 0;
    manifest->compress_level = (int8_t)level;
    manifest->cluster_bytes = (uint32_t)cluster;
    return 0;
}

static int changed_meanwhile(struct vdisk_error *error)
{
    return error_set(error, -ESTALE,
                     "snapshots or size were changed by somebody else meanwhile; make the backup "
                     "again");
}

/* --- opening ---------------------------------------------------------------------------------- */

/* Which backup to go on from; and what an interrupted one has left is deleted. */
static int prepare(struct vb_served *served, struct vb_manifest *manifest,
                   const struct vb_backup **base, struct vdisk_error *error)
{
    const struct vb_served_options *options = served->options;
    const struct vb_base_wish wish = {.repo = options->repo,
                                      .backups = options->backups,
                                      .drive = manifest->drive,
                                      .size_max = manifest->size};
    struct vb_snapshots list;
    int result = list_snapshots(served, &list, error);

    vb_backups_continue(options->backups, manifest);
    vb_snapshot_name(options->repo, manifest->sequence, served->name);
    if (result == 0)
        *base = vb_snapshots_base(&list, &wish);
    if (result == 0 && vb_snapshots_find(&list, served->name) &&
        !(*base && strcmp((*base)->manifest.snapshot_name, served->name) == 0))
        result = served_delete(&served->of, served->name, SERVED_PATIENCE_MS, error);
    vb_snapshots_release(&list);
    return result == VDISK_E_NOT_FOUND ? 0 : result;
}

static int take(void *arg, struct vdisk_error *error)
{
    struct vb_served *served = arg;
    int result = served_create(&served->of, served->name, error);

    served->made = result == 0;
    return result;
}

/* With both snapshots held: they are what they were taken for. */
static int describe(const struct vb_served *served, struct vb_manifest *manifest,
                    struct vdisk_error *error)
{
    const struct vb_backup *base = served->drive->base;
    const struct vdisk_snapshot_info *info;
    struct vb_snapshots list;
    int result = list_snapshots(served, &list, error);

    if (result == 0) {
        info = vb_snapshots_find(&list, served->name);
        if (!info || info->size != served->drive->size ||
            (base &&
             (base->manifest.size > info->size || !vb_snapshots_have(&list, &base->manifest))))
            result = changed_meanwhile(error);
        else
            vb_snapshot_describe(info, manifest);
    }
    vb_snapshots_release(&list);
    return result;
}

/* Holds both snapshots. */
static int connect_to(struct vb_served *served, const struct vb_backup *base,
                      struct vdisk_error *error)
{
    int result = served_address(&served->of, served->name, &served->address, error);

    if (result)
        return result;
    result = vb_drive_nbd_open(&served->address, base ? base->manifest.snapshot_name : NULL,
                               &served->drive, error);
    if (result == VDISK_E_NOT_FOUND) /* it was there a moment ago */
        return changed_meanwhile(error);
    if (result == 0)
        served->drive->base = base;
    return result;
}

static int open_all(struct vb_served *served, struct vb_manifest *manifest,
                    struct vdisk_error *error)
{
    const struct vb_served_options *options = served->options;
    const struct vb_backup *base = NULL;
    int result = served_find(&served->of, options->socket, options->export, error);

    if (result == 0)
        result = take_facts(served, manifest, error);
    if (result == 0)
        result = prepare(served, manifest, &base, error);
    if (result == 0)
        result = options->at_rest ? options->at_rest(options->opaque, take, served, error)
                                  : take(served, error);
    if (result == 0)
        result = connect_to(served, base, error);
    return result ? result : describe(served, manifest, error);
}

int vb_served_open(const struct vb_served_options *options, struct vb_manifest *manifest,
                   struct vb_served **out, struct vdisk_error *error)
{
    struct vb_served *served = calloc(1, sizeof(*served));
    int result;

    if (!served)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    served->options = options;
    result = open_all(served, manifest, error);
    if (result) {
        vb_served_close(served, false, NULL);
        return result;
    }
    *out = served;
    return 0;
}

struct vb_drive *vb_served_drive(struct vb_served *served)
{
    return served->drive;
}

const char *vb_served_path(const struct vb_served *served)
{
    return json_string_value(json_object_get(served->of.about, "image"));
}

/* --- afterwards ------------------------------------------------------------------------------- */

static int delete_older(const struct vb_served *served, struct vdisk_error *error)
{
    struct vb_snapshots list;
    int result = list_snapshots(served, &list, error);

    for (size_t i = 0; i < list.count && result == 0; i++) {
        const char *name = list.info[i].name;

        if (!vb_snapshot_is_old(served->options->repo, name, served->name))
            continue;
        result = served_delete(&served->of, name, SERVED_PATIENCE_MS, error);
        if (result == VDISK_E_NOT_FOUND)
            result = 0;
    }
    vb_snapshots_release(&list);
    return result;
}

int vb_served_close(struct vb_served *served, bool done, struct vdisk_error *error)
{
    int result = 0;

    if (!served)
        return 0;
    vb_drive_nbd_close(served->drive);
    if (served->made)
        result = done ? delete_older(served, error)
                      : served_delete(&served->of, served->name, SERVED_PATIENCE_MS, error);
    served_release(&served->of);
    free(served);
    return result == VDISK_E_NOT_FOUND ? 0 : result;
}
