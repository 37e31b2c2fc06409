/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IMAGE[@SNAPSHOT]:/PATH or vdiskd:EXPORT[@SNAPSHOT]:/PATH on a command line, opened: the image or
 * what the daemon serves (without a snapshot one that it makes), the file system that is meant, and
 * the path in there. The name of the image ends at the first `:/`.
 */
#ifndef TOOLS_LOOKIN_H
#define TOOLS_LOOKIN_H

#include "backing.h"
#include "drive.h"
#include "findfs.h"
#include "options.h"
#include "session.h"

struct lookin_options {
    struct session_options session;
    struct option_size partition;
    const char *socket, *vm; /* of vdiskd */
};

#define LOOKIN_OPTIONS(options)                                                                    \
    {"partition", OPTION_NUMBER, &(options)->partition, "N",                                       \
     "the file system on that partition, where there are several"},                                \
        {"socket", OPTION_TEXT, &(options)->socket, "PATH", "of vdiskd's management"},             \
        {"vm", OPTION_TEXT, &(options)->vm, "NAME", "the vdiskd of that guest of `vdisk run`"},    \
        SESSION_OPTIONS(&(options)->session)
#define LOOKIN_OPTIONS_NONE                                                                        \
    {                                                                                              \
        .session = SESSION_OPTIONS_NONE                                                            \
    }

/* Stays where it is while it is open. */
struct lookin {
    const char *operand; /* for messages */
    char *image;
    const char *path; /* within the operand, from its '/' on; "/" without one */
    struct session session;
    struct backing *served; /* NULL: it is an image */
    struct access *access;  /* to that */
    struct drive drive;
    struct findfs found;
};

/* `flags` are those of session_open(). Returns an exit status, having reported. After success
 * lookin_close() is due. */
int lookin_open(struct lookin *in, const char *command, const char *operand,
                const struct lookin_options *options, int flags);

/* Returns `status`, or that of a failing close if that was STATUS_DONE. */
int lookin_close(struct lookin *in, int status);

/* Reports an error of ext_files about the operand's path, or about another one. */
int lookin_fail(struct lookin *in, const char *path, int code);

#endif
