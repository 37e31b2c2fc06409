/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk create: an empty image, or an overlay on another.
 */
#include "commands.h"
#include "imagespec.h"
#include "interrupt.h"
#include "newimage.h"
#include "report.h"

struct arguments {
    struct newimage_options image;
    struct keyopt base_key;
    struct option_size size;
    const char *base;
};

/* The base's key is the image's, unless another is named, or that one cannot open or was typed. */
static int load_base_key(const struct arguments *arguments, const char *base,
                         const struct held_key *key, struct held_key *base_key,
                         const struct vdisk_key **chosen)
{
    int status;

    if (!keyopt_is_given(&arguments->base_key, KEYOPT_OPEN_NAMED) && !key->prompted &&
        key->key.kind != VDISK_KEY_RECIPIENT) {
        *chosen = &key->key;
        return STATUS_DONE;
    }
    status = keyopt_load(&arguments->base_key, KEYOPT_OPEN_NAMED, "create", base, base_key);
    *chosen = &base_key->key;
    return status;
}

static int create(const char *path, const struct arguments *arguments)
{
    struct vdisk_create_options options = {.size = arguments->size.value};
    struct held_key key = {.prompted = false}, base_key = {.prompted = false};
    struct imagespec base;
    struct newimage image;
    int status;

    status = keyopt_load(&arguments->image.key, KEYOPT_MAKE, "create", path, &key);
    if (status != STATUS_DONE)
        return status;
    if (arguments->base) {
        status = imagespec_parse("create", arguments->base, &base);
        if (status != STATUS_DONE)
            goto out;
        options.base_path = base.path;
        options.base_snapshot = base.snapshot[0] ? base.snapshot : NULL;
        status = load_base_key(arguments, base.path, &key, &base_key, &options.base_key);
        if (status != STATUS_DONE)
            goto out;
    }
    interrupt_catch();
    status = newimage_make(&image, path, &arguments->image, &key.key, options);
    if (status != STATUS_DONE)
        goto out;
    if (interrupt_pending()) {
        newimage_discard(&image);
        status = STATUS_FAILED;
        goto out;
    }
    status = newimage_finish(&image);
out:
    keyopt_release(&base_key);
    keyopt_release(&key);
    return status;
}

int cmd_create(int argc, char **argv)
{
    struct arguments arguments = {.image = {.key = {.prefix = ""}},
                                  .base_key = {.prefix = "base-"}};
    const struct option_spec own[] = {
        {"size", OPTION_SIZE, &arguments.size, "SIZE", "of the drive; with --base not needed"},
        {"base", OPTION_TEXT, &arguments.base, "IMAGE[@SNAPSHOT]",
         "the new image holds only what differs from it"},
        NEWIMAGE_OPTIONS(&arguments.image),
        KEYOPT_OPEN_OPTIONS(&arguments.base_key, "base-"),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "create",
        .operands = "IMAGE",
        .about = "Makes an encrypted image with one keyslot, for KEY: one of --key-file,\n"
                 "--passphrase-file, --recipient, or a passphrase asked for on the terminal.\n"
                 "The --base-... options name the base's key, where it is not the same.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    if (!arguments.size.given && !arguments.base)
        return report_usage("create", "give --size (or --base, whose size is then taken)");
    if (arguments.size.given) {
        status = newimage_check_size("create", "--size", arguments.size.value);
        if (status != STATUS_DONE)
            return status;
    }
    if (!arguments.base && keyopt_is_given(&arguments.base_key, KEYOPT_OPEN_NAMED))
        return report_usage("create", "a key for a base is given, but no --base");
    if (keyopt_uses_stdin(&arguments.image.key) && keyopt_uses_stdin(&arguments.base_key))
        return report_usage("create", "only one key can come from standard input");
    status = newimage_check(&arguments.image, "create");
    return status == STATUS_DONE ? create(operands[0], &arguments) : status;
}
