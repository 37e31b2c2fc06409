/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From JSON to settings; see settings.h. Each object has a table of what may stand in it.
 */
#include "settings.h"

#include "limit_json.h"
#include "report.h"
#include "sizes.h"

#include <errno.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define NAME_MAX_BYTES 255u
#define POLL_DEFAULT   200u /* microseconds */
#define POLL_MAX       1000u

enum field_type {
    FIELD_TEXT,   /* const char * */
    FIELD_FLAG,   /* bool */
    FIELD_SIZE,   /* uint64_t: a number, or "10M" */
    FIELD_LIST,   /* struct settings_list */
    FIELD_LIMITS, /* struct limit_settings */
    FIELD_LATER,  /* an array or an object of its own */
};

struct field {
    const char *name;
    enum field_type type;
    size_t offset;
};

#define FIELD(kind, type, member)                                                                  \
    {                                                                                              \
#member, type, offsetof(struct kind, member)                                               \
    }

static const struct field main_fields[] = {
    {"exports", FIELD_LATER, 0},
    {"groups", FIELD_LATER, 0},
    FIELD(settings, FIELD_LIST, nbd),
    FIELD(settings, FIELD_TEXT, default_export),
    FIELD(settings, FIELD_TEXT, tls_dir),
    FIELD(settings, FIELD_FLAG, tls_psk),
    FIELD(settings, FIELD_FLAG, tls_any_client),
    FIELD(settings, FIELD_FLAG, tls_required),
    FIELD(settings, FIELD_FLAG, insecure),
    FIELD(settings, FIELD_TEXT, socket),
    FIELD(settings, FIELD_LIST, operators),
    FIELD(settings, FIELD_LIST, viewers),
    FIELD(settings, FIELD_TEXT, audit_log),
    FIELD(settings, FIELD_TEXT, metrics),
    FIELD(settings, FIELD_SIZE, memory),
    FIELD(settings, FIELD_SIZE, reactors),
    FIELD(settings, FIELD_SIZE, workers),
    FIELD(settings, FIELD_SIZE, poll),
    FIELD(settings, FIELD_FLAG, no_uring),
    FIELD(settings, FIELD_TEXT, user),
    FIELD(settings, FIELD_LIST, image_dirs),
    FIELD(settings, FIELD_LIST, socket_dirs),
    {NULL, FIELD_LATER, 0},
};

static const struct field export_fields[] = {
    FIELD(settings_export, FIELD_TEXT, name),
    FIELD(settings_export, FIELD_TEXT, image),
    FIELD(settings_export, FIELD_TEXT, key_file),
    FIELD(settings_export, FIELD_TEXT, passphrase_file),
    FIELD(settings_export, FIELD_TEXT, identity),
    FIELD(settings_export, FIELD_SIZE, key_fd),
    FIELD(settings_export, FIELD_TEXT, key_kind),
    FIELD(settings_export, FIELD_TEXT, source),
    FIELD(settings_export, FIELD_TEXT, source_key_file),
    FIELD(settings_export, FIELD_TEXT, source_passphrase_file),
    FIELD(settings_export, FIELD_TEXT, source_identity),
    FIELD(settings_export, FIELD_SIZE, source_key_fd),
    FIELD(settings_export, FIELD_TEXT, source_key_kind),
    FIELD(settings_export, FIELD_SIZE, fill_rate),
    FIELD(settings_export, FIELD_TEXT, group),
    FIELD(settings_export, FIELD_TEXT, vhost_user),
    FIELD(settings_export, FIELD_TEXT, vhost_snapshot),
    FIELD(settings_export, FIELD_FLAG, read_only),
    FIELD(settings_export, FIELD_FLAG, wait_when_full),
    FIELD(settings_export, FIELD_FLAG, wait_when_failing),
    FIELD(settings_export, FIELD_LIMITS, limits),
    {NULL, FIELD_LATER, 0},
};

/* ---- values ---- */

static bool take_text(const json_t *value, const char **out)
{
    *out = json_string_value(value);
    return *out && strlen(*out) == json_string_length(value);
}

static bool take_size(const json_t *value, uint64_t *out)
{
    if (json_is_string(value))
        return sizes_parse(json_string_value(value), out);
    *out = (uint64_t)json_integer_value(value);
    return json_is_integer(value) && json_integer_value(value) >= 0;
}

static bool take_list(json_t *value, struct settings_list *list)
{
    size_t i;
    json_t *item;

    if (!json_is_array(value) || json_array_size(value) > SETTINGS_LIST_MAX)
        return false;
    json_array_foreach(value, i, item)
    {
        if (!take_text(item, &list->value[list->count++]))
            return false;
    }
    return true;
}

static bool take_value(json_t *value, enum field_type type, void *out)
{
    switch (type) {
    case FIELD_TEXT:
        return take_text(value, out);
    case FIELD_FLAG:
        *(bool *)out = json_is_true(value);
        return json_is_boolean(value);
    case FIELD_SIZE:
        return take_size(value, out);
    case FIELD_LIST:
        return take_list(value, out);
    case FIELD_LIMITS:
        return limit_from_json(value, out);
    case FIELD_LATER:
        return true;
    }
    return false;
}

static int take_object(json_t *object, const struct field *fields, const char *where, void *out,
                       struct vdisk_error *error)
{
    const char *name;
    json_t *value;

    if (!json_is_object(object))
        return error_set(error, -EINVAL, "%s is not an object", where);
    json_object_foreach(object, name, value)
    {
        const struct field *field = fields;

        while (field->name && strcmp(field->name, name) != 0)
            field++;
        if (!field->name)
            return error_set(error, -EINVAL, "%s has no `%.64s`", where, name);
        if (!take_value(value, field->type, (char *)out + field->offset))
            return error_set(error, -EINVAL, "%s: `%s` has no such value", where, name);
    }
    return 0;
}

/* ---- exports and groups ---- */

/* A key as an export names it: one of three files, or a descriptor and what comes by it. */
struct named_key {
    const char *word; /* "", or "source-" */
    const char *key_file, *passphrase_file, *identity, *kind;
    bool has_fd;
    uint64_t fd;
};

static int take_key_fd(const struct named_key *named, struct key_source *key)
{
    static const struct {
        const char *name;
        enum vdisk_key_kind kind;
    } kinds[] = {{"key-file", VDISK_KEY_FILE},
                 {"passphrase", VDISK_KEY_PASSPHRASE},
                 {"identity", VDISK_KEY_IDENTITY}};
    const char *kind = named->kind ? named->kind : "key-file";

    key->kind = 0;
    for (unsigned i = 0; i < sizeof(kinds) / sizeof(*kinds); i++) {
        if (strcmp(kind, kinds[i].name) == 0)
            key->kind = kinds[i].kind;
    }
    key->fd = named->fd <= INT_MAX ? (int)named->fd : -1;
    return key->kind == 0 || key->fd < 0 ? -EINVAL : 0;
}

static int take_key(const char *export, const struct named_key *named, struct key_source *key,
                    struct vdisk_error *error)
{
    const char *word = named->word;

    *key = (struct key_source){.fd = -1, .may_wait = true};
    if (!!named->key_file + !!named->passphrase_file + !!named->identity + named->has_fd != 1)
        return error_set(error, -EINVAL,
                         "export `%s` needs a key: one of %skey-file, %spassphrase-file, "
                         "%sidentity, %skey-fd",
                         export, word, word, word, word);
    if (named->kind && !named->has_fd)
        return error_set(error, -EINVAL, "export `%s`: %skey-kind goes with %skey-fd", export, word,
                         word);
    key->kind = named->passphrase_file ? VDISK_KEY_PASSPHRASE
                : named->identity      ? VDISK_KEY_IDENTITY
                                       : VDISK_KEY_FILE;
    key->file = named->key_file          ? named->key_file
                : named->passphrase_file ? named->passphrase_file
                                         : named->identity;
    if (named->has_fd && take_key_fd(named, key))
        return error_set(error, -EINVAL,
                         "export `%s`: %skey-kind is key-file, passphrase or identity, and "
                         "%skey-fd a descriptor",
                         export, word, word);
    return 0;
}

static int take_keys(struct settings_export *export, struct vdisk_error *error)
{
    const struct named_key own = {.word = "",
                                  .key_file = export->key_file,
                                  .passphrase_file = export->passphrase_file,
                                  .identity = export->identity,
                                  .kind = export->key_kind,
                                  .has_fd = json_object_get(export->json, "key_fd") != NULL,
                                  .fd = export->key_fd};
    const struct named_key source = {.word = "source-",
                                     .key_file = export->source_key_file,
                                     .passphrase_file = export->source_passphrase_file,
                                     .identity = export->source_identity,
                                     .kind = export->source_key_kind,
                                     .has_fd =
                                         json_object_get(export->json, "source_key_fd") != NULL,
                                     .fd = export->source_key_fd};
    int rc = take_key(export->name, &own, &export->key, error);

    if (rc || !export->source)
        return rc;
    if (!strstr(export->source, "::"))
        return error_set(error, -EINVAL, "export `%s`: a source is REPOSITORY::BACKUP",
                         export->name);
    return take_key(export->name, &source, &export->source_key, error);
}

static int take_export(struct settings *settings, json_t *object, struct vdisk_error *error)
{
    struct settings_export *export = &settings->exports[settings->export_count];
    int rc = take_object(object, export_fields, "an export", export, error);

    if (rc)
        return rc;
    export->json = object;
    if (!export->name || !export->image || !export->image[0])
        return error_set(error, -EINVAL, "an export needs `name` and `image`");
    if (strlen(export->name) > NAME_MAX_BYTES || strlen(export->image) > VDISK_PATH_MAX)
        return error_set(error, -EINVAL, "export `%.64s`: a name or path that is too long",
                         export->name);
    if (settings_find_export(settings, export->name))
        return error_set(error, VDISK_E_EXISTS, "there are two exports `%s`", export->name);
    if (export->vhost_snapshot && !export->vhost_user)
        return error_set(error, -EINVAL, "export `%s`: vhost-snapshot goes with vhost-user",
                         export->name);
    settings->export_count++;
    return take_keys(export, error);
}

static int take_exports(struct settings *settings, json_t *array, struct vdisk_error *error)
{
    size_t count = json_array_size(array), i;
    json_t *item;

    if (array && !json_is_array(array))
        return error_set(error, -EINVAL, "`exports` is not an array");
    if (count > SETTINGS_EXPORTS_MAX)
        return error_set(error, VDISK_E_LIMIT, "there are more than %u exports",
                         SETTINGS_EXPORTS_MAX);
    settings->exports = calloc(count ? count : 1, sizeof(*settings->exports));
    if (!settings->exports)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    json_array_foreach(array, i, item)
    {
        int rc = take_export(settings, item, error);

        if (rc)
            return rc;
    }
    return 0;
}

static int take_groups(struct settings *settings, json_t *object, struct vdisk_error *error)
{
    size_t count = json_object_size(object);
    const char *name;
    json_t *value;

    if (object && !json_is_object(object))
        return error_set(error, -EINVAL, "`groups` is not an object");
    settings->groups = calloc(count ? count : 1, sizeof(*settings->groups));
    if (!settings->groups)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    json_object_foreach(object, name, value)
    {
        struct settings_group *group = &settings->groups[settings->group_count++];

        group->name = name;
        if (!name[0] || strlen(name) > NAME_MAX_BYTES || !limit_from_json(value, &group->limits))
            return error_set(error, -EINVAL, "group `%.64s` has no such limits", name);
    }
    return 0;
}

const struct settings_export *settings_find_export(const struct settings *settings,
                                                   const char *name)
{
    for (unsigned i = 0; i < settings->export_count; i++) {
        if (strcmp(settings->exports[i].name, name) == 0)
            return &settings->exports[i];
    }
    return NULL;
}

/* ---- the whole ---- */

static int check(const struct settings *settings, struct vdisk_error *error)
{
    if (!settings->tls_dir &&
        (settings->tls_psk || settings->tls_any_client || settings->tls_required))
        return error_set(error, -EINVAL, "TLS needs a folder with keys: tls-dir");
    if (settings->tls_psk && settings->tls_any_client)
        return error_set(error, -EINVAL, "tls-any-client is about certificates, not about keys");
    if (settings->reactors > 64 || settings->workers > 256)
        return error_set(error, -EINVAL, "at most 64 reactors and 256 workers");
    if (settings->poll > POLL_MAX)
        return error_set(error, -EINVAL, "poll: at most %u microseconds", POLL_MAX);
    return 0;
}

int settings_decode(json_t *root, struct settings **out, struct vdisk_error *error)
{
    struct settings *settings = calloc(1, sizeof(*settings));
    int rc;

    if (!settings)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    settings->poll = POLL_DEFAULT;
    settings->root = json_incref(root);
    rc = take_object(root, main_fields, "the configuration", settings, error);
    if (rc == 0)
        rc = take_exports(settings, json_object_get(root, "exports"), error);
    if (rc == 0)
        rc = take_groups(settings, json_object_get(root, "groups"), error);
    if (rc == 0)
        rc = check(settings, error);
    if (rc) {
        settings_free(settings);
        return rc;
    }
    *out = settings;
    return 0;
}

void settings_free(struct settings *settings)
{
    if (!settings)
        return;
    free(settings->groups);
    free(settings->exports);
    json_decref(settings->root);
    free(settings);
}

/* A new reference to both, where both are lists or both objects, else to `over`. */
static json_t *merge_value(json_t *under, json_t *over)
{
    json_t *both;

    if (json_is_array(under) && json_is_array(over)) {
        both = json_copy(under);
        (void)json_array_extend(both, over);
    } else if (json_is_object(under) && json_is_object(over)) {
        both = json_copy(under);
        (void)json_object_update(both, over);
    } else {
        both = json_incref(over);
    }
    return both;
}

json_t *settings_merge(json_t *under, json_t *over)
{
    json_t *merged = json_copy(under);
    const char *name;
    json_t *value;

    json_object_foreach(over, name, value)
    {
        json_object_set_new(merged, name, merge_value(json_object_get(merged, name), value));
    }
    return merged;
}

int settings_load(const char *file, json_t *options, struct settings **out,
                  struct vdisk_error *error)
{
    json_error_t where = {.line = 0};
    json_t *root = file ? json_load_file(file, JSON_REJECT_DUPLICATES, &where) : json_object();
    json_t *merged;
    int rc;

    if (!root && where.line > 0)
        return error_set(error, -EINVAL, "line %d: %s", where.line, where.text);
    if (!root)
        return error_set(error, file ? -ENOENT : -ENOMEM, "%s",
                         file ? where.text : vdisk_strerror(-ENOMEM));
    merged = json_is_object(root) ? settings_merge(root, options) : json_incref(root);
    json_decref(root);
    rc = settings_decode(merged, out, error);
    json_decref(merged);
    return rc;
}
