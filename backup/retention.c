/* SPDX-License-Identifier: Apache-2.0 */
/* Rules of retention; see retention.h. */
#include "retention.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CLOCK_SLACK_S 300 /* so far clocks of hosts may differ */
#define LIMIT_MIN     5u

bool vb_retention_is_empty(const struct vb_retention *rules)
{
    return !rules->last && !rules->hourly && !rules->daily && !rules->weekly && !rules->monthly &&
           !rules->yearly && !rules->within && !rules->tag_count;
}

size_t vb_retention_limit(size_t count)
{
    return count / 2 > LIMIT_MIN ? count / 2 : LIMIT_MIN;
}

static void keep(struct vb_retention_verdict *verdict, const char *reason, const char *detail)
{
    size_t length = strlen(verdict->reason);

    verdict->keep = true;
    snprintf(verdict->reason + length, sizeof(verdict->reason) - length, "%s%s%s%s",
             length ? ", " : "", reason, detail ? " " : "", detail ? detail : "");
}

/* --- times that cannot be -----------------------------------------------------------------------
 */

static void suspect(const struct vb_retention_item *items, size_t count, int64_t now,
                    struct vb_retention_verdict *verdicts)
{
    int64_t newest = INT64_MIN + CLOCK_SLACK_S;

    for (size_t i = 0; i < count; i++) {
        const char *why = items[i].time > now + CLOCK_SLACK_S ? "is of the future"
                          : items[i].time < newest - CLOCK_SLACK_S
                              ? "is older than the one before it"
                              : NULL;

        if (why) {
            verdicts[i].suspect = true;
            keep(&verdicts[i], "its time", why);
        } else if (items[i].time > newest) {
            newest = items[i].time;
        }
    }
}

/* --- periods ------------------------------------------------------------------------------ */

enum period {
    EACH,
    HOUR,
    DAY,
    WEEK,
    MONTH,
    YEAR,
};

/* A number that is the same within a period, and only there. */
static int64_t number_of(enum period period, int64_t seconds, vb_retention_calendar *calendar)
{
    time_t time = (time_t)seconds;
    struct tm tm = {0};
    char text[16];
    char *end;

    if (!calendar(&time, &tm))
        return seconds;
    switch (period) {
    case HOUR: /* an hour that clocks go through twice is two */
        return ((int64_t)tm.tm_year * 366 + tm.tm_yday) * 48 + tm.tm_hour * 2 + (tm.tm_isdst > 0);
    case DAY:
        return (int64_t)tm.tm_year * 366 + tm.tm_yday;
    case WEEK: /* of ISO 8601, whose year is that of the Thursday */
        strftime(text, sizeof(text), "%G %V", &tm);
        return strtoll(text, &end, 10) * 54 + strtoll(end, NULL, 10);
    case MONTH:
        return (int64_t)tm.tm_year * 12 + tm.tm_mon;
    case YEAR:
        return tm.tm_year;
    default:
        return seconds;
    }
}

static void apply(enum period period, const char *name, uint64_t periods,
                  const struct vb_retention_item *items, size_t count,
                  vb_retention_calendar *calendar, struct vb_retention_verdict *verdicts)
{
    int64_t before = 0;
    bool any = false;

    for (size_t i = count; i > 0 && periods > 0; i--) {
        int64_t number;

        if (verdicts[i - 1].suspect)
            continue;
        number = period == EACH ? (int64_t)i : number_of(period, items[i - 1].time, calendar);
        if (any && number == before)
            continue;
        any = true;
        before = number;
        periods--;
        keep(&verdicts[i - 1], name, NULL);
    }
}

/* --- all of them --------------------------------------------------------------------------------
 */

static void apply_tags(const struct vb_retention *rules, const struct vb_retention_item *item,
                       struct vb_retention_verdict *verdict)
{
    for (unsigned i = 0; i < item->tag_count; i++) {
        for (unsigned k = 0; k < rules->tag_count; k++) {
            if (strcmp(item->tags[i], rules->tags[k]) == 0) {
                keep(verdict, "tag", rules->tags[k]);
                return;
            }
        }
    }
}

void vb_retention_judge(const struct vb_retention *rules, const struct vb_retention_item *items,
                        size_t count, int64_t now, vb_retention_calendar *calendar,
                        struct vb_retention_verdict *verdicts)
{
    memset(verdicts, 0, count * sizeof(*verdicts));
    suspect(items, count, now, verdicts);
    apply(EACH, "last", rules->last, items, count, calendar, verdicts);
    apply(HOUR, "hourly", rules->hourly, items, count, calendar, verdicts);
    apply(DAY, "daily", rules->daily, items, count, calendar, verdicts);
    apply(WEEK, "weekly", rules->weekly, items, count, calendar, verdicts);
    apply(MONTH, "monthly", rules->monthly, items, count, calendar, verdicts);
    apply(YEAR, "yearly", rules->yearly, items, count, calendar, verdicts);
    for (size_t i = 0; i < count; i++) {
        struct vb_retention_verdict *verdict = &verdicts[i];

        if (rules->within && items[i].time <= now &&
            (uint64_t)(now - items[i].time) <= rules->within)
            keep(verdict, "within", NULL);
        apply_tags(rules, &items[i], verdict);
        if (now < 0 || items[i].immutable_until > (uint64_t)now)
            keep(verdict, "immutable", NULL);
        if (!verdict->keep)
            snprintf(verdict->reason, sizeof(verdict->reason), "no rule keeps it");
    }
    /* The newest stays, and one with a false time does not take its place. */
    for (size_t i = count; i > 0; i--) {
        if (verdicts[i - 1].suspect)
            continue;
        if (!verdicts[i - 1].keep) {
            verdicts[i - 1].reason[0] = '\0';
            keep(&verdicts[i - 1], "newest of its drive", NULL);
        }
        break;
    }
}
