/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The progress bar; see progress.h.
 */
#include "progress.h"

#include "interrupt.h"
#include "sizes.h"

#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define REDRAW_NS INT64_C(100000000)
#define SECOND_NS INT64_C(1000000000)
#define BAR_CELLS 24u

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * SECOND_NS + now.tv_nsec;
}

void progress_begin(struct progress *progress, const char *verb, bool quiet)
{
    *progress = (struct progress){
        .verb = verb,
        .enabled = !quiet && isatty(STDERR_FILENO),
        .started_ns = now_ns(),
    };
    progress->drawn_ns = progress->started_ns;
}

void progress_clear(struct progress *progress)
{
    if (!progress->drawn)
        return;
    fputs("\r\033[K", stderr);
    progress->drawn = false;
}

static void time_left(char *text, size_t size, double seconds)
{
    unsigned long whole = (unsigned long)seconds;

    if (seconds >= 360000)
        snprintf(text, size, "days left");
    else if (whole >= 3600)
        snprintf(text, size, "%lu:%02lu:%02lu left", whole / 3600, whole / 60 % 60, whole % 60);
    else
        snprintf(text, size, "%lu:%02lu left", whole / 60, whole % 60);
}

static void draw(struct progress *progress, uint64_t done, uint64_t total, int64_t now)
{
    double seconds = (double)(now - progress->started_ns) / (double)SECOND_NS;
    double part = total ? (double)done / (double)total : 0;
    double rate = seconds > 0 ? (double)done / seconds : 0;
    unsigned cells = (unsigned)(part * BAR_CELLS);
    char bar[BAR_CELLS + 1], left[32], rate_text[SIZES_TEXT_BYTES], total_text[SIZES_TEXT_BYTES];

    for (unsigned i = 0; i < BAR_CELLS; i++)
        bar[i] = i < cells ? '#' : '.';
    bar[BAR_CELLS] = '\0';
    if (rate > 0)
        time_left(left, sizeof(left), (double)(total - done) / rate);
    else
        snprintf(left, sizeof(left), "-:-- left");
    fprintf(stderr, "\r%s [%s] %3u%% of %s, %s/s, %s\033[K", progress->verb, bar,
            (unsigned)(part * 100), sizes_text(total_text, total),
            sizes_text(rate_text, (uint64_t)rate), left);
    fflush(stderr);
    progress->drawn = true;
}

void progress_update(struct progress *progress, uint64_t done_bytes, uint64_t total_bytes)
{
    int64_t now;

    if (!progress->enabled)
        return;
    now = now_ns();
    if (now - progress->drawn_ns < REDRAW_NS)
        return;
    progress->drawn_ns = now;
    draw(progress, done_bytes < total_bytes ? done_bytes : total_bytes, total_bytes, now);
}

bool progress_callback(void *opaque, uint64_t done_bytes, uint64_t total_bytes)
{
    progress_update(opaque, done_bytes, total_bytes);
    return !interrupt_pending();
}
