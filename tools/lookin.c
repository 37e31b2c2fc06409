/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening for `vdisk ls` and `vdisk cp`; see lookin.h.
 */
#include "lookin.h"

#include "interrupt.h"
#include "report.h"
#include "served.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int split(struct lookin *in, const char *command)
{
    const char *colon = strstr(in->operand, ":/");

    in->path = colon ? colon + 1 : "/";
    in->image = colon ? strndup(in->operand, (size_t)(colon - in->operand)) : strdup(in->operand);
    if (!in->image)
        return report(in->operand, -ENOMEM, NULL);
    if (!in->image[0])
        return report_usage(command, "%s: the image is missing in front of the `:`", in->operand);
    return STATUS_DONE;
}

static void say_what_is_missing(const struct lookin *in)
{
    struct ext_files_info info;

    ext_files_get_info(in->found.files, &info);
    if (info.journal_is_cut)
        report_note(in->image, "the journal of its file system ends in a damaged transaction; "
                               "files are as they were before it");
    else if (info.has_fast_commits)
        report_note(in->image, "its file system was in use, with fast commits; files are as they "
                               "were at its last full commit");
}

static int find(struct lookin *in, const char *command, const struct lookin_options *options)
{
    struct vdisk_error error = {0};
    int result;

    if (options->partition.given &&
        (options->partition.value == 0 || options->partition.value > UINT_MAX))
        return report_usage(command, "partitions are counted from 1 on");
    result = findfs_open(&in->drive, (unsigned)options->partition.value, &in->found, &error);
    if (result)
        return report(in->image, result, &error);
    say_what_is_missing(in);
    return STATUS_DONE;
}

/* ---- what a vdiskd serves ---- */

static int read_served(struct drive *drive, uint64_t offset, void *data, uint64_t length)
{
    struct access *access = drive->owner;

    return access->ops->read(access, 0, offset, data, length);
}

static int open_served(struct lookin *in, const struct lookin_options *options)
{
    char room[SERVED_SOCKET_BYTES], *export = strdup(served_name(in->image));
    char *at = export ? strrchr(export, '@') : NULL;
    struct backing_served_options served = {
        .export = export,
        .snapshot = at ? at + 1 : NULL,
    };
    struct vdisk_error error = {0};
    int result = export ? 0 : -ENOMEM;

    if (at)
        *at = '\0';
    if (result == 0)
        result = served_socket(options->socket, options->vm, room, &served.socket, &error);
    if (result) {
        free(export);
        return report(NULL, result, &error);
    }
    if (access(served.socket, F_OK)) {
        free(export);
        return report_text(served.socket, -errno, "there is no management of a vdiskd: %s",
                           vdisk_strerror(-errno));
    }
    interrupt_catch(); /* a snapshot is to be removed */
    result = backing_open_served(in->image, &served, &in->served, &error);
    free(export);
    if (result == 0)
        result = in->served->ops->open(in->served, &in->access, &error);
    if (result)
        return report(in->image, result, &error);
    in->drive =
        (struct drive){.size = in->served->state[0].size, .read = read_served, .owner = in->access};
    return STATUS_DONE;
}

static int close_served(struct lookin *in, int status)
{
    struct vdisk_error error = {0};
    int result;

    if (in->access)
        in->access->ops->close(in->access);
    result = in->served ? in->served->ops->close(in->served, &error) : 0;
    return result && status == STATUS_DONE ? report(in->image, result, &error) : status;
}

/* ---- both ---- */

static int open_drive(struct lookin *in, const char *command, const struct lookin_options *options,
                      int flags)
{
    int status;

    if (served_name(in->image))
        return open_served(in, options);
    if (options->socket || options->vm)
        return report_usage(command, "--socket and --vm are for vdiskd:EXPORT");
    status =
        session_open(&in->session, command, in->image, &options->session, SESSION_SNAPSHOT | flags);
    if (status == STATUS_DONE)
        drive_of_image(&in->drive, in->session.image, in->session.snapshot);
    return status;
}

int lookin_open(struct lookin *in, const char *command, const char *operand,
                const struct lookin_options *options, int flags)
{
    int status;

    memset(in, 0, sizeof(*in));
    in->operand = operand;
    status = split(in, command);
    if (status == STATUS_DONE)
        status = open_drive(in, command, options, flags);
    if (status == STATUS_DONE)
        status = find(in, command, options);
    return status == STATUS_DONE ? status : lookin_close(in, status);
}

int lookin_close(struct lookin *in, int status)
{
    findfs_close(&in->found);
    status = close_served(in, status);
    status = session_close(&in->session, status);
    free(in->image);
    return status;
}

int lookin_fail(struct lookin *in, const char *path, int code)
{
    if (code == -ENOKEY)
        return report_text(path, code, "is encrypted by the guest, with a key of its own");
    if (code == VDISK_E_MALFORMED)
        return report_text(path, code,
                           "the file system is damaged there; `e2fsck` in the guest "
                           "may mend it");
    if (code == VDISK_E_NOT_AUTHENTIC)
        return report(path, code,
                      in->access ? &in->access->error : vdisk_last_error(in->session.image));
    return report_text(path, code, "%s", vdisk_strerror(code));
}
