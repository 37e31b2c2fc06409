/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is counted (vdiskd/stats.c) and how it is shown (vdiskd/metrics.c).
 */
#include "metrics.h"

#include "vdisk/error.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static char *text_of(const struct metrics_source *sources, size_t count)
{
    char *text = NULL;
    size_t length;
    FILE *out = open_memstream(&text, &length);

    assert_non_null(out);
    metrics_write(out, sources, count);
    assert_int_equal(fclose(out), 0);
    return text;
}

static unsigned times(const char *text, const char *needle)
{
    unsigned count = 0;

    for (const char *at = text; (at = strstr(at, needle)); at += strlen(needle))
        count++;
    return count;
}

static void has(const char *text, const char *line)
{
    char whole[512];

    snprintf(whole, sizeof(whole), "\n%s\n", line);
    if (!strstr(text, whole))
        print_message("there is no line %s\n", line);
    assert_non_null(strstr(text, whole));
}

static void test_a_request_is_counted_where_it_belongs(void **state)
{
    static struct stats stats;
    static const int64_t times_ns[] = {
        -5, 0, 1000, 1001, 2000, 4001, 1000000, 33554432000, 33554432001, 67108864001, INT64_MAX};
    static const unsigned buckets[] = {0, 0, 0, 1, 1, 3, 10, 25, 26, 26, 26};

    (void)state;
    for (unsigned i = 0; i < sizeof(buckets) / sizeof(*buckets); i++) {
        memset(&stats, 0, sizeof(stats));
        stats_add(&stats, STATS_WRITE, 4096, times_ns[i], 0);
        assert_int_equal(stats.op[STATS_WRITE].bucket[buckets[i]], 1);
        assert_int_equal(stats.op[STATS_WRITE].bytes, 4096);
        assert_int_equal(stats.op[STATS_WRITE].errors, 0);
        assert_int_equal(stats.op[STATS_READ].count, 0);
    }
    stats_add(&stats, STATS_READ, 4096, 1, -EIO);
    stats_add(&stats, STATS_READ, 4096, 1, VDISK_E_NOT_AUTHENTIC);
    stats_add(&stats, STATS_READ, 4096, 1, VDISK_E_MALFORMED);
    assert_int_equal(stats.op[STATS_READ].count, 3);
    assert_int_equal(stats.op[STATS_READ].errors, 3);
    assert_int_equal(stats.op[STATS_READ].bytes, 0);
    assert_int_equal(stats.integrity_errors, 2);
}

static void test_families_are_told_once_with_help_and_type(void **state)
{
    static struct stats stats[2];
    const struct metrics_source sources[] = {
        {
            .name = "a",
            .stats = &stats[0],
            .size = 1 << 20,
            .sessions = 2,
            .figures = {.nodes = {.bytes = 10, .limit_bytes = 11, .hits = 12, .misses = 13},
                        .clusters = {.bytes = 20, .limit_bytes = 21, .hits = 22, .misses = 23},
                        .dirty_bytes = 30,
                        .journal_bytes = 31,
                        .journal_used_bytes = 32,
                        .journal_records = 33,
                        .journal_syncs = 34,
                        .checkpoints = 35},
        },
        {.name = "b", .stats = &stats[1], .size = 5},
    };
    char *text;

    (void)state;
    stats_add(&stats[0], STATS_READ, 512, 1500, 0);
    text = text_of(sources, 2);
    assert_int_equal(times(text, "# HELP "), times(text, "# TYPE "));
    assert_int_equal(times(text, "# TYPE vdisk_export_operations_total counter\n"), 1);
    assert_int_equal(times(text, "# TYPE vdisk_export_operation_seconds histogram\n"), 1);
    has(text, "vdisk_export_size_bytes{export=\"a\"} 1048576");
    has(text, "vdisk_export_sessions{export=\"a\"} 2");
    has(text, "vdisk_export_operations_total{export=\"a\",operation=\"read\"} 1");
    has(text, "vdisk_export_operation_bytes_total{export=\"a\",operation=\"read\"} 512");
    has(text, "vdisk_export_operations_total{export=\"b\",operation=\"read\"} 0");
    has(text, "vdisk_export_cache_bytes{export=\"a\",cache=\"nodes\"} 10");
    has(text, "vdisk_export_cache_limit_bytes{export=\"a\",cache=\"nodes\"} 11");
    has(text, "vdisk_export_cache_hits_total{export=\"a\",cache=\"nodes\"} 12");
    has(text, "vdisk_export_cache_misses_total{export=\"a\",cache=\"clusters\"} 23");
    has(text, "vdisk_export_cache_bytes{export=\"b\",cache=\"clusters\"} 0");
    has(text, "vdisk_export_dirty_bytes{export=\"a\"} 30");
    has(text, "vdisk_export_journal_bytes{export=\"a\"} 31");
    has(text, "vdisk_export_journal_used_bytes{export=\"a\"} 32");
    has(text, "vdisk_export_journal_records_total{export=\"a\"} 33");
    has(text, "vdisk_export_journal_syncs_total{export=\"a\"} 34");
    has(text, "vdisk_export_checkpoints_total{export=\"a\"} 35");
    /* Every line is a comment or `name{labels} number`, in one group with its family. */
    char family[128] = "";
    char *rest;
    for (char *line = strtok_r(text, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (strncmp(line, "# TYPE ", 7) == 0)
            sscanf(line + 7, "%127s", family);
        if (*line == '#')
            continue;
        assert_int_equal(strncmp(line, family, strlen(family)), 0);
        char *end, *value = strrchr(line, ' ');
        assert_non_null(value);
        strtod(value + 1, &end);
        assert_int_equal(*end, 0);
        assert_int_equal(value[-1], '}');
    }
    free(text);
    text = text_of(NULL, 0);
    assert_int_equal(times(text, "{"), 0);
    free(text);
}

static void test_buckets_are_cumulative_and_in_seconds(void **state)
{
    static struct stats stats;
    const struct metrics_source source = {.name = "a", .stats = &stats};
    char *text;

    (void)state;
    stats_add(&stats, STATS_READ, 1, 1000, 0);
    stats_add(&stats, STATS_READ, 1, 3000, 0);
    stats_add(&stats, STATS_READ, 1, 1500000000, 0);
    stats_add(&stats, STATS_READ, 1, INT64_C(100000000000), 0);
    text = text_of(&source, 1);
#define BUCKET "vdisk_export_operation_seconds_bucket{export=\"a\",operation=\"read\",le="
    has(text, BUCKET "\"0.000001\"} 1");
    has(text, BUCKET "\"0.000002\"} 1");
    has(text, BUCKET "\"0.000004\"} 2");
    has(text, BUCKET "\"1.048576\"} 2");
    has(text, BUCKET "\"2.097152\"} 3");
    has(text, BUCKET "\"33.554432\"} 3");
    has(text, BUCKET "\"+Inf\"} 4");
    has(text, "vdisk_export_operation_seconds_count{export=\"a\",operation=\"read\"} 4");
    has(text, "vdisk_export_operation_seconds_sum{export=\"a\",operation=\"read\"} 101.500004000");
    assert_int_equal(times(text, "le=\"+Inf\""), STATS_OPS);
    free(text);
}

static void test_no_name_breaks_out_of_its_label(void **state)
{
    static struct stats stats;
    const struct metrics_source source = {
        .name = "a\"} 1\n\\x\xff\xc3\xa4", .stats = &stats, .size = 7};
    char *text = text_of(&source, 1);

    (void)state;
    has(text, "vdisk_export_size_bytes{export=\"a\\\"} 1\\n\\\\x\xef\xbf\xbd\xc3\xa4\"} 7");
    free(text);
}

static void test_only_the_metrics_are_served(void **state)
{
    static const struct {
        const char *head;
        int status;
    } cases[] = {
        {"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 200},
        {"HEAD /metrics HTTP/1.0\r\n\r\n", 200},
        {"GET /metrics?name=x HTTP/1.1\r\n\r\n", 200},
        {"GET / HTTP/1.1\r\n\r\n", 404},
        {"GET /metrics/ HTTP/1.1\r\n\r\n", 404},
        {"GET /metricsx HTTP/1.1\r\n\r\n", 404},
        {"GET ?/metrics HTTP/1.1\r\n\r\n", 404},
        {"POST /metrics HTTP/1.1\r\n\r\n", 405},
        {"get /metrics HTTP/1.1\r\n\r\n", 405},
        {"GET /metrics HTTP/2.0\r\n\r\n", 505},
        {"GET /metrics\r\n\r\n", 400},
        {"GET  /metrics HTTP/1.1\r\n\r\n", 400},
        {"GET /metrics HTTP/1.1\n\n", 400},
        {"GET /metrics HTTP/1.1", 400},
        {"GET /metrics HTTP/1.1\r", 400},
        {"\r\n\r\n", 400},
        {"", 400},
        {" ", 400},
        {"\x16\x03\x01", 400},
    };
    bool is_head;

    (void)state;
    for (unsigned i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        size_t length = strlen(cases[i].head);
        char *copy = malloc(length ? length : 1); /* so that a sanitizer sees its end */

        assert_non_null(copy);
        memcpy(copy, cases[i].head, length);
        assert_int_equal(metrics_parse_request(copy, length, &is_head), cases[i].status);
        assert_int_equal(is_head && cases[i].status == 200, i == 1);
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_request_is_counted_where_it_belongs),
        cmocka_unit_test(test_families_are_told_once_with_help_and_type),
        cmocka_unit_test(test_buckets_are_cumulative_and_in_seconds),
        cmocka_unit_test(test_no_name_breaks_out_of_its_label),
        cmocka_unit_test(test_only_the_metrics_are_served),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
