/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the daemon was told: by its command line and by a configuration file (vdiskd(8)).
 *
 * Both say the same in JSON: settings_command_line() makes an object of the options,
 * settings_merge() lays it over that of the file, settings_decode() checks the whole. Unknown names
 * and values of the wrong type are errors.
 */
#ifndef VDISKD_SETTINGS_H
#define VDISKD_SETTINGS_H

#include "key.h"
#include "limit.h"

#include "vdisk/vdisk.h"

#include <jansson.h>
#include <stdbool.h>

#define SETTINGS_DEFAULT_FILE "/etc/vdiskd/vdiskd.json"
#define SETTINGS_LIST_MAX     64u
#define SETTINGS_EXPORTS_MAX  1024u

struct settings_list {
    const char *value[SETTINGS_LIST_MAX];
    unsigned count;
};

struct settings_export {
    const char *name, *image;
    const char *key_file, *passphrase_file, *identity, *key_kind;
    uint64_t key_fd;
    struct key_source key;      /* of these */
    const char *group;          /* NULL: none */
    const char *vhost_user;     /* NULL: none; a path, or fd:N */
    const char *vhost_snapshot; /* what is served there; NULL: live */
    /* What the image is filled from, REPO::BACKUP; NULL: nothing. And the repository's key. */
    const char *source, *source_key_file, *source_passphrase_file, *source_identity;
    const char *source_key_kind;
    uint64_t source_key_fd;
    struct key_source source_key;
    uint64_t fill_rate; /* bytes a second; 0: as it comes */
    bool read_only, wait_when_full, wait_when_failing;
    struct limit_settings limits;
    json_t *json;
};

struct settings_group {
    const char *name;
    struct limit_settings limits;
};

/* Texts belong to `root`. */
struct settings {
    json_t *root;
    struct settings_export *exports;
    unsigned export_count;
    struct settings_group *groups;
    unsigned group_count;
    struct settings_list nbd, operators, viewers, image_dirs, socket_dirs;
    const char *default_export;
    const char *tls_dir;
    bool tls_psk, tls_any_client, tls_required, insecure;
    const char *socket, *audit_log, *metrics, *user;
    uint64_t memory, reactors, workers;
    uint64_t poll; /* microseconds */
    bool no_uring;
};

/* What main() needs besides. */
struct settings_start {
    json_t *options;    /* of the command line */
    const char *config; /* NULL: no file */
    bool quiet, print_capabilities;
};

/* OPTIONS_GO_ON, or the exit status after --help or a complaint. Release `options` in any case. */
int settings_command_line(int argc, char **argv, struct settings_start *start);
/* One export's text, NAME=IMAGE,word,word=value; two commas are one of a value. A new reference, or
 * NULL and an error. */
json_t *settings_export_text(const char *text, struct vdisk_error *error);

/* File (NULL: none), options on top, checked. Blocks. -EINVAL, VDISK_E_LIMIT, -errno. */
int settings_load(const char *file, json_t *options, struct settings **out,
                  struct vdisk_error *error);
int settings_decode(json_t *root, struct settings **out, struct vdisk_error *error);
void settings_free(struct settings *settings);

/* Lists are put together; of anything else `over` wins. A new reference. */
json_t *settings_merge(json_t *under, json_t *over);

const struct settings_export *settings_find_export(const struct settings *settings,
                                                   const char *name);

#endif
