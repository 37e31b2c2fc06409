/* SPDX-License-Identifier: Apache-2.0 */
/* Pruning, and back; see prune.h. */
#include "prune.h"

#include "lease.h"
#include "mark.h"
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECOND_NS  INT64_C(1000000000)
#define DIGITS_MIN 4u

/* --- by the rules -------------------------------------------------------------------------------
 */

static bool same_drive(const struct vb_backup *a, const struct vb_backup *b)
{
    return memcmp(a->manifest.drive, b->manifest.drive, VB_DRIVE_ID_BYTES) == 0;
}

/* The backups from `first` on that are of one drive. */
static int judge_drive(const struct vb_retention *rules, int64_t now,
                       vb_retention_calendar *calendar, struct vb_plan_row *row, size_t count)
{
    struct vb_retention_item *items = calloc(count, sizeof(*items));
    struct vb_retention_verdict *verdicts = calloc(count, sizeof(*verdicts));
    int result = items && verdicts ? 0 : -ENOMEM;
    size_t removed = 0;

    for (size_t i = 0; i < count && result == 0; i++) {
        const struct vb_manifest *manifest = &row[i].backup->manifest;

        items[i] = (struct vb_retention_item){
            .time = manifest->created / SECOND_NS,
            .immutable_until = manifest->immutable_until,
            .tags = (const char(*)[VB_TAG_TEXT_MAX + 1]) manifest->tag,
            .tag_count = manifest->tag_count,
        };
    }
    if (result == 0)
        vb_retention_judge(rules, items, count, now, calendar, verdicts);
    for (size_t i = 0; i < count && result == 0; i++) {
        row[i].verdict = verdicts[i];
        removed += !verdicts[i].keep;
    }
    for (size_t i = 0; i < count && removed > vb_retention_limit(count); i++)
        row[i].over_limit = !row[i].verdict.keep;
    free(items);
    free(verdicts);
    return result;
}

int vb_plan_make(const struct vb_backups *backups, const struct vb_retention *rules,
                 const char *drive, int64_t now, vb_retention_calendar *calendar,
                 struct vb_plan *plan)
{
    struct vb_plan made = {.row = calloc(backups->count + 1, sizeof(*made.row))};
    int result = made.row ? 0 : -ENOMEM;

    for (size_t i = 0; i < backups->count && result == 0; i++) {
        if (vb_backup_is_of(&backups->backup[i], drive))
            made.row[made.count++].backup = &backups->backup[i];
    }
    for (size_t first = 0, next; first < made.count && result == 0; first = next) {
        next = first + 1;
        while (next < made.count && same_drive(made.row[first].backup, made.row[next].backup))
            next++;
        result = judge_drive(rules, now, calendar, &made.row[first], next - first);
    }
    for (size_t i = 0; i < made.count && result == 0; i++) {
        made.removed += !made.row[i].verdict.keep;
        made.over_limit += made.row[i].over_limit;
    }
    if (result) {
        free(made.row);
        return result;
    }
    *plan = made;
    return 0;
}

/* --- away ------------------------------------------------------------------------------------ */

static int check(const struct vb_repo *repo, const struct vb_backup *const *backups, size_t count,
                 int64_t now, struct vdisk_error *error)
{
    char text[VB_NAME_TEXT_BYTES];

    if (!repo->keys || repo->keys->role == VB_ROLE_PUT)
        return error_set(error, -EPERM,
                         "this key makes backups; they are removed with one of role maintain or "
                         "read");
    for (size_t i = 0; i < count; i++) {
        if (now < 0 || backups[i]->manifest.immutable_until > (uint64_t)now)
            return error_set(error, -EPERM, "backup %.16s is immutable, and stays",
                             vb_id_text(text, &backups[i]->name));
    }
    return 0;
}

static int put_record(struct vb_repo *repo, const struct vb_backup *const *backups,
                      const char *const *reasons, size_t count, int64_t now)
{
    struct vb_prune record = {.when = (uint64_t)now, .count = (uint32_t)count};
    struct vb_id name;
    int result;

    record.removed = calloc(count, sizeof(*record.removed));
    if (!record.removed)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        struct vb_pruned *removed = &record.removed[i];

        removed->name = backups[i]->name;
        memcpy(removed->drive, backups[i]->manifest.drive, VB_DRIVE_ID_BYTES);
        removed->sequence = backups[i]->manifest.sequence;
        snprintf(removed->reason, sizeof(removed->reason), "%s", reasons[i]);
    }
    result = vb_prune_put(repo, &record, &name);
    free(record.removed);
    return result;
}

int vb_prune(struct vb_repo *repo, const struct vb_backup *const *backups,
             const char *const *reasons, size_t count, int64_t now, struct vdisk_error *error)
{
    struct vb_store *store = repo->store;
    int result = check(repo, backups, count, now, error);

    if (result)
        return result;
    for (size_t from = 0; from < count && result == 0; from += VB_PRUNE_ENTRIES_MAX) {
        size_t rest = count - from;

        result = put_record(repo, backups + from, reasons + from,
                            rest < VB_PRUNE_ENTRIES_MAX ? rest : VB_PRUNE_ENTRIES_MAX, now);
    }
    if (result == 0)
        result = store->ops->sync(store);
    for (size_t i = 0; i < count && result == 0; i++) {
        result = store->ops->trash(store, VB_BACKUPS, &backups[i]->name);
        result = result == -ENOENT ? 0 : result; /* another one prunes, too */
    }
    if (result == 0)
        result = store->ops->sync(store);
    return result ? error_set(error, result, "%s", vdisk_strerror(result)) : 0;
}

/* --- and back -------------------------------------------------------------------------------- */

static int find_trashed(struct vb_repo *repo, const char *digits, struct vb_id *out,
                        struct vdisk_error *error)
{
    struct vb_id *names = NULL;
    size_t count = 0, found = 0;
    char text[VB_NAME_TEXT_BYTES];
    int result = vb_store_names(repo->store, VB_BACKUPS, true, &names, &count);

    if (result)
        return error_set(error, result, "%s", vdisk_strerror(result));
    for (size_t i = 0; i < count && strlen(digits) >= DIGITS_MIN; i++) {
        if (strncmp(vb_id_text(text, &names[i]), digits, strlen(digits)) == 0) {
            *out = names[i];
            found++;
        }
    }
    free(names);
    if (found == 1)
        return 0;
    return found ? error_set(error, -EINVAL, "several begin with `%s`; give more digits", digits)
                 : error_set(error, VDISK_E_NOT_FOUND,
                             "there is no backup `%s` in the trash; what has been there for the "
                             "grace time is deleted by `vdisk backup gc`",
                             digits);
}

static int bring_back(struct vb_repo *repo, const struct vb_id *name, struct vdisk_error *error)
{
    struct vb_store *store = repo->store;
    struct vb_backups backups = {0};
    const struct vb_backup *backup;
    int result = store->ops->untrash(store, VB_BACKUPS, name);

    if (result == 0)
        result = store->ops->sync(store);
    if (result)
        return error_set(error, result, "%s", vdisk_strerror(result));
    result = vb_backups_load(repo, &backups, error);
    backup = result ? NULL : vb_backups_find(&backups, name);
    if (result == 0)
        result = backup ? vb_backup_secure(repo, backup, error)
                        : error_set(error, VDISK_E_DAMAGED, "it is not authentic");
    if (result)
        store->ops->trash(store, VB_BACKUPS, name);
    vb_backups_release(&backups);
    return result;
}

int vb_unprune(struct vb_repo *repo, const char *digits, struct vb_id *name,
               struct vdisk_error *error)
{
    struct vb_lease lease;
    int result = find_trashed(repo, digits, name, error);

    if (result)
        return result;
    result = vb_lease_begin(repo, &lease);
    if (result)
        return error_set(error, result, "%s", vdisk_strerror(result));
    result = bring_back(repo, name, error);
    vb_lease_end(repo, &lease);
    return result;
}
