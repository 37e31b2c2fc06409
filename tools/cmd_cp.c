/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk cp: a file, or a folder with all in it, out of the drive.
 */
#include "commands.h"
#include "copyfiles.h"
#include "lookin.h"
#include "options.h"
#include "report.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

struct cp {
    struct lookin in;
    const char *dest;
    bool recursive, force, quiet;
    char path[PATH_MAX]; /* where it goes */
};

/* The last name of the path on the drive; false if it has none. */
static bool last_name(const char *path, const char **name, size_t *length)
{
    size_t end = strlen(path);

    while (end > 0 && path[end - 1] == '/')
        end--;
    *length = 0;
    while (*length < end && path[end - *length - 1] != '/')
        ++*length;
    *name = path + end - *length;
    return *length > 0 && !(*length == 1 && **name == '.') &&
           !(*length == 2 && memcmp(*name, "..", 2) == 0);
}

/* DEST, or a name in it if it is a folder. */
static int choose_path(struct cp *cp)
{
    const char *name = "";
    size_t length = 0, end = strlen(cp->dest);
    struct stat status;
    int needed;

    if (stat(cp->dest, &status) == 0 && S_ISDIR(status.st_mode)) {
        if (!last_name(cp->in.path, &name, &length))
            return report_text(cp->dest, VDISK_E_EXISTS,
                               "exists already; a name that does not is needed for `%s`",
                               cp->in.path);
        needed = snprintf(cp->path, sizeof(cp->path), "%s%s%.*s", cp->dest,
                          end > 0 && cp->dest[end - 1] == '/' ? "" : "/", (int)length, name);
    } else {
        needed = snprintf(cp->path, sizeof(cp->path), "%s", cp->dest);
    }
    return needed < (int)sizeof(cp->path) ? STATUS_DONE : report(cp->dest, -ENAMETOOLONG, NULL);
}

static int copy_file(struct cp *cp, struct copyfiles *copy, uint32_t inode)
{
    int status;

    if (strcmp(cp->dest, "-") == 0)
        return copyfiles_to_stdout(copy, inode);
    status = choose_path(cp);
    return status == STATUS_DONE ? copyfiles_to_file(copy, inode, cp->path, cp->force) : status;
}

static int copy_folder(struct cp *cp, struct copyfiles *copy, uint32_t inode)
{
    int status;

    if (!cp->recursive)
        return report_text(cp->in.operand, -EISDIR, "is a folder; --recursive copies all of it");
    if (strcmp(cp->dest, "-") == 0)
        return report_text(cp->in.operand, -EISDIR, "is a folder, and standard output is none");
    status = choose_path(cp);
    if (status == STATUS_DONE)
        status = copyfiles_to_folder(copy, inode, cp->path);
    if (copy->left_out && !cp->quiet)
        report_note(cp->path, "left out %llu devices, pipes and sockets",
                    (unsigned long long)copy->left_out);
    return status;
}

static int copy_it(struct cp *cp, struct copyfiles *copy)
{
    struct ext_files *files = cp->in.found.files;
    struct stat found;
    uint32_t inode;
    int result = ext_files_walk(files, cp->in.path, true, &inode);

    if (result == 0)
        result = ext_files_stat(files, inode, &found);
    if (result)
        return lookin_fail(&cp->in, cp->in.operand, result);
    if (S_ISDIR(found.st_mode))
        return copy_folder(cp, copy, inode);
    if (!S_ISREG(found.st_mode))
        return report_text(cp->in.operand, -EINVAL, "is neither a file nor a folder");
    return copy_file(cp, copy, inode);
}

int cmd_cp(int argc, char **argv)
{
    struct lookin_options options = LOOKIN_OPTIONS_NONE;
    struct cp cp = {.dest = NULL};
    const struct option_spec own[] = {
        {"recursive", OPTION_FLAG, &cp.recursive, NULL, "a folder, with all in it"},
        {"force", OPTION_FLAG, &cp.force, NULL, "replace DEST, if it is a file"},
        OPTION_QUIET(&cp.quiet),
        LOOKIN_OPTIONS(&options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "cp",
        .operands = "IMAGE[@SNAPSHOT]|vdiskd:EXPORT[@SNAPSHOT]:/PATH DEST",
        .about =
            "Copies a file, or with --recursive a folder, out of the drive, without mounting\n"
            "anything; `-` is standard output. Holes, permissions and times are kept, owners are\n"
            "not. It reads ext2, ext3 and ext4, also one that was not unmounted; for other file\n"
            "systems see `vdisk mount`.",
        .min = 2,
        .max = 2,
        .groups = {own},
    };
    struct copyfiles copy;
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    cp.dest = operands[1];
    status = lookin_open(&cp.in, "cp", operands[0], &options, SESSION_WORKERS);
    if (status != STATUS_DONE)
        return status;
    status = copyfiles_begin(&copy, &cp.in, cp.quiet);
    if (status == STATUS_DONE)
        status = copy_it(&cp, &copy);
    copyfiles_end(&copy);
    return lookin_close(&cp.in, status);
}
