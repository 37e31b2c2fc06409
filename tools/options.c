/* SPDX-License-Identifier: Apache-2.0 */
/*
 * getopt_long driven by a table; see options.h.
 */
#include "options.h"

#include "report.h"
#include "sizes.h"

#include <assert.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define GROUPS_MAX (sizeof(((struct usage *)0)->groups) / sizeof(struct option_spec *))

struct table {
    const struct option_spec *specs[OPTIONS_MAX];
    struct option options[OPTIONS_MAX + 2]; /* --help and the end */
    unsigned count;
};

/* Scripts may give it to every command, also to those that say nothing but what was asked for. */
static const struct option_spec quiet_spec = {
    .name = "quiet",
    .kind = OPTION_FLAG,
    .help = "no remarks",
};

static void add(struct table *table, const struct option_spec *spec)
{
    assert(table->count < OPTIONS_MAX);
    table->specs[table->count] = spec;
    table->options[table->count] = (struct option){
        .name = spec->name,
        .has_arg = spec->kind == OPTION_FLAG ? no_argument : required_argument,
        .val = (int)(256 + table->count),
    };
    table->count++;
}

static void build(struct table *table, const struct usage *usage)
{
    bool has_quiet = false;

    for (unsigned g = 0; g < GROUPS_MAX && usage->groups[g]; g++) {
        for (const struct option_spec *spec = usage->groups[g]; spec->kind != OPTION_END; spec++) {
            add(table, spec);
            has_quiet |= strcmp(spec->name, quiet_spec.name) == 0;
        }
    }
    if (!has_quiet)
        add(table, &quiet_spec);
    table->options[table->count] =
        (struct option){.name = "help", .has_arg = no_argument, .val = 'h'};
}

static void print_spec(const struct option_spec *spec)
{
    char left[64];

    if (!spec->help)
        return;
    snprintf(left, sizeof(left), "--%s%s%s", spec->name, spec->value ? " " : "",
             spec->value ? spec->value : "");
    printf("  %-28s %s\n", left, spec->help);
}

static int print_help(const struct usage *usage, const struct table *table)
{
    printf("usage: %s%s%s%s%s [OPTION]...\n\n%s\n", report_program(), usage->command ? " " : "",
           usage->command ? usage->command : "", usage->operands[0] ? " " : "", usage->operands,
           usage->about);
    puts("");
    for (unsigned i = 0; i < table->count; i++)
        print_spec(table->specs[i]);
    return STATUS_DONE;
}

static int store(const struct usage *usage, const struct option_spec *spec, const char *text)
{
    switch (spec->kind) {
    case OPTION_FLAG:
        if (spec->target)
            *(bool *)spec->target = true;
        return OPTIONS_GO_ON;
    case OPTION_TEXT:
        *(const char **)spec->target = text;
        return OPTIONS_GO_ON;
    case OPTION_LIST: {
        struct option_list *list = spec->target;

        if (list->count == OPTIONS_LIST_MAX)
            return report_usage(usage->command, "--%s is given too often", spec->name);
        list->value[list->count++] = text;
        return OPTIONS_GO_ON;
    }
    case OPTION_SIZE: {
        struct option_size *size = spec->target;

        size->given = true;
        if (!sizes_parse(text, &size->value))
            return report_usage(usage->command,
                                "--%s %s: not a size, write it like 512, 64K, 10M, 2G or 1T",
                                spec->name, text);
        return OPTIONS_GO_ON;
    }
    case OPTION_NUMBER: {
        struct option_size *number = spec->target;

        number->given = true;
        if (!sizes_parse_number(text, &number->value))
            return report_usage(usage->command, "--%s %s: not a number", spec->name, text);
        return OPTIONS_GO_ON;
    }
    case OPTION_END:
        break;
    }
    return STATUS_USAGE; /* no such kind in any table */
}

static int parse_options(const struct usage *usage, const struct table *table, int argc,
                         char **argv)
{
    opterr = 0;
    optind = 0; /* glibc: begin anew */
    for (;;) {
        int letter = getopt_long(argc, argv, ":h", table->options, NULL);
        int status;

        switch (letter) {
        case -1:
            return OPTIONS_GO_ON;
        case 'h':
            return print_help(usage, table);
        case ':':
            return report_usage(usage->command, "%s needs a value", argv[optind - 1]);
        case '?':
            if (optopt >= 256)
                return report_usage(usage->command, "--%s takes no value",
                                    table->specs[optopt - 256]->name);
            return report_usage(usage->command, "there is no option %s", argv[optind - 1]);
        default:
            status = store(usage, table->specs[letter - 256], optarg);
            if (status != OPTIONS_GO_ON)
                return status;
        }
    }
}

int options_parse(const struct usage *usage, int argc, char **argv, char ***operands, int *count)
{
    struct table table = {0};
    int status, given;

    build(&table, usage);
    status = parse_options(usage, &table, argc, argv);
    if (status != OPTIONS_GO_ON)
        return status;
    given = argc - optind;
    if (given < usage->min)
        return report_usage(usage->command, "it needs %s", usage->operands);
    if (given > usage->max)
        return report_usage(usage->command, "`%s` is one word too many", argv[optind + usage->max]);
    for (int i = optind; i < argc; i++) {
        if (!argv[i][0])
            return report_usage(usage->command, "an empty word stands for one of %s",
                                usage->operands);
    }
    *operands = argv + optind;
    *count = given;
    return OPTIONS_GO_ON;
}

int options_operand_size(const struct usage *usage, const char *name, const char *text,
                         uint64_t *bytes)
{
    if (sizes_parse(text, bytes))
        return OPTIONS_GO_ON;
    return report_usage(usage->command, "%s %s: not a size, write it like 512, 64K, 10M, 2G or 1T",
                        name, text);
}
