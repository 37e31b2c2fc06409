/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The subcommands of `vdisk`: one a file (cmd_NAME.c), listed in the table of vdisk.c.
 *
 * A new command is a prototype here, a row there. Each is called once with argv[0] its own name,
 * parses the rest with options.h, prints its own errors with report.h and returns the exit status.
 */
#ifndef TOOLS_COMMANDS_H
#define TOOLS_COMMANDS_H

int cmd_create(int argc, char **argv);
int cmd_info(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_resize(int argc, char **argv);
int cmd_snapshot(int argc, char **argv);
int cmd_diff(int argc, char **argv);
int cmd_map(int argc, char **argv);
int cmd_compact(int argc, char **argv);
int cmd_flatten(int argc, char **argv);
int cmd_key(int argc, char **argv);
int cmd_import(int argc, char **argv);
int cmd_export(int argc, char **argv);
int cmd_read(int argc, char **argv);
int cmd_write(int argc, char **argv);
int cmd_ls(int argc, char **argv);
int cmd_cp(int argc, char **argv);
int cmd_audit(int argc, char **argv);
int cmd_serve(int argc, char **argv);
int cmd_run(int argc, char **argv);
int cmd_mount(int argc, char **argv);
int cmd_umount(int argc, char **argv);
int cmd_ctl(int argc, char **argv);
int cmd_backup(int argc, char **argv);

/* A row of a table of commands; the last has name NULL. */
struct command {
    const char *name;
    const char *summary; /* a few words, lower case */
    int (*run)(int argc, char **argv);
};

/* Runs the row called argv[1] of `table` with argv moved by one; `group` is the name so far
 * ("vdisk snapshot"). Also answers `help`, `--help` and an unknown word. */
int command_dispatch(const struct command *table, const char *group, int argc, char **argv);

#endif
