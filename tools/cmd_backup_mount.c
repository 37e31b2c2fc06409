/* SPDX-License-Identifier: Apache-2.0 */
/* vdisk backup mount: becomes `vdisk-fuse`, which gets the key of the repository by a pipe. */
#include "backup_session.h"
#include "launch.h"
#include "options.h"
#include "report.h"

#include <errno.h>
#include <unistd.h>

#define PROGRAM "vdisk-fuse"

struct mount {
    struct backup_options options;
    const char *drive, *log;
    bool files;
};

static int become(const struct backup_session *session, const struct mount *mount,
                  const struct vb_backup *backup, const char *folder)
{
    struct launch words = {.count = 0};
    char name[VB_NAME_TEXT_BYTES];
    int fd = -1, status, rc = launch_key_pipe(&session->key.key, &fd);

    if (rc)
        return report_text(session->path, rc, "the key cannot be passed on: %s",
                           vdisk_strerror(rc));
    launch_add(&words, "vdisk"); /* its messages are ours */
    launch_add(&words, "--key-fd=%d", fd);
    launch_add(&words, "--key-kind=%s", launch_key_kind(session->key.key.kind));
    launch_add(&words, "--backup=%s", vb_id_text(name, &backup->name));
    launch_flag(&words, "files", mount->files);
    if (mount->log)
        launch_add(&words, "--log=%s", mount->log);
    launch_add(&words, "--");
    launch_add(&words, "%s", session->path);
    launch_add(&words, "%s", folder);
    status = words.failed ? report(session->path, -ENOMEM, NULL) : launch_become(PROGRAM, &words);
    launch_free(&words);
    close(fd);
    return status;
}

int cmd_backup_mount(int argc, char **argv)
{
    struct mount mount = {.options = BACKUP_OPTIONS_NONE};
    const struct option_spec own[] = {
        {"drive", OPTION_TEXT, &mount.drive, "NAME", "of which drive `latest` is"},
        {"files", OPTION_FLAG, &mount.files, NULL,
         "also the files of ext2, ext3 and ext4 file systems, in files/1 ..."},
        {"log", OPTION_TEXT, &mount.log, "FILE", "what goes wrong is told there (syslog)"},
        BACKUP_OPTIONS(&mount.options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup mount",
        .operands = "REPO BACKUP|latest DIR",
        .about = "Shows a backup as files below DIR, for reading: disk, partitions/1 ...,\n"
                 "info.json. Returns when they are there; `vdisk umount DIR` ends it.",
        .min = 3,
        .max = 3,
        .groups = {own},
    };
    struct vdisk_error error = {0};
    const struct vb_backup *backup;
    struct backup_session session;
    int result, status;

    if (!backup_begin(&session, &usage, argc, argv, &mount.options, &status))
        return status;
    result = vb_backups_pick(&session.backups, session.operands[1], mount.drive, &backup, &error);
    status = result ? report(session.path, result, &error)
                    : become(&session, &mount, backup, session.operands[2]);
    backup_close(&session);
    return status;
}
