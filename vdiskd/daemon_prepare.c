/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Before any thread: what needs the rights that are given up then; see daemon.h.
 */
#include "daemon.h"

#include "audit.h"
#include "backup_source.h"
#include "confine.h"
#include "log.h"
#include "notify.h"
#include "reader.h"
#include "report.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define PATHS_MAX 4096u

/* ---- sockets ---- */

static int refuse_network(const char *address)
{
    return report_text(address, -EPERM,
                       "other hosts could reach it without TLS; give --tls-dir, or --insecure if "
                       "the network is trusted");
}

/* A socket of the service manager's, by its name. */
static int take_socket(struct daemon *daemon, int fd, const char *name)
{
    const struct settings *settings = daemon->settings;
    bool is_local = listen_is_local(fd);
    struct daemon_sockets *sockets = is_local ? &daemon->local : &daemon->network;

    if (strcmp(name, "control") == 0 || strcmp(name, "metrics") == 0) {
        struct listen_socket *socket =
            name[0] == 'c' ? &daemon->control_socket : &daemon->metrics_socket;

        if (socket->fd >= 0 || !is_local)
            return report_text(name, -EINVAL, "is one socket, of this host alone");
        socket->fd = fd;
        return STATUS_DONE;
    }
    if (strcmp(name, "nbd") != 0)
        return report_text(name, -EINVAL,
                           "a socket of the service manager is called nbd, control or metrics");
    if (!is_local && !settings->tls_dir && !settings->insecure)
        return refuse_network("the service manager's socket");
    if (sockets->count == NBD_LISTEN_MAX)
        return report_text(name, -E2BIG, "there are more sockets than %u", NBD_LISTEN_MAX);
    sockets->socket[sockets->count++].fd = fd;
    return STATUS_DONE;
}

static int take_sockets(struct daemon *daemon)
{
    struct notify_sockets sockets;
    int rc = notify_take_sockets(&sockets), status = STATUS_DONE;

    if (rc)
        return report_text(NULL, rc, "the service manager's sockets cannot be taken: %s",
                           vdisk_strerror(rc));
    for (unsigned i = 0; i < sockets.count && status == STATUS_DONE; i++)
        status = take_socket(daemon, sockets.fd[i], sockets.name[i]);
    return status;
}

static int bind_nbd(struct daemon *daemon, const char *address)
{
    const struct settings *settings = daemon->settings;
    struct listen_socket made[NBD_LISTEN_MAX];
    bool only_local = !settings->tls_dir && !settings->insecure;
    int count = listen_open(address, only_local, made, NBD_LISTEN_MAX);
    bool is_unix = strncmp(address, "unix:", 5) == 0;
    struct daemon_sockets *sockets = is_unix ? &daemon->local : &daemon->network;

    if (count == -EPERM && only_local && !is_unix)
        return refuse_network(address);
    if (count < 0)
        return report_text(address, count, "cannot listen: %s", vdisk_strerror(count));
    for (int i = 0; i < count; i++) {
        if (sockets->count < NBD_LISTEN_MAX)
            sockets->socket[sockets->count++] = made[i];
        else
            listen_close(&made[i]);
    }
    return STATUS_DONE;
}

static int bind_control(struct daemon *daemon, const char *path)
{
    struct listen_socket *socket = &daemon->control_socket;
    struct vdisk_error error;
    int fd = control_listen(path, daemon->uid, daemon->gid, &error);

    for (unsigned tries = 1; fd == VDISK_E_IN_USE && tries < LISTEN_TRIES; tries++) {
        (void)poll(NULL, 0, LISTEN_TRY_AGAIN_MSEC);
        fd = control_listen(path, daemon->uid, daemon->gid, &error);
    }
    if (fd < 0)
        return report(path, fd, &error);
    socket->fd = fd;
    (void)snprintf(socket->path, sizeof(socket->path), "%s", path);
    return STATUS_DONE;
}

static int bind_metrics(struct daemon *daemon, const char *address)
{
    struct listen_socket made[2] = {{.fd = -1}, {.fd = -1}};
    int count = listen_open(address, true, made, 2);

    if (count == -EPERM)
        return report_text(address, count,
                           "metrics are for this host alone: unix:PATH, or "
                           "tcp:127.0.0.1:PORT");
    if (count < 0)
        return report_text(address, count, "cannot listen: %s", vdisk_strerror(count));
    daemon->metrics_socket = made[0];
    if (count > 1) /* `localhost` is two addresses */
        listen_close(&made[1]);
    return STATUS_DONE;
}

static int bind_vhost(struct daemon *daemon)
{
    const struct settings *settings = daemon->settings;

    for (unsigned i = 0; i < settings->export_count; i++) {
        const struct settings_export *export = &settings->exports[i];
        struct vdisk_error error = {.code = 0};

        if (!export->vhost_user)
            continue;
        int rc = vhost_exports_socket(export->vhost_user, &daemon->vhost_sockets[i], &error);
        if (rc)
            return report(export->image, rc, &error);
    }
    return STATUS_DONE;
}

static int give_socket(const struct listen_socket *socket, uid_t uid, gid_t gid)
{
    return socket->path[0] && lchown(socket->path, uid, gid) ? -errno : 0;
}

/* The user that we shall be must be able to use and remove them. */
static int give_sockets(struct daemon *daemon)
{
    uid_t uid = daemon->uid;
    gid_t gid = daemon->gid;
    int rc = 0;

    if (uid == geteuid())
        return STATUS_DONE;
    for (unsigned i = 0; i < daemon->local.count && rc == 0; i++)
        rc = give_socket(&daemon->local.socket[i], uid, gid);
    for (unsigned i = 0; i < daemon->settings->export_count && rc == 0; i++)
        rc = give_socket(&daemon->vhost_sockets[i], uid, gid);
    if (rc == 0)
        rc = give_socket(&daemon->metrics_socket, uid, gid);
    if (rc == 0)
        rc = give_socket(&daemon->control_socket, uid, gid);
    return rc ? report_text(daemon->settings->user, rc, "sockets cannot be given to this user: %s",
                            vdisk_strerror(rc))
              : STATUS_DONE;
}

static int bind_sockets(struct daemon *daemon)
{
    const struct settings *settings = daemon->settings;
    int status = take_sockets(daemon);

    for (unsigned i = 0; i < settings->nbd.count && status == STATUS_DONE; i++)
        status = bind_nbd(daemon, settings->nbd.value[i]);
    if (status == STATUS_DONE && settings->socket)
        status = bind_control(daemon, settings->socket);
    if (status == STATUS_DONE && settings->metrics)
        status = bind_metrics(daemon, settings->metrics);
    if (status == STATUS_DONE)
        status = bind_vhost(daemon);
    if (status == STATUS_DONE)
        status = give_sockets(daemon);
    return status;
}

/* ---- users, keys, the log ---- */

static int add_peers(struct control_peers *peers, enum control_role role,
                     const struct settings_list *list)
{
    for (unsigned i = 0; i < list->count; i++) {
        int rc = control_add_peer(peers, role, list->value[i]);

        if (rc == VDISK_E_LIMIT)
            return report_text(list->value[i], rc, "one operator or viewer more than %u",
                               CONTROL_PEERS_MAX);
        if (rc)
            return report_text(list->value[i], rc, "there is no such user or @group");
    }
    return STATUS_DONE;
}

/* Whom root becomes; anybody else stays who he is. */
static int find_user(struct daemon *daemon)
{
    const char *user = daemon->settings->user;
    struct vdisk_error error;
    int rc;

    daemon->uid = geteuid();
    daemon->gid = getegid();
    if (!user || daemon->uid != 0)
        return STATUS_DONE;
    rc = confine_find_user(user, &daemon->uid, &daemon->gid, &error);
    return rc ? report(NULL, rc, &error) : STATUS_DONE;
}

static int unlock_exports(struct daemon *daemon)
{
    const struct settings *settings = daemon->settings;

    for (unsigned i = 0; i < settings->export_count; i++) {
        const struct settings_export *export = &settings->exports[i];
        struct vdisk_error error = {.code = 0};
        int rc = key_unlock(&export->key, export->image, &daemon->unlocked[i], &error);

        if (export->key.fd >= 0)
            close(export->key.fd);
        if (rc)
            return report(export->image, rc, &error);
        rc = source_open(export, &daemon->sources[i], &error);
        if (export->source && export->source_key.fd >= 0)
            close(export->source_key.fd);
        if (rc) /* an image that has all of it does without; another one says so */
            report_note(export->source, "cannot be read: %s",
                        error.text[0] ? error.text : vdisk_strerror(rc));
    }
    return STATUS_DONE;
}

static int make_room(struct daemon *daemon)
{
    unsigned count = daemon->settings->export_count;

    daemon->unlocked = calloc(count + 1, sizeof(struct vdisk_unlocked *));
    daemon->vhost_sockets = calloc(count + 1, sizeof(*daemon->vhost_sockets));
    daemon->sources = calloc(count + 1, sizeof(struct vdisk_source *));
    if (!daemon->unlocked || !daemon->vhost_sockets || !daemon->sources)
        return report(NULL, -ENOMEM, NULL);
    for (unsigned i = 0; i < count; i++)
        daemon->vhost_sockets[i].fd = -1;
    return STATUS_DONE;
}

static int open_audit(struct daemon *daemon)
{
    const char *path = daemon->settings->audit_log;
    struct vdisk_error error = {.code = 0};
    int rc = path ? audit_open(path, NULL, &daemon->audit, &error) : 0;

    return rc ? report(path, rc, &error) : STATUS_DONE;
}

/* They are blocked in every thread, and read by the main reactor. */
static int take_signals(struct daemon *daemon)
{
    sigset_t wanted;

    sigemptyset(&wanted);
    sigaddset(&wanted, SIGTERM);
    sigaddset(&wanted, SIGINT);
    sigaddset(&wanted, SIGHUP);
    sigprocmask(SIG_BLOCK, &wanted, NULL);
    signal(SIGPIPE, SIG_IGN);
    daemon->signal_fd = signalfd(-1, &wanted, SFD_NONBLOCK | SFD_CLOEXEC);
    return daemon->signal_fd < 0 ? report(NULL, -errno, NULL) : STATUS_DONE;
}

/* Images and connections take more descriptors than a shell's limit. */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int daemon_prepare(struct daemon *daemon)
{
    int status, rc = notify_open();

    if (rc)
        return report_text(NULL, rc, "the service manager cannot be notified: %s",
                           vdisk_strerror(rc));
    raise_descriptor_limit();
    status = make_room(daemon);
    if (status == STATUS_DONE)
        status = take_signals(daemon);
    if (status == STATUS_DONE)
        status = find_user(daemon);
    if (status == STATUS_DONE)
        status = add_peers(&daemon->peers, CONTROL_OPERATOR, &daemon->settings->operators);
    if (status == STATUS_DONE)
        status = add_peers(&daemon->peers, CONTROL_VIEWER, &daemon->settings->viewers);
    if (status == STATUS_DONE)
        status = unlock_exports(daemon);
    if (status == STATUS_DONE)
        status = open_audit(daemon);
    if (status == STATUS_DONE)
        status = bind_sockets(daemon);
    return status;
}

/* ---- confinement ---- */

struct paths {
    struct confine_path path[PATHS_MAX];
    char *text[PATHS_MAX]; /* of path[] where it is ours */
    unsigned count;
};

static void add_path(struct paths *paths, char *text, const char *path, bool may_write)
{
    if (paths->count < PATHS_MAX && path) {
        paths->path[paths->count] = (struct confine_path){.path = path, .may_write = may_write};
        paths->text[paths->count++] = text;
    } else {
        free(text);
    }
}

/* The folder that a file is in. */
static void add_folder(struct paths *paths, const char *file, bool may_write)
{
    char *folder = confine_folder(file);

    add_path(paths, folder, folder, may_write);
}

/* About the path that was added last. */
static void only_sockets(struct paths *paths)
{
    if (paths->count > 0)
        paths->path[paths->count - 1].only_socket = true;
}

static void add_socket(struct paths *paths, const struct listen_socket *socket)
{
    if (!socket->path[0])
        return;
    add_folder(paths, socket->path, false);
    paths->path[paths->count - 1].only_remove = true;
}

/* The repository that an image is filled from, and of its key what a reload may look for. */
static void add_source(const struct daemon *daemon, struct paths *paths,
                       const struct settings_export *export)
{
    const char *backup;
    char *repository;

    if (export->source && vb_source_split(export->source, &repository, &backup))
        add_path(paths, repository, repository, false);
    if (export->source && daemon->start->config && export->source_key.file)
        add_folder(paths, export->source_key.file, false);
}

static void collect_paths(const struct daemon *daemon, struct paths *paths)
{
    const struct settings *settings = daemon->settings;

    for (unsigned i = 0; i < settings->export_count; i++) {
        const struct settings_export *export = &settings->exports[i];

        add_folder(paths, export->image, !export->read_only);
        add_source(daemon, paths, export);
        if (export->vhost_user && strncmp(export->vhost_user, "fd:", 3) != 0) {
            add_folder(paths, export->vhost_user, false);
            only_sockets(paths);
        }
        /* A reload may find other keys beside it. */
        if (daemon->start->config && export->key.file)
            add_folder(paths, export->key.file, false);
    }
    for (unsigned i = 0; i < settings->image_dirs.count; i++)
        add_path(paths, NULL, settings->image_dirs.value[i], true);
    for (unsigned i = 0; i < settings->socket_dirs.count; i++) {
        add_path(paths, NULL, settings->socket_dirs.value[i], false);
        only_sockets(paths);
    }
    if (daemon->start->config)
        add_folder(paths, daemon->start->config, false);
    /* For a new one when it has been moved away. */
    if (settings->audit_log && audit_has_own_folder(settings->audit_log)) {
        add_folder(paths, settings->audit_log, false);
        if (paths->count > 0)
            paths->path[paths->count - 1].only_logs = true;
    }
    if (settings->tls_dir)
        add_path(paths, NULL, settings->tls_dir, false);
    for (unsigned i = 0; i < daemon->local.count; i++)
        add_socket(paths, &daemon->local.socket[i]);
    add_socket(paths, &daemon->control_socket);
    add_socket(paths, &daemon->metrics_socket);
}

static int confine_all(struct daemon *daemon, const struct paths *paths, struct vdisk_error *error)
{
    int rc = confine_dumps(error);

    if (rc == 0)
        rc = confine_user(daemon->settings->user, error);
    if (rc == 0)
        rc = confine_privileges(error);
    if (rc == 0)
        rc = confine_files(paths->path, paths->count, error);
    if (rc > 0)
        log_event(LOG_WARNING, "no-landlock", "note",
                  "this kernel cannot confine the daemon to its folders", NULL);
    return rc < 0 ? rc : confine_syscalls(NULL, error);
}

int daemon_confine(struct daemon *daemon)
{
    struct paths *paths = calloc(1, sizeof(*paths));
    struct vdisk_error error = {.code = 0};
    int rc;

    if (!paths)
        return report(NULL, -ENOMEM, NULL);
    collect_paths(daemon, paths);
    rc = confine_all(daemon, paths, &error);
    for (unsigned i = 0; i < paths->count; i++)
        free(paths->text[i]);
    free(paths);
    return rc ? report(NULL, rc, &error) : STATUS_DONE;
}
