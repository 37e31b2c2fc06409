/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk backup key: list, add, remove, emergency.
 */
#include "backup_session.h"
#include "commands.h"
#include "json.h"
#include "report.h"
#include "sizes.h"
#include "textformat.h"
#include "times.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOT_SHOWN 16 /* digits of a keyslot's name */

/* --- list --------------------------------------------------------------------------------- */

struct slots {
    struct vb_slot *slot;
    struct vb_id *name;
    size_t count;
};

static void release_slots(struct slots *slots)
{
    free(slots->slot);
    free(slots->name);
}

static const char *holder(const struct vb_repo *repo, const struct vb_slot *slot)
{
    const struct vb_writer *writer = vb_repo_writer(repo, &slot->sign_public);

    return writer ? writer->name : "";
}

static void print_details(const struct vb_slot *slot)
{
    char memory[SIZES_TEXT_BYTES], recipient[TEXTFORMAT_RECIPIENT_CHARS + 1] = {0};

    if (slot->kind == VB_SLOT_RECIPIENT) {
        textformat_put_recipient(recipient, slot->recipient);
        fputs(recipient, stdout);
    } else if (slot->passes) {
        printf("Argon2id, %u passes, %s", slot->passes,
               sizes_text(memory, (uint64_t)slot->kib * 1024));
    }
}

static void print_slots(const struct vb_repo *repo, const struct slots *slots)
{
    char name[VB_NAME_TEXT_BYTES], created[TIMES_TEXT_BYTES];

    printf("%-*s  %-8s  %-10s  %-20s  %-12s  %s\n", SLOT_SHOWN, "SLOT", "ROLE", "KIND", "CREATED",
           "NAME", "DETAILS");
    for (size_t i = 0; i < slots->count; i++) {
        const struct vb_slot *slot = &slots->slot[i];

        printf("%.*s  %-8s  %-10s  %-20s  ", SLOT_SHOWN, vb_id_text(name, &slots->name[i]),
               vb_role_name(slot->role), vb_slot_kind_name(slot->kind),
               times_text(created, (int64_t)slot->created));
        printf("%-12s  ", holder(repo, slot));
        print_details(slot);
        putchar('\n');
    }
}

static void print_json_slots(const struct vb_repo *repo, const struct slots *slots)
{
    char name[VB_NAME_TEXT_BYTES], created[TIMES_TEXT_BYTES];
    struct json json;

    json_begin(&json, stdout);
    json_open_object(&json, NULL);
    json_hex(&json, "repository_id", repo->config.repo_id, VB_REPO_ID_BYTES);
    json_hex(&json, "root_key", repo->config.root_public.b, VB_ID_BYTES);
    json_open_array(&json, "keyslots");
    for (size_t i = 0; i < slots->count; i++) {
        const struct vb_slot *slot = &slots->slot[i];
        char recipient[TEXTFORMAT_RECIPIENT_CHARS + 1] = {0};

        json_open_object(&json, NULL);
        json_string(&json, "slot", vb_id_text(name, &slots->name[i]));
        json_string(&json, "role", vb_role_name(slot->role));
        json_string(&json, "kind", vb_slot_kind_name(slot->kind));
        json_string(&json, "name", holder(repo, slot));
        json_string(&json, "created", times_text(created, (int64_t)slot->created));
        json_number(&json, "kdf_passes", slot->passes);
        json_number(&json, "kdf_memory_bytes", (uint64_t)slot->kib * 1024);
        textformat_put_recipient(recipient, slot->recipient);
        json_string(&json, "recipient", slot->kind == VB_SLOT_RECIPIENT ? recipient : NULL);
        json_hex(&json, "writer", slot->sign_public.b, VB_ID_BYTES);
        json_close_object(&json);
    }
    json_close_array(&json);
    json_close_object(&json);
    json_end(&json);
}

static int list(int argc, char **argv)
{
    struct backup_options unused = BACKUP_OPTIONS_NONE;
    bool as_json = false;
    const struct option_spec own[] = {
        OPTION_JSON(&as_json),
        /* Taken, so that scripts may give every command the same KEY, and not needed. */
        {"key-file", OPTION_TEXT, &unused.key.key_file, "FILE", NULL},
        {"passphrase-file", OPTION_TEXT, &unused.key.passphrase_file, "FILE", NULL},
        {"identity", OPTION_TEXT, &unused.key.identity, "FILE", NULL},
        {"state", OPTION_TEXT, &unused.state, "DIR", NULL},
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup key list",
        .operands = "REPO",
        .about = "Lists the keyslots. They are public, no key is needed.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    struct vdisk_error error = {0};
    struct slots slots = {0};
    struct vb_store *store;
    struct vb_repo *repo;
    char **operands;
    int count, status, result;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    result = vb_store_dir_open(operands[0], false, &store, &error);
    if (result == 0)
        result = vb_repo_open(store, NULL, &repo, &error);
    if (result)
        return backup_report(operands[0], result, &error);
    result = vb_repo_slots(repo, &slots.slot, &slots.name, &slots.count);
    if (result)
        status = report(operands[0], result, NULL);
    else if (as_json)
        print_json_slots(repo, &slots);
    else
        print_slots(repo, &slots);
    release_slots(&slots);
    vb_repo_close(repo);
    return result ? status : STATUS_DONE;
}

/* --- add ---------------------------------------------------------------------------------- */

static bool parse_role(const char *text, enum vb_role *role)
{
    static const enum vb_role roles[] = {VB_ROLE_READ, VB_ROLE_PUT, VB_ROLE_MAINTAIN};

    for (unsigned i = 0; text && i < 3; i++) {
        if (strcmp(text, vb_role_name(roles[i])) == 0) {
            *role = roles[i];
            return true;
        }
    }
    return false;
}

static int add_key(struct backup_session *session, const struct keyopt *options, enum vb_role role,
                   const char *name, bool quiet)
{
    struct vdisk_error error = {0};
    char text[VB_NAME_TEXT_BYTES];
    struct held_key held;
    struct vb_id slot;
    int result, status;

    status = keyopt_load(options, KEYOPT_ADD, "backup key add", session->path, &held);
    if (status != STATUS_DONE)
        return status;
    result = vb_repo_key_add(session->repo, role, &held.key, false, name, &slot, &error);
    keyopt_release(&held);
    if (result)
        return report(session->path, result, &error);
    if (!quiet)
        printf("slot %.*s\n", SLOT_SHOWN, vb_id_text(text, &slot));
    return STATUS_DONE;
}

static int add(int argc, char **argv)
{
    struct backup_options options = BACKUP_OPTIONS_NONE;
    struct keyopt new_key = {.prefix = "new-"};
    const char *role_text = NULL, *name = NULL;
    enum vb_role role;
    bool quiet = false;
    const struct option_spec own[] = {
        {"role", OPTION_TEXT, &role_text, "ROLE",
         "read: everything; put: make backups, read none; maintain: prune, copy"},
        {"name", OPTION_TEXT, &name, "NAME", "whose key it is (public)"},
        {"new-key-file", OPTION_TEXT, &new_key.key_file, "FILE", "the new key"},
        {"new-passphrase-file", OPTION_TEXT, &new_key.passphrase_file, "FILE", "or passphrase"},
        {"new-recipient", OPTION_TEXT, &new_key.recipient, "PUBKEY", "or public key"},
        KEYOPT_KDF_OPTIONS(&new_key),
        OPTION_QUIET(&quiet),
        BACKUP_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup key add",
        .operands = "REPO",
        .about = "Adds a key with a role. KEY is one of role read.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    struct backup_session session;
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    if (!parse_role(role_text, &role))
        return report_usage(usage.command, "say what it may: --role read, put or maintain");
    if (keyopt_uses_stdin(&options.key) && keyopt_uses_stdin(&new_key))
        return report_usage(usage.command, "only one key can come from standard input");
    status = backup_open(&session, usage.command, operands[0], &options);
    if (status != STATUS_DONE)
        return status;
    status = add_key(&session, &new_key, role, name, quiet);
    backup_close(&session);
    return status;
}

/* --- remove ------------------------------------------------------------------------------- */

static int remove_slot(struct backup_session *session, const char *digits)
{
    const struct vb_id *found = NULL;
    struct vdisk_error error = {0};
    struct slots slots = {0};
    int result = vb_repo_slots(session->repo, &slots.slot, &slots.name, &slots.count);
    int status = STATUS_DONE;

    if (result)
        return report(session->path, result, NULL);
    for (size_t i = 0; i < slots.count && status == STATUS_DONE; i++) {
        char text[VB_NAME_TEXT_BYTES];

        if (strncmp(vb_id_text(text, &slots.name[i]), digits, strlen(digits)) != 0)
            continue;
        if (found)
            status =
                report_text(session->path, -EINVAL, "several keyslots begin with `%s`", digits);
        found = &slots.name[i];
    }
    if (status == STATUS_DONE && !found)
        status =
            report_text(session->path, VDISK_E_NOT_FOUND,
                        "there is no keyslot `%s`; `vdisk backup key list` shows them", digits);
    if (status == STATUS_DONE) {
        result = vb_repo_key_remove(session->repo, found, &error);
        status = result ? report(session->path, result, &error) : STATUS_DONE;
    }
    release_slots(&slots);
    return status;
}

static int remove_key(int argc, char **argv)
{
    struct backup_options options = BACKUP_OPTIONS_NONE;
    const char *slot = NULL;
    const struct option_spec own[] = {
        {"slot", OPTION_TEXT, &slot, "SLOT", "the slot, or its first digits"},
        BACKUP_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup key remove",
        .operands = "REPO",
        .about = "Removes a keyslot, but never the last of role read. What a key of role put or\n"
                 "maintain signs from now on does not count.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    struct backup_session session;
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    if (!slot || !slot[0])
        return report_usage(usage.command, "say which with --slot SLOT");
    status = backup_open(&session, usage.command, operands[0], &options);
    if (status != STATUS_DONE)
        return status;
    status = remove_slot(&session, slot);
    backup_close(&session);
    return status;
}

/* --- emergency ---------------------------------------------------------------------------- */

static int make_emergency(struct backup_session *session)
{
    uint8_t *bytes = vdisk_secret_alloc(VB_EMERGENCY_BYTES + VB_EMERGENCY_TEXT_BYTES);
    char *text = (char *)bytes + VB_EMERGENCY_BYTES;
    struct vdisk_key key = {.kind = VDISK_KEY_FILE, .bytes = bytes, .length = VB_EMERGENCY_BYTES};
    struct vdisk_error error = {0};
    struct vb_id slot;
    int result;

    if (!bytes)
        return report(session->path, -ENOMEM, NULL);
    randombytes_buf(bytes, VB_EMERGENCY_BYTES);
    result = vb_repo_key_add(session->repo, VB_ROLE_READ, &key, true, "emergency", &slot, &error);
    if (result == 0) {
        vb_emergency_text(bytes, text);
        puts(text);
    }
    vdisk_secret_free(bytes);
    return result ? report(session->path, result, &error) : STATUS_DONE;
}

static int emergency(int argc, char **argv)
{
    struct backup_options options = BACKUP_OPTIONS_NONE;
    const struct option_spec own[] = {BACKUP_OPTIONS(&options), {.kind = OPTION_END}};
    const struct usage usage = {
        .command = "backup key emergency",
        .operands = "REPO",
        .about = "Makes a key for the day on which all others are lost, and prints it, once. Put\n"
                 "it on paper. It is typed in where a passphrase is asked for, or put into a\n"
                 "--passphrase-file; case, blanks and dashes do not matter.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    struct backup_session session;
    int status;

    if (!backup_begin(&session, &usage, argc, argv, &options, &status))
        return status;
    status = make_emergency(&session);
    backup_close(&session);
    return status;
}

int cmd_backup_key(int argc, char **argv)
{
    static const struct command commands[] = {
        {"list", "which keys open a repository", list},
        {"add", "another key, with a role", add},
        {"remove", "take a key away", remove_key},
        {"emergency", "a key to be printed", emergency},
        {NULL, NULL, NULL},
    };

    return command_dispatch(commands, "vdisk backup key", argc, argv);
}
