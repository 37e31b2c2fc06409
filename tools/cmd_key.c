/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk key generate, list, add, remove, rotate.
 */
#include "commands.h"
#include "interrupt.h"
#include "json.h"
#include "keypair.h"
#include "kinds.h"
#include "options.h"
#include "progress.h"
#include "report.h"
#include "session.h"
#include "sizes.h"
#include "textformat.h"
#include "times.h"

#include <errno.h>
#include <stdio.h>

/* --- generate ----------------------------------------------------------------------------- */

static int generate(int argc, char **argv)
{
    const struct usage usage = {
        .command = "key generate",
        .operands = "FILE",
        .about = "Makes a key pair: the secret half in FILE (for --identity), the public half in\n"
                 "FILE.pub and on standard output (for --recipient).",
        .min = 1,
        .max = 1,
    };
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    return status == OPTIONS_GO_ON ? keypair_generate(operands[0]) : status;
}

/* --- list --------------------------------------------------------------------------------- */

static void recipient_text(char text[TEXTFORMAT_RECIPIENT_CHARS + 1],
                           const struct vdisk_keyslot_info *slot)
{
    textformat_put_recipient(text, slot->public_key);
    text[TEXTFORMAT_RECIPIENT_CHARS] = '\0';
}

static void print_slots(const struct vdisk_public_info *info)
{
    char created[TIMES_TEXT_BYTES], memory[SIZES_TEXT_BYTES];
    char recipient[TEXTFORMAT_RECIPIENT_CHARS + 1];

    printf("%4s  %-10s  %-20s  %s\n", "SLOT", "KIND", "CREATED", "DETAILS");
    for (unsigned i = 0; i < info->keyslots; i++) {
        const struct vdisk_keyslot_info *slot = &info->slot[i];

        printf("%4u  %-10s  %-20s  ", slot->slot, kinds_key(slot->kind),
               times_text(created, slot->created));
        recipient_text(recipient, slot);
        if (slot->kind == VDISK_KEY_RECIPIENT)
            puts(recipient);
        else if (slot->kdf_passes)
            printf("Argon2id, %u passes, %s\n", slot->kdf_passes,
                   sizes_text(memory, (uint64_t)slot->kdf_kib * 1024));
        else
            puts("32 bytes or more, no Argon2id");
    }
}

static void print_json_slots(const struct vdisk_public_info *info)
{
    char created[TIMES_TEXT_BYTES], recipient[TEXTFORMAT_RECIPIENT_CHARS + 1];
    struct json json;

    json_begin(&json, stdout);
    json_open_object(&json, NULL);
    json_open_array(&json, "keyslots");
    for (unsigned i = 0; i < info->keyslots; i++) {
        const struct vdisk_keyslot_info *slot = &info->slot[i];

        json_open_object(&json, NULL);
        json_number(&json, "slot", slot->slot);
        json_string(&json, "kind", kinds_key(slot->kind));
        json_string(&json, "created", times_text(created, slot->created));
        json_number(&json, "kdf_passes", slot->kdf_passes);
        json_number(&json, "kdf_memory_bytes", (uint64_t)slot->kdf_kib * 1024);
        recipient_text(recipient, slot);
        json_string(&json, "recipient", slot->kind == VDISK_KEY_RECIPIENT ? recipient : NULL);
        json_close_object(&json);
    }
    json_close_array(&json);
    json_close_object(&json);
    json_end(&json);
}

static int list(int argc, char **argv)
{
    bool as_json = false;
    struct keyopt unused = {.prefix = ""};
    const struct option_spec own[] = {
        OPTION_JSON(&as_json),
        /* Taken, so that scripts may give every command the same KEY, and not needed. */
        {"key-file", OPTION_TEXT, &unused.key_file, "FILE", NULL},
        {"passphrase-file", OPTION_TEXT, &unused.passphrase_file, "FILE", NULL},
        {"identity", OPTION_TEXT, &unused.identity, "FILE", NULL},
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "key list",
        .operands = "IMAGE",
        .about = "Lists the keyslots. They are public, no key is needed.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    struct vdisk_public_info info;
    struct vdisk_error error = {0};
    char **operands;
    int count, status, result;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    result = vdisk_probe(operands[0], &info, &error);
    if (result)
        return report(operands[0], result, &error);
    if (as_json)
        print_json_slots(&info);
    else
        print_slots(&info);
    return STATUS_DONE;
}

/* --- add ---------------------------------------------------------------------------------- */

static int add_key(struct session *session, const struct keyopt *options, bool quiet)
{
    struct held_key held;
    unsigned slot;
    int status, result;

    status = keyopt_load(options, KEYOPT_ADD, "key add", session->spec.path, &held);
    if (status != STATUS_DONE)
        return status;
    result = vdisk_key_add(session->image, &held.key, &slot);
    keyopt_release(&held);
    if (result)
        return session_fail(session, result);
    if (!quiet)
        printf("slot %u\n", slot);
    return STATUS_DONE;
}

static int add(int argc, char **argv)
{
    struct session_options options = SESSION_OPTIONS_NONE;
    struct keyopt new_key = {.prefix = "new-"};
    bool quiet = false;
    const struct option_spec own[] = {
        {"new-key-file", OPTION_TEXT, &new_key.key_file, "FILE", "the new key"},
        {"new-passphrase-file", OPTION_TEXT, &new_key.passphrase_file, "FILE", "or passphrase"},
        {"new-recipient", OPTION_TEXT, &new_key.recipient, "PUBKEY", "or public key"},
        KEYOPT_KDF_OPTIONS(&new_key),
        OPTION_QUIET(&quiet),
        SESSION_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "key add",
        .operands = "IMAGE",
        .about = "Lets another key open the image; without a --new-... option it asks for a\n"
                 "passphrase. KEY is one that opens it now.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    struct session session;
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    if (keyopt_uses_stdin(&options.key) && keyopt_uses_stdin(&new_key))
        return report_usage(usage.command, "only one key can come from standard input");
    status = session_open(&session, usage.command, operands[0], &options,
                          SESSION_WRITE | SESSION_UNFILLED);
    if (status != STATUS_DONE)
        return status;
    return session_close(&session, add_key(&session, &new_key, quiet));
}

/* --- remove ------------------------------------------------------------------------------- */

static int remove_slot(struct session *session, uint64_t slot)
{
    int result = vdisk_key_remove(session->image, (unsigned)slot);

    if (result == VDISK_E_NOT_FOUND)
        return report_text(session->spec.text, result,
                           "keyslot %u is empty; `vdisk key list` shows them", (unsigned)slot);
    return result ? session_fail(session, result) : STATUS_DONE;
}

static int remove_key(int argc, char **argv)
{
    struct session_options options = SESSION_OPTIONS_NONE;
    struct option_size slot = {.given = false};
    const struct option_spec own[] = {
        {"slot", OPTION_NUMBER, &slot, "N", "the slot, a number of `vdisk key list`"},
        SESSION_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "key remove",
        .operands = "IMAGE",
        .about = "Empties a keyslot, but never the last. Copies of the image made before still\n"
                 "open with that key; `vdisk key rotate` is for a key that got out.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    struct session session;
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    if (!slot.given)
        return report_usage(usage.command, "say which with --slot N");
    if (slot.value >= VDISK_KEYSLOTS)
        return report_usage(usage.command, "--slot is from 0 to %u", VDISK_KEYSLOTS - 1);
    status = session_open(&session, usage.command, operands[0], &options,
                          SESSION_WRITE | SESSION_UNFILLED);
    if (status != STATUS_DONE)
        return status;
    return session_close(&session, remove_slot(&session, slot.value));
}

/* --- rotate ------------------------------------------------------------------------------- */

struct rotation {
    struct keyopt key;
    struct option_list keep_key_files, keep_passphrase_files;
    bool drop_others, quiet;
    struct held_key held[VDISK_KEYSLOTS]; /* the first opens */
    unsigned count;
};

static int load_next(struct rotation *rotation, const struct keyopt *options, enum keyopt_use use,
                     const char *path)
{
    int status;

    if (rotation->count == VDISK_KEYSLOTS)
        return report_usage("key rotate", "an image has %u keyslots, these are more keys",
                            VDISK_KEYSLOTS);
    status = keyopt_load(options, use, "key rotate", path, &rotation->held[rotation->count]);
    if (status == STATUS_DONE)
        rotation->count++;
    return status;
}

static int load_keys(struct rotation *rotation, const char *path)
{
    struct keyopt keep = {.prefix = "keep-",
                          .kdf_memory = rotation->key.kdf_memory,
                          .kdf_passes = rotation->key.kdf_passes};
    int status = load_next(rotation, &rotation->key, KEYOPT_OPEN, path);

    for (unsigned i = 0; status == STATUS_DONE && i < rotation->keep_key_files.count; i++) {
        keep.key_file = rotation->keep_key_files.value[i];
        status = load_next(rotation, &keep, KEYOPT_ADD, path);
    }
    keep.key_file = NULL;
    for (unsigned i = 0; status == STATUS_DONE && i < rotation->keep_passphrase_files.count; i++) {
        keep.passphrase_file = rotation->keep_passphrase_files.value[i];
        status = load_next(rotation, &keep, KEYOPT_ADD, path);
    }
    return status;
}

static int rotate_image(struct rotation *rotation, const char *path)
{
    struct vdisk_key keys[VDISK_KEYSLOTS];
    struct vdisk_workers *workers = session_workers();
    struct vdisk_error error = {0};
    struct progress progress;
    int result;

    for (unsigned i = 0; i < rotation->count; i++)
        keys[i] = rotation->held[i].key;
    interrupt_catch();
    progress_begin(&progress, "rotate", rotation->quiet);
    result = vdisk_key_rotate(path, keys, rotation->count, rotation->drop_others, workers,
                              progress_callback, &progress, &error);
    progress_clear(&progress);
    session_workers_close(workers);
    if (result == -ECANCELED)
        return report_text(path, result, "interrupted; the image is as it was");
    if (result == VDISK_E_LIMIT)
        return report_text(path, result,
                           "%s; name the other keys with --keep-key-file and "
                           "--keep-passphrase-file, or give --drop-others",
                           error.text[0] ? error.text : "some keyslots would be lost");
    return result ? report(path, result, &error) : STATUS_DONE;
}

static int rotate(int argc, char **argv)
{
    struct rotation rotation = {.key = {.prefix = ""}};
    const struct option_spec own[] = {
        {"keep-key-file", OPTION_LIST, &rotation.keep_key_files, "FILE",
         "another key that shall open it still; may be repeated"},
        {"keep-passphrase-file", OPTION_LIST, &rotation.keep_passphrase_files, "FILE",
         "another passphrase, likewise"},
        {"drop-others", OPTION_FLAG, &rotation.drop_others, NULL, "the other keys are lost"},
        OPTION_QUIET(&rotation.quiet),
        KEYOPT_OPEN_OPTIONS(&rotation.key, ""),
        KEYOPT_KDF_OPTIONS(&rotation.key),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "key rotate",
        .operands = "IMAGE",
        .about = "Encrypts everything anew, under a new volume key, with a keyslot for KEY, for\n"
                 "those that are kept, and for each recipient. It needs room for a second copy;\n"
                 "until that is complete the old image stays in place.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    status = load_keys(&rotation, operands[0]);
    if (status == STATUS_DONE)
        status = rotate_image(&rotation, operands[0]);
    for (unsigned i = 0; i < rotation.count; i++)
        keyopt_release(&rotation.held[i]);
    return status;
}

int cmd_key(int argc, char **argv)
{
    static const struct command commands[] = {
        {"generate", "make a key pair", generate},     {"list", "which keys open an image", list},
        {"add", "let another key open it", add},       {"remove", "empty a keyslot", remove_key},
        {"rotate", "encrypt everything anew", rotate}, {NULL, NULL, NULL},
    };

    return command_dispatch(commands, "vdisk key", argc, argv);
}
