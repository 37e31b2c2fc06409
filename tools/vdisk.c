/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `vdisk`: the table of subcommands, and main.
 */
#include "commands.h"
#include "descriptors.h"
#include "interrupt.h"
#include "lockedmem.h"
#include "report.h"

#include "vdisk/vdisk.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#ifndef VDISK_VERSION_TEXT
#define VDISK_VERSION_TEXT "1.0.0"
#endif

static const struct command commands[] = {
    {"create", "make an image", cmd_create},
    {"info", "what an image is", cmd_info},
    {"check", "verify all of an image, and mend it", cmd_check},
    {"resize", "make the drive larger or smaller", cmd_resize},
    {"snapshot", "create, list, delete, roll back to snapshots", cmd_snapshot},
    {"diff", "ranges that changed between two states", cmd_diff},
    {"map", "how the drive is stored", cmd_map},
    {"compact", "fold patches, give space back to the host", cmd_compact},
    {"flatten", "an overlay needs its base no more", cmd_flatten},
    {"key", "generate keys; list, add, remove, rotate keyslots", cmd_key},
    {"import", "make an image from a drive in another format", cmd_import},
    {"export", "write the drive in another format", cmd_export},
    {"read", "a range of the drive to standard output", cmd_read},
    {"write", "standard input to a range of the drive", cmd_write},
    {"ls", "a folder on the drive, without mounting it", cmd_ls},
    {"cp", "files out of the drive, without mounting it", cmd_cp},
    {"backup", "encrypted, incremental backups", cmd_backup},
    {"audit", "verify the daemon's audit log", cmd_audit},
    {"serve", "serve an image by NBD or vhost-user", cmd_serve},
    {"run", "a virtual machine on encrypted drives", cmd_run},
    {"mount", "show a drive and its snapshots as files", cmd_mount},
    {"umount", "take that away", cmd_umount},
    {"ctl", "ask a running daemon, or virtual machine", cmd_ctl},
    {NULL, NULL, NULL},
};

static const struct command *find(const struct command *table, const char *name)
{
    for (; table->name; table++) {
        if (strcmp(table->name, name) == 0)
            return table;
    }
    return NULL;
}

static void print_table(FILE *out, const struct command *table, const char *group)
{
    fprintf(out, "usage: %s COMMAND ...\n\n", group);
    for (; table->name; table++)
        fprintf(out, "  %-10s %s\n", table->name, table->summary);
    fprintf(out, "\n`%s COMMAND --help` says more of a command.\n", group);
}

static int help(const struct command *table, const char *group, int argc, char **argv)
{
    char word[] = "--help";
    char *arguments[] = {NULL, word, NULL, NULL};
    const struct command *command;

    if (argc < 1) {
        print_table(stdout, table, group);
        return STATUS_DONE;
    }
    command = find(table, argv[0]);
    if (!command)
        return report_usage(NULL, "there is no command `%s`; `%s help` lists them", argv[0], group);
    arguments[0] = argv[0];
    if (argc > 1) { /* help snapshot create */
        arguments[1] = argv[1];
        arguments[2] = word;
    }
    return command->run(argc > 1 ? 3 : 2, arguments);
}

int command_dispatch(const struct command *table, const char *group, int argc, char **argv)
{
    const struct command *command;

    if (argc < 2) {
        print_table(stderr, table, group);
        return STATUS_USAGE;
    }
    if (strcmp(argv[1], "help") == 0 || strcmp(argv[1], "--help") == 0 ||
        strcmp(argv[1], "-h") == 0)
        return help(table, group, argc - 2, argv + 2);
    command = find(table, argv[1]);
    if (!command)
        return report_usage(NULL, "there is no command `%s`; `%s help` lists them", argv[1], group);
    return command->run(argc - 1, argv + 1);
}

/* What a listing could not write is a failure, not an empty success. */
static int finish_output(int status)
{
    bool failed = ferror(stdout) != 0;
    int number = fflush(stdout) < 0 ? errno : EIO;

    if ((failed || ferror(stdout)) && status == STATUS_DONE)
        status = report_text("standard output", -number, "%s", vdisk_strerror(-number));
    return status;
}

int main(int argc, char **argv)
{
    int status;

    if (!descriptors_open_standard())
        return STATUS_FAILED;
    status = vd_process_harden();
    if (status < 0)
        return report_text(NULL, status, "the process cannot be protected: %s",
                           vdisk_strerror(status));
    /* A closed pipe is then an error like others, and what is half-made gets removed. */
    signal(SIGPIPE, SIG_IGN);
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        puts("vdisk " VDISK_VERSION_TEXT);
        return finish_output(STATUS_DONE);
    }
    if (vdisk_init() < 0)
        return report_text(NULL, -EIO, "the cryptographic libraries do not start");
    status = finish_output(command_dispatch(commands, "vdisk", argc, argv));
    interrupt_resume(); /* so that the shell sees which signal ended us */
    return status;
}
