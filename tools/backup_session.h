/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the commands of `vdisk backup` do first and last: open the repository with a KEY, compare it
 * with what this host has seen of it, list its backups; and close.
 */
#ifndef TOOLS_BACKUP_SESSION_H
#define TOOLS_BACKUP_SESSION_H

#include "keyopt.h"
#include "options.h"
#include "pins.h"

struct backup_options {
    struct keyopt key;
    const char *state; /* directory of the pins; NULL: the usual one */
    bool accept_rollback;
};

#define BACKUP_OPTIONS(options)                                                                    \
    KEYOPT_OPEN_OPTIONS(&(options)->key, ""),                                                      \
        {"state", OPTION_TEXT, &(options)->state, "DIR",                                           \
         "remembers what was seen of repositories ($XDG_STATE_HOME/vdisk)"},                       \
    {                                                                                              \
        "accept-rollback", OPTION_FLAG, &(options)->accept_rollback, NULL,                         \
            "go on though a backup that was seen is gone"                                          \
    }
#define BACKUP_OPTIONS_NONE                                                                        \
    {                                                                                              \
        .key = {.prefix = "" }                                                                     \
    }

struct backup_session {
    const char *path;
    char **operands; /* backup_begin(): the command's, of which the first is `path` */
    int count;
    struct vb_repo *repo;
    struct vb_backups backups;
    struct vb_pins pins;
    struct held_key key; /* of the repository */
};

/* Returns an exit status, having reported. After success backup_close() is due. */
int backup_open(struct backup_session *session, const char *command, const char *path,
                const struct backup_options *options);
/* The same behind the command line. Whether to go on; `status` is STATUS_DONE, or the exit status.
 */
bool backup_begin(struct backup_session *session, const struct usage *usage, int argc, char **argv,
                  const struct backup_options *options, int *status);
/* Remembers what is there now, with a remark where that fails. */
void backup_remember(struct backup_session *session);
void backup_close(struct backup_session *session);

/* As report(), with advice that is about repositories. */
int backup_report(const char *subject, int code, const struct vdisk_error *error);

/* Subcommands, in files of their own. */
int cmd_backup_init(int argc, char **argv);
int cmd_backup_key(int argc, char **argv);
int cmd_backup_create(int argc, char **argv);
int cmd_backup_list(int argc, char **argv);
int cmd_backup_restore(int argc, char **argv);
int cmd_backup_verify(int argc, char **argv);
int cmd_backup_serve(int argc, char **argv);
int cmd_backup_mount(int argc, char **argv);
int cmd_backup_prune(int argc, char **argv);
int cmd_backup_delete(int argc, char **argv);
int cmd_backup_undelete(int argc, char **argv);
int cmd_backup_gc(int argc, char **argv);
int cmd_backup_copy(int argc, char **argv);
int cmd_backup_diff(int argc, char **argv);
int cmd_backup_stats(int argc, char **argv);

#endif
