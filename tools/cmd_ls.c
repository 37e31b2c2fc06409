/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk ls: a folder, or a file, on the drive.
 */
#include "commands.h"
#include "ext_listing.h"
#include "json.h"
#include "lookin.h"
#include "options.h"
#include "report.h"
#include "times.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

/* One line, or one object. */
struct row {
    const char *name;
    uint32_t inode;
    struct stat status;
    char target[EXT_FILES_PATH_MAX]; /* of a symbolic link; "" otherwise */
};

struct list {
    struct lookin in;
    bool as_json;
    struct json json;
};

static const char *type_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return "file";
    case S_IFDIR:
        return "directory";
    case S_IFLNK:
        return "symlink";
    case S_IFBLK:
        return "block-device";
    case S_IFCHR:
        return "character-device";
    case S_IFIFO:
        return "fifo";
    case S_IFSOCK:
        return "socket";
    default:
        return "unknown";
    }
}

static void mode_text(mode_t mode, char text[11])
{
    static const char letters[] = "rwxrwxrwx";
    const char *kinds = "?pc?d?b?-?l?s???";

    text[0] = kinds[mode >> 12 & 15];
    for (unsigned i = 0; i < 9; i++)
        text[1 + i] = mode & (0400u >> i) ? letters[i] : '-';
    if (mode & S_ISUID)
        text[3] = mode & 0100 ? 's' : 'S';
    if (mode & S_ISGID)
        text[6] = mode & 0010 ? 's' : 'S';
    if (mode & S_ISVTX)
        text[9] = mode & 0001 ? 't' : 'T';
    text[10] = '\0';
}

static bool is_device(const struct row *row)
{
    return S_ISBLK(row->status.st_mode) || S_ISCHR(row->status.st_mode);
}

static void print_row(const struct row *row)
{
    char mode[11], when[TIMES_TEXT_BYTES], size[32];

    mode_text(row->status.st_mode, mode);
    if (is_device(row))
        snprintf(size, sizeof(size), "%u,%u", major(row->status.st_rdev),
                 minor(row->status.st_rdev));
    else
        snprintf(size, sizeof(size), "%llu", (unsigned long long)row->status.st_size);
    printf("%s %3lu %5u %5u %12s %s ", mode, (unsigned long)row->status.st_nlink,
           row->status.st_uid, row->status.st_gid, size, times_text(when, row->status.st_mtime));
    print_escaped(stdout, row->name);
    if (row->target[0]) {
        fputs(" -> ", stdout);
        print_escaped(stdout, row->target);
    }
    putchar('\n');
}

static bool is_utf8(const char *text)
{
    const unsigned char *at = (const unsigned char *)text;

    while (*at) {
        unsigned length = json_utf8_length(at);

        if (length == 0)
            return false;
        at += length;
    }
    return true;
}

static void json_row(struct json *json, const struct row *row)
{
    char mode[8], when[TIMES_TEXT_BYTES];

    snprintf(mode, sizeof(mode), "%04o", row->status.st_mode & 07777);
    json_open_object(json, NULL);
    json_string(json, "name", row->name);
    if (!is_utf8(row->name))
        json_hex(json, "name_hex", (const uint8_t *)row->name, strlen(row->name));
    json_string(json, "type", type_name(row->status.st_mode));
    json_number(json, "size", (uint64_t)row->status.st_size);
    json_string(json, "mode", mode);
    json_number(json, "uid", row->status.st_uid);
    json_number(json, "gid", row->status.st_gid);
    json_number(json, "links", row->status.st_nlink);
    json_number(json, "inode", row->inode);
    json_number(json, "stored_bytes", (uint64_t)row->status.st_blocks * 512);
    json_string(json, "modified", times_text(when, row->status.st_mtime));
    if (row->target[0])
        json_string(json, "target", row->target);
    if (is_device(row)) {
        json_number(json, "major", major(row->status.st_rdev));
        json_number(json, "minor", minor(row->status.st_rdev));
    }
    json_close_object(json);
}

/* An entry whose inode is damaged does not hide the others. */
static int list_one(struct list *list, const char *name, uint32_t inode)
{
    struct ext_files *files = list->in.found.files;
    struct row *row = calloc(1, sizeof(*row));
    int result;

    if (!row)
        return report(name, -ENOMEM, NULL);
    row->name = name;
    row->inode = inode;
    result = ext_files_stat(files, inode, &row->status);
    if (result == 0 && S_ISLNK(row->status.st_mode) &&
        ext_files_readlink(files, inode, row->target) != 0)
        row->target[0] = '\0';
    if (result == 0 && list->as_json)
        json_row(&list->json, row);
    else if (result == 0)
        print_row(row);
    free(row);
    return result ? lookin_fail(&list->in, name, result) : STATUS_DONE;
}

static int list_folder(struct list *list, uint32_t inode)
{
    struct ext_listing listing;
    int status = STATUS_DONE;
    int result = ext_listing_read(list->in.found.files, inode, &listing);

    if (result)
        return lookin_fail(&list->in, list->in.operand, result);
    for (size_t i = 0; i < listing.count && !ferror(stdout); i++) {
        int one = list_one(list, listing.entry[i].name, listing.entry[i].inode);

        status = status == STATUS_DONE ? one : status;
    }
    ext_listing_free(&listing);
    return status;
}

static int list_path(struct list *list, uint32_t inode, const struct stat *found)
{
    const char *name = strrchr(list->in.path, '/') + 1;

    return S_ISDIR(found->st_mode) ? list_folder(list, inode) : list_one(list, name, inode);
}

static int list_all(struct list *list)
{
    struct ext_files_info info;
    struct stat found;
    uint32_t inode;
    /* As ls does: what a link leads to only with a '/' behind it. */
    int status, result = ext_files_walk(list->in.found.files, list->in.path, false, &inode);

    if (result == 0)
        result = ext_files_stat(list->in.found.files, inode, &found);
    if (result)
        return lookin_fail(&list->in, list->in.operand, result);
    if (!list->as_json)
        return list_path(list, inode, &found);
    ext_files_get_info(list->in.found.files, &info);
    json_begin(&list->json, stdout);
    json_open_object(&list->json, NULL);
    json_number(&list->json, "partition", list->in.found.number);
    json_string(&list->json, "filesystem", info.kind);
    json_number(&list->json, "journal_transactions", info.replayed);
    json_string(&list->json, "path", list->in.path);
    json_open_array(&list->json, "entries");
    status = list_path(list, inode, &found);
    json_close_array(&list->json);
    json_close_object(&list->json);
    json_end(&list->json);
    return status;
}

int cmd_ls(int argc, char **argv)
{
    struct lookin_options options = LOOKIN_OPTIONS_NONE;
    struct list list = {.as_json = false};
    const struct option_spec own[] = {
        OPTION_JSON(&list.as_json),
        LOOKIN_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "ls",
        .operands = "IMAGE[@SNAPSHOT]|vdiskd:EXPORT[@SNAPSHOT]:/PATH",
        .about =
            "Lists a folder, or a file, on the drive, without mounting anything: mode, links,\n"
            "owner, group, size in bytes, time of the last change, name. It reads ext2, ext3 and\n"
            "ext4, also one that was not unmounted; for other file systems see `vdisk mount`.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    status = lookin_open(&list.in, "ls", operands[0], &options, 0);
    if (status != STATUS_DONE)
        return status;
    return lookin_close(&list.in, list_all(&list));
}
