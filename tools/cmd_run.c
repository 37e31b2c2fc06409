/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk run: a guest on encrypted drives. Starts vdiskd with the images and vdisk-vmm with the
 * drives, and stays until the guest is off. If vdiskd ends before that it is started again, and the
 * guest sees nothing but a wait; so the key is kept until then. A guest that was suspended is
 * handed to vdisk-vmm by a pipe: what it is lies on the disk sealed alone.
 *
 * If we are killed the guest gets its power button pressed, and has its drives until it is off.
 */
#include "backup_image.h"
#include "cgroup.h"
#include "commands.h"
#include "imagespec.h"
#include "keyopt.h"
#include "launch.h"
#include "lifeline.h"
#include "options.h"
#include "reader.h"
#include "report.h"
#include "restore.h"
#include "rundir.h"
#include "sizes.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define DRIVES_MAX 12u
#define FIRMWARE   "/usr/share/seabios/bios-microvm.bin"
#define LOOK_MS    10
#define AGAIN_MS   200 /* between starts of vdiskd */

struct run {
    struct keyopt key;
    struct held_key held;
    const char *name, *kernel, *initrd, *command, *firmware, *console, *vsock, *user, *memory,
        *cpus, *limits, *audit_log;
    struct option_list drives, nets;
    const char *cpu_limit;
    struct option_size weight, memory_limit;
    bool read_only, quiet;
    struct cgroup_limits shares;
    char group[CGROUP_PATH_BYTES]; /* "": none */
    struct imagespec spec[DRIVES_MAX];
    const char *drive_limits[DRIVES_MAX];
    unsigned count;
    struct backup_filling filling; /* of the first drive, where that comes out of a backup */
    bool is_filling;
    const char *restore; /* NULL: it boots */
    struct keyopt restore_key;
    struct statefile file; /* that is restored, while is_open */
    bool is_open;
    struct restore_guest was;
    char memory_text[24], cpus_text[12];
    struct rundir dir;
    int signals;
    pid_t daemon, monitor; /* 0: none */
    struct lifeline ours;  /* which the monitor watches */
    struct lifeline both;  /* which the daemon watches, and the monitor holds as well */
};

/* Texts of a run that are freed after it. */
struct texts {
    char *repo, *name, *kernel, *initrd, *firmware, *drive[DRIVES_MAX];
};

/* ---- programs ---- */

/* In the child: what ends it, and what it has of ours: the folder is taken as long as it runs. */
static int attach(const struct run *run, bool is_monitor)
{
    const struct lifeline *watched = is_monitor ? &run->ours : &run->both;
    const char *group = is_monitor ? run->group : "";
    int rc = group[0] ? cgroup_enter(group) : 0;

    if (rc)
        return report_text(group, rc, "cannot be entered: %s", vdisk_strerror(rc));
    rc = lifeline_watch(watched);
    if (rc == 0 && is_monitor)
        rc = lifeline_hold(&run->both);
    if (rc == 0 && fcntl(run->dir.lock, F_SETFD, 0))
        rc = -errno;
    close(watched->held);
    return rc ? report(run->name, rc, NULL) : STATUS_DONE;
}

/* It gets signals as we did. */
static pid_t start(const struct run *run, bool is_monitor, struct launch *words)
{
    const char *program = is_monitor ? "vdisk-vmm" : "vdiskd";
    pid_t pid = words->failed ? -1 : fork();

    if (words->failed)
        errno = ENOMEM;
    if (pid == 0) {
        sigset_t none;

        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        if (attach(run, is_monitor) == STATUS_DONE)
            launch_become(program, words);
        _exit(STATUS_FAILED);
    }
    if (pid < 0)
        report_text(program, -errno, "cannot be started: %s", vdisk_strerror(-errno));
    launch_free(words);
    return pid;
}

/* `source`: what backup_filling_words() gives, or "". */
static void add_export(const struct run *run, unsigned at, int key_fd, const char *source,
                       struct launch *words)
{
    const struct imagespec *spec = &run->spec[at];
    char *image = launch_quoted(spec->path), *snapshot = launch_quoted(spec->snapshot);
    const char *limits = run->drive_limits[at];
    bool read_only = spec->snapshot[0] || (run->read_only && at == 0);

    if (image && snapshot)
        launch_add(words,
                   "--export=drive%u=%s,key-fd=%d,key-kind=%s%s,vhost-user=%s/drive%u%s%s%s%s%s",
                   at, image, key_fd, launch_key_kind(run->held.key.kind), source, run->dir.path,
                   at, spec->snapshot[0] ? ",vhost-snapshot=" : "", snapshot,
                   read_only ? ",read-only" : "", limits ? "," : "", limits ? limits : "");
    else
        words->failed = true;
    free(image);
    free(snapshot);
}

/* Each image gets the key by a pipe of its own, and so does what the first one is filled from. */
static int start_daemon(struct run *run)
{
    struct launch words = {.count = 0};
    int pipes[DRIVES_MAX], source_fd = -1, rc = 0;
    char *source = run->is_filling ? backup_filling_words(&run->filling, &source_fd) : strdup("");
    unsigned made = 0;

    if (!source)
        return STATUS_FAILED;
    launch_add(&words, "vdiskd");
    for (; made < run->count && rc == 0; made++) {
        rc = launch_key_pipe(&run->held.key, &pipes[made]);
        if (rc == 0)
            add_export(run, made, pipes[made], made == 0 ? source : "", &words);
    }
    free(source);
    launch_add(&words, "--socket=%s/disks/socket", run->dir.path);
    launch_add(&words, "--nbd=unix:%s/nbd", run->dir.path); /* for `vdisk mount` */
    if (run->user)
        launch_add(&words, "--user=%s", run->user);
    if (run->audit_log)
        launch_add(&words, "--audit-log=%s", run->audit_log);
    launch_add(&words, "--quiet");
    if (rc == 0) {
        run->daemon = start(run, false, &words);
        rc = run->daemon < 0 ? -ECHILD : 0;
    } else {
        report_text(NULL, rc, "the key cannot be handed over: %s", vdisk_strerror(rc));
        made--;
    }
    launch_free(&words);
    while (made > 0)
        close(pipes[--made]);
    if (source_fd >= 0)
        close(source_fd);
    if (rc)
        run->daemon = 0;
    return rc ? STATUS_FAILED : STATUS_DONE;
}

static void add_text(struct launch *words, const char *name, const char *value)
{
    if (value)
        launch_add(words, "--%s=%s", name, value);
}

/* The firmware is the default, but for a guest that had neither that nor a kernel to go on with. */
static const char *firmware_of(const struct run *run)
{
    if (run->kernel || run->firmware)
        return run->kernel ? NULL : run->firmware;
    return run->restore ? NULL : FIRMWARE;
}

/* `state` is where it reads what was suspended; -1: it boots. */
static int start_monitor(struct run *run, int state)
{
    struct launch words = {.count = 0};

    launch_add(&words, "vdisk"); /* its messages are ours */
    add_text(&words, "name", run->name);
    add_text(&words, "kernel", run->kernel);
    add_text(&words, "initrd", run->initrd);
    add_text(&words, "command", run->command);
    add_text(&words, "firmware", firmware_of(run));
    add_text(&words, "memory", run->memory);
    add_text(&words, "cpus", run->cpus);
    for (unsigned i = 0; i < run->count; i++)
        launch_add(&words, "--drive=%s/drive%u%s", run->dir.path, i,
                   run->spec[i].snapshot[0] || (run->read_only && i == 0) ? ",read-only" : "");
    for (unsigned i = 0; i < run->nets.count; i++)
        add_text(&words, "net", run->nets.value[i]);
    add_text(&words, "vsock", run->vsock);
    add_text(&words, "console", run->console);
    launch_add(&words, "--control=%s/vmm/socket", run->dir.path);
    add_text(&words, "user", run->user);
    if (state >= 0)
        launch_add(&words, "--restore=%d", state);
    launch_flag(&words, "quiet", run->quiet);
    run->monitor = start(run, true, &words);
    if (run->monitor > 0)
        return STATUS_DONE;
    run->monitor = 0;
    return STATUS_FAILED;
}

/* ---- their ends ---- */

/* The exit status of a program that has ended, or 128 and its signal. */
static int status_of(int how)
{
    return WIFEXITED(how) ? WEXITSTATUS(how) : 128 + WTERMSIG(how);
}

/* Whether it has ended; then *status is how, and it is 0. */
static bool has_ended(pid_t *pid, int *status)
{
    int how;

    if (*pid == 0 || waitpid(*pid, &how, WNOHANG) != *pid)
        return false;
    *pid = 0;
    *status = status_of(how);
    return true;
}

/* Its status; 0 if it is not there. */
static int end(pid_t *pid)
{
    int how = 0;

    if (*pid == 0)
        return 0;
    (void)kill(*pid, SIGTERM);
    while (waitpid(*pid, &how, 0) < 0 && errno == EINTR) {
    }
    *pid = 0;
    return status_of(how);
}

static void wait_a_little(const struct run *run, int milliseconds)
{
    struct pollfd wait = {.fd = run->signals, .events = POLLIN};

    (void)poll(&wait, 1, milliseconds);
}

/* SIGTERM and SIGINT are the guest's power button, and the second time its end. */
static void pass_signals(struct run *run)
{
    struct signalfd_siginfo info;

    while (read(run->signals, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
        if (info.ssi_signo != SIGCHLD && run->monitor)
            (void)kill(run->monitor, SIGTERM);
    }
}

/* Until the drives can be connected to. */
static int await_drives(struct run *run)
{
    char path[RUNDIR_BYTES + 16];
    struct stat status;
    int ended;

    (void)snprintf(path, sizeof(path), "%s/drive%u", run->dir.path, run->count - 1);
    while (stat(path, &status)) {
        if (has_ended(&run->daemon, &ended))
            return ended ? ended : STATUS_FAILED;
        wait_a_little(run, LOOK_MS);
    }
    return STATUS_DONE;
}

/* ---- a guest that was suspended ---- */

/* All of it, unless nobody reads it any more: then its end says why. */
static int put(struct run *run, int fd, const uint8_t *data, uint64_t length)
{
    struct pollfd wait[] = {{.fd = fd, .events = POLLOUT}, {.fd = run->signals, .events = POLLIN}};

    while (length > 0) {
        ssize_t done = write(fd, data, length);

        if (done < 0 && errno == EPIPE)
            return -EPIPE;
        if (done < 0 && errno != EAGAIN && errno != EINTR)
            return report(run->name, -errno, NULL);
        if (done > 0) {
            data += done;
            length -= (uint64_t)done;
            continue;
        }
        (void)poll(wait, 2, -1);
        pass_signals(run);
    }
    return STATUS_DONE;
}

static int feed(struct run *run, int fd)
{
    struct statefile_reader *reader = NULL;
    int status = statefile_reader_new(&run->file, &reader);
    const uint8_t *piece;
    uint64_t length = 1;

    while (status == STATUS_DONE && length > 0) {
        status = statefile_next(reader, &piece, &length);
        if (status == STATUS_DONE)
            status = put(run, fd, piece, length);
    }
    statefile_reader_free(reader);
    return status == -EPIPE ? STATUS_DONE : status;
}

/* It runs once it has read the end: what is damaged, or a signal, comes before its first step. */
static int start_restored(struct run *run)
{
    int ends[2], status;

    if (pipe2(ends, O_CLOEXEC))
        return report(run->name, -errno, NULL);
    (void)fcntl(ends[1], F_SETPIPE_SZ, (int)STATEFILE_PIECE);
    (void)fcntl(ends[1], F_SETFL, O_NONBLOCK);
    (void)fcntl(ends[0], F_SETFD, 0);
    status = start_monitor(run, ends[0]);
    close(ends[0]);
    signal(SIGPIPE, SIG_IGN);
    if (status == STATUS_DONE)
        status = feed(run, ends[1]);
    /* Before it sees an end of its own, and has something to say. */
    if (status != STATUS_DONE && run->monitor)
        (void)kill(run->monitor, SIGKILL);
    close(ends[1]);
    statefile_close(&run->file);
    run->is_open = false;
    return status;
}

static int supervise(struct run *run)
{
    int ended, status;

    for (;;) {
        struct pollfd wait = {.fd = run->signals, .events = POLLIN};

        (void)poll(&wait, 1, -1);
        pass_signals(run);
        if (has_ended(&run->monitor, &status))
            return status < 128 ? status
                                : report_text(run->name, -EIO, "vdisk-vmm was ended by signal %d",
                                              status - 128);
        while (has_ended(&run->daemon, &ended)) {
            report_note(run->name, "vdiskd has ended (%d), and is started again", ended);
            wait_a_little(run, AGAIN_MS);
            if (start_daemon(run))
                return STATUS_FAILED;
        }
    }
}

/* ---- the command ---- */

static int take_signals(struct run *run)
{
    sigset_t wanted;

    sigemptyset(&wanted);
    sigaddset(&wanted, SIGCHLD);
    sigaddset(&wanted, SIGTERM);
    sigaddset(&wanted, SIGINT);
    sigaddset(&wanted, SIGHUP);
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    run->signals = signalfd(-1, &wanted, SFD_NONBLOCK | SFD_CLOEXEC);
    return run->signals < 0 ? report(NULL, -errno, NULL) : STATUS_DONE;
}

/* A guest without its limits is better than none, as long as it is said. */
static void make_group(struct run *run)
{
    struct vdisk_error error = {.code = 0};

    if (cgroup_is_wanted(&run->shares) &&
        cgroup_make(run->name, &run->shares, run->group, &error)) {
        report_note(run->name, "its limits of processors and memory are not in force: %s",
                    error.text);
        run->group[0] = 0;
    }
}

static int run_guest(struct run *run)
{
    struct vdisk_error error = {.code = 0};
    int status = take_signals(run), rc;

    if (status != STATUS_DONE)
        return status;
    rc = rundir_take(run->name, run->user, &run->dir, &error);
    if (rc)
        return report(run->name, rc, &error);
    rc = lifeline_make(&run->ours);
    if (rc == 0)
        rc = lifeline_make(&run->both);
    make_group(run);
    status = rc ? report(run->name, rc, NULL) : start_daemon(run);
    if (status == STATUS_DONE)
        status = await_drives(run);
    if (status == STATUS_DONE)
        status = run->restore ? start_restored(run) : start_monitor(run, -1);
    if (status == STATUS_DONE)
        status = supervise(run);
    (void)end(&run->monitor);
    rc = end(&run->daemon);
    if (run->group[0])
        cgroup_remove(run->group);
    rundir_give(&run->dir);
    return status == STATUS_DONE ? rc : status;
}

static int add_image(struct run *run, const char *text, const char *limits)
{
    struct imagespec *spec = &run->spec[run->count];
    struct stat file;
    int status = imagespec_parse("run", text, spec);

    if (status != STATUS_DONE)
        return status;
    if (stat(spec->path, &file))
        return report(spec->path, -errno, NULL);
    run->drive_limits[run->count++] = limits;
    return STATUS_DONE;
}

/* Cuts a text off at its first comma; two of them stand for one. What is behind it; NULL: none. */
static char *cut(char *text)
{
    char *to = text;

    for (; *text && (*text != ',' || text[1] == ','); text++) {
        text += *text == ',';
        *to++ = *text;
    }
    text = *text ? text + 1 : NULL;
    *to = 0;
    return text;
}

/* IMAGE[@SNAPSHOT][,LIMITS], unless there is a file of that whole name. */
static int add_drive(struct run *run, const char *text, char **own)
{
    const char *limits = NULL;
    struct stat file;

    *own = strdup(text);
    if (!*own)
        return report(NULL, -ENOMEM, NULL);
    if (stat(text, &file))
        limits = cut(*own);
    return add_image(run, *own, limits ? limits : run->limits);
}

/* The image's name without folder and suffix, as far as it makes a name. */
static char *name_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *name = strndup(slash ? slash + 1 : path, RUNDIR_NAME_MAX);
    char *suffix = name ? strrchr(name, '.') : NULL;

    if (suffix && suffix > name)
        *suffix = 0;
    return name;
}

static int settle_shares(struct run *run)
{
    uint64_t percent = 0, burst = 0;

    if (run->cpu_limit && (!sizes_parse_rate(run->cpu_limit, &percent, &burst) || percent == 0 ||
                           percent > CGROUP_PERCENT_MAX || burst > percent))
        return report_usage("run",
                            "--cpu-limit is PERCENT[/BURST] of a processor, the burst at most "
                            "as much");
    if (run->weight.given && (run->weight.value == 0 || run->weight.value > CGROUP_WEIGHT_MAX))
        return report_usage("run", "--weight is from 1 to %u", CGROUP_WEIGHT_MAX);
    run->shares = (struct cgroup_limits){
        .cpu_percent = (unsigned)percent,
        .cpu_burst = (unsigned)burst,
        .weight = (unsigned)run->weight.value,
        .memory = run->memory_limit.value,
    };
    return STATUS_DONE;
}

/* What was not said is as it was. */
static int take_over(struct run *run)
{
    const struct restore_guest *was = &run->was;

    if (!run->memory) {
        (void)snprintf(run->memory_text, sizeof(run->memory_text), "%llu",
                       (unsigned long long)was->memory);
        run->memory = run->memory_text;
    }
    if (!run->cpus) {
        (void)snprintf(run->cpus_text, sizeof(run->cpus_text), "%u", was->cpus);
        run->cpus = run->cpus_text;
    }
    if (run->nets.count == 0)
        run->nets = was->nets;
    if (!run->name)
        run->name = was->name;
    if (!run->vsock)
        run->vsock = was->vsock;
    run->read_only |= was->read_only;
    if (run->kernel || run->firmware)
        return STATUS_DONE;
    if (was->firmware) {
        run->firmware = access(was->firmware, R_OK) == 0 ? was->firmware : FIRMWARE;
    } else if (was->kernel && access(was->kernel, R_OK)) {
        report_note(run->restore, "its kernel %s is gone: the guest goes on, but cannot begin anew",
                    was->kernel);
    } else {
        run->kernel = was->kernel;
        run->initrd = was->initrd;
        run->command = was->command;
    }
    return STATUS_DONE;
}

static int open_restored(struct run *run)
{
    struct held_key own = {.prompted = false};
    bool has_own = keyopt_is_given(&run->restore_key, KEYOPT_OPEN_NAMED);
    int status = STATUS_DONE;

    if (has_own)
        status = keyopt_load(&run->restore_key, KEYOPT_OPEN_NAMED, "run", run->restore, &own);
    if (status == STATUS_DONE)
        status = statefile_open(run->restore, has_own ? &own.key : &run->held.key, &run->file);
    keyopt_release(&own);
    if (status != STATUS_DONE)
        return status;
    run->is_open = true;
    status = restore_describe(&run->file, &run->was);
    if (status == STATUS_DONE)
        status = restore_check(&run->file, run->spec, run->count, &run->held.key);
    return status == STATUS_DONE ? take_over(run) : status;
}

/* Where a file is, whatever folder the guest goes on from later. */
static int make_whole(const char **path, char **whole)
{
    if (!*path)
        return STATUS_DONE;
    *whole = realpath(*path, NULL);
    if (!*whole)
        return report(*path, -errno, NULL);
    *path = *whole;
    return STATUS_DONE;
}

/* REPO::BACKUP, unless there is a file of that name: the drive is a new image that is filled. */
static int add_backup(struct run *run, const char *text, char **repo)
{
    struct backup_filling *filling = &run->filling;
    int status;

    if (!vb_source_split(text, repo, &filling->backup))
        return report(text, -ENOMEM, NULL);
    filling->command = "run";
    filling->repo = *repo;
    filling->options.key = run->key;
    status = backup_filling_begin(filling);
    if (status != STATUS_DONE)
        return status;
    if (!filling->to)
        report_note(filling->path, "is the drive");
    run->is_filling = true;
    return add_image(run, filling->path, run->limits);
}

static bool is_backup(const char *text)
{
    return strstr(text, "::") && access(text, F_OK) != 0;
}

static int load_key(struct run *run)
{
    if (!run->is_filling)
        return keyopt_load(&run->key, KEYOPT_OPEN, "run", run->spec[0].path, &run->held);
    /* It was asked for already; both are let go at the end. */
    run->held.key = run->filling.repo_key.key;
    return STATUS_DONE;
}

static int prepare(struct run *run, const char *image, struct texts *own)
{
    int status = settle_shares(run);

    if (status == STATUS_DONE && run->filling.to && !is_backup(image))
        status = report_usage("run", "--to goes with REPO::BACKUP");
    if (status == STATUS_DONE)
        status = is_backup(image) ? add_backup(run, image, &own->repo)
                                  : add_image(run, image, run->limits);
    if (status == STATUS_DONE && run->drives.count >= DRIVES_MAX)
        status = report_usage("run", "there are more drives than %u", DRIVES_MAX);
    for (unsigned i = 0; i < run->drives.count && status == STATUS_DONE; i++)
        status = add_drive(run, run->drives.value[i], &own->drive[i]);
    if (status == STATUS_DONE)
        status = make_whole(&run->kernel, &own->kernel);
    if (status == STATUS_DONE)
        status = make_whole(&run->initrd, &own->initrd);
    if (status == STATUS_DONE)
        status = make_whole(&run->firmware, &own->firmware);
    if (status != STATUS_DONE)
        return status;
    if (!run->restore && !run->kernel && !run->firmware && access(FIRMWARE, R_OK))
        return report_text(FIRMWARE, -errno,
                           "is not there: install Debian's package seabios, or give --kernel");
    status = load_key(run);
    if (status == STATUS_DONE && run->restore)
        status = open_restored(run);
    if (status == STATUS_DONE && !run->name)
        run->name = own->name = name_of(run->spec[0].path);
    return status == STATUS_DONE && !run->name ? report(NULL, -ENOMEM, NULL) : status;
}

static void release(struct run *run, struct texts *own)
{
    if (run->is_open)
        statefile_close(&run->file);
    restore_forget(&run->was);
    if (!run->is_filling)
        keyopt_release(&run->held);
    backup_filling_release(&run->filling);
    if (run->signals >= 0)
        close(run->signals);
    lifeline_close(&run->ours);
    lifeline_close(&run->both);
    free(own->repo);
    free(own->name);
    free(own->kernel);
    free(own->initrd);
    free(own->firmware);
    for (unsigned i = 0; i < DRIVES_MAX; i++)
        free(own->drive[i]);
}

int cmd_run(int argc, char **argv)
{
    struct run run = {.key = {.prefix = ""},
                      .restore_key = {.prefix = "restore-"},
                      .filling = {.options = BACKUP_OPTIONS_NONE},
                      .signals = -1,
                      .ours = LIFELINE_NONE,
                      .both = LIFELINE_NONE};
    const struct option_spec specs[] = {
        {"memory", OPTION_TEXT, &run.memory, "SIZE", "of the guest (512M)"},
        {"cpus", OPTION_TEXT, &run.cpus, "N", "its processors (1)"},
        {"name", OPTION_TEXT, &run.name, "NAME", "for `vdisk ctl --vm NAME` (the image's)"},
        KEYOPT_OPEN_OPTIONS(&run.key, ""),
        {"to", OPTION_TEXT, &run.filling.to, "DEST.vdk",
         "with REPO::BACKUP: the new image (named after the drive)"},
        {"drive", OPTION_LIST, &run.drives, "IMAGE[@SNAPSHOT][,LIMITS]",
         "one more, with the same key"},
        {"read-only", OPTION_FLAG, &run.read_only, NULL, "the first drive"},
        {"limits", OPTION_TEXT, &run.limits, "LIMITS",
         "of each drive without its own: read-ops=N/BURST,write-bytes=SIZE,..."},
        {"cpu-limit", OPTION_TEXT, &run.cpu_limit, "PERCENT[/BURST]",
         "of a processor for its processors together, by cgroup"},
        {"memory-limit", OPTION_SIZE, &run.memory_limit, "SIZE",
         "of vdisk-vmm with the guest's memory, by cgroup"},
        {"weight", OPTION_NUMBER, &run.weight, "N", "among guests (100), by cgroup"},
        {"net", OPTION_LIST, &run.nets, "tap=NAME[,...]",
         "or socket=PATH (passt); mac=, vlan=N, in=RATE[/BURST], out="},
        {"vsock", OPTION_TEXT, &run.vsock, "CID:FOLDER", "sockets between guest and host"},
        {"console", OPTION_TEXT, &run.console, "PLACE",
         "stdio (as without), pty, socket:PATH, file:PATH, none"},
        {"kernel", OPTION_TEXT, &run.kernel, "FILE", "a kernel, in place of the drive's own"},
        {"initrd", OPTION_TEXT, &run.initrd, "FILE", "with it"},
        {"command", OPTION_TEXT, &run.command, "TEXT", "its command line"},
        {"firmware", OPTION_TEXT, &run.firmware, "FILE", "(" FIRMWARE ")"},
        {"restore", OPTION_TEXT, &run.restore, "FILE",
         "goes on with what `vdisk ctl suspend` wrote; what is not said is as it was"},
        {"restore-key-file", OPTION_TEXT, &run.restore_key.key_file, "FILE",
         "its key, where that is not the drives'"},
        {"restore-passphrase-file", OPTION_TEXT, &run.restore_key.passphrase_file, "FILE",
         "likewise"},
        {"restore-identity", OPTION_TEXT, &run.restore_key.identity, "FILE", "likewise"},
        {"audit-log", OPTION_TEXT, &run.audit_log, "FILE", "of what is done to the drives"},
        {"user", OPTION_TEXT, &run.user, "USER", "whom root becomes"},
        OPTION_QUIET(&run.quiet),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "run",
        .operands = "IMAGE[@SNAPSHOT]|REPO::BACKUP",
        .about =
            "Runs a virtual machine on encrypted drives until it is off. It boots from the\n"
            "first drive, or from --kernel. On its console Ctrl-A x ends it. The drives of a\n"
            "guest that goes on must be as they were when it was suspended, when a snapshot\n"
            "was made of each; `vdisk snapshot rollback` brings that back. Nobody deletes these\n"
            "snapshots but you. REPO::BACKUP boots at once from a backup: the drive is a new\n"
            "image, which is filled meanwhile; named again, it goes on.",
        .min = 1,
        .max = 1,
        .groups = {specs},
    };
    struct texts own = {.name = NULL};
    char **operands;
    int count, status = options_parse(&usage, argc, argv, &operands, &count);

    if (status != OPTIONS_GO_ON)
        return status;
    status = prepare(&run, operands[0], &own);
    if (status == STATUS_DONE)
        status = run_guest(&run);
    release(&run, &own);
    return status;
}
