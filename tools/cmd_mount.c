/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk mount: becomes `vdisk-fuse`, which gets the key by a pipe; vdisk umount.
 */
#include "commands.h"
#include "ctl_client.h"
#include "imagespec.h"
#include "interrupt.h"
#include "keyopt.h"
#include "launch.h"
#include "mountpoint.h"
#include "options.h"
#include "report.h"
#include "served.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PROGRAM "vdisk-fuse"

struct mount {
    struct keyopt key;
    const char *log, *base, *socket, *vm;
    bool write, files;
};

/* ---- mount ---- */

static int set_socket(const struct mount *mount, struct launch *words)
{
    struct vdisk_error error = {.code = 0};
    char room[SERVED_SOCKET_BYTES];
    const char *path;
    int rc = served_socket(mount->socket, mount->vm, room, &path, &error);

    if (rc)
        return report(NULL, rc, &error);
    launch_add(words, "--socket=%s", path);
    return STATUS_DONE;
}

static int become(const struct mount *mount, const char *operand, const char *folder,
                  const struct vdisk_key *key)
{
    struct launch words = {.count = 0};
    int fd = -1, status, rc = key ? launch_key_pipe(key, &fd) : 0;

    if (rc)
        return report_text(operand, rc, "the key cannot be passed on: %s", vdisk_strerror(rc));
    launch_add(&words, "vdisk"); /* its messages are ours */
    if (key) {
        launch_add(&words, "--key-fd=%d", fd);
        launch_add(&words, "--key-kind=%s", launch_key_kind(key->kind));
    }
    launch_flag(&words, "write", mount->write);
    launch_flag(&words, "files", mount->files);
    status = key ? STATUS_DONE : set_socket(mount, &words);
    if (mount->log)
        launch_add(&words, "--log=%s", mount->log);
    if (mount->base)
        launch_add(&words, "--base=%s", mount->base);
    launch_add(&words, "--");
    launch_add(&words, "%s", operand);
    launch_add(&words, "%s", folder);
    if (words.failed)
        status = report(operand, -ENOMEM, NULL);
    if (status == STATUS_DONE)
        status = launch_become(PROGRAM, &words);
    launch_free(&words);
    if (fd >= 0)
        close(fd);
    return status;
}

static int start(const struct mount *mount, const char *operand, const char *folder)
{
    struct held_key held = {.prompted = false};
    struct imagespec spec;
    struct stat file;
    int status;

    if (served_name(operand))
        return become(mount, operand, folder, NULL);
    if (mount->socket || mount->vm)
        return report_usage("mount", "--socket and --vm are for vdiskd:EXPORT");
    status = imagespec_parse("mount", operand, &spec);
    if (status != STATUS_DONE)
        return status;
    /* Before anyone is asked for a passphrase. */
    if (stat(spec.path, &file) < 0)
        return report(spec.path, -errno, NULL);
    if (spec.snapshot[0] && mount->write)
        return report_usage("mount", "%s names a snapshot, which nobody may write", operand);
    if (mount->files && mount->write)
        return report_usage("mount", "--files is for reading, it does not go with --write");
    status = keyopt_load(&mount->key, KEYOPT_OPEN, "mount", spec.path, &held);
    if (status == STATUS_DONE)
        status = become(mount, operand, folder, &held.key);
    keyopt_release(&held);
    return status;
}

int cmd_mount(int argc, char **argv)
{
    struct mount mount = {.key = {.prefix = ""}};
    const struct option_spec own[] = {
        {"write", OPTION_FLAG, &mount.write, NULL, "`disk` and its partitions may be written"},
        {"files", OPTION_FLAG, &mount.files, NULL,
         "also the files of ext2, ext3 and ext4 file systems, in files/1 ..., to read"},
        {"log", OPTION_TEXT, &mount.log, "FILE", "what goes wrong is told there (syslog)"},
        {"socket", OPTION_TEXT, &mount.socket, "PATH",
         "of vdiskd's management (" CTL_DEFAULT_SOCKET ")"},
        {"vm", OPTION_TEXT, &mount.vm, "NAME", "the vdiskd of that guest of `vdisk run`"},
        {"base", OPTION_TEXT, &mount.base, "IMAGE",
         "where the base of this overlay is, if it has moved"},
        KEYOPT_OPEN_OPTIONS(&mount.key, ""),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "mount",
        .operands = "IMAGE[@SNAPSHOT]|vdiskd:EXPORT[@SNAPSHOT] DIR",
        .about =
            "Shows a drive as files below DIR: disk, partitions/1 ..., snapshots/NAME/disk,\n"
            "snapshots/NAME/partitions/1 ..., info.json. Returns when they are there. Of what\n"
            "a vdiskd serves it shows a snapshot, which is made for that and removed after.",
        .min = 2,
        .max = 2,
        .groups = {own},
    };
    char **operands;
    int count, status = options_parse(&usage, argc, argv, &operands, &count);

    return status == OPTIONS_GO_ON ? start(&mount, operands[0], operands[1]) : status;
}

/* ---- umount ---- */

/* Until the server has closed the image. */
static int await(const char *folder, int server)
{
    int rc = interrupt_wait_fd(server, POLLIN, -1);

    close(server);
    return rc ? report(folder, rc, NULL) : STATUS_DONE;
}

static int unmount(const char *folder)
{
    struct vdisk_error error = {.code = 0};
    int server = -1, rc = mountpoint_is_used(folder);
    pid_t pid;

    if (rc < 0)
        return report(folder, rc, NULL);
    if (rc == 0) {
        report_note(folder, "no drive is mounted there");
        return STATUS_DONE;
    }
    interrupt_catch();
    pid = mountpoint_server(folder);
    if (pid > 0)
        server = (int)syscall(SYS_pidfd_open, pid, 0);
    rc = mountpoint_unmount(folder, &error);
    if (rc == 0 && server >= 0)
        return await(folder, server);
    if (server >= 0)
        close(server);
    return rc ? report(folder, rc, &error) : STATUS_DONE;
}

int cmd_umount(int argc, char **argv)
{
    const struct option_spec own[] = {{.kind = OPTION_END}};
    const struct usage usage = {
        .command = "umount",
        .operands = "DIR",
        .about = "Takes a mount of `vdisk mount` away, also what is left of one whose server was\n"
                 "killed, and returns when the image is closed.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    char **operands;
    int count, status = options_parse(&usage, argc, argv, &operands, &count);

    return status == OPTIONS_GO_ON ? unmount(operands[0]) : status;
}
