/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening and closing for a command; see session.h.
 */
#include "session.h"

#include "report.h"
#include "workers.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

struct vdisk_workers *session_workers(void)
{
    struct vdisk_workers *workers = NULL;

    if (vd_workers_open(0, &workers) < 0)
        return NULL;
    return workers;
}

void session_workers_close(struct vdisk_workers *workers)
{
    if (workers)
        workers->ops->close(workers);
}

int session_fail(struct session *session, int code)
{
    return report(session->spec.text, code, vdisk_last_error(session->image));
}

uint64_t session_size(const struct session *session)
{
    struct vdisk_snapshot_info info;

    if (!session->snapshot)
        return vdisk_size(session->image);
    vdisk_snapshot_get_info(session->snapshot, &info);
    return info.size;
}

static int open_image(struct session *session, const struct session_options *options,
                      const struct vdisk_key *key, int flags)
{
    struct vdisk_open_options open_options = {
        .struct_bytes = sizeof(open_options),
        .read_only = !(flags & SESSION_WRITE),
        .base_path = options->base,
        .without_source = flags & SESSION_UNFILLED,
        .workers = session->workers,
    };
    struct vdisk_error error = {0};
    int result;

    result = vdisk_open(session->spec.path, &open_options, key, &session->image, &error);
    return result ? report(session->spec.path, result, &error) : STATUS_DONE;
}

static int open_snapshot(struct session *session)
{
    const char *name = session->spec.snapshot;
    int result;

    if (!name[0])
        return STATUS_DONE;
    result = vdisk_snapshot_open(session->image, name, &session->snapshot);
    if (result == VDISK_E_NOT_FOUND)
        return report_text(session->spec.path, result,
                           "there is no snapshot `%s`; `vdisk snapshot list` shows them", name);
    return result ? session_fail(session, result) : STATUS_DONE;
}

int session_open(struct session *session, const char *command, const char *operand,
                 const struct session_options *options, int flags)
{
    struct held_key held = {.prompted = false};
    struct stat file;
    int status;

    memset(session, 0, sizeof(*session));
    status = imagespec_parse(command, operand, &session->spec);
    if (status != STATUS_DONE)
        return status;
    /* Before anyone is asked for a passphrase. */
    if (stat(session->spec.path, &file) < 0)
        return report(session->spec.path, -errno, NULL);
    if (S_ISDIR(file.st_mode))
        return report_text(session->spec.path, -EISDIR, "is a directory, not an image");
    if (session->spec.snapshot[0] && !(flags & SESSION_SNAPSHOT))
        return report_usage(command, "%s names a snapshot, this works on an image", operand);
    status = keyopt_load(&options->key, KEYOPT_OPEN, command, session->spec.path, &held);
    if (status != STATUS_DONE)
        return status;
    session->base = options->base;
    if (flags & SESSION_WORKERS)
        session->workers = session_workers();
    status = open_image(session, options, &held.key, flags);
    keyopt_release(&held);
    if (status == STATUS_DONE)
        status = open_snapshot(session);
    if (status != STATUS_DONE)
        return session_close(session, status);
    return STATUS_DONE;
}

int session_open_again(const struct session *session, const struct vdisk_unlocked *unlocked,
                       struct vdisk_image **image, struct vdisk_snapshot **snapshot)
{
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options),
        .read_only = true,
        .unlocked = unlocked,
        .base_path = session->base,
        .cache_bytes = 2 << 20, /* for who reads the drive through, once */
    };
    int result = vdisk_open(session->spec.path, &options, NULL, image, NULL);

    *snapshot = NULL;
    if (result || !session->snapshot)
        return result;
    result = vdisk_snapshot_open(*image, session->spec.snapshot, snapshot);
    if (result)
        vdisk_close(*image, NULL);
    return result;
}

int session_close(struct session *session, int status)
{
    struct vdisk_error error = {0};
    int result;

    vdisk_snapshot_close(session->snapshot);
    result = vdisk_close(session->image, &error);
    if (result && status == STATUS_DONE)
        status = report(session->spec.path, result, &error);
    session_workers_close(session->workers);
    memset(session, 0, sizeof(*session));
    return status;
}
