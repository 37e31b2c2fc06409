/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests of the management socket: from a line of JSON to what it asks for; see control.h.
 */
#include "control.h"

#include "control_json.h"
#include "limit_json.h"
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ADD_FIELDS                                                                                 \
    (CONTROL_READ_ONLY | CONTROL_GROUP | CONTROL_LIMITS | CONTROL_WAIT | CONTROL_VHOST)

static const struct control_command commands[] = {
    {"export-list", CONTROL_EXPORT_LIST, CONTROL_VIEWER, 0, 0},
    {"export-add", CONTROL_EXPORT_ADD, CONTROL_OPERATOR,
     CONTROL_EXPORT | CONTROL_IMAGE | CONTROL_KEY, ADD_FIELDS},
    {"export-remove", CONTROL_EXPORT_REMOVE, CONTROL_OPERATOR, CONTROL_EXPORT, 0},
    {"stats", CONTROL_STATS, CONTROL_VIEWER, CONTROL_EXPORT, 0},
    {"snapshot-list", CONTROL_SNAPSHOT_LIST, CONTROL_VIEWER, CONTROL_EXPORT, 0},
    {"snapshot-create", CONTROL_SNAPSHOT_CREATE, CONTROL_OPERATOR,
     CONTROL_EXPORT | CONTROL_SNAPSHOT, 0},
    {"snapshot-delete", CONTROL_SNAPSHOT_DELETE, CONTROL_OPERATOR,
     CONTROL_EXPORT | CONTROL_SNAPSHOT, 0},
    {"resize", CONTROL_RESIZE, CONTROL_OPERATOR, CONTROL_EXPORT | CONTROL_SIZE, CONTROL_SHRINK},
    {"compact", CONTROL_COMPACT, CONTROL_OPERATOR, CONTROL_EXPORT, 0},
    {"checkpoint", CONTROL_CHECKPOINT, CONTROL_OPERATOR, CONTROL_EXPORT, 0},
    {"limits-get", CONTROL_LIMITS_GET, CONTROL_VIEWER, CONTROL_EXPORT, 0},
    {"limits-set", CONTROL_LIMITS_SET, CONTROL_OPERATOR, CONTROL_EXPORT | CONTROL_LIMITS, 0},
    {"group-list", CONTROL_GROUP_LIST, CONTROL_VIEWER, 0, 0},
    {"group-limits-get", CONTROL_GROUP_LIMITS_GET, CONTROL_VIEWER, CONTROL_GROUP, 0},
    {"group-limits-set", CONTROL_GROUP_LIMITS_SET, CONTROL_OPERATOR, CONTROL_GROUP | CONTROL_LIMITS,
     0},
    {"key-list", CONTROL_KEY_LIST, CONTROL_VIEWER, CONTROL_EXPORT, 0},
    {"key-add", CONTROL_KEY_ADD, CONTROL_OPERATOR, CONTROL_EXPORT | CONTROL_KEY, 0},
    {"key-remove", CONTROL_KEY_REMOVE, CONTROL_OPERATOR, CONTROL_EXPORT | CONTROL_SLOT, 0},
    {"nbd-list", CONTROL_NBD_LIST, CONTROL_VIEWER, 0, 0},
    {"reload", CONTROL_RELOAD, CONTROL_OPERATOR, 0, 0},
    {"shutdown", CONTROL_SHUTDOWN, CONTROL_OPERATOR, 0, 0},
};

/* ---- values ---- */

static bool take_key_kind(const json_t *value, enum vdisk_key_kind *kind)
{
    static const struct {
        const char *name;
        enum vdisk_key_kind kind;
    } kinds[] = {{"key-file", VDISK_KEY_FILE},
                 {"passphrase", VDISK_KEY_PASSPHRASE},
                 {"identity", VDISK_KEY_IDENTITY},
                 {"recipient", VDISK_KEY_RECIPIENT}};
    const char *text = json_string_value(value);

    for (unsigned i = 0; text && i < sizeof(kinds) / sizeof(*kinds); i++) {
        if (strcmp(text, kinds[i].name) == 0) {
            *kind = kinds[i].kind;
            return true;
        }
    }
    return false;
}

/* 0: it is no field; -1: it has no such value; else the field. */
static int take_field(struct control_request *request, const char *name, json_t *value)
{
#define FIELD(word, field, taken)                                                                  \
    if (strcmp(name, word) == 0)                                                                   \
    return (taken) ? (int)(field) : -1
    uint64_t slot = 0;
    bool taken;

    FIELD("export", CONTROL_EXPORT,
          control_json_text(value, request->export, sizeof(request->export)));
    FIELD("image", CONTROL_IMAGE,
          control_json_text(value, request->image, sizeof(request->image)) &&
              request->image[0] == '/');
    FIELD("snapshot", CONTROL_SNAPSHOT,
          control_json_text(value, request->snapshot, sizeof(request->snapshot)) &&
              request->snapshot[0]);
    FIELD("group", CONTROL_GROUP,
          control_json_text(value, request->group, sizeof(request->group)) && request->group[0]);
    FIELD("key_file", CONTROL_KEY,
          control_json_text(value, request->key_file, sizeof(request->key_file)) &&
              request->key_file[0] == '/');
    FIELD("key_kind", CONTROL_KEY, take_key_kind(value, &request->key_kind));
    FIELD("size", CONTROL_SIZE, control_json_number(value, VDISK_SIZE_MAX, &request->size));
    FIELD("shrink", CONTROL_SHRINK, control_json_bool(value, &request->shrink));
    FIELD("read_only", CONTROL_READ_ONLY, control_json_bool(value, &request->read_only));
    FIELD("wait_when_full", CONTROL_WAIT, control_json_bool(value, &request->wait_when_full));
    FIELD("wait_when_failing", CONTROL_WAIT, control_json_bool(value, &request->wait_when_failing));
    FIELD("vhost_user", CONTROL_VHOST,
          control_json_text(value, request->vhost_user, sizeof(request->vhost_user)) &&
              request->vhost_user[0] == '/');
    FIELD("vhost_snapshot", CONTROL_VHOST,
          control_json_text(value, request->vhost_snapshot, sizeof(request->vhost_snapshot)) &&
              request->vhost_snapshot[0]);
    FIELD("limits", CONTROL_LIMITS, limit_from_json(value, &request->limits));
    taken = control_json_number(value, VDISK_KEYSLOTS - 1, &slot);
    request->slot = (unsigned)slot;
    FIELD("slot", CONTROL_SLOT, taken);
    return 0;
#undef FIELD
}

static int take_fields(json_t *root, struct control_request *request, struct vdisk_error *error)
{
    const struct control_command *command = request->command;
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
    if ((request->fields & CONTROL_KEY) && request->key_kind == 0)
        return error_set(error, -EINVAL, "%s needs `key_kind`", command->name);
    if ((request->fields & CONTROL_VHOST) && !request->vhost_user[0])
        return error_set(error, -EINVAL, "`vhost_snapshot` goes with `vhost_user`");
    return 0;
}

int control_parse(const char *line, size_t length, struct control_request *request,
                  struct vdisk_error *error)
{
    const char *name;
    json_t *root;
    int rc = control_json_load(line, length, &root, &name, error);

    *request = (struct control_request){.command = NULL};
    if (rc)
        return rc;
    for (unsigned i = 0; name && i < sizeof(commands) / sizeof(*commands); i++) {
        if (strcmp(name, commands[i].name) == 0)
            request->command = &commands[i];
    }
    if (!request->command)
        rc = error_set(error, -EINVAL, "there is no such command");
    else
        rc = take_fields(root, request, error);
    json_decref(root);
    return rc;
}
