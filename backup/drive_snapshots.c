/* SPDX-License-Identifier: Apache-2.0 */
/* See drive_snapshots.h. */
#include "drive_snapshots.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX_BYTES sizeof("backup-RRRRRRRR-")
#define ROOM_FIRST   16u

int vb_snapshots_add(struct vb_snapshots *list, const struct vdisk_snapshot_info *info)
{
    if (list->count == list->room) {
        size_t room = list->room ? 2 * list->room : ROOM_FIRST;
        struct vdisk_snapshot_info *wider = reallocarray(list->info, room, sizeof(*wider));

        if (!wider)
            return -ENOMEM;
        list->info = wider;
        list->room = room;
    }
    list->info[list->count++] = *info;
    return 0;
}

void vb_snapshots_release(struct vb_snapshots *list)
{
    free(list->info);
    *list = (struct vb_snapshots){.info = NULL};
}

const struct vdisk_snapshot_info *vb_snapshots_find(const struct vb_snapshots *list,
                                                    const char *name)
{
    for (size_t i = 0; i < list->count; i++) {
        if (strcmp(list->info[i].name, name) == 0)
            return &list->info[i];
    }
    return NULL;
}

static void prefix_of(const struct vb_repo *repo, char prefix[static PREFIX_BYTES])
{
    char digits[9];

    sodium_bin2hex(digits, sizeof(digits), repo->config.repo_id, 4);
    snprintf(prefix, PREFIX_BYTES, "backup-%s-", digits);
}

void vb_snapshot_name(const struct vb_repo *repo, uint64_t sequence,
                      char name[static VDISK_NAME_MAX + 1])
{
    char prefix[PREFIX_BYTES];

    prefix_of(repo, prefix);
    snprintf(name, VDISK_NAME_MAX + 1, "%s%llu", prefix, (unsigned long long)sequence);
}

bool vb_snapshot_is_old(const struct vb_repo *repo, const char *name, const char *keep)
{
    char prefix[PREFIX_BYTES];

    prefix_of(repo, prefix);
    return strncmp(name, prefix, strlen(prefix)) == 0 && strcmp(name, keep) != 0;
}

bool vb_snapshots_have(const struct vb_snapshots *list, const struct vb_manifest *manifest)
{
    const struct vdisk_snapshot_info *info = vb_snapshots_find(list, manifest->snapshot_name);

    return manifest->snapshot_id && info && info->id == manifest->snapshot_id &&
           memcmp(info->root_tag, manifest->snapshot_tag, VDISK_TAG_BYTES) == 0;
}

const struct vb_backup *vb_snapshots_base(const struct vb_snapshots *list,
                                          const struct vb_base_wish *wish)
{
    const struct vb_backups *backups = wish->backups;

    for (size_t i = backups->count; i-- > 0;) {
        const struct vb_backup *backup = &backups->backup[i];
        const struct vb_manifest *manifest = &backup->manifest;
        bool is_believed = vb_repo_trusts(wish->repo, &backup->signer) ||
                           (wish->signer && vb_id_equal(wish->signer, &backup->signer));

        if (memcmp(manifest->drive, wish->drive, VB_DRIVE_ID_BYTES) == 0 &&
            manifest->size <= wish->size_max && is_believed && vb_snapshots_have(list, manifest))
            return backup;
    }
    return NULL;
}

void vb_snapshot_describe(const struct vdisk_snapshot_info *info, struct vb_manifest *manifest)
{
    manifest->size = info->size;
    manifest->created = info->created;
    manifest->source = VB_FROM_IMAGE;
    manifest->snapshot_id = info->id;
    memcpy(manifest->snapshot_tag, info->root_tag, VDISK_TAG_BYTES);
    memcpy(manifest->snapshot_name, info->name, sizeof(manifest->snapshot_name));
}
