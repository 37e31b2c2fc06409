/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk audit verify: whether an audit log is as the daemon wrote it.
 */
#include "auditlog.h"
#include "commands.h"
#include "json.h"
#include "options.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sodium.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

struct verify {
    const char *key_file, *head, *start;
    bool as_json, quiet;
    bool has_wanted, has_start;
    uint8_t before[AUDITLOG_HASH_BYTES]; /* --start */
    uint8_t wanted[AUDITLOG_HASH_BYTES];
};

/* The log that --start names, if there is one. */
static bool continues_it(const struct verify *verify, const struct auditlog_result *result)
{
    return !verify->has_start || (result->is_continued && memcmp(result->before, verify->before,
                                                                 sizeof(verify->before)) == 0);
}

static bool is_good(const struct verify *verify, const struct auditlog_result *result)
{
    return result->damaged_line == 0 && (!verify->has_wanted || result->has_wanted) &&
           continues_it(verify, result);
}

static void print_json(const struct verify *verify, const struct auditlog_result *result,
                       const struct auditlog_chain *chain)
{
    struct json json;

    json_begin(&json, stdout);
    json_open_object(&json, NULL);
    json_bool(&json, "good", is_good(verify, result));
    json_number(&json, "lines", result->lines);
    json_number(&json, "torn", result->torn);
    if (result->is_continued)
        json_hex(&json, "continues", result->before, sizeof(result->before));
    json_hex(&json, "head", chain->head, sizeof(chain->head));
    if (verify->has_wanted)
        json_bool(&json, "head_found", result->has_wanted);
    if (result->damaged_line) {
        json_number(&json, "damaged_line", result->damaged_line);
        json_string(&json, "damage", result->damage);
    }
    json_close_object(&json);
    json_end(&json);
}

static int conclude(const struct verify *verify, const char *path,
                    const struct auditlog_result *result, const struct auditlog_chain *chain)
{
    char hex[AUDITLOG_HEX_CHARS + 1];

    if (verify->as_json)
        print_json(verify, result, chain);
    if (result->damaged_line)
        return report_text(path, VDISK_E_DAMAGED, "line %llu: %s",
                           (unsigned long long)result->damaged_line, result->damage);
    if (!continues_it(verify, result))
        return report_text(path, VDISK_E_DAMAGED,
                           "it does not continue the log whose last hash is that of --start");
    if (verify->has_wanted && !result->has_wanted)
        return report_text(path, VDISK_E_DAMAGED,
                           "no line has the hash of --head: lines are missing at the end, or it "
                           "is of another log");
    if (!verify->as_json) {
        auditlog_hex(hex, result->before);
        if (!verify->quiet && result->is_continued)
            printf("it continues a log with the head\n%s\n", hex);
        auditlog_hex(hex, chain->head);
        if (!verify->quiet)
            printf("%llu lines are good; the head is\n", (unsigned long long)result->lines);
        puts(hex);
    }
    return STATUS_DONE;
}

static int verify_log(const struct verify *verify, const char *path)
{
    struct auditlog_chain chain = {.sequence = 0};
    struct auditlog_result result = {0};
    struct vdisk_error error;
    char beside[PATH_MAX];
    int fd = -1, rc, status;

    snprintf(beside, sizeof(beside), "%s.key", path);
    rc = auditlog_read_key(verify->key_file ? verify->key_file : beside, chain.key, &error);
    if (rc)
        return report(path, rc, &error);
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    rc = fd < 0 ? -errno
                : auditlog_scan(fd, &chain, verify->has_wanted ? verify->wanted : NULL, &result);
    status = rc ? report(path, rc, NULL) : conclude(verify, path, &result, &chain);
    if (fd >= 0)
        close(fd);
    sodium_memzero(&chain, sizeof(chain));
    return status;
}

static int verify_command(int argc, char **argv)
{
    struct verify verify = {.key_file = NULL};
    const struct option_spec own[] = {
        {"key-file", OPTION_TEXT, &verify.key_file, "FILE", "the log's key (LOG.key)"},
        {"head", OPTION_TEXT, &verify.head, "HASH",
         "the head that was noted: a log without that line was cut"},
        {"start", OPTION_TEXT, &verify.start, "HASH",
         "the head of the log that this one must continue"},
        OPTION_JSON(&verify.as_json),
        OPTION_QUIET(&verify.quiet),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "audit verify",
        .operands = "LOG",
        .about =
            "Finds lines of vdiskd's audit log that were altered, removed, moved or inserted,\n"
            "and prints the hash of its last line. Note that elsewhere: with --head it also\n"
            "shows when lines at the end are missing. Of a log that was moved away, the head\n"
            "is the --start of the one that goes on from it.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    char **operands;
    int count, status = options_parse(&usage, argc, argv, &operands, &count);

    if (status != OPTIONS_GO_ON)
        return status;
    verify.has_wanted = verify.head != NULL;
    if (verify.head && !auditlog_from_hex(verify.head, strlen(verify.head), verify.wanted))
        return report_usage(usage.command, "--head %s: not 64 hex digits", verify.head);
    verify.has_start = verify.start != NULL;
    if (verify.start && !auditlog_from_hex(verify.start, strlen(verify.start), verify.before))
        return report_usage(usage.command, "--start %s: not 64 hex digits", verify.start);
    return verify_log(&verify, operands[0]);
}

int cmd_audit(int argc, char **argv)
{
    static const struct command commands[] = {
        {"verify", "find what was altered in an audit log", verify_command},
        {NULL, NULL, NULL},
    };

    return command_dispatch(commands, "vdisk audit", argc, argv);
}
