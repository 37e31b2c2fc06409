/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rules of retention, as tables: which backups stay, and why; times that lie; and their text.
 */
#include "durations.h"
#include "retention.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ITEMS_MAX 64u
#define HOUR      3600
#define DAY       86400

/* Seconds since 1970 of "2026-01-31 12:00". */
static int64_t at(const char *text)
{
    struct tm tm = {0};

    assert_non_null(strptime(text, "%Y-%m-%d %H:%M", &tm));
    return timegm(&tm);
}

/* A letter for each backup, from the oldest on: k stays, . goes. */
static void check(const char *what, const struct vb_retention *rules, const char *const *times,
                  const char *now, const char *expected)
{
    struct vb_retention_item items[ITEMS_MAX] = {{0}};
    struct vb_retention_verdict verdicts[ITEMS_MAX];
    char got[ITEMS_MAX + 1] = "";
    size_t count = 0;

    for (; times[count]; count++)
        items[count].time = at(times[count]);
    vb_retention_judge(rules, items, count, at(now), gmtime_r, verdicts);
    for (size_t i = 0; i < count; i++) {
        got[i] = verdicts[i].keep ? 'k' : '.';
        assert_true(verdicts[i].reason[0]);
    }
    if (strcmp(got, expected) != 0)
        print_message("%s: %s, not %s\n", what, got, expected);
    assert_string_equal(got, expected);
}

static void test_rules(void **state)
{
    static const char *const hours[] = {"2026-03-01 10:05", "2026-03-01 10:55", "2026-03-01 11:00",
                                        "2026-03-01 13:59", "2026-03-01 14:00", NULL};
    static const char *const days[] = {"2026-02-20 23:59",
                                       "2026-02-21 00:00",
                                       "2026-02-21 23:00",
                                       "2026-02-25 12:00",
                                       "2026-03-01 01:00",
                                       "2026-03-01 02:00",
                                       NULL};
    /* 2026-12-28 is a Monday: ISO week 53 of 2026 goes on until Sunday, 3 January 2027. */
    static const char *const weeks[] = {"2026-12-27 12:00",
                                        "2026-12-28 12:00",
                                        "2026-12-31 12:00",
                                        "2027-01-01 12:00",
                                        "2027-01-03 23:59",
                                        "2027-01-04 00:00",
                                        NULL};
    static const char *const months[] = {"2025-12-31 23:59", "2026-01-01 00:00", "2026-01-31 12:00",
                                         "2026-04-01 12:00", "2026-04-02 12:00", NULL};
    static const char *const years[] = {"2019-06-01 12:00", "2019-12-31 23:59", "2022-01-01 00:00",
                                        "2026-05-05 12:00", NULL};
    const struct {
        const char *what;
        struct vb_retention rules;
        const char *const *times;
        const char *now, *expected;
    } table[] = {
        {"last 2", {.last = 2}, hours, "2026-03-01 15:00", "...kk"},
        {"last 99", {.last = 99}, hours, "2026-03-01 15:00", "kkkkk"},
        {"hourly 3: hours without a backup do not count",
         {.hourly = 3},
         hours,
         "2026-03-01 15:00",
         "..kkk"},
        {"hourly 4", {.hourly = 4}, hours, "2026-03-01 15:00", ".kkkk"},
        {"daily 1", {.daily = 1}, days, "2026-03-01 15:00", ".....k"},
        {"daily 3", {.daily = 3}, days, "2026-03-01 15:00", "..kk.k"},
        {"daily 9", {.daily = 9}, days, "2027-03-01 15:00", "k.kk.k"},
        {"weekly 1", {.weekly = 1}, weeks, "2027-02-01 12:00", ".....k"},
        {"weekly 2: a week over the turn of the year is one",
         {.weekly = 2},
         weeks,
         "2027-02-01 12:00",
         "....kk"},
        {"weekly 3", {.weekly = 3}, weeks, "2027-02-01 12:00", "k...kk"},
        {"monthly 2", {.monthly = 2}, months, "2026-06-01 12:00", "..k.k"},
        {"monthly 3", {.monthly = 3}, months, "2026-06-01 12:00", "k.k.k"},
        {"yearly 3", {.yearly = 3}, years, "2026-06-01 12:00", ".kkk"},
        {"two rules", {.last = 1, .yearly = 2}, years, "2026-06-01 12:00", "..kk"},
        {"within 4 days", {.within = 4 * DAY}, days, "2026-03-01 12:00", "...kkk"},
        {"within an hour, long ago: the newest stays",
         {.within = HOUR},
         days,
         "2030-03-01 12:00",
         ".....k"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        check(table[i].what, &table[i].rules, table[i].times, table[i].now, table[i].expected);
}

/* Who can only make backups makes no good one go. */
static void test_false_times(void **state)
{
    static const char *const future[] = {"2026-03-01 10:00",
                                         "2026-03-02 10:00",
                                         "2026-03-03 10:00",
                                         "2027-01-01 10:00",
                                         "2028-01-01 10:00",
                                         "2029-01-01 10:00",
                                         NULL};
    static const char *const past[] = {"2026-01-10 10:00",
                                       "2026-02-10 10:00",
                                       "2026-03-10 10:00",
                                       "2026-01-31 23:59",
                                       "2026-02-28 23:59",
                                       "2026-03-11 10:00",
                                       NULL};
    const struct vb_retention daily = {.daily = 2}, monthly = {.monthly = 3}, last = {.within = 1};

    (void)state;
    check("three of the future", &daily, future, "2026-03-03 12:00", ".kkkkk");
    check("the newest good one", &last, future, "2026-03-03 12:00", "..kkkk");
    check("later ones in the place of earlier", &monthly, past, "2026-03-11 12:00", "kk.kkk");
}

static void test_tags_and_immutable(void **state)
{
    static const char tags[2][64] = {"release", "monday"};
    static const char *const wanted[] = {"nothing", "monday"};
    const struct vb_retention rules = {.tags = wanted, .tag_count = 2};
    struct vb_retention_item items[4] = {{.time = 1000},
                                         {.time = 2000, .tags = tags, .tag_count = 2},
                                         {.time = 3000, .immutable_until = 10001},
                                         {.time = 4000}};
    struct vb_retention_verdict verdicts[4];

    (void)state;
    vb_retention_judge(&rules, items, 4, 10000, gmtime_r, verdicts);
    assert_false(verdicts[0].keep);
    assert_true(verdicts[1].keep);
    assert_string_equal(verdicts[1].reason, "tag monday");
    assert_true(verdicts[2].keep);
    assert_string_equal(verdicts[2].reason, "immutable");
    assert_true(verdicts[3].keep);
    assert_string_equal(verdicts[3].reason, "newest of its drive");
    vb_retention_judge(&rules, items, 4, 10001, gmtime_r, verdicts);
    assert_false(verdicts[2].keep);
    assert_true(vb_retention_is_empty(&(struct vb_retention){0}));
    assert_false(vb_retention_is_empty(&rules));
    assert_int_equal(vb_retention_limit(4), 5);
    assert_int_equal(vb_retention_limit(100), 50);
}

/* An hour that is gone through twice in autumn is two hours; days begin at local midnight. */
static void test_local_calendar(void **state)
{
    const struct vb_retention hourly = {.hourly = 2}, daily = {.daily = 1};
    struct vb_retention_item items[2];
    struct vb_retention_verdict verdicts[2];

    (void)state;
    setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
    tzset();
    items[0] = (struct vb_retention_item){.time = at("2026-10-25 00:30")}; /* 2:30 in summer */
    items[1] = (struct vb_retention_item){.time = at("2026-10-25 01:30")}; /* 2:30 in winter */
    vb_retention_judge(&hourly, items, 2, at("2026-10-25 12:00"), localtime_r, verdicts);
    assert_true(verdicts[0].keep && verdicts[1].keep);
    items[0].time = at("2026-01-10 22:30"); /* 23:30 */
    items[1].time = at("2026-01-10 23:30"); /* the next day */
    vb_retention_judge(&(struct vb_retention){.daily = 2}, items, 2, at("2026-01-11 12:00"),
                       localtime_r, verdicts);
    assert_true(verdicts[0].keep && verdicts[1].keep);
    vb_retention_judge(&daily, items, 2, at("2026-01-11 12:00"), localtime_r, verdicts);
    assert_false(verdicts[0].keep);
}

static void test_durations(void **state)
{
    uint64_t seconds = 0;

    (void)state;
    assert_true(durations_parse("90s", 0, &seconds) && seconds == 90);
    assert_true(durations_parse("5m", 0, &seconds) && seconds == 300);
    assert_true(durations_parse("36h", 0, &seconds) && seconds == 36 * HOUR);
    assert_true(durations_parse("30d", 0, &seconds) && seconds == 30 * DAY);
    assert_true(durations_parse("2w", 0, &seconds) && seconds == 14 * DAY);
    assert_true(durations_parse("1y", 0, &seconds) && seconds == 365 * DAY);
    assert_true(durations_parse("0", 0, &seconds) && seconds == 0);
    assert_true(durations_parse("7", DAY, &seconds) && seconds == 7 * DAY);
    assert_false(durations_parse("7", 0, &seconds));
    assert_false(durations_parse("", DAY, &seconds));
    assert_false(durations_parse("d", 0, &seconds));
    assert_false(durations_parse("-1d", 0, &seconds));
    assert_false(durations_parse("1.5h", 0, &seconds));
    assert_false(durations_parse("1001y", 0, &seconds));
    assert_false(durations_parse("99999999999999999999999", 1, &seconds));
    assert_false(durations_parse("18446744073709551615w", 0, &seconds));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_false_times),
        cmocka_unit_test(test_tags_and_immutable),
        cmocka_unit_test(test_local_calendar),
        cmocka_unit_test(test_durations),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
