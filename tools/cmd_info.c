/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk info: what is public about an image, and with a key all else.
 */
#include "commands.h"
#include "imageinfo.h"
#include "kinds.h"
#include "options.h"
#include "report.h"
#include "session.h"
#include "sizes.h"
#include "times.h"

#include <stdio.h>
#include <string.h>

static void print_hex(const uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        printf("%02x", bytes[i]);
}

static void print_label(const char *label)
{
    printf("%-12s ", label);
}

static void print_size(const char *label, uint64_t bytes)
{
    char text[SIZES_TEXT_BYTES];

    print_label(label);
    printf("%s (%llu bytes)\n", sizes_text(text, bytes), (unsigned long long)bytes);
}

/* --- for a person ------------------------------------------------------------------------- */

static void print_public(const char *path, const struct vdisk_public_info *info)
{
    char created[TIMES_TEXT_BYTES];

    print_label("image");
    print_escaped(stdout, path);
    putchar('\n');
    print_label("format");
    printf("vdisk version %u\n", info->version);
    print_label("id");
    print_hex(info->image_id, sizeof(info->image_id));
    putchar('\n');
    print_size("cluster", info->cluster_bytes);
    print_size("journal", info->journal_bytes);
    if (info->split_bytes)
        print_size("split", info->split_bytes);
    print_size("file", info->file_bytes);
    for (unsigned i = 0; i < info->keyslots; i++) {
        const struct vdisk_keyslot_info *slot = &info->slot[i];

        print_label("keyslot");
        printf("%u: %s, made %s\n", slot->slot, kinds_key(slot->kind),
               times_text(created, slot->created));
    }
    if (info->header_damaged)
        puts("One of the two copies of the header is damaged or older; `vdisk check --repair` "
             "mends it.");
}

static void print_base(const struct vdisk_info *info)
{
    if (info->has_source) {
        print_label("filling");
        fputs("not all here yet, from ", stdout);
        print_escaped(stdout, info->source_name);
        putchar('\n');
    }
    if (!info->has_base)
        return;
    print_label("base");
    print_escaped(stdout, info->base_path);
    if (info->base_snapshot[0]) {
        putchar('@');
        print_escaped(stdout, info->base_snapshot);
    }
    fputs(", id ", stdout);
    print_hex(info->base_id, sizeof(info->base_id));
    putchar('\n');
}

static void print_private(const struct vdisk_info *info)
{
    print_size("drive", info->size);
    print_size("used", info->used_bytes);
    print_label("compression");
    if (info->compress && info->compress_level)
        printf("zstd, level %d\n", info->compress_level);
    else
        puts(info->compress ? "zstd" : "none");
    print_label("snapshots");
    printf("%llu\n", (unsigned long long)info->snapshots);
    print_label("epoch");
    printf("%u\n", info->epoch);
    print_label("anchor");
    printf("generation %llu, root tag ", (unsigned long long)info->generation);
    print_hex(info->root_tag, sizeof(info->root_tag));
    putchar('\n');
    print_base(info);
    if (info->recovered)
        puts("It was not closed; the journal was replayed.");
    if (info->superblock_damaged)
        puts("One of the two superblocks is damaged or older; `vdisk check --repair` mends it.");
}

/* ------------------------------------------------------------------------------------------ */

static void print(const char *path, const struct vdisk_public_info *public_info,
                  const struct vdisk_info *info, bool as_json)
{
    if (as_json) {
        imageinfo_json(stdout, path, public_info, info);
        return;
    }
    print_public(path, public_info);
    if (info)
        print_private(info);
    else
        puts("This is what is public; with a key there is more.");
}

static int with_key(const char *operand, const struct session_options *options, bool as_json)
{
    struct vdisk_public_info public_info;
    struct vdisk_error error = {0};
    struct session session;
    struct vdisk_info info;
    int status, result;

    status = session_open(&session, "info", operand, options, SESSION_UNFILLED);
    if (status != STATUS_DONE)
        return status;
    result = vdisk_probe(session.spec.path, &public_info, &error);
    if (result)
        return session_close(&session, report(session.spec.path, result, &error));
    vdisk_get_info(session.image, &info);
    print(session.spec.path, &public_info, &info, as_json);
    return session_close(&session, STATUS_DONE);
}

int cmd_info(int argc, char **argv)
{
    struct session_options options = SESSION_OPTIONS_NONE;
    bool as_json = false;
    const struct option_spec own[] = {
        OPTION_JSON(&as_json),
        SESSION_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "info",
        .operands = "IMAGE",
        .about = "Says what is public about an image, and with a KEY everything; it does not ask\n"
                 "for one.",
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
    if (keyopt_is_given(&options.key, KEYOPT_OPEN))
        return with_key(operands[0], &options, as_json);
    result = vdisk_probe(operands[0], &info, &error);
    if (result)
        return report(operands[0], result, &error);
    print(operands[0], &info, NULL, as_json);
    return STATUS_DONE;
}
