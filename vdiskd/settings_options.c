/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's command line, as the object that a configuration file would have; see settings.h.
 */
#include "settings.h"

#include "limit_json.h"
#include "options.h"
#include "report.h"
#include "sizes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct given {
    struct settings_start *start;
    struct option_list exports, groups, nbd, operators, viewers, image_dirs, socket_dirs;
    const char *default_export, *tls_dir, *socket, *audit_log, *metrics, *user;
    bool tls_psk, tls_any_client, tls_required, insecure, no_uring;
    struct option_size memory, reactors, workers, poll;
    /* A vhost-user back end by the conventions of QEMU's docs/interop/vhost-user.rst. */
    const char *socket_path, *blk_file, *key_file, *passphrase_file, *identity;
    struct option_size fd;
    bool read_only;
};

/* ---- words of an export, or of a group ---- */

static int take_limit(json_t *limits, const char *name, const char *text, struct vdisk_error *error)
{
    uint64_t rate, burst;

    if (!sizes_parse_rate(text, &rate, &burst))
        return error_set(error, -EINVAL, "%s=%s: a limit is a rate, or rate/burst", name, text);
    json_object_set_new(
        limits, name,
        json_pack("{s:I, s:I}", "rate", (json_int_t)rate, "burst", (json_int_t)burst));
    return 0;
}

static bool is_limit(const char *name)
{
    for (unsigned kind = 0; kind < LIMIT_KINDS; kind++) {
        if (strcmp(limit_names[kind], name) == 0)
            return true;
    }
    return false;
}

/* `word` or `word=value`; a flag has no value. Whether there is such a word is seen later. */
static int take_word(json_t *object, json_t *limits, char *word, struct vdisk_error *error)
{
    char *value = strchr(word, '=');
    uint64_t number;
    json_t *json;

    if (value)
        *value++ = 0;
    for (char *at = word; *at; at++)
        *at = *at == '-' ? '_' : *at;
    if (value && is_limit(word))
        return take_limit(limits, word, value, error);
    if (!value)
        json = json_true();
    else if ((strcmp(word, "key_fd") == 0 || strcmp(word, "source_key_fd") == 0) &&
             sizes_parse_number(value, &number))
        json = json_integer((json_int_t)(number & INT64_MAX));
    else
        json = json_string(value);
    if (!word[0] || !json)
        return error_set(error, -EINVAL, "a word is empty, or no UTF-8");
    json_object_set_new(object, word, json);
    return 0;
}

/* The next part of a text at *at up to a comma; two of them stand for one. It is made in place;
 * NULL: there is none. */
static char *next_part(char **at)
{
    char *begin = *at, *to = begin, *from = begin;

    if (!begin)
        return NULL;
    for (; *from && (*from != ',' || from[1] == ','); from++) {
        from += *from == ',';
        *to++ = *from;
    }
    *at = *from ? from + 1 : NULL;
    *to = 0;
    return begin;
}

/* The parts after the first; the limits go into `limits`. */
static int take_words(json_t *object, json_t *limits, char *at, struct vdisk_error *error)
{
    for (char *part; (part = next_part(&at)) != NULL;) {
        int rc = take_word(object, limits, part, error);

        if (rc)
            return rc;
    }
    return 0;
}

json_t *settings_export_text(const char *text, struct vdisk_error *error)
{
    char *copy = strdup(text), *at = copy;
    char *first = next_part(&at), *equals = first ? strchr(first, '=') : NULL;
    json_t *object = json_object(), *limits = json_object();
    int rc = 0;

    if (!equals) {
        rc = error_set(error, -EINVAL, "an export is NAME=IMAGE, then words: `%s` is not", text);
    } else {
        *equals = 0;
        json_object_set_new(object, "name", json_string(first));
        json_object_set_new(object, "image", json_string(equals + 1));
        rc = take_words(object, limits, at, error);
    }
    if (rc == 0 && json_object_size(limits) > 0)
        json_object_set(object, "limits", limits);
    json_decref(limits);
    free(copy);
    if (rc) {
        json_decref(object);
        return NULL;
    }
    return object;
}

/* ---- all options ---- */

static void set_text(json_t *root, const char *name, const char *value)
{
    if (value)
        json_object_set_new(root, name, json_string(value));
}

static void set_flag(json_t *root, const char *name, bool value)
{
    if (value)
        json_object_set_new(root, name, json_true());
}

static void set_size(json_t *root, const char *name, const struct option_size *size)
{
    if (size->given)
        json_object_set_new(root, name, json_integer((json_int_t)(size->value & INT64_MAX)));
}

static void set_list(json_t *root, const char *name, const struct option_list *list)
{
    if (list->count == 0)
        return;
    json_t *array = json_array();
    for (unsigned i = 0; i < list->count; i++)
        json_array_append_new(array, json_string(list->value[i]));
    json_object_set_new(root, name, array);
}

static int set_exports(json_t *root, const struct given *given, struct vdisk_error *error)
{
    json_t *array = json_array();

    json_object_set_new(root, "exports", array);
    for (unsigned i = 0; i < given->exports.count; i++) {
        json_t *object = settings_export_text(given->exports.value[i], error);

        if (!object)
            return error->code;
        json_array_append_new(array, object);
    }
    return 0;
}

static int set_groups(json_t *root, const struct given *given, struct vdisk_error *error)
{
    json_t *groups = json_object();
    int rc = 0;

    json_object_set_new(root, "groups", groups);
    for (unsigned i = 0; i < given->groups.count && rc == 0; i++) {
        char *copy = strdup(given->groups.value[i]), *at = copy, *name = next_part(&at);
        json_t *words = json_object(), *limits = json_object();

        rc = take_words(words, limits, at, error);
        if (rc == 0 && (!name || json_object_size(words) > 0))
            rc = error_set(error, -EINVAL, "a group is NAME, then limits: `%s` is not",
                           given->groups.value[i]);
        if (rc == 0)
            json_object_set(groups, name, limits);
        json_decref(words);
        json_decref(limits);
        free(copy);
    }
    return rc;
}

/* --blk-file and what goes with it is one export of the empty name. */
static int set_back_end(json_t *root, const struct given *given, struct vdisk_error *error)
{
    json_t *object = json_object();
    char fd[32];

    if (!given->socket_path == !given->fd.given || !given->blk_file) {
        json_decref(object);
        return error_set(error, -EINVAL,
                         "a vhost-user back end needs --blk-file, and --socket-path or --fd");
    }
    snprintf(fd, sizeof(fd), "fd:%u", (unsigned)given->fd.value);
    set_text(object, "name", "");
    set_text(object, "image", given->blk_file);
    set_text(object, "vhost_user", given->socket_path ? given->socket_path : fd);
    set_text(object, "key_file", given->key_file);
    set_text(object, "passphrase_file", given->passphrase_file);
    set_text(object, "identity", given->identity);
    set_flag(object, "read_only", given->read_only);
    json_array_append_new(json_object_get(root, "exports"), object);
    return 0;
}

static int build(const struct given *given, json_t *root, struct vdisk_error *error)
{
    int rc = set_exports(root, given, error);

    if (rc == 0)
        rc = set_groups(root, given, error);
    if (rc == 0 && (given->socket_path || given->fd.given || given->blk_file))
        rc = set_back_end(root, given, error);
    set_list(root, "nbd", &given->nbd);
    set_list(root, "operators", &given->operators);
    set_list(root, "viewers", &given->viewers);
    set_list(root, "image_dirs", &given->image_dirs);
    set_list(root, "socket_dirs", &given->socket_dirs);
    set_text(root, "default_export", given->default_export);
    set_text(root, "tls_dir", given->tls_dir);
    set_flag(root, "tls_psk", given->tls_psk);
    set_flag(root, "tls_any_client", given->tls_any_client);
    set_flag(root, "tls_required", given->tls_required);
    set_flag(root, "insecure", given->insecure);
    set_text(root, "socket", given->socket);
    set_text(root, "audit_log", given->audit_log);
    set_text(root, "metrics", given->metrics);
    set_size(root, "memory", &given->memory);
    set_size(root, "reactors", &given->reactors);
    set_size(root, "workers", &given->workers);
    set_size(root, "poll", &given->poll);
    set_flag(root, "no_uring", given->no_uring);
    set_text(root, "user", given->user);
    return rc;
}

static int parse(int argc, char **argv, struct given *given)
{
    const struct option_spec serving[] = {
        {"config", OPTION_TEXT, &given->start->config, "FILE",
         "settings in JSON (" SETTINGS_DEFAULT_FILE " without any option)"},
        {"export", OPTION_LIST, &given->exports, "NAME=IMAGE,...",
         "serve it; the key: key-file=F, passphrase-file=F, identity=F"},
        {"nbd", OPTION_LIST, &given->nbd, "ADDRESS", "unix:PATH or tcp:HOST:PORT"},
        {"default-export", OPTION_TEXT, &given->default_export, "NAME",
         "what clients get that name none"},
        {"group", OPTION_LIST, &given->groups, "NAME,...", "limits that exports share"},
        {"tls-dir", OPTION_TEXT, &given->tls_dir, "DIR", "certificates, or keys.psk"},
        {"tls-psk", OPTION_FLAG, &given->tls_psk, NULL, "keys, not certificates"},
        {"tls-any-client", OPTION_FLAG, &given->tls_any_client, NULL,
         "clients need no certificate"},
        {"tls-required", OPTION_FLAG, &given->tls_required, NULL, "also on Unix sockets"},
        {"insecure", OPTION_FLAG, &given->insecure, NULL,
         "TCP without TLS, for other hosts as well"},
        {.kind = OPTION_END},
    };
    const struct option_spec running[] = {
        {"socket", OPTION_TEXT, &given->socket, "PATH", "management, for `vdisk ctl`"},
        {"operator", OPTION_LIST, &given->operators, "USER|@GROUP", "may do everything there"},
        {"viewer", OPTION_LIST, &given->viewers, "USER|@GROUP", "may look"},
        {"audit-log", OPTION_TEXT, &given->audit_log, "FILE", "who did what"},
        {"metrics", OPTION_TEXT, &given->metrics, "ADDRESS",
         "Prometheus text at unix:PATH or tcp:127.0.0.1:PORT"},
        {"memory", OPTION_SIZE, &given->memory, "SIZE", "for caches and clients' data (256M)"},
        {"reactors", OPTION_NUMBER, &given->reactors, "N", "threads that serve (1)"},
        {"workers", OPTION_NUMBER, &given->workers, "N",
         "threads that compute, for each of them (one a processor)"},
        {"poll", OPTION_NUMBER, &given->poll, "N",
         "microseconds to look for more before a thread sleeps (200); 0: none"},
        {"no-uring", OPTION_FLAG, &given->no_uring, NULL, "threads in place of io_uring"},
        {"user", OPTION_TEXT, &given->user, "NAME", "who to become, when root"},
        {"image-dir", OPTION_LIST, &given->image_dirs, "DIR",
         "more images may be opened there later"},
        {"socket-dir", OPTION_LIST, &given->socket_dirs, "DIR",
         "more sockets of vhost-user may be made there later"},
        {.kind = OPTION_END},
    };
    const struct option_spec back_end[] = {
        {"socket-path", OPTION_TEXT, &given->socket_path, "PATH",
         "as a vhost-user back end: where"},
        {"fd", OPTION_NUMBER, &given->fd, "N", "or a socket that listens"},
        {"blk-file", OPTION_TEXT, &given->blk_file, "IMAGE", "the image"},
        {"key-file", OPTION_TEXT, &given->key_file, "FILE", "its key"},
        {"passphrase-file", OPTION_TEXT, &given->passphrase_file, "FILE", "likewise"},
        {"identity", OPTION_TEXT, &given->identity, "FILE", "likewise"},
        {"read-only", OPTION_FLAG, &given->read_only, NULL, "the guest may not write"},
        {"print-capabilities", OPTION_FLAG, &given->start->print_capabilities, NULL,
         "of the back end, in JSON"},
        {"quiet", OPTION_FLAG, &given->start->quiet, NULL, "log warnings and errors only"},
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .operands = "",
        .about = "Serves encrypted VM drives by NBD and vhost-user; see vdiskd(8).",
        .groups = {serving, running, back_end},
    };
    char **operands;
    int count;

    return options_parse(&usage, argc, argv, &operands, &count);
}

int settings_command_line(int argc, char **argv, struct settings_start *start)
{
    struct given given = {.start = start};
    struct vdisk_error error = {.code = 0};
    int status;

    *start = (struct settings_start){.options = json_object()};
    status = parse(argc, argv, &given);
    if (status != OPTIONS_GO_ON)
        return status;
    if (argc == 1)
        start->config = SETTINGS_DEFAULT_FILE;
    if (build(&given, start->options, &error))
        return report_usage(NULL, "%s", error.text);
    return OPTIONS_GO_ON;
}
