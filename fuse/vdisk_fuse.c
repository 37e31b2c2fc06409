/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `vdisk-fuse`: shows a drive, its partitions and its snapshots as files. `vdisk mount` becomes
 * this program.
 *
 * The order of its life: in the background, then hardened (locked memory does not pass a fork), the
 * key, the image, the mount, confinement, threads. Whoever waits in the foreground is told the exit
 * status by a pipe, when the kernel has been answered or something has failed.
 */
#include "backing.h"
#include "mountpoint.h"
#include "server.h"

#include "confine.h"
#include "descriptors.h"
#include "imagespec.h"
#include "key.h"
#include "keyopt.h"
#include "lockedmem.h"
#include "log.h"
#include "options.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

struct mount {
    struct keyopt key;
    struct option_size key_fd;
    const char *key_kind, *base, *log;
    bool write, foreground;
    const char *operand, *folder;
    struct imagespec spec;
    int waiting; /* whoever waits for us reads the other end; -1: nobody */
};

/* ---- in the background ---- */

/* The exit status of who waited. */
static int await(int told, pid_t pid)
{
    unsigned char status;
    int ended;
    ssize_t got;

    do
        got = read(told, &status, 1);
    while (got < 0 && errno == EINTR);
    if (got == 1)
        return status;
    while (waitpid(pid, &ended, 0) < 0) {
        if (errno != EINTR)
            return STATUS_FAILED;
    }
    return WIFEXITED(ended) ? WEXITSTATUS(ended) : STATUS_FAILED;
}

/* Goes on in a child. OPTIONS_GO_ON there; elsewhere the exit status. */
static int go_apart(struct mount *mount)
{
    int ends[2];
    pid_t pid;

    if (pipe2(ends, O_CLOEXEC) || (pid = fork()) < 0)
        return report(mount->folder, -errno, NULL);
    if (pid > 0) {
        close(ends[1]);
        return await(ends[0], pid);
    }
    close(ends[0]);
    mount->waiting = ends[1];
    return OPTIONS_GO_ON;
}

/* Its terminal and its shell are let go. */
static void go_alone(struct mount *mount, int log)
{
    const unsigned char done = STATUS_DONE;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    (void)setsid();
    (void)dup2(null, STDIN_FILENO);
    (void)dup2(null, STDOUT_FILENO);
    (void)dup2(log >= 0 ? log : null, STDERR_FILENO);
    if (write(mount->waiting, &done, 1) < 0)
        log_event(LOG_WARNING, "nobody-waits", NULL);
    close(mount->waiting);
}

/* ---- what is mounted ---- */

static int unlock(const struct mount *mount, struct vdisk_unlocked **out)
{
    struct vdisk_error error = {.code = 0};
    struct held_key held = {.prompted = false};
    int status, rc;

    if (mount->key_fd.given) {
        struct key_source source = {
            .fd = (int)mount->key_fd.value,
            .may_wait = true,
            .kind = VDISK_KEY_FILE,
        };

        if (mount->key_kind && strcmp(mount->key_kind, "passphrase") == 0)
            source.kind = VDISK_KEY_PASSPHRASE;
        if (mount->key_kind && strcmp(mount->key_kind, "identity") == 0)
            source.kind = VDISK_KEY_IDENTITY;
        rc = key_unlock(&source, mount->spec.path, out, &error);
        close(source.fd);
        return rc ? report(mount->spec.path, rc, &error) : STATUS_DONE;
    }
    status = keyopt_load(&mount->key, KEYOPT_OPEN, NULL, mount->spec.path, &held);
    if (status != STATUS_DONE)
        return status;
    rc = vdisk_unlock(mount->spec.path, &held.key, out, &error);
    keyopt_release(&held);
    return rc ? report(mount->spec.path, rc, &error) : STATUS_DONE;
}

static int open_image(struct mount *mount, struct backing **out)
{
    struct vdisk_error error = {.code = 0};
    struct vdisk_unlocked *unlocked = NULL;
    struct stat file;
    int rc, status = imagespec_parse(NULL, mount->operand, &mount->spec);

    if (status != STATUS_DONE)
        return status;
    if (stat(mount->spec.path, &file) < 0)
        return report(mount->spec.path, -errno, NULL);
    status = unlock(mount, &unlocked);
    if (status != STATUS_DONE)
        return status;
    const struct backing_image_options options = {
        .path = mount->spec.path,
        .snapshot = mount->spec.snapshot,
        .base = mount->base,
        .unlocked = unlocked,
    };
    rc = mount->write ? backing_open_engine(mount->operand, &options, out, &error)
                      : backing_open_image(mount->operand, &options, out, &error);
    vdisk_unlocked_free(unlocked);
    return rc ? report(mount->spec.path, rc, &error) : STATUS_DONE;
}

/* ---- running ---- */

struct running {
    struct mount *mount;
    int log;
};

static void is_up(void *opaque)
{
    const struct running *running = opaque;

    if (running->mount->waiting >= 0)
        go_alone(running->mount, running->log);
    log_event(LOG_INFO, "mounted", "drive", running->mount->operand, "at", running->mount->folder,
              NULL);
}

static int open_log(const struct mount *mount, int *out)
{
    *out = -1;
    if (!mount->log)
        return STATUS_DONE;
    *out = open(mount->log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);
    return *out < 0 ? report(mount->log, -errno, NULL) : STATUS_DONE;
}

static int serve(struct mount *mount, struct backing *backing, int log)
{
    struct running running = {.mount = mount, .log = log};
    struct server_options options = {
        .backing = backing, .device = -1, .up = is_up, .opaque = &running};
    struct vdisk_error error = {.code = 0};
    struct server *server;
    int rc = mountpoint_mount(mount->folder, mount->operand, mount->write, &options.device, &error);

    if (rc)
        return report(mount->folder, rc, &error);
    rc = confine_privileges(&error);
    if (rc)
        return report(NULL, rc, &error);
    rc = server_new(&options, &server);
    if (rc == 0) {
        rc = server_run(server);
        server_free(server);
    }
    return rc ? report(mount->folder, rc, NULL) : STATUS_DONE;
}

static int run(struct mount *mount)
{
    struct vdisk_error error = {.code = 0};
    struct backing *backing = NULL;
    int log, rc, status = open_log(mount, &log);

    if (status == STATUS_DONE)
        status = open_image(mount, &backing);
    if (status != STATUS_DONE)
        return status;
    if (log >= 0 && mount->foreground)
        (void)dup2(log, STDERR_FILENO);
    status = serve(mount, backing, log);
    rc = backing->ops->close(backing, &error);
    if (rc) {
        log_event(LOG_ERROR, "close-failed", "drive", mount->operand, "reason", error.text, NULL);
        status = report(mount->operand, rc, &error);
    }
    return status;
}

static int parse(struct mount *mount, int argc, char **argv)
{
    const struct option_spec own[] = {
        {"write", OPTION_FLAG, &mount->write, NULL, "the drive may be written"},
        {"foreground", OPTION_FLAG, &mount->foreground, NULL, "stays, and logs to standard error"},
        {"log", OPTION_TEXT, &mount->log, "FILE", "what goes wrong is told there"},
        {"base", OPTION_TEXT, &mount->base, "IMAGE",
         "where the base of this overlay is, if it has moved"},
        {"key-fd", OPTION_NUMBER, &mount->key_fd, "N", "the key comes from this descriptor"},
        {"key-kind", OPTION_TEXT, &mount->key_kind, "KIND", "key-file, passphrase or identity"},
        KEYOPT_OPEN_OPTIONS(&mount->key, ""),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .operands = "IMAGE[@SNAPSHOT] DIR",
        .about = "Shows the drive, its partitions and its snapshots as files below DIR, until it\n"
                 "is unmounted (`vdisk umount`) or ended by SIGTERM.",
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
    return status;
}

int main(int argc, char **argv)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    struct mount mount = {.key = {.prefix = ""}, .waiting = -1};
    int status;

    if (!descriptors_open_standard())
        return STATUS_FAILED;
    report_set_program(slash ? slash + 1 : argc > 0 ? argv[0] : "vdisk-fuse");
    signal(SIGPIPE, SIG_IGN);
    log_open(false);
    status = parse(&mount, argc, argv);
    if (status == OPTIONS_GO_ON && !mount.foreground)
        status = go_apart(&mount);
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
