/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The command line of one subcommand: a table of options with where their values go, from which
 * both the parsing and --help are made.
 */
#ifndef TOOLS_OPTIONS_H
#define TOOLS_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#define OPTIONS_GO_ON    (-1) /* options_parse: neither --help nor an error */
#define OPTIONS_MAX      40
#define OPTIONS_LIST_MAX 64

enum option_kind {
    OPTION_END,
    OPTION_FLAG,   /* bool */
    OPTION_TEXT,   /* const char *, into argv */
    OPTION_LIST,   /* struct option_list: may be repeated */
    OPTION_SIZE,   /* struct option_size */
    OPTION_NUMBER, /* struct option_size, without letters */
};

struct option_list {
    const char *value[OPTIONS_LIST_MAX];
    unsigned count;
};

struct option_size {
    uint64_t value;
    bool given;
};

struct option_spec {
    const char *name; /* without the dashes */
    enum option_kind kind;
    void *target;
    const char *value; /* what --help calls the argument; NULL for a flag */
    const char *help;  /* NULL: not shown */
};

struct usage {
    const char *command;                 /* "snapshot create"; NULL: the program has no commands */
    const char *operands;                /* "IMAGE NAME" */
    const char *about;                   /* a sentence or two */
    int min, max;                        /* operands */
    const struct option_spec *groups[4]; /* each ends with OPTION_END; NULL: no more */
};

/*
 * argv[0] is the command's name. Options may stand between operands; `--` ends them. Returns
 * OPTIONS_GO_ON with the operands set, or an exit status after --help or a complaint.
 */
int options_parse(const struct usage *usage, int argc, char **argv, char ***operands, int *count);

/* The operand as a size, or a complaint and STATUS_USAGE; else OPTIONS_GO_ON. */
int options_operand_size(const struct usage *usage, const char *name, const char *text,
                         uint64_t *bytes);

#define OPTION_QUIET(target)                                                                       \
    {                                                                                              \
        "quiet", OPTION_FLAG, target, NULL, "no progress bar, no remarks"                          \
    }
#define OPTION_JSON(target)                                                                        \
    {                                                                                              \
        "json", OPTION_FLAG, target, NULL, "for programs, with stable keys"                        \
    }

#endif
