/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The servers of a daemon: NBD, management, metrics; what their clients do; see daemon.h.
 */
#include "daemon.h"

#include "audit.h"
#include "log.h"
#include "metrics.h"
#include "report.h"
#include "task.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STOP_PATIENCE_NS INT64_C(6000000000) /* NBD's clients have 5 s */
#define STOP_LOOK_NS     INT64_C(5000000)

/* ---- NBD ---- */

static void on_event(void *opaque, const struct nbd_event *event)
{
    static const char *const names[] = {"connect", "denied", "auth-failed", "disconnect"};
    static const int results[] = {0, -EACCES, -EACCES, 0};
    struct daemon *daemon = opaque;
    const struct audit_who who = {
        .has_ids = event->has_credentials,
        .uid = event->uid,
        .gid = event->gid,
        .pid = event->pid,
        .tls_subject = event->subject[0] ? event->subject : NULL,
        .peer = event->peer,
    };
    const struct audit_event record = {
        .who = &who,
        .event = names[event->kind],
        .export = event->export_name,
        .result = results[event->kind],
        .error = event->reason,
        .is_volatile = true,
    };

    (void)audit_record(daemon->audit, &record);
    log_event(results[event->kind] ? LOG_WARNING : LOG_INFO, names[event->kind], "export",
              event->export_name, "peer", event->peer, "subject", who.tls_subject, "reason",
              event->reason, NULL);
}

static int start_nbd(struct daemon *daemon, struct daemon_sockets *sockets, bool tls_required,
                     struct nbd_server **out)
{
    const struct settings *settings = daemon->settings;
    const struct tls_settings tls = {
        .kind = settings->tls_psk ? TLS_PSK : TLS_X509,
        .folder = settings->tls_dir,
        .any_client = settings->tls_any_client,
    };
    char text[NBD_LISTEN_MAX][16];
    const char *addresses[NBD_LISTEN_MAX];
    const struct nbd_options options = {
        .addresses = addresses,
        .address_count = sockets->count,
        .tls = settings->tls_dir ? &tls : NULL,
        .tls_required = tls_required,
        .default_export = settings->default_export,
        .event = on_event,
        .opaque = daemon,
    };
    struct vdisk_error error = {.code = 0};
    int rc;

    if (sockets->count == 0)
        return STATUS_DONE;
    for (unsigned i = 0; i < sockets->count; i++) {
        snprintf(text[i], sizeof(text[i]), "fd:%d", sockets->socket[i].fd);
        addresses[i] = text[i];
        sockets->socket[i].fd = -1; /* the server's; the path is still ours */
    }
    rc = nbd_server_start(exports_main(daemon->exports), daemon->exports, &options, out, &error);
    return rc ? report(NULL, rc, &error) : STATUS_DONE;
}

/* ---- vhost-user ---- */

void daemon_vhost_event(void *opaque, const struct vhost_event *event)
{
    static const char *const names[] = {"connect", "denied", "failed", "disconnect"};
    static const int results[] = {0, -EACCES, -EPROTO, 0};
    const struct daemon *daemon = opaque;
    const struct audit_who who = {
        .has_ids = event->has_credentials,
        .uid = event->uid,
        .gid = event->gid,
        .pid = event->pid,
        .peer = "vhost-user",
    };
    const char *reason = event->reason[0] ? event->reason : NULL;
    const struct audit_event record = {
        .who = &who,
        .event = names[event->kind],
        .export = event->export_name,
        .result = results[event->kind],
        .error = reason,
        .is_volatile = true,
    };

    (void)audit_record(daemon->audit, &record);
    log_event(results[event->kind] ? LOG_WARNING : LOG_INFO, names[event->kind], "export",
              event->export_name, "peer", who.peer, "reason", reason, NULL);
}

void daemon_integrity_event(void *opaque, const struct export_failure *failure)
{
    const struct daemon *daemon = opaque;
    char offset[24];

    audit_integrity(daemon->audit, failure->export, failure->image, failure->offset,
                    failure->result, reactor_now());
    if (failure->count & (failure->count - 1)) /* the 1st, 2nd, 4th, 8th, ... */
        return;
    snprintf(offset, sizeof(offset), "%llu", (unsigned long long)failure->offset);
    log_event(LOG_ERROR, "integrity", "export", failure->export, "image", failure->image, "offset",
              failure->offset == EXPORT_NO_OFFSET ? NULL : offset, "error",
              vdisk_strerror(failure->result), NULL);
}

void daemon_filled_event(void *opaque, const struct export_fill_event *event)
{
    const struct daemon *daemon = opaque;
    const char *name = event->result ? "fill-failed" : "filled";
    const struct audit_event record = {
        .event = name,
        .image = event->image,
        .export = event->export,
        .result = event->result,
        .error = event->error,
    };
    char bytes[24];

    snprintf(bytes, sizeof(bytes), "%llu", (unsigned long long)event->bytes);
    (void)audit_record(daemon->audit, &record);
    log_event(event->result ? LOG_WARNING : LOG_INFO, name, "export", event->export, "image",
              event->image, "bytes", bytes, "error", event->error, "note",
              event->result ? "it is tried again; what is missing cannot be read" : NULL, NULL);
}

/* ---- management ---- */

static int on_reload(void *opaque, struct vdisk_error *error)
{
    return daemon_reload(opaque, error);
}

static void on_shut_down(void *opaque)
{
    struct daemon *daemon = opaque;

    daemon->is_ending = true;
    task_wake(&daemon->place);
}

/* Before the server takes them over. */
static json_t *list_nbd(const struct daemon *daemon)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < daemon->local.count; i++) {
        char *path = listen_path(daemon->local.socket[i].fd);

        if (path)
            json_array_append_new(list, json_sprintf("unix:%s", path));
        free(path);
    }
    return list;
}

static int start_control(struct daemon *daemon)
{
    struct control_options options = {
        .reactor = exports_main(daemon->exports),
        .exports = daemon->exports,
        .vhost = daemon->vhost,
        .audit = daemon->audit,
        .peers = daemon->peers,
        .nbd = daemon->nbd = list_nbd(daemon),
        .reload = on_reload,
        .shut_down = on_shut_down,
        .opaque = daemon,
    };
    int fd = daemon->control_socket.fd, rc;

    if (fd < 0)
        return STATUS_DONE;
    daemon->control_socket.fd = -1;
    rc = control_start(&options, fd, &daemon->control);
    return rc ? report(daemon->settings->socket, rc, NULL) : STATUS_DONE;
}

static int start_metrics(struct daemon *daemon)
{
    int fd = daemon->metrics_socket.fd, rc;

    if (fd < 0)
        return STATUS_DONE;
    daemon->metrics_socket.fd = -1;
    rc = metrics_start(exports_main(daemon->exports), daemon->exports, fd, &daemon->metrics);
    return rc ? report(daemon->settings->metrics, rc, NULL) : STATUS_DONE;
}

/* ---- all ---- */

int daemon_start_servers(struct daemon *daemon)
{
    const struct settings *settings = daemon->settings;
    int status = start_metrics(daemon);

    if (status == STATUS_DONE)
        status = start_control(daemon);
    if (status == STATUS_DONE)
        status = start_nbd(daemon, &daemon->local, settings->tls_required, &daemon->local_server);
    if (status == STATUS_DONE)
        status =
            start_nbd(daemon, &daemon->network, settings->tls_dir != NULL, &daemon->network_server);
    return status;
}

static void stop_servers(void *arg)
{
    struct daemon *daemon = arg;

    if (daemon->network_server)
        nbd_server_stop(daemon->network_server);
    if (daemon->local_server)
        nbd_server_stop(daemon->local_server);
    control_stop(daemon->control);
    metrics_stop(daemon->metrics);
    daemon->servers_stopped = true;
}

static void wait_until(const struct daemon *daemon, int64_t deadline)
{
    while (!daemon->servers_stopped && reactor_now() < deadline)
        task_sleep(STOP_LOOK_NS);
}

void daemon_stop_servers(struct daemon *daemon)
{
    if (task_spawn(exports_main(daemon->exports), stop_servers, daemon))
        stop_servers(daemon);
    wait_until(daemon, reactor_now() + STOP_PATIENCE_NS);
}

void daemon_await_servers(struct daemon *daemon)
{
    wait_until(daemon, INT64_MAX);
}
