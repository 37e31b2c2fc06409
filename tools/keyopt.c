/* SPDX-License-Identifier: Apache-2.0 */
/*
 * KEY options into a struct vdisk_key; see keyopt.h.
 */
#include "keyopt.h"

#include "report.h"
#include "textformat.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What the format allows (SPEC.md, "Keyslots"). */
#define KDF_MEMORY_MIN (UINT64_C(8) << 10)
#define KDF_MEMORY_MAX (UINT64_C(1) << 30)
#define KDF_PASSES_MAX 16

static bool opens(enum keyopt_use use)
{
    return use == KEYOPT_OPEN || use == KEYOPT_OPEN_NAMED;
}

static const char *environment_file(enum keyopt_use use)
{
    bool counts = use == KEYOPT_OPEN || use == KEYOPT_MAKE;
    const char *path = counts ? getenv("VDISK_KEY_FILE") : NULL;

    return path && path[0] ? path : NULL;
}

static unsigned count_given(const struct keyopt *options)
{
    return (options->key_file != NULL) + (options->passphrase_file != NULL) +
           (options->recipient != NULL) + (options->identity != NULL);
}

bool keyopt_is_given(const struct keyopt *options, enum keyopt_use use)
{
    return count_given(options) > 0 || environment_file(use);
}

static bool is_stdin(const char *path)
{
    return path && strcmp(path, "-") == 0;
}

bool keyopt_uses_stdin(const struct keyopt *options)
{
    return is_stdin(options->key_file) || is_stdin(options->passphrase_file) ||
           is_stdin(options->identity) || is_stdin(options->recipient);
}

void keyopt_release(struct held_key *held)
{
    secret_free(&held->secret);
    memset(held, 0, sizeof(*held));
}

static int check(const struct keyopt *options, enum keyopt_use use, const char *command)
{
    const char *prefix = options->prefix;

    if (count_given(options) > 1)
        return report_usage(command, "give one of --%skey-file, --%spassphrase-file, --%s%s only",
                            prefix, prefix, prefix, opens(use) ? "identity" : "recipient");
    if (opens(use) && options->recipient)
        return report_usage(command,
                            "a public key opens nothing; give --%sidentity FILE, its "
                            "secret half",
                            prefix);
    if (!opens(use) && options->identity)
        return report_usage(command, "--%srecipient PUBKEY is for this, --%sidentity opens", prefix,
                            prefix);
    if (options->kdf_memory.given &&
        (options->kdf_memory.value < KDF_MEMORY_MIN || options->kdf_memory.value > KDF_MEMORY_MAX))
        return report_usage(command, "--kdf-memory must be from 8K to 1G");
    if (options->kdf_passes.given &&
        (options->kdf_passes.value < 1 || options->kdf_passes.value > KDF_PASSES_MAX))
        return report_usage(command, "--kdf-passes must be from 1 to %d", KDF_PASSES_MAX);
    return STATUS_DONE;
}

/* Replaces the text in `secret` by the 32 bytes it stands for. */
static int decode(const char *name, bool is_identity, struct secret *secret)
{
    struct secret key = {vdisk_secret_alloc(VDISK_IDENTITY_BYTES), VDISK_IDENTITY_BYTES};
    bool ok;

    if (!key.bytes)
        return report(name, -ENOMEM, NULL);
    ok = is_identity ? textformat_get_identity(secret->bytes, secret->length, key.bytes)
                     : textformat_get_recipient(secret->bytes, secret->length, key.bytes);
    secret_free(secret);
    if (ok) {
        *secret = key;
        return STATUS_DONE;
    }
    secret_free(&key);
    return report_text(name, -EINVAL,
                       is_identity ? "is not an identity; `vdisk key generate` makes one"
                                   : "is not a public key of `vdisk key generate`");
}

static int load_recipient(const char *text, struct secret *secret)
{
    static const char prefix[] = TEXTFORMAT_RECIPIENT_PREFIX;
    int status;

    if (strncmp(text, prefix, sizeof(prefix) - 1) == 0) {
        size_t length = strlen(text);
        struct secret literal = {vdisk_secret_alloc(length), length};

        if (!literal.bytes)
            return report(NULL, -ENOMEM, NULL);
        memcpy(literal.bytes, text, length);
        *secret = literal;
        return decode("the recipient", false, secret);
    }
    status = secret_read_file(text, false, secret);
    return status == STATUS_DONE ? decode(text, false, secret) : status;
}

static int load_passphrase_file(const char *path, struct secret *secret)
{
    int status = secret_read_file(path, true, secret);

    if (status != STATUS_DONE)
        return status;
    /* What an editor or echo puts behind it is not part of it. */
    if (secret->bytes[secret->length - 1] == '\n')
        secret->length--;
    if (secret->length > 0)
        return STATUS_DONE;
    secret_free(secret);
    return report_text(path, -ENODATA, "the passphrase is empty");
}

static int prompt(enum keyopt_use use, const char *command, const char *prefix, const char *subject,
                  struct secret *secret)
{
    bool is_new = !opens(use);

    if (!secret_can_prompt())
        return report_usage(command,
                            "no key is given for %s, and there is no terminal to ask for a "
                            "passphrase; give --%skey-file, --%spassphrase-file or --%s%s",
                            subject, prefix, prefix, prefix, is_new ? "recipient" : "identity");
    return secret_prompt(is_new ? "New passphrase for " : "Passphrase for ", subject, is_new,
                         secret);
}

int keyopt_load(const struct keyopt *options, enum keyopt_use use, const char *command,
                const char *subject, struct held_key *held)
{
    struct held_key loaded = {.key = {.kind = VDISK_KEY_PASSPHRASE}};
    const char *key_file = options->key_file;
    int status = check(options, use, command);

    if (status != STATUS_DONE)
        return status;
    if (count_given(options) == 0)
        key_file = environment_file(use);
    if (key_file) {
        loaded.key.kind = VDISK_KEY_FILE;
        status = secret_read_file(key_file, true, &loaded.secret);
    } else if (options->passphrase_file) {
        status = load_passphrase_file(options->passphrase_file, &loaded.secret);
    } else if (options->recipient) {
        loaded.key.kind = VDISK_KEY_RECIPIENT;
        status = load_recipient(options->recipient, &loaded.secret);
    } else if (options->identity) {
        loaded.key.kind = VDISK_KEY_IDENTITY;
        status = secret_read_file(options->identity, true, &loaded.secret);
        if (status == STATUS_DONE)
            status = decode(options->identity, true, &loaded.secret);
    } else {
        loaded.prompted = true;
        status = prompt(use, command, options->prefix, subject, &loaded.secret);
    }
    if (status != STATUS_DONE)
        return status;
    loaded.key.bytes = loaded.secret.bytes;
    loaded.key.length = loaded.secret.length;
    loaded.key.kdf_kib = (uint32_t)(options->kdf_memory.value / 1024);
    loaded.key.kdf_passes = (uint32_t)options->kdf_passes.value;
    *held = loaded;
    return STATUS_DONE;
}
