/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The audit log (vdiskd/audit.c) and what verifying it finds (tools/auditlog.c).
 */
#include "audit.h"
#include "auditlog.h"

#include "vdisk/vdisk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_MAX 65536u

static char log_path[256], key_path[264];

struct log {
    size_t length;
    char bytes[LOG_MAX];
};

static int fresh(void **state)
{
    const char *folder = getenv("TMPDIR");

    (void)state;
    snprintf(log_path, sizeof(log_path), "%s/audit-%d.log", folder ? folder : "/tmp", getpid());
    snprintf(key_path, sizeof(key_path), "%s.key", log_path);
    unlink(log_path);
    unlink(key_path);
    return vdisk_init();
}

static int cleanup(void **state)
{
    (void)state;
    unlink(log_path);
    unlink(key_path);
    return 0;
}

static struct audit *open_log(void)
{
    struct vdisk_error error = {0};
    struct audit *audit = NULL;
    int rc = audit_open(log_path, NULL, &audit, &error);

    if (rc)
        print_message("%s\n", error.text);
    assert_int_equal(rc, 0);
    return audit;
}

static void record(struct audit *audit, const char *event, int result)
{
    const struct audit_who who = {.has_ids = true, .uid = 1000, .gid = 100, .pid = 4711};
    const struct audit_event what = {
        .who = &who, .event = event, .image = "/srv/a.vdk", .export = "a", .result = result};

    assert_int_equal(audit_record(audit, &what), 0);
}

static void load(struct log *log)
{
    FILE *file = fopen(log_path, "rb");

    assert_non_null(file);
    log->length = fread(log->bytes, 1, LOG_MAX, file);
    assert_true(log->length < LOG_MAX);
    fclose(file);
}

static void store(const void *bytes, size_t length)
{
    FILE *file = fopen(log_path, "wb");

    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    fclose(file);
}

static void scan(const uint8_t *wanted, struct auditlog_result *result, uint8_t *head)
{
    struct auditlog_chain chain;
    int fd = open(log_path, O_RDONLY);

    assert_true(fd >= 0);
    assert_int_equal(auditlog_read_key(key_path, chain.key, NULL), 0);
    assert_int_equal(auditlog_scan(fd, &chain, wanted, result), 0);
    if (head)
        memcpy(head, chain.head, sizeof(chain.head));
    close(fd);
}

static void expect_good(uint64_t lines)
{
    struct auditlog_result result;

    scan(NULL, &result, NULL);
    assert_int_equal(result.damaged_line, 0);
    assert_int_equal(result.lines, lines);
}

static bool is_damaged(const void *bytes, size_t length)
{
    struct auditlog_result result;

    store(bytes, length);
    scan(NULL, &result, NULL);
    return result.damaged_line != 0;
}

/* Five lines, by two runs of the daemon. */
static void write_five(struct log *log)
{
    struct audit *audit = open_log();

    record(audit, "start", 0);
    record(audit, "export-add", 0);
    audit_close(audit);
    audit = open_log();
    record(audit, "start", 0);
    record(audit, "key-remove", VDISK_E_LIMIT);
    record(audit, "shutdown", 0);
    audit_close(audit);
    load(log);
    expect_good(5);
}

/* Where line `number` (from 0) begins. */
static size_t line_at(const struct log *log, unsigned number)
{
    const char *at = log->bytes;

    while (number--)
        at = (const char *)memchr(at, '\n', log->length - (size_t)(at - log->bytes)) + 1;
    return (size_t)(at - log->bytes);
}

static void test_lines_are_json_with_who_and_what(void **state)
{
    static struct log log;
    const struct audit_who who = {.tls_subject = "CN=backup", .peer = "192.0.2.7:40000"};
    const struct audit_event what = {.who = &who,
                                     .event = "connect",
                                     .image = "/srv/\"x\"\n{\\\xff\xc3\xa4\x1b[31m",
                                     .result = -EIO,
                                     .is_volatile = true};
    struct audit *audit = open_log();

    (void)state;
    assert_int_equal(audit_record(audit, &what), 0);
    assert_int_equal(audit_record(NULL, &what), 0);
    record(audit, "export-add", 0);
    audit_close(audit);
    load(&log);
    for (unsigned i = 0; i < 2; i++) {
        json_error_t error;
        size_t from = line_at(&log, i);
        json_t *line = json_loadb(log.bytes + from, line_at(&log, i + 1) - from, 0, &error);

        assert_non_null(line);
        assert_int_equal(json_integer_value(json_object_get(line, "sequence")), i + 1);
        assert_int_equal(strlen(json_string_value(json_object_get(line, "time"))), 27);
        if (i == 0) {
            assert_string_equal(json_string_value(json_object_get(line, "tls_subject")),
                                "CN=backup");
            assert_string_equal(json_string_value(json_object_get(line, "image")),
                                "/srv/\"x\"\n{\\\xef\xbf\xbd\xc3\xa4\x1b[31m");
            assert_string_equal(json_string_value(json_object_get(line, "result")), "failed");
            assert_non_null(json_object_get(line, "error"));
            assert_null(json_object_get(line, "uid"));
        } else {
            assert_int_equal(json_integer_value(json_object_get(line, "uid")), 1000);
            assert_int_equal(json_integer_value(json_object_get(line, "pid")), 4711);
            assert_string_equal(json_string_value(json_object_get(line, "result")), "done");
        }
        json_decref(line);
    }
    assert_null(memchr(log.bytes, 0x1b, log.length)); /* nothing that drives a terminal */
}

static void test_each_byte_that_is_changed_is_found(void **state)
{
    static struct log log;
    unsigned missed = 0;

    (void)state;
    write_five(&log);
    for (size_t i = 0; i < log.length; i++) {
        static const char flips[] = {1, 0x20, (char)0x80};

        for (unsigned f = 0; f < sizeof(flips); f++) {
            log.bytes[i] ^= flips[f];
            missed += !is_damaged(log.bytes, log.length);
            log.bytes[i] ^= flips[f];
        }
        char was = log.bytes[i];
        log.bytes[i] = '\n';
        missed += was != '\n' && !is_damaged(log.bytes, log.length);
        log.bytes[i] = was;
    }
    assert_int_equal(missed, 0);
    assert_false(is_damaged(log.bytes, log.length));
}

static void test_lines_removed_swapped_or_doubled_are_found(void **state)
{
    static struct log log;
    static char altered[2 * LOG_MAX];

    (void)state;
    write_five(&log);
    for (unsigned i = 0; i < 5; i++) {
        size_t from = line_at(&log, i), to = line_at(&log, i + 1), rest = log.length - to;

        if (i < 4) { /* without the last it is a good log, but for its head */
            memcpy(altered, log.bytes, from);
            memcpy(altered + from, log.bytes + to, rest);
            assert_true(is_damaged(altered, log.length - (to - from)));
            size_t next = line_at(&log, i + 2);
            memcpy(altered, log.bytes, from);
            memcpy(altered + from, log.bytes + to, next - to);
            memcpy(altered + from + (next - to), log.bytes + from, to - from);
            memcpy(altered + next, log.bytes + next, log.length - next);
            assert_true(is_damaged(altered, log.length));
        }
        memcpy(altered, log.bytes, to);
        memcpy(altered + to, log.bytes + from, to - from);
        memcpy(altered + to + (to - from), log.bytes + to, rest);
        assert_true(is_damaged(altered, log.length + (to - from)));
        memcpy(altered, log.bytes, from); /* an empty line */
        altered[from] = '\n';
        memcpy(altered + from + 1, log.bytes + from, log.length - from);
        assert_true(is_damaged(altered, log.length + 1));
    }
}

/* The key is right, and the numbers are. */
static void test_lines_of_another_log_are_found(void **state)
{
    static struct log log, other;
    static char altered[2 * LOG_MAX];

    (void)state;
    write_five(&log);
    unlink(log_path);
    write_five(&other);
    for (unsigned i = 1; i < 5; i++) {
        size_t from = line_at(&log, i), at = line_at(&other, i), end = line_at(&other, i + 1);

        memcpy(altered, log.bytes, from);
        memcpy(altered + from, other.bytes + at, other.length - at);
        assert_true(is_damaged(altered, from + other.length - at));
        assert_true(is_damaged(altered, from + end - at));
    }
}

static void test_a_line_that_finds_no_room_is_taken_back(void **state)
{
    static struct log log;
    const struct audit_event what = {.event = "no-room"};
    struct rlimit before, small;

    (void)state;
    write_five(&log);
    struct audit *audit = open_log();
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = log.length + 40;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int rc = audit_record(audit, &what);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(rc, -EFBIG);
    expect_good(5);
    record(audit, "room-again", 0);
    audit_close(audit);
    expect_good(6);
}

static void test_a_tail_that_is_cut_is_found_by_the_head(void **state)
{
    static struct log log;
    struct auditlog_result result;
    uint8_t head[AUDITLOG_HASH_BYTES];
    struct audit *audit;

    (void)state;
    write_five(&log);
    scan(NULL, &result, head);
    scan(head, &result, NULL);
    assert_true(result.has_wanted);
    for (size_t length = 0; length < log.length; length++) {
        bool at_line = length == 0 || log.bytes[length - 1] == '\n';

        store(log.bytes, length);
        scan(head, &result, NULL);
        assert_false(result.has_wanted);
        assert_int_equal(result.damaged_line == 0, at_line);
    }
    store(log.bytes, log.length);
    audit = open_log();
    record(audit, "start", 0);
    audit_close(audit);
    scan(head, &result, NULL); /* a log that has grown since */
    assert_true(result.has_wanted);
    assert_int_equal(result.lines, 6);
}

static void test_a_half_written_line_is_kept_and_the_chain_goes_on(void **state)
{
    static struct log log, after;

    (void)state;
    write_five(&log);
    size_t from = line_at(&log, 4);
    for (size_t length = from + 1;
         length<log.length; length += length> log.length - 8 || length < from + 8 ? 1 : 9) {
        bool was_whole = length + 1 == log.length;
        struct auditlog_result result;

        store(log.bytes, length);
        struct audit *audit = open_log();
        record(audit, "start", 0);
        audit_close(audit);
        expect_good(6); /* four and what says so, or five; and one more */
        load(&after);
        assert_memory_equal(after.bytes, log.bytes, length);
        assert_int_equal(after.bytes[length], '\n');
        scan(NULL, &result, NULL);
        assert_int_equal(result.torn, was_whole ? 0 : 1);
        if (length == log.length - 4) { /* the evidence is covered, too */
            after.bytes[from + 20] ^= 1;
            assert_true(is_damaged(after.bytes, after.length));
            after.bytes[from + 20] ^= 1;
            memmove(after.bytes + from, after.bytes + length + 1, after.length - length - 1);
            assert_true(is_damaged(after.bytes, after.length - (length + 1 - from)));
        }
    }
}

static void test_a_crash_twice_is_two_pieces(void **state)
{
    static struct log log;
    struct auditlog_result result;

    (void)state;
    write_five(&log);
    for (int i = 0; i < 3; i++) {
        load(&log);
        store(log.bytes, log.length - 30);
        audit_close(open_log());
    }
    scan(NULL, &result, NULL);
    assert_int_equal(result.damaged_line, 0);
    assert_true(result.torn >= 1);
}

static void test_a_log_that_was_altered_is_not_continued(void **state)
{
    static struct log log;
    struct vdisk_error error;
    struct audit *audit = NULL;

    (void)state;
    write_five(&log);
    log.bytes[30] ^= 1;
    store(log.bytes, log.length);
    assert_int_equal(audit_open(log_path, NULL, &audit, &error), VDISK_E_DAMAGED);
    assert_non_null(strstr(error.text, "line 1"));
    log.bytes[30] ^= 1;
    store(log.bytes, log.length);
    unlink(key_path);
    assert_int_equal(audit_open(log_path, NULL, &audit, &error), -ENOENT);
    assert_int_equal(access(key_path, F_OK), -1); /* no new key for an old log */
    assert_null(audit);
}

static void test_a_log_that_was_moved_away_goes_on_in_a_new_file(void **state)
{
    struct auditlog_result result;
    struct vdisk_error error;
    struct audit *audit = open_log();
    uint8_t head[AUDITLOG_HASH_BYTES];
    char moved[300];
    struct log log;

    (void)state;
    snprintf(moved, sizeof(moved), "%s.1", log_path);
    record(audit, "one", 0);
    record(audit, "two", 0);
    assert_int_equal(audit_reopen(audit, &error), 0);
    expect_good(2); /* it is where it was */
    scan(NULL, &result, head);
    assert_int_equal(rename(log_path, moved), 0);
    store("x", 1); /* of somebody else */
    assert_int_equal(audit_reopen(audit, &error), -EEXIST);
    assert_int_equal(unlink(log_path), 0);
    assert_int_equal(audit_reopen(audit, &error), 0);
    record(audit, "three", 0);
    audit_close(audit);
    audit = open_log(); /* the next daemon goes on with it, too */
    record(audit, "four", 0);
    audit_close(audit);
    scan(NULL, &result, NULL);
    assert_int_equal(result.damaged_line, 0);
    assert_int_equal(result.lines, 3);
    assert_true(result.is_continued);
    assert_memory_equal(result.before, head, sizeof(head));
    load(&log);
    assert_memory_equal(log.bytes, "{\"sequence\":3,", 14);
    /* No line but the first may be missing before it. */
    char *second = (char *)memchr(log.bytes, '\n', log.length) + 1;
    assert_true(is_damaged(second, log.length - (size_t)(second - log.bytes)));
    /* What it continues, and the number, are bound by the hash. */
    char *before = memmem(log.bytes, log.length, "\"before\":\"", 10);
    assert_non_null(before);
    before[10] = before[10] == 'a' ? 'b' : 'a';
    assert_true(is_damaged(log.bytes, log.length));
    unlink(moved);
}

static void test_the_key_is_private_and_of_its_size(void **state)
{
    struct vdisk_error error;
    uint8_t key[AUDITLOG_KEY_BYTES];
    struct stat status;
    struct audit *audit = open_log(), *second = NULL;

    (void)state;
    assert_int_equal(stat(key_path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    assert_int_equal(status.st_size, AUDITLOG_KEY_BYTES);
    assert_int_equal(stat(log_path, &status), 0);
    assert_int_equal(status.st_mode & 0777, 0600);
    assert_int_equal(audit_open(log_path, NULL, &second, &error), VDISK_E_IN_USE);
    audit_close(audit);
    assert_int_equal(chmod(key_path, 0640), 0);
    assert_int_equal(auditlog_read_key(key_path, key, &error), -EACCES);
    assert_int_equal(chmod(key_path, 0600), 0);
    assert_int_equal(truncate(key_path, 31), 0);
    assert_int_equal(auditlog_read_key(key_path, key, &error), VDISK_E_MALFORMED);
    assert_int_equal(truncate(key_path, 33), 0);
    assert_int_equal(auditlog_read_key(key_path, key, &error), VDISK_E_MALFORMED);
}

static unsigned count_events(const struct log *log, const char *event)
{
    char needle[64];
    unsigned count = 0;

    snprintf(needle, sizeof(needle), "\"event\":\"%s\"", event);
    for (const char *at = log->bytes; (at = strstr(at, needle)); at++)
        count++;
    return count;
}

static void test_integrity_errors_do_not_flood_the_log(void **state)
{
    static struct log log;
    struct audit *audit = open_log();

    (void)state;
    for (int i = 0; i < 5000; i++)
        audit_integrity(audit, "a", "/srv/a.vdk", 4096, VDISK_E_NOT_AUTHENTIC, i);
    audit_integrity(audit, "b", "/srv/b.vdk", 4096, VDISK_E_NOT_AUTHENTIC, 1);
    audit_integrity(audit, "a", "/srv/a.vdk", 8192, VDISK_E_NOT_AUTHENTIC, INT64_C(61000000000));
    for (int i = 0; i < 15; i++)
        audit_integrity(audit, "b", "/srv/b.vdk", 4096, VDISK_E_NOT_AUTHENTIC, 2);
    audit_close(audit);
    load(&log);
    log.bytes[log.length] = 0;
    assert_int_equal(count_events(&log, "integrity-error"), AUDIT_INTEGRITY_BURST * 2 + 1);
    assert_int_equal(count_events(&log, "integrity-errors-left-out"), 2);
    assert_non_null(strstr(log.bytes, "\"count\":4990"));
    assert_non_null(strstr(log.bytes, "\"count\":6"));
    expect_good(AUDIT_INTEGRITY_BURST * 2 + 3);
}

static void test_values_of_any_length_make_a_line(void **state)
{
    static struct log log;
    static char longest[100000];
    struct audit *audit = open_log();

    (void)state;
    memset(longest, 1, sizeof(longest) - 1);
    const struct audit_who who = {.tls_subject = longest, .peer = longest};
    const struct audit_event what = {.who = &who,
                                     .event = "connect",
                                     .image = longest,
                                     .export = longest,
                                     .detail = longest,
                                     .result = -EIO,
                                     .error = longest};
    assert_int_equal(audit_record(audit, &what), 0);
    record(audit, "start", 0);
    audit_close(audit);
    expect_good(2);
    load(&log);
    json_t *line = json_loadb(log.bytes, line_at(&log, 1), 0, NULL);
    assert_non_null(line);
    json_decref(line);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_lines_are_json_with_who_and_what, fresh, cleanup),
        cmocka_unit_test_setup_teardown(test_each_byte_that_is_changed_is_found, fresh, cleanup),
        cmocka_unit_test_setup_teardown(test_lines_removed_swapped_or_doubled_are_found, fresh,
                                        cleanup),
        cmocka_unit_test_setup_teardown(test_lines_of_another_log_are_found, fresh, cleanup),
        cmocka_unit_test_setup_teardown(test_a_line_that_finds_no_room_is_taken_back, fresh,
                                        cleanup),
        cmocka_unit_test_setup_teardown(test_a_tail_that_is_cut_is_found_by_the_head, fresh,
                                        cleanup),
        cmocka_unit_test_setup_teardown(test_a_half_written_line_is_kept_and_the_chain_goes_on,
                                        fresh, cleanup),
        cmocka_unit_test_setup_teardown(test_a_crash_twice_is_two_pieces, fresh, cleanup),
        cmocka_unit_test_setup_teardown(test_a_log_that_was_altered_is_not_continued, fresh,
                                        cleanup),
        cmocka_unit_test_setup_teardown(test_a_log_that_was_moved_away_goes_on_in_a_new_file, fresh,
                                        cleanup),
        cmocka_unit_test_setup_teardown(test_the_key_is_private_and_of_its_size, fresh, cleanup),
        cmocka_unit_test_setup_teardown(test_integrity_errors_do_not_flood_the_log, fresh, cleanup),
        cmocka_unit_test_setup_teardown(test_values_of_any_length_make_a_line, fresh, cleanup),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
