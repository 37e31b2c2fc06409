/* SPDX-License-Identifier: Apache-2.0 */
/* See restore.h. */
#include "restore.h"

#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define HEX_BYTES (2u * VDISK_ID_BYTES + 1)

_Static_assert(VDISK_TAG_BYTES == VDISK_ID_BYTES, "both are written alike");

/* ---- the guest ---- */

static int fail_senseless(const struct statefile *file)
{
    return report_text(file->path, VDISK_E_MALFORMED, "does not say what the guest was");
}

static const char *text_of(const json_t *object, const char *name)
{
    return json_string_value(json_object_get(object, name));
}

int restore_describe(const struct statefile *file, struct restore_guest *out)
{
    const json_t *from = file->manifest, *drives = json_object_get(from, "drives");
    json_int_t memory = json_integer_value(json_object_get(from, "memory"));
    json_int_t cpus = json_integer_value(json_object_get(from, "cpus"));
    json_t *net;
    size_t i;

    if (memory <= 0 || cpus <= 0 || cpus > UINT16_MAX || json_array_size(drives) == 0)
        return fail_senseless(file);
    *out = (struct restore_guest){
        .manifest = file->manifest,
        .name = text_of(from, "name"),
        .kernel = text_of(from, "kernel"),
        .initrd = text_of(from, "initrd"),
        .command = text_of(from, "command"),
        .firmware = text_of(from, "firmware"),
        .vsock = text_of(from, "vsock"),
        .memory = (uint64_t)memory,
        .cpus = (unsigned)cpus,
        .drives = (unsigned)json_array_size(drives),
        .read_only = text_of(json_array_get(drives, 0), "root_tag"),
    };
    json_array_foreach(json_object_get(from, "nets"), i, net)
    {
        if (!json_is_string(net) || out->nets.count == OPTIONS_LIST_MAX)
            return fail_senseless(file);
        out->nets.value[out->nets.count++] = json_string_value(net);
    }
    json_incref(out->manifest);
    return STATUS_DONE;
}

void restore_forget(struct restore_guest *guest)
{
    json_decref(guest->manifest);
    *guest = (struct restore_guest){.manifest = NULL};
}

/* ---- its drives ---- */

struct drive {
    const struct imagespec *spec;
    const json_t *was; /* in the manifest */
    unsigned number;
    struct vdisk_image *image;
    struct vdisk_snapshot *snapshot;
};

static bool is_hex_of(const char *text, const uint8_t *bytes)
{
    char hex[HEX_BYTES];

    for (unsigned i = 0; i < VDISK_ID_BYTES; i++)
        (void)snprintf(hex + 2 * (size_t)i, 3, "%02x", bytes[i]);
    return text && strcmp(text, hex) == 0;
}

static int drive_fail(const struct drive *drive, int code)
{
    return report(drive->spec->path, code, vdisk_last_error(drive->image));
}

/* Whether it is the same image, and the same of it: without opening it. */
static int check_identity(const struct drive *drive)
{
    const char *snapshot = text_of(drive->was, "snapshot"), *path = drive->spec->path;
    bool is_live = json_is_true(json_object_get(drive->was, "is_live")) || !snapshot;
    struct vdisk_public_info info;
    struct vdisk_error error = {.code = 0};
    int rc = vdisk_probe(path, &info, &error);

    if (rc)
        return report(path, rc, &error);
    if (!is_hex_of(text_of(drive->was, "image_id"), info.image_id))
        return report_text(path, -EINVAL,
                           "is not what the guest had as drive %u: its id is another",
                           drive->number);
    if (is_live && drive->spec->snapshot[0])
        return report_text(path, -EINVAL,
                           "the guest had, as drive %u, the drive itself and no snapshot",
                           drive->number);
    if (!is_live && strcmp(drive->spec->snapshot, snapshot) != 0)
        return report_text(path, -EINVAL, "the guest had, as drive %u, the snapshot `%s` of it",
                           drive->number, snapshot);
    return STATUS_DONE;
}

static bool is_changed(void *opaque, const struct vdisk_extent *extent)
{
    bool *changed = opaque;

    (void)extent;
    *changed = true;
    return false;
}

/* Nothing was written since the snapshot. */
static int check_live(const struct drive *drive, const struct vdisk_snapshot_info *info)
{
    bool changed = info->size != vdisk_size(drive->image);
    int rc = changed ? 0 : vdisk_diff(drive->image, drive->snapshot, NULL, is_changed, &changed);

    if (rc)
        return drive_fail(drive, rc);
    if (changed)
        return report_text(drive->spec->path, -ESTALE,
                           "was written to since the guest was suspended; `vdisk snapshot "
                           "rollback` to `%s` makes it again what it was",
                           info->name);
    return STATUS_DONE;
}

static int check_snapshot(struct drive *drive, const char *name)
{
    json_int_t id = json_integer_value(json_object_get(drive->was, "snapshot_id"));
    struct vdisk_snapshot_info info = {.id = 0};
    int rc = vdisk_snapshot_open(drive->image, name, &drive->snapshot);

    if (rc && rc != VDISK_E_NOT_FOUND)
        return drive_fail(drive, rc);
    if (rc == 0)
        vdisk_snapshot_get_info(drive->snapshot, &info);
    if (rc || info.id != (uint64_t)id)
        return report_text(drive->spec->path, VDISK_E_NOT_FOUND,
                           "its snapshot `%s`, with what the guest had, is gone: it cannot go on",
                           name);
    return json_is_true(json_object_get(drive->was, "is_live")) ? check_live(drive, &info)
                                                                : STATUS_DONE;
}

/* A drive that is read-only has no snapshot of its own. */
static int check_root(const struct drive *drive)
{
    struct vdisk_info info;

    vdisk_get_info(drive->image, &info);
    if (is_hex_of(text_of(drive->was, "root_tag"), info.root_tag))
        return STATUS_DONE;
    return report_text(drive->spec->path, -ESTALE,
                       "was changed since the guest was suspended, which had it read-only: it "
                       "cannot go on");
}

static int check_drive(struct drive *drive, const struct vdisk_key *key)
{
    const struct vdisk_open_options options = {.struct_bytes = sizeof(options), .read_only = true};
    const char *snapshot = text_of(drive->was, "snapshot");
    struct vdisk_error error = {.code = 0};
    int status = check_identity(drive), rc;

    if (status != STATUS_DONE)
        return status;
    rc = vdisk_open(drive->spec->path, &options, key, &drive->image, &error);
    if (rc)
        return report(drive->spec->path, rc, &error);
    status = snapshot ? check_snapshot(drive, snapshot) : check_root(drive);
    vdisk_snapshot_close(drive->snapshot);
    (void)vdisk_close(drive->image, NULL);
    return status;
}

int restore_check(const struct statefile *file, const struct imagespec *specs, unsigned count,
                  const struct vdisk_key *key)
{
    const json_t *drives = json_object_get(file->manifest, "drives");
    int status = STATUS_DONE;

    if (json_array_size(drives) != count)
        return report_text(file->path, -EINVAL,
                           "the guest had another number of drives: %zu, and not %u",
                           json_array_size(drives), count);
    for (unsigned i = 0; i < count && status == STATUS_DONE; i++) {
        struct drive drive = {.spec = &specs[i], .was = json_array_get(drives, i), .number = i};

        status = check_drive(&drive, key);
    }
    return status;
}
