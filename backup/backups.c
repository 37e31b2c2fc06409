/* SPDX-License-Identifier: Apache-2.0 */
/* The list of backups (SPEC.md B10); see manifest.h. */
#include "manifest.h"

#include "report.h"

#include <ctype.h>
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OBJECTS_MAX (1u << 20)
#define DIGITS_MIN  4u

/* --- loading ------------------------------------------------------------------------------ */

static bool add(void *list, size_t *count, size_t each)
{
    void **at = list;
    void *bigger;

    /* At 0, 1, 2, 4, 8 ... there is no room. */
    if ((*count & (*count - 1)) == 0) {
        bigger = reallocarray(*at, *count ? 2 * *count : 1, each);
        if (!bigger)
            return false;
        *at = bigger;
    }
    (*count)++;
    return true;
}

static int load_manifest(struct vb_repo *repo, const struct vb_segment_keys *keys,
                         const struct vb_object *object, struct vb_backups *backups)
{
    struct vb_backup backup = {.name = object->name, .signer = object->signer};
    uint8_t *payload;
    size_t length;
    int result;

    if (!vb_repo_may_sign(repo, &object->signer, VB_OBJECT_MANIFEST, &object->name))
        return VDISK_E_NOT_AUTHENTIC;
    result =
        vb_body_open(keys, VB_RECORD_MANIFEST, object->body, object->body_bytes, &payload, &length);
    if (result)
        return result;
    result = vb_manifest_decode(&backup.manifest, payload, length);
    free(payload);
    if (result)
        return result;
    if (!add(&backups->backup, &backups->count, sizeof(backup)))
        return -ENOMEM;
    backups->backup[backups->count - 1] = backup;
    return 0;
}

static int load_prune(struct vb_repo *repo, const struct vb_segment_keys *keys,
                      const struct vb_object *object, struct vb_backups *backups)
{
    struct vb_prune prune;
    uint8_t *payload;
    size_t length;
    int result;

    if (!vb_repo_may_sign(repo, &object->signer, VB_OBJECT_PRUNE, &object->name))
        return VDISK_E_NOT_AUTHENTIC;
    result =
        vb_body_open(keys, VB_RECORD_PRUNE, object->body, object->body_bytes, &payload, &length);
    if (result)
        return result;
    result = vb_prune_decode(&prune, payload, length);
    free(payload);
    if (result)
        return result;
    for (uint32_t i = 0; i < prune.count && result == 0; i++) {
        if (add(&backups->pruned, &backups->pruned_count, sizeof(*backups->pruned)))
            backups->pruned[backups->pruned_count - 1] = prune.removed[i];
        else
            result = -ENOMEM;
    }
    free(prune.removed);
    return result;
}

/* Which of the two it is, its header says. */
static int load(struct vb_repo *repo, const struct vb_segment_keys *keys, const struct vb_id *name,
                struct vb_backups *backups)
{
    struct vb_object object;
    int result = vb_object_get(repo->store, VB_BACKUPS, name, repo->config.repo_id,
                               VB_OBJECT_MANIFEST, &object);

    if (result == 0) {
        result = load_manifest(repo, keys, &object, backups);
    } else if (result == VDISK_E_MALFORMED) {
        result = vb_object_get(repo->store, VB_BACKUPS, name, repo->config.repo_id, VB_OBJECT_PRUNE,
                               &object);
        if (result)
            return result;
        result = load_prune(repo, keys, &object, backups);
    } else {
        return result;
    }
    vb_object_release(&object);
    return result;
}

static int note_bad(struct vb_backups *backups, const struct vb_id *name, int result)
{
    struct vb_bad_backup bad = {.name = *name, .result = result};

    snprintf(bad.reason, sizeof(bad.reason), "%s",
             result == VDISK_E_NOT_AUTHENTIC ? "changed, or signed by nobody who may"
                                             : vdisk_strerror(result));
    if (!add(&backups->bad, &backups->bad_count, sizeof(bad)))
        return -ENOMEM;
    backups->bad[backups->bad_count - 1] = bad;
    return 0;
}

static int compare_backups(const void *a, const void *b)
{
    const struct vb_backup *x = a, *y = b;
    int order = memcmp(x->manifest.drive, y->manifest.drive, VB_DRIVE_ID_BYTES);

    if (order)
        return order;
    if (x->manifest.sequence != y->manifest.sequence)
        return x->manifest.sequence < y->manifest.sequence ? -1 : 1;
    return vb_id_compare(&x->name, &y->name);
}

/* Forgets all but the backups that are still among the names, and marks the names of those. */
static void keep(struct vb_backups *backups, const struct vb_id *names, size_t count, bool *is_kept)
{
    size_t kept = 0;

    for (size_t i = 0; i < backups->count; i++) {
        const struct vb_id *name =
            count ? bsearch(&backups->backup[i].name, names, count, sizeof(*names), vb_id_compare)
                  : NULL;

        if (!name)
            continue;
        is_kept[name - names] = true;
        backups->backup[kept++] = backups->backup[i];
    }
    backups->count = kept;
    free(backups->pruned);
    free(backups->bad);
    backups->pruned = NULL;
    backups->bad = NULL;
    backups->pruned_count = backups->bad_count = 0;
}

static int load_others(struct vb_repo *repo, struct vb_backups *backups, const struct vb_id *names,
                       size_t count, const bool *is_kept)
{
    struct vb_segment_keys keys;
    int result = 0;

    vb_repo_segment_keys(repo, &keys);
    for (size_t i = 0; i < count && result == 0; i++) {
        int bad = is_kept[i] ? 0 : load(repo, &keys, &names[i], backups);

        if (bad == -ENOMEM)
            result = bad;
        else if (bad && bad != -ENOENT) /* pruned meanwhile */
            result = note_bad(backups, &names[i], bad);
    }
    return result;
}

int vb_backups_refresh(struct vb_repo *repo, struct vb_backups *backups, struct vdisk_error *error)
{
    struct vb_id *names = NULL;
    bool *is_kept = NULL;
    size_t count = 0;
    int result = vb_store_names(repo->store, VB_BACKUPS, false, &names, &count);

    if (result == 0 && count > OBJECTS_MAX)
        result = VDISK_E_LIMIT;
    if (result == 0 && !(is_kept = calloc(count + 1, sizeof(*is_kept))))
        result = -ENOMEM;
    if (result == 0) {
        if (count)
            qsort(names, count, sizeof(*names), vb_id_compare);
        keep(backups, names, count, is_kept);
        result = load_others(repo, backups, names, count, is_kept);
    }
    free(is_kept);
    free(names);
    if (result) {
        vb_backups_release(backups);
        return error_set(error, result, "%s", vdisk_strerror(result));
    }
    if (backups->count)
        qsort(backups->backup, backups->count, sizeof(*backups->backup), compare_backups);
    if (backups->pruned_count)
        qsort(backups->pruned, backups->pruned_count, sizeof(*backups->pruned), vb_id_compare);
    return 0;
}

int vb_backups_load(struct vb_repo *repo, struct vb_backups *backups, struct vdisk_error *error)
{
    memset(backups, 0, sizeof(*backups));
    return vb_backups_refresh(repo, backups, error);
}

void vb_backups_release(struct vb_backups *backups)
{
    free(backups->backup);
    free(backups->pruned);
    free(backups->bad);
    memset(backups, 0, sizeof(*backups));
}

/* --- looking ------------------------------------------------------------------------------ */

const struct vb_backup *vb_backups_newest(const struct vb_backups *backups,
                                          const uint8_t drive[static VB_DRIVE_ID_BYTES])
{
    const struct vb_backup *newest = NULL;

    for (size_t i = 0; i < backups->count; i++) {
        if (memcmp(backups->backup[i].manifest.drive, drive, VB_DRIVE_ID_BYTES) == 0)
            newest = &backups->backup[i];
    }
    return newest;
}

void vb_backups_continue(const struct vb_backups *backups, struct vb_manifest *manifest)
{
    const struct vb_backup *newest = vb_backups_newest(backups, manifest->drive);

    manifest->sequence = newest ? newest->manifest.sequence + 1 : 1;
    if (newest)
        manifest->previous = newest->name;
}

const struct vb_backup *vb_backups_find(const struct vb_backups *backups, const struct vb_id *name)
{
    for (size_t i = 0; i < backups->count; i++) {
        if (vb_id_equal(&backups->backup[i].name, name))
            return &backups->backup[i];
    }
    return NULL;
}

bool vb_backups_is_pruned(const struct vb_backups *backups, const struct vb_id *name)
{
    return backups->pruned && bsearch(name, backups->pruned, backups->pruned_count,
                                      sizeof(*backups->pruned), vb_id_compare);
}

void vb_backups_gaps(const struct vb_backups *backups,
                     void (*missing)(void *opaque, const struct vb_backup *after), void *opaque)
{
    for (size_t i = 0; i < backups->count; i++) {
        const struct vb_id *previous = &backups->backup[i].manifest.previous;

        if (!vb_id_is_zero(previous) && !vb_backups_find(backups, previous) &&
            !vb_backups_is_pruned(backups, previous))
            missing(opaque, &backups->backup[i]);
    }
}

/* --- what a person calls it ------------------------------------------------------------------ */

static bool begins_with(const uint8_t *bytes, size_t length, const char *digits)
{
    char text[2 * VB_ID_BYTES + 1];

    sodium_bin2hex(text, sizeof(text), bytes, length);
    return strlen(digits) >= DIGITS_MIN && strncmp(text, digits, strlen(digits)) == 0;
}

bool vb_backup_is_of(const struct vb_backup *backup, const char *drive)
{
    return !drive || strcmp(backup->manifest.drive_name, drive) == 0 ||
           begins_with(backup->manifest.drive, VB_DRIVE_ID_BYTES, drive);
}

static int pick_latest(const struct vb_backups *backups, const char *drive,
                       const struct vb_backup **out, struct vdisk_error *error)
{
    const struct vb_backup *found = NULL;

    for (size_t i = 0; i < backups->count; i++) {
        const struct vb_backup *backup = &backups->backup[i];

        if (!vb_backup_is_of(backup, drive))
            continue;
        if (found && memcmp(found->manifest.drive, backup->manifest.drive, VB_DRIVE_ID_BYTES) != 0)
            return error_set(error, -EINVAL,
                             "there are backups of several drives; --drive NAME says of which");
        found = backup;
    }
    if (!found)
        return error_set(error, VDISK_E_NOT_FOUND, "there is no backup%s%s", drive ? " of " : "",
                         drive ? drive : "");
    *out = found;
    return 0;
}

int vb_backups_pick(const struct vb_backups *backups, const char *text, const char *drive,
                    const struct vb_backup **out, struct vdisk_error *error)
{
    const struct vb_backup *found = NULL;

    if (strcmp(text, "latest") == 0)
        return pick_latest(backups, drive, out, error);
    for (size_t i = 0; i < backups->count; i++) {
        const struct vb_backup *backup = &backups->backup[i];

        if (!vb_backup_is_of(backup, drive) || !begins_with(backup->name.b, VB_ID_BYTES, text))
            continue;
        if (found)
            return error_set(error, -EINVAL, "several backups begin with `%s`; give more digits",
                             text);
        found = backup;
    }
    if (!found)
        return error_set(error, VDISK_E_NOT_FOUND,
                         "there is no backup `%s`; `vdisk backup list` shows them", text);
    *out = found;
    return 0;
}
