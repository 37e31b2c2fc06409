/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's life after its preparation; see daemon.h.
 */
#include "daemon.h"

#include "audit.h"
#include "backup_source.h"
#include "export.h"
#include "log.h"
#include "notify.h"
#include "report.h"
#include "task.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <unistd.h>

/* ---- signals ---- */

static void take_signal(struct daemon *daemon, unsigned number)
{
    if (number == SIGHUP) {
        daemon->wants_reload = true;
    } else if (daemon->is_ending) {
        /* As a crash would: what was flushed is safe. */
        log_event(LOG_WARNING, "hurried", "note", "ended by a second signal, images not closed",
                  NULL);
        _exit(STATUS_FAILED);
    } else {
        daemon->is_ending = true;
    }
    task_wake(&daemon->place);
}

static void arm_signals(struct daemon *daemon);

static void signals_came(struct reactor_op *op)
{
    struct daemon *daemon = op->owner;
    struct signalfd_siginfo info;

    daemon->signal_armed = false;
    while (read(daemon->signal_fd, &info, sizeof(info)) == sizeof(info))
        take_signal(daemon, info.ssi_signo);
    if (op->result != -ECANCELED)
        arm_signals(daemon);
}

static void arm_signals(struct daemon *daemon)
{
    daemon->signal_armed = true;
    daemon->signal_op = (struct reactor_op){
        .kind = REACTOR_POLL,
        .fd = daemon->signal_fd,
        .events = POLLIN,
        .done = signals_came,
        .owner = daemon,
    };
    reactor_submit(exports_main(daemon->exports), &daemon->signal_op);
}

static void disarm_signals(struct daemon *daemon)
{
    if (daemon->signal_armed)
        reactor_cancel(exports_main(daemon->exports), &daemon->signal_op);
    while (daemon->signal_armed)
        task_pause();
}

/* ---- the first task ---- */

static int add_exports(struct daemon *daemon)
{
    const struct settings *settings = daemon->settings;

    daemon_set_groups(daemon, settings);
    for (unsigned i = 0; i < settings->export_count && !daemon->is_ending; i++) {
        const struct settings_export *export = &settings->exports[i];
        struct vdisk_error error = {.code = 0};
        struct listen_socket socket = daemon->vhost_sockets[i];

        daemon->vhost_sockets[i].fd = -1;
        struct vdisk_source *source = daemon->sources[i];

        daemon->sources[i] = NULL;
        int rc = daemon_add_export(daemon, export, daemon->unlocked[i], source, &socket, &error);

        if (rc == -EACCES)
            return report_text(export->image, rc,
                               "%s; if a file of it lies elsewhere (a base), name that folder "
                               "with --image-dir",
                               error.text[0] ? error.text : vdisk_strerror(rc));
        if (rc)
            return report(export->image, rc, &error);
        vdisk_unlocked_free(daemon->unlocked[i]);
        daemon->unlocked[i] = NULL;
    }
    return STATUS_DONE;
}

static void say_ready(struct daemon *daemon)
{
    const char *backend = reactor_backend(exports_main(daemon->exports));
    const struct audit_event event = {.event = "start"};
    char count[16];

    snprintf(count, sizeof(count), "%u", daemon->settings->export_count);
    if (!daemon->settings->no_uring && backend[0] != 'i')
        log_event(LOG_WARNING, "no-io-uring", "note", "not permitted here; threads do its work",
                  NULL);
    (void)audit_record(daemon->audit, &event);
    log_event(LOG_INFO, "ready", "exports", count, "backend", backend, NULL);
    notify_send("READY=1");
}

static void reload_by_signal(struct daemon *daemon)
{
    struct vdisk_error error;
    int rc = daemon_reload(daemon, &error);
    const struct audit_event event = {
        .event = "reload",
        .detail = "by SIGHUP",
        .result = rc,
        .error = rc ? error.text : NULL,
    };

    (void)audit_record(daemon->audit, &event);
    log_event(rc ? LOG_ERROR : LOG_INFO, "reload", "error", event.error, NULL);
}

static void wait_for_the_end(struct daemon *daemon)
{
    while (!daemon->is_ending) {
        if (daemon->wants_reload && !daemon->is_reloading) {
            daemon->wants_reload = false;
            reload_by_signal(daemon);
        } else {
            task_park(&daemon->place);
        }
    }
}

static void live(void *arg)
{
    struct daemon *daemon = arg;
    const struct audit_event event = {.event = "stop"};
    bool is_up = false;

    arm_signals(daemon);
    daemon->status = add_exports(daemon);
    if (daemon->status == STATUS_DONE)
        daemon->status = daemon_start_servers(daemon);
    if (daemon->status == STATUS_DONE) {
        is_up = true;
        say_ready(daemon);
        wait_for_the_end(daemon);
        notify_send("STOPPING=1");
    }
    daemon->is_ending = true;
    daemon_stop_servers(daemon);
    daemon_remove_exports(daemon);
    daemon_await_servers(daemon);
    daemon_remove_exports(daemon); /* what a request added meanwhile */
    if (is_up) {
        (void)audit_record(daemon->audit, &event);
        log_event(LOG_INFO, "stopped", NULL);
    }
    disarm_signals(daemon);
    reactor_stop(exports_main(daemon->exports));
}

int daemon_run(struct daemon *daemon)
{
    const struct settings *settings = daemon->settings;
    const struct exports_options options = {
        .reactors = (unsigned)settings->reactors,
        .workers = (unsigned)settings->workers,
        .memory_bytes = settings->memory,
        .no_uring = settings->no_uring,
        .poll = (int64_t)settings->poll * 1000,
        .integrity = daemon_integrity_event,
        .filled = daemon_filled_event,
        .opaque = daemon,
    };
    struct vdisk_error error = {.code = 0};
    int rc = exports_new(&options, &daemon->exports, &error);

    if (rc)
        return report(NULL, rc, &error);
    rc = vhost_exports_new(daemon->exports, daemon_vhost_event, daemon, &daemon->vhost);
    if (rc == 0)
        rc = task_spawn(exports_main(daemon->exports), live, daemon);
    if (rc)
        return report(NULL, rc, NULL);
    reactor_run(exports_main(daemon->exports));
    return daemon->status;
}

static void close_socket(struct listen_socket *socket)
{
    if (socket->fd >= 0)
        close(socket->fd);
    if (socket->path[0])
        (void)unlink(socket->path);
}

void daemon_free(struct daemon *daemon)
{
    vhost_exports_free(daemon->vhost);
    exports_free(daemon->exports);
    for (unsigned i = 0; daemon->vhost_sockets && i < daemon->settings->export_count; i++) {
        if (daemon->vhost_sockets[i].fd >= 0)
            close_socket(&daemon->vhost_sockets[i]);
    }
    free(daemon->vhost_sockets);
    for (unsigned i = 0; i < daemon->local.count; i++)
        close_socket(&daemon->local.socket[i]);
    for (unsigned i = 0; i < daemon->network.count; i++)
        close_socket(&daemon->network.socket[i]);
    close_socket(&daemon->control_socket);
    close_socket(&daemon->metrics_socket);
    json_decref(daemon->nbd);
    audit_close(daemon->audit);
    for (unsigned i = 0; daemon->unlocked && i < daemon->settings->export_count; i++)
        vdisk_unlocked_free(daemon->unlocked[i]);
    free(daemon->unlocked);
    for (unsigned i = 0; daemon->sources && i < daemon->settings->export_count; i++)
        source_release(daemon->sources[i]);
    free(daemon->sources);
    settings_free(daemon->settings);
    notify_close();
    if (daemon->signal_fd >= 0)
        close(daemon->signal_fd);
}
