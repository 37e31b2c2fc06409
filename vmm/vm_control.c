/* SPDX-License-Identifier: Apache-2.0 */
/* See vm_control.h. */
#include "vm_control.h"

#include "audit.h"
#include "control_json.h"
#include "control_server.h"
#include "memory.h"
#include "report.h"
#include "vm.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RATE_MAX (UINT64_MAX >> 1)

struct vm_control {
    struct vm *vm;
    struct audit *audit;
    struct control_server *server;
};

/* ---- requests ---- */

enum field {
    FIELD_SIZE = 1 << 0,
    FIELD_NET = 1 << 1,
    FIELD_IN = 1 << 2,
    FIELD_OUT = 1 << 3,
};

struct request {
    const struct command *command; /* NULL: there is none of that name */
    unsigned fields;               /* that were given */
    uint64_t size, net;
    struct limit_setting in, out;
    int fd; /* that came with it, or -1 */
};

struct command {
    const char *name;
    enum control_role role;     /* the least that may do it */
    bool disturbs;              /* a guest that is being suspended */
    unsigned required, allowed; /* fields */
    int (*run)(struct vm *vm, const struct request *request, json_t **result,
               struct vdisk_error *error);
};

static int reply_with(json_t *value, json_t **result)
{
    *result = value;
    return value ? 0 : -ENOMEM;
}

static int run_info(struct vm *vm, const struct request *request, json_t **result,
                    struct vdisk_error *error)
{
    (void)request;
    (void)error;
    return reply_with(vm_info(vm), result);
}

static int run_metrics(struct vm *vm, const struct request *request, json_t **result,
                       struct vdisk_error *error)
{
    (void)request;
    (void)error;
    return reply_with(vm_metrics(vm), result);
}

static int run_pause(struct vm *vm, const struct request *request, json_t **result,
                     struct vdisk_error *error)
{
    (void)request;
    (void)result;
    (void)error;
    vm_pause(vm);
    return 0;
}

static int run_resume(struct vm *vm, const struct request *request, json_t **result,
                      struct vdisk_error *error)
{
    (void)request;
    (void)result;
    (void)error;
    return vm_resume(vm);
}

static int run_power_button(struct vm *vm, const struct request *request, json_t **result,
                            struct vdisk_error *error)
{
    (void)request;
    (void)result;
    (void)error;
    vm_press_button(vm);
    return 0;
}

/* The end itself comes after the reply. */
static int run_stop(struct vm *vm, const struct request *request, json_t **result,
                    struct vdisk_error *error)
{
    (void)vm;
    (void)request;
    (void)result;
    (void)error;
    return 0;
}

static int run_suspend(struct vm *vm, const struct request *request, json_t **result,
                       struct vdisk_error *error)
{
    (void)result;
    if (request->fd < 0)
        return error_set(error, -EINVAL, "suspend needs a descriptor, to write the guest to");
    return vm_suspend(vm, request->fd, error);
}

static int run_balloon(struct vm *vm, const struct request *request, json_t **result,
                       struct vdisk_error *error)
{
    (void)result;
    return vm_set_balloon(vm, request->size, error);
}

static int run_limits(struct vm *vm, const struct request *request, json_t **result,
                      struct vdisk_error *error)
{
    (void)result;
    return vm_set_net_limits(vm, (unsigned)request->net, &request->in, &request->out, error);
}

static const struct command commands[] = {
    {"info", CONTROL_VIEWER, false, 0, 0, run_info},
    {"metrics", CONTROL_VIEWER, false, 0, 0, run_metrics},
    {"pause", CONTROL_OPERATOR, false, 0, 0, run_pause},
    {"resume", CONTROL_OPERATOR, true, 0, 0, run_resume},
    {"power-button", CONTROL_OPERATOR, true, 0, 0, run_power_button},
    {"stop", CONTROL_OPERATOR, false, 0, 0, run_stop},
    {"balloon", CONTROL_OPERATOR, true, FIELD_SIZE, 0, run_balloon},
    {"limits", CONTROL_OPERATOR, false, FIELD_NET, FIELD_IN | FIELD_OUT, run_limits},
    {"suspend", CONTROL_OPERATOR, true, 0, 0, run_suspend},
};

/* {"rate": bytes a second, "burst": bytes}; a rate of 0 is no limit. */
static bool take_limit(const json_t *value, struct limit_setting *limit)
{
    const json_t *rate = json_object_get(value, "rate"), *burst = json_object_get(value, "burst");

    return json_is_object(value) && json_object_size(value) == (burst ? 2u : 1u) && rate &&
           control_json_number(rate, RATE_MAX, &limit->rate) &&
           (!burst || control_json_number(burst, RATE_MAX, &limit->burst));
}

/* 0: it is no field; -1: it has no such value; else the field. */
static int take_field(struct request *request, const char *name, const json_t *value)
{
    if (strcmp(name, "size") == 0)
        return control_json_number(value, VM_MEMORY_MAX, &request->size) ? FIELD_SIZE : -1;
    if (strcmp(name, "net") == 0)
        return control_json_number(value, VM_NETS_MAX - 1, &request->net) ? FIELD_NET : -1;
    if (strcmp(name, "in") == 0)
        return take_limit(value, &request->in) ? FIELD_IN : -1;
    if (strcmp(name, "out") == 0)
        return take_limit(value, &request->out) ? FIELD_OUT : -1;
    return 0;
}

static int take_fields(json_t *root, struct request *request, struct vdisk_error *error)
{
    const struct command *command = request->command;
    const char *name;
    json_t *value;

    json_object_foreach(root, name, value)
    {
        if (strcmp(name, "command") == 0)
            continue;
        int field = take_field(request, name, value);

        if (field < 0)
            return error_set(error, -EINVAL, "`%s` has no such value", name);
        if (field == 0 || !((command->required | command->allowed) & (unsigned)field))
            return error_set(error, -EINVAL, "%s takes no `%.64s`", command->name, name);
        request->fields |= (unsigned)field;
    }
    if ((request->fields & command->required) != command->required)
        return error_set(error, -EINVAL, "%s needs more fields than were given", command->name);
    return 0;
}

static int parse(const char *line, size_t length, struct request *request,
                 struct vdisk_error *error)
{
    const char *name;
    json_t *root;
    int rc = control_json_load(line, length, &root, &name, error);

    if (rc)
        return rc;
    for (unsigned i = 0; name && i < sizeof(commands) / sizeof(*commands); i++) {
        if (strcmp(name, commands[i].name) == 0)
            request->command = &commands[i];
    }
    rc = request->command ? take_fields(root, request, error)
                          : error_set(error, -EINVAL, "there is no such command");
    json_decref(root);
    return rc;
}

/* ---- who asked ---- */

static int record(const struct vm_control *control, const struct control_peer *peer,
                  const struct command *command, int rc, const struct vdisk_error *error)
{
    const struct audit_who who = {
        .has_ids = true, .uid = peer->ids.uid, .gid = peer->ids.gid, .pid = peer->ids.pid};
    const struct audit_event event = {
        .who = &who,
        .event = command ? command->name : "bad-request",
        .result = rc,
        .error = rc && error->code == rc ? error->text : NULL,
        .is_volatile = command && command->role == CONTROL_VIEWER,
    };

    return audit_record(control->audit, &event);
}

static int serve(void *opaque, const struct control_peer *peer, const char *line, size_t length,
                 int fd, json_t **result, bool *is_last, struct vdisk_error *error)
{
    const struct vm_control *control = opaque;
    struct request request = {.command = NULL, .fd = fd};
    int rc = parse(line, length, &request, error);

    if (rc == 0 && peer->role < request.command->role)
        rc = error_set(error, -EPERM, "this user may look only");
    if (rc == 0 && request.command->disturbs && vm_is_suspending(control->vm))
        rc = error_set(error, -EBUSY, "the guest is being suspended");
    if (rc == 0)
        rc = request.command->run(control->vm, &request, result, error);
    *is_last = rc == 0 && request.command->run == run_stop;
    int unrecorded = record(control, peer, request.command, rc, error);
    if (unrecorded && rc == 0)
        rc = error_set(error, unrecorded, "it was done, but the audit log cannot be written: %s",
                       vdisk_strerror(unrecorded));
    return rc;
}

static void refused(void *opaque, const struct control_peer *peer, const struct vdisk_error *error)
{
    (void)record(opaque, peer, NULL, error->code, error);
}

static void last(void *opaque)
{
    const struct vm_control *control = opaque;

    vm_end(control->vm);
}

/* ---- begin and end ---- */

int vm_control_listen(const struct vm_config *config, uid_t uid, gid_t gid,
                      struct vdisk_error *error)
{
    return control_listen(config->control, uid, gid, error);
}

static int add_peers(struct control_peers *peers, enum control_role role,
                     const struct option_list *list, struct vdisk_error *error)
{
    for (unsigned i = 0; i < list->count; i++) {
        int rc = control_add_peer(peers, role, list->value[i]);

        if (rc)
            return error_set(error, rc,
                             "%s: there is no such user or @group, or too many are named",
                             list->value[i]);
    }
    return 0;
}

int vm_control_start(struct vm *vm, struct reactor *reactor, const struct vm_config *config,
                     struct audit *audit, int listener, struct vm_control **out,
                     struct vdisk_error *error)
{
    struct vm_control *control = malloc(sizeof(*control));
    struct control_server_options options = {
        .reactor = reactor, .serve = serve, .refused = refused, .last = last, .opaque = control};
    int rc = control ? 0 : -ENOMEM;

    if (rc == 0)
        rc = add_peers(&options.peers, CONTROL_OPERATOR, &config->operators, error);
    if (rc == 0)
        rc = add_peers(&options.peers, CONTROL_VIEWER, &config->viewers, error);
    if (rc) {
        close(listener);
        free(control);
        return rc;
    }
    *control = (struct vm_control){.vm = vm, .audit = audit};
    rc = control_server_start(&options, listener, &control->server);
    if (rc) {
        free(control);
        return rc;
    }
    *out = control;
    return 0;
}

void vm_control_stop(struct vm_control *control)
{
    if (!control)
        return;
    control_server_stop(control->server);
    free(control);
}
