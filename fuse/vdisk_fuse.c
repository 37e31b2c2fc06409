/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `vdisk-fuse`: shows a drive, its partitions and its snapshots as files. `vdisk mount` becomes
 * this program.
 *
 * The order of its life: into the background (background.h), the key, the image (one that is to be
 * written is opened to be looked at, and closed again), the mount, what it gives up, threads, and
 * among them the engine of what is written. At the end the device is closed first, so that nobody
 * waits for an answer, then the image, or the snapshot that a daemon made is removed.
 */
#include "background.h"
#include "backing.h"
#include "kernel_mount.h"
#include "mountpoint.h"
#include "server.h"

#include "confine.h"
#include "ctl_client.h"
#include "descriptors.h"
#include "imagespec.h"
#include "interrupt.h"
#include "key.h"
#include "keyopt.h"
#include "lockedmem.h"
#include "log.h"
#include "options.h"
#include "report.h"
#include "served.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SCRATCH_BYTES (UINT64_C(1) << 30) /* journals are smaller */
#define SYSTEM_LOG    "syslog"
#define LOG_SOCKET    "/dev/log"

struct mount {
    struct keyopt key;
    struct option_size key_fd;
    const char *key_kind, *base, *log, *socket;
    const char *backup; /* the operand is a repository: this backup of it; NULL: it is none */
    bool write, files, foreground;
    bool by_kernel; /* file systems of other kinds, once we are up */
    const char *operand, *folder;
    struct imagespec spec;
    char *image;      /* whole path; NULL: a vdiskd serves it, or it is a backup */
    char *repository; /* likewise; NULL: none */
    struct vdisk_unlocked *unlocked;
    bool has_base;
    struct backing *backing;
    struct background background;
    int log_fd; /* -1: none */
};

/* ---- the log ---- */

static int open_system_log(void)
{
    const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = LOG_SOCKET};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof(address))) {
        close(fd);
        fd = -1;
    }
    return fd;
}

/* Nobody sees the standard error of what is in the background. */
static int open_log(struct mount *mount)
{
    bool is_system = mount->log ? strcmp(mount->log, SYSTEM_LOG) == 0 : !mount->foreground;

    if (is_system)
        mount->log_fd = open_system_log();
    else if (mount->log)
        mount->log_fd =
            open(mount->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);
    if (mount->log && mount->log_fd < 0)
        return report(is_system ? LOG_SOCKET : mount->log, -errno, NULL);
    if (is_system && mount->log_fd >= 0)
        log_to_journal();
    if (mount->foreground && mount->log_fd >= 0)
        (void)dup2(mount->log_fd, STDERR_FILENO);
    return STATUS_DONE;
}

/* ---- what is mounted ---- */

static struct key_source key_from(const struct mount *mount)
{
    const char *kind = mount->key_kind ? mount->key_kind : "key-file";

    return (struct key_source){
        .fd = mount->key_fd.value <= INT_MAX ? (int)mount->key_fd.value : -1,
        .may_wait = true,
        .kind = strcmp(kind, "passphrase") == 0 ? VDISK_KEY_PASSPHRASE
                : strcmp(kind, "identity") == 0 ? VDISK_KEY_IDENTITY
                                                : VDISK_KEY_FILE,
    };
}

static int unlock(struct mount *mount)
{
    struct vdisk_error error = {.code = 0};
    struct held_key held = {.prompted = false};
    int status, rc;

    if (mount->key_fd.given) {
        const struct key_source source = key_from(mount);

        rc = key_unlock(&source, mount->image, &mount->unlocked, &error);
        close(source.fd);
        return rc ? report(mount->spec.path, rc, &error) : STATUS_DONE;
    }
    status = keyopt_load(&mount->key, KEYOPT_OPEN, NULL, mount->spec.path, &held);
    if (status != STATUS_DONE)
        return status;
    rc = vdisk_unlock(mount->image, &held.key, &mount->unlocked, &error);
    keyopt_release(&held);
    return rc ? report(mount->spec.path, rc, &error) : STATUS_DONE;
}

static int report_image(const struct mount *mount, int rc, const struct vdisk_error *error)
{
    if (rc == VDISK_E_IN_USE)
        return report_text(mount->spec.path, rc,
                           "is in use by another process; if that is a vdiskd, `vdisk mount "
                           "vdiskd:EXPORT DIR` shows a snapshot that it makes");
    return report(mount->spec.path, rc, error);
}

/* To be written it is opened once more, by the engine, when all is given up. */
static int open_image(struct mount *mount)
{
    const struct backing_image_options options = {
        .path = mount->image,
        .shown = mount->spec.path,
        .snapshot = mount->spec.snapshot,
        .base = mount->base,
        .unlocked = mount->unlocked,
    };
    struct vdisk_error error = {.code = 0};
    int rc = backing_open_image(mount->operand, &options, &mount->backing, &error);

    if (rc)
        return report_image(mount, rc, &error);
    mount->has_base = mount->backing->has_base;
    if (mount->write) {
        (void)mount->backing->ops->close(mount->backing, NULL);
        mount->backing = NULL;
    }
    return STATUS_DONE;
}

static int open_engine(struct mount *mount)
{
    const struct backing_image_options options = {
        .path = mount->image,
        .shown = mount->spec.path,
        .snapshot = "",
        .unlocked = mount->unlocked,
    };
    struct vdisk_error error = {.code = 0};
    int rc = backing_open_engine(mount->operand, &options, &mount->backing, &error);

    return rc ? report_image(mount, rc, &error) : STATUS_DONE;
}

static int find_image(struct mount *mount)
{
    int status = imagespec_parse(NULL, mount->operand, &mount->spec);

    if (status != STATUS_DONE)
        return status;
    if (mount->write && mount->spec.snapshot[0])
        return report_usage(NULL, "%s names a snapshot, which nobody may write", mount->operand);
    if (mount->write && mount->base)
        return report_usage(NULL, "--base is for reading: an overlay is written where its base is "
                                  "as recorded");
    mount->image = realpath(mount->spec.path, NULL); /* the working directory will be another */
    if (!mount->image)
        return report(mount->spec.path, -errno, NULL);
    return unlock(mount);
}

static int open_backup_with(struct mount *mount, const struct vdisk_key *key)
{
    const struct backing_backup_options options = {
        .repo = mount->operand, .backup = mount->backup, .key = key};
    struct vdisk_error error = {.code = 0};
    int rc = backing_open_backup(mount->operand, &options, &mount->backing, &error);

    return rc ? report(mount->operand, rc, &error) : STATUS_DONE;
}

static int open_backup(struct mount *mount)
{
    struct vdisk_error error = {.code = 0};
    struct held_key held = {.prompted = false};
    struct key_source source = key_from(mount);
    struct key_held from_pipe = {.bytes = NULL};
    int status, rc;

    mount->repository = realpath(mount->operand, NULL);
    if (!mount->repository)
        return report(mount->operand, -errno, NULL);
    if (mount->key_fd.given) {
        rc = key_load(&source, &from_pipe, &error);
        close(source.fd);
        status = rc ? report(mount->operand, rc, &error) : open_backup_with(mount, &from_pipe.key);
        key_release(&from_pipe);
        return status;
    }
    status = keyopt_load(&mount->key, KEYOPT_OPEN, NULL, mount->operand, &held);
    if (status == STATUS_DONE)
        status = open_backup_with(mount, &held.key);
    keyopt_release(&held);
    return status;
}

static int open_served(struct mount *mount)
{
    char *export = strdup(served_name(mount->operand));
    char *at = export ? strrchr(export, '@') : NULL;
    char *socket = realpath(mount->socket, NULL); /* as that of an image */
    const struct backing_served_options options = {
        .socket = socket,
        .export = export,
        .snapshot = at ? at + 1 : NULL,
    };
    struct vdisk_error error = {.code = 0};
    int rc;

    if (!socket || !export) {
        rc = report_text(mount->socket, -errno, "there is no management of a vdiskd: %s",
                         vdisk_strerror(-errno));
        free(socket);
        free(export);
        return rc;
    }
    if (at)
        *at = 0;
    rc = backing_open_served(mount->operand, &options, &mount->backing, &error);
    free(export);
    free(socket);
    return rc ? report(mount->operand, rc, &error) : STATUS_DONE;
}

/* So that the kernel can replay journals. */
static int add_scratch(struct mount *mount)
{
    struct backing *with;

    if (!mount->by_kernel)
        return STATUS_DONE;
    with = backing_with_scratch(mount->backing, SCRATCH_BYTES);
    if (!with)
        return report(mount->operand, -ENOMEM, NULL);
    mount->backing = with;
    return STATUS_DONE;
}

/* ---- giving up ---- */

/* Of files there is the image's folder; the bases of an overlay may be anywhere, to be read. */
static int confine(const struct mount *mount)
{
    struct vdisk_error error = {.code = 0};
    char *folder = mount->image ? confine_folder(mount->image) : NULL;
    struct confine_path paths[3];
    unsigned count = 0;
    int rc = confine_privileges(&error);

    if (folder)
        paths[count++] = (struct confine_path){.path = folder, .may_write = mount->write};
    if (mount->repository)
        paths[count++] = (struct confine_path){.path = mount->repository};
    if (mount->has_base)
        paths[count++] = (struct confine_path){.path = "/"};
    if (rc == 0)
        rc = confine_files(paths, count, &error);
    if (rc >= 0)
        rc = confine_syscalls(&(struct confine_calls){.only_local = true}, &error);
    free(folder);
    return rc < 0 ? report(NULL, rc, &error) : STATUS_DONE;
}

/* ---- running ---- */

static void is_up(void *opaque)
{
    struct mount *mount = opaque;

    background_up(&mount->background, mount->log_fd);
    log_event(LOG_INFO, "mounted", "drive", mount->operand, "at", mount->folder, NULL);
}

static int serve(struct mount *mount, int device)
{
    const struct server_options options = {.backing = mount->backing,
                                           .device = device,
                                           .up = is_up,
                                           .opaque = mount,
                                           .files = mount->files};
    struct server *server;
    int rc = server_new(&options, &server);

    if (rc == 0) {
        rc = server_run(server);
        server_free(server);
    }
    return rc ? report(mount->folder, rc, NULL) : STATUS_DONE;
}

/* What is mounted is gone again when we end, whyever. */
static int mount_and_serve(struct mount *mount)
{
    struct vdisk_error error = {.code = 0};
    int device, status;
    int rc = mountpoint_mount(mount->folder, mount->operand, mount->write || mount->by_kernel,
                              &device, &error);

    if (rc)
        return report(mount->folder, rc, &error);
    background_apart(&mount->background);
    if (!mount->foreground && chdir("/"))
        status = report("/", -errno, NULL);
    else
        status = confine(mount);
    if (status == STATUS_DONE && !mount->backing)
        status = open_engine(mount);
    if (status == STATUS_DONE)
        return serve(mount, device);
    close(device);
    return status;
}

static int close_backing(struct mount *mount, int status)
{
    struct vdisk_error error = {.code = 0};
    int rc = mount->backing->ops->close(mount->backing, &error);

    if (rc == 0)
        return status;
    log_event(LOG_ERROR, "close-failed", "drive", mount->operand, "reason",
              error.text[0] ? error.text : vdisk_strerror(rc), NULL);
    return status == STATUS_DONE ? report_status(rc) : status;
}

static int run(struct mount *mount)
{
    bool is_served = served_name(mount->operand);
    int status = open_log(mount);

    if (status == STATUS_DONE && !is_served && !mount->backup)
        status = find_image(mount);
    if (status != STATUS_DONE)
        return status;
    interrupt_catch(); /* from here on there is something to tidy up */
    status = mount->backup ? open_backup(mount)
             : is_served   ? open_served(mount)
                           : open_image(mount);
    if (status == STATUS_DONE)
        status = add_scratch(mount);
    if (status == STATUS_DONE)
        status = mount_and_serve(mount);
    if (mount->backing)
        status = close_backing(mount, status);
    vdisk_unlocked_free(mount->unlocked);
    free(mount->image);
    free(mount->repository);
    return status;
}

static int parse(struct mount *mount, int argc, char **argv)
{
    const struct option_spec own[] = {
        {"write", OPTION_FLAG, &mount->write, NULL, "the drive may be written"},
        {"files", OPTION_FLAG, &mount->files, NULL, "also the files of ext2, ext3 and ext4"},
        {"foreground", OPTION_FLAG, &mount->foreground, NULL, "stays, and logs to standard error"},
        {"log", OPTION_TEXT, &mount->log, "FILE", "logs there; `syslog` is the system's log"},
        {"socket", OPTION_TEXT, &mount->socket, "PATH",
         "management of vdiskd (" CTL_DEFAULT_SOCKET ")"},
        {"base", OPTION_TEXT, &mount->base, "IMAGE",
         "where the base of this overlay is, if it has moved"},
        {"backup", OPTION_TEXT, &mount->backup, "NAME", "IMAGE is a repository: this backup of it"},
        KEYOPT_OPEN_OPTIONS(&mount->key, ""),
        {"key-fd", OPTION_NUMBER, &mount->key_fd, "N", "the key comes from this descriptor"},
        {"key-kind", OPTION_TEXT, &mount->key_kind, "KIND", "key-file, passphrase or identity"},
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .operands = "IMAGE[@SNAPSHOT]|vdiskd:EXPORT[@SNAPSHOT] DIR",
        .about = "Shows a drive, its partitions and its snapshots as files below DIR, until it is\n"
                 "unmounted (`vdisk umount`) or ended by SIGTERM.",
        .min = 2,
        .max = 2,
        .groups = {own},
    };
    char **operands;
    int count, status = options_parse(&usage, argc, argv, &operands, &count);

    if (status != OPTIONS_GO_ON)
        return status;
    mount->operand = operands[0];
    mount->folder = operands[1];
    if (mount->write && mount->backup)
        return report_usage(NULL, "a backup is for reading, it does not go with --write");
    if (mount->write && mount->files)
        return report_usage(NULL, "--files is for reading, it does not go with --write");
    if (mount->write && served_name(mount->operand))
        return report_usage(NULL, "what vdiskd shows is a snapshot, which nobody may write");
    return status;
}

int main(int argc, char **argv)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    struct mount mount = {
        .key = {.prefix = ""},
        .socket = CTL_DEFAULT_SOCKET,
        .background = BACKGROUND_NONE,
        .log_fd = -1,
    };
    int status;

    if (!descriptors_open_standard())
        return STATUS_FAILED;
    report_set_program(slash ? slash + 1 : argc > 0 ? argv[0] : "vdisk-fuse");
    signal(SIGPIPE, SIG_IGN);
    log_open(false);
    status = parse(&mount, argc, argv);
    if (status != OPTIONS_GO_ON)
        return status;
    mount.by_kernel = mount.files && !mount.write && !mount.foreground && kernel_mount_may();
    if (!mount.foreground)
        status = background_begin(&mount.background);
    if (status == STATUS_DONE) /* we are who waited */
        mountpoint_read_ahead(mount.folder);
    if (status == STATUS_DONE && mount.by_kernel)
        kernel_mount_all(mount.folder);
    if (status != OPTIONS_GO_ON)
        return status;
    status = vd_process_harden();
    if (status < 0)
        return report_text(NULL, status, "the process cannot be protected: %s",
                           vdisk_strerror(status));
    if (vdisk_init() < 0)
        return report_text(NULL, -EIO, "the cryptographic libraries do not start");
    return run(&mount);
}
