/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KEY on a command line: --key-file, --passphrase-file, --recipient, --identity, the file that the
 * environment variable VDISK_KEY_FILE names, or a question on the terminal.
 */
#ifndef TOOLS_KEYOPT_H
#define TOOLS_KEYOPT_H

#include "options.h"
#include "secret.h"

#include "vdisk/vdisk.h"

#include <stdbool.h>

/* What was said. `prefix` ("", "base-", "new-") is that of the option names. */
struct keyopt {
    const char *prefix;
    const char *key_file, *passphrase_file, *recipient, *identity;
    struct option_size kdf_memory, kdf_passes;
};

/* What it came to; key.bytes are in `secret`. */
struct held_key {
    struct vdisk_key key;
    struct secret secret;
    bool prompted;
};

enum keyopt_use {
    KEYOPT_OPEN,       /* opens what exists: no recipient */
    KEYOPT_OPEN_NAMED, /* the same, but the environment does not count: a second image's */
    KEYOPT_MAKE,       /* makes a keyslot: no identity; a passphrase is asked for twice */
    KEYOPT_ADD,        /* the same, but the environment does not count: a second key */
};

/*
 * Returns an exit status, having reported; release what it gave. `command` and `subject` (the
 * image) are for messages. Without any KEY and without a terminal that is STATUS_USAGE.
 */
int keyopt_load(const struct keyopt *options, enum keyopt_use use, const char *command,
                const char *subject, struct held_key *held);
void keyopt_release(struct held_key *held);

/* Whether a KEY is named, by an option or, where it counts, by the environment. */
bool keyopt_is_given(const struct keyopt *options, enum keyopt_use use);
/* Whether standard input will be read for it. */
bool keyopt_uses_stdin(const struct keyopt *options);

#define KEYOPT_OPEN_OPTIONS(keyopt, prefix)                                                        \
    {prefix "key-file", OPTION_TEXT, &(keyopt)->key_file, "FILE",                                  \
     "the key is the content of FILE (- for standard input)"},                                     \
        {prefix "passphrase-file", OPTION_TEXT, &(keyopt)->passphrase_file, "FILE",                \
         "the passphrase is in FILE"},                                                             \
        {prefix "identity", OPTION_TEXT, &(keyopt)->identity, "FILE",                              \
         "the secret half of a key pair"},                                                         \
    {                                                                                              \
        prefix "recipient", OPTION_TEXT, &(keyopt)->recipient, "PUBKEY", NULL                      \
    }

#define KEYOPT_MAKE_OPTIONS(keyopt, prefix)                                                        \
    {prefix "key-file", OPTION_TEXT, &(keyopt)->key_file, "FILE",                                  \
     "the key is the content of FILE (- for standard input)"},                                     \
        {prefix "passphrase-file", OPTION_TEXT, &(keyopt)->passphrase_file, "FILE",                \
         "the passphrase is in FILE"},                                                             \
        {prefix "recipient", OPTION_TEXT, &(keyopt)->recipient, "PUBKEY",                          \
         "a public key, or a file with one"},                                                      \
        {prefix "identity", OPTION_TEXT, &(keyopt)->identity, "FILE", NULL},                       \
        KEYOPT_KDF_OPTIONS(keyopt)

#define KEYOPT_KDF_OPTIONS(keyopt)                                                                 \
    {"kdf-memory", OPTION_SIZE, &(keyopt)->kdf_memory, "SIZE",                                     \
     "what a guess at the passphrase costs (256M)"},                                               \
    {                                                                                              \
        "kdf-passes", OPTION_NUMBER, &(keyopt)->kdf_passes, "N", "and how many passes (3)"         \
    }

#endif
