/* SPDX-License-Identifier: Apache-2.0 */
/* The daemon's management: who asks is checked, it is done, and it is audited; see control.h. */
#include "control.h"

#include "audit.h"
#include "control_server.h"
#include "report.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct control {
    struct control_options options;
    struct control_server *server;
};

/* 0, or -errno: then the operation must not be reported as done. */
static int audit_request(const struct control *control, const struct control_peer *peer,
                         const struct control_request *request, int rc,
                         const struct vdisk_error *error)
{
    const struct audit_who who = {
        .has_ids = true,
        .uid = peer->ids.uid,
        .gid = peer->ids.gid,
        .pid = peer->ids.pid,
    };
    const struct control_command *command = request->command;
    const struct audit_event event = {
        .who = &who,
        .event = command ? command->name : "bad-request",
        .image = request->fields & CONTROL_IMAGE ? request->image : NULL,
        .export = request->fields & CONTROL_EXPORT ? request->export : NULL,
        .detail = request->fields & CONTROL_SNAPSHOT ? request->snapshot
                  : request->fields & CONTROL_GROUP  ? request->group
                                                     : NULL,
        .result = rc,
        .error = rc && error->code == rc ? error->text : NULL,
        .is_volatile = command && command->role == CONTROL_VIEWER,
    };

    return audit_record(control->options.audit, &event);
}

static int serve(void *opaque, const struct control_peer *peer, const char *line, size_t length,
                 int fd, json_t **result, bool *is_last, struct vdisk_error *error)
{
    struct control *control = opaque;
    struct control_request *request = malloc(sizeof(*request));
    int rc;

    if (!request)
        return -ENOMEM;
    rc = control_parse(line, length, request, error);
    if (rc == 0 && peer->role < request->command->role)
        rc = error_set(error, -EPERM, "this user may look only");
    if (rc == 0)
        rc = control_run(&control->options, request, fd, result, error);
    *is_last = rc == 0 && request->command->verb == CONTROL_SHUTDOWN;
    int unaudited = audit_request(control, peer, request, rc, error);
    if (unaudited && rc == 0)
        rc = error_set(error, unaudited, "it was done, but the audit log cannot be written: %s",
                       vdisk_strerror(unaudited));
    free(request);
    return rc;
}

static void refused(void *opaque, const struct control_peer *peer, const struct vdisk_error *error)
{
    static const struct control_request none = {.command = NULL};

    (void)audit_request(opaque, peer, &none, error->code, error);
}

static void last(void *opaque)
{
    const struct control *control = opaque;

    control->options.shut_down(control->options.opaque);
}

int control_start(const struct control_options *options, int listener, struct control **out)
{
    struct control *control = malloc(sizeof(*control));
    int rc;

    if (!control) {
        close(listener);
        return -ENOMEM;
    }
    control->options = *options;
    const struct control_server_options server = {
        .reactor = options->reactor,
        .peers = options->peers,
        .serve = serve,
        .refused = refused,
        .last = last,
        .opaque = control,
    };
    rc = control_server_start(&server, listener, &control->server);
    if (rc) {
        free(control);
        return rc;
    }
    *out = control;
    return 0;
}

void control_stop(struct control *control)
{
    if (!control)
        return;
    control_server_stop(control->server);
    free(control);
}
