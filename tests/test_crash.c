/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The power-cut proof: see crash_run.h for what a run does.
 *
 *     test_crash [--seed N] [--runs N] [--op N] [--jobs N] [--verbose]
 *
 * Without arguments, fixed seeds until 100,000 disks and more were opened (VDISK_TEST_LONG=1:
 * millions).
 * --seed N --runs 1 replays a failure; with --op only the cuts at that operation of the
 * outermost run. Runs go in child processes, so that a failed assertion is a finding too.
 */
#include "crash_run.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define JOBS_MAX      8u
#define DEFAULT_RUNS  125u
#define LONG_FACTOR   20u
#define STATES_WANTED UINT64_C(100000)
#define RUN_SECONDS   600u /* then it hangs */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SLOW 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SLOW 1
#endif
#endif
#ifndef SLOW
#define SLOW 0
#endif

struct page {
    struct crash_shared total;
    struct crash_shared job[JOBS_MAX];
    struct crash_place place[JOBS_MAX];
};

struct arguments {
    uint64_t seed, runs, op;
    unsigned jobs;
    bool chosen; /* on the command line */
    bool verbose;
};

static const char *const property[CRASH_PROFILES] = {
    [CRASH_DATA] =
        "after a power cut at any operation all flushed data is there and blocks are whole",
    [CRASH_SNAPSHOTS] = ("after a power cut snapshots are exact, and made, deleted and rolled back "
                         "wholly or not at all"),
    [CRASH_ALL] = "after a power cut a resize happened or not, and compaction changed nothing",
    [CRASH_FILLING] = ("after a power cut while it is filled an image shows what was flushed and "
                       "else its source, and is detached or not"),
    [CRASH_HURRY] = "after a power cut the journal is whole, however late a checkpoint comes",
};

static _Noreturn void child(struct page *page, unsigned job, const struct arguments *arguments)
{
    struct crash_shared *mine = &page->job[job];
    for (;;) {
        uint64_t seed = __atomic_fetch_add(&page->total.next_seed, 1, __ATOMIC_SEQ_CST);
        if (seed >= page->total.end_seed)
            _exit(0);
        alarm(RUN_SECONDS);
        page->place[job].verbose = arguments->verbose;
        crash_run_seed(mine, &page->place[job], seed, arguments->op);
    }
}

/* A child ended badly: what it noted, or how it died. */
static void note_end(struct page *page, unsigned job, int status)
{
    char *failure = page->job[job].failure;
    const struct crash_place *place = &page->place[job];
    if (failure[0] || (WIFEXITED(status) && WEXITSTATUS(status) == 0))
        return;
    if (WIFSIGNALED(status))
        snprintf(failure, sizeof(page->job[job].failure),
                 "seed %llu, operation %llu: killed by signal %d (%s)",
                 (unsigned long long)place->seed, (unsigned long long)place->op, WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(failure, sizeof(page->job[job].failure),
                 "seed %llu, operation %llu: ended with status %d", (unsigned long long)place->seed,
                 (unsigned long long)place->op, WEXITSTATUS(status));
}

static void run_jobs(struct page *page, const struct arguments *arguments)
{
    pid_t pid[JOBS_MAX];
    fflush(stdout);
    for (unsigned i = 0; i < arguments->jobs; i++) {
        pid[i] = fork();
        if (pid[i] == 0)
            child(page, i, arguments);
        if (pid[i] < 0) {
            perror("fork");
            exit(2);
        }
    }
    for (unsigned n = 0; n < arguments->jobs; n++) {
        int status;
        pid_t ended = wait(&status);
        for (unsigned i = 0; i < arguments->jobs; i++) {
            if (pid[i] == ended)
                note_end(page, i, status);
            if (pid[i] == ended && page->job[i].failure[0]) /* the others stop early */
                __atomic_store_n(&page->total.next_seed, page->total.end_seed, __ATOMIC_SEQ_CST);
        }
    }
}

static void add_up(struct page *page, unsigned jobs)
{
    struct crash_shared *total = &page->total;
    for (unsigned i = 0; i < jobs; i++) {
        const struct crash_shared *job = &page->job[i];
        total->states += job->states;
        total->runs += job->runs;
        total->deep += job->deep;
        total->recovered += job->recovered;
        total->one_superblock += job->one_superblock;
        total->without_a_copy += job->without_a_copy;
        total->half_deleted += job->half_deleted;
        total->half_filled += job->half_filled;
        total->before += job->before;
        total->after += job->after;
        for (unsigned k = 0; k < SIM_CRASH_MODES; k++)
            total->mode[k] += job->mode[k];
        for (unsigned k = 0; k < CRASH_STEPS; k++)
            total->step[k] += job->step[k];
    }
}

static bool say(bool good, const char *name)
{
    printf("%sok - %s\n", good ? "" : "not ", name);
    return good;
}

static bool report(const struct page *page, const struct arguments *arguments)
{
    const struct crash_shared *t = &page->total;
    bool failed[CRASH_PROFILES] = {false}, good = true;
    for (unsigned i = 0; i < arguments->jobs; i++) {
        if (!page->job[i].failure[0])
            continue;
        printf("# %s\n# replay: test_crash --seed %llu --runs 1\n", page->job[i].failure,
               (unsigned long long)page->place[i].seed);
        failed[crash_profile_of(page->place[i].seed)] = true;
    }
    for (unsigned i = 0; i < CRASH_PROFILES; i++)
        good &= say(!failed[i], property[i]);
    printf("# %llu runs from seed %llu, %llu disks opened and compared, %llu of them went on; "
           "%llu had a journal to replay, %llu only one superblock, "
           "%llu half a snapshot deleted, %llu still had a source; what was under way had "
           "happened in %llu and not in %llu\n",
           (unsigned long long)t->runs, (unsigned long long)arguments->seed,
           (unsigned long long)t->states, (unsigned long long)t->deep,
           (unsigned long long)t->recovered, (unsigned long long)t->one_superblock,
           (unsigned long long)t->half_deleted, (unsigned long long)t->half_filled,
           (unsigned long long)t->after, (unsigned long long)t->before);
    if (arguments->chosen || !good)
        return good;
    for (unsigned i = 0; i < CRASH_STEPS; i++)
        good &= t->step[i] > 0;
    for (unsigned i = 0; i < SIM_CRASH_MODES; i++)
        good &= t->mode[i] > 0;
    good &= t->deep && t->recovered && t->one_superblock && t->without_a_copy && t->half_deleted &&
            t->half_filled && t->before && t->after;
    say(good, "every kind of step, of cut and of outcome came up");
    if (SLOW)
        printf("ok - 100000 disks # SKIP fewer under a sanitizer\n");
    else
        good &= say(t->states >= STATES_WANTED, "at least 100000 disks were opened and compared");
    return good;
}

static int parse(int argc, char **argv, struct arguments *arguments)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--verbose")) {
            arguments->verbose = true;
            continue;
        }
        char *end = NULL;
        unsigned long long value = i + 1 < argc ? strtoull(argv[i + 1], &end, 0) : 0;
        if (!end || *end || end == argv[i + 1])
            return -EINVAL;
        if (!strcmp(argv[i], "--seed"))
            arguments->seed = value;
        else if (!strcmp(argv[i], "--runs"))
            arguments->runs = value;
        else if (!strcmp(argv[i], "--op"))
            arguments->op = value;
        else if (!strcmp(argv[i], "--jobs") && value >= 1 && value <= JOBS_MAX)
            arguments->jobs = (unsigned)value;
        else
            return -EINVAL;
        arguments->chosen |= strcmp(argv[i], "--jobs") != 0;
        i++;
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *is_long = getenv("VDISK_TEST_LONG");
    struct arguments arguments = {.seed = 1, .runs = DEFAULT_RUNS, .jobs = 2};
    if (is_long && is_long[0] == '1')
        arguments.runs *= LONG_FACTOR;
    if (SLOW)
        arguments.runs /= 20;
    if (parse(argc, argv, &arguments)) {
        fprintf(stderr,
                "usage: test_crash [--seed N] [--runs N] [--op N] [--jobs N] [--verbose]\n");
        return 2;
    }
    struct page *page =
        mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || vdisk_init()) {
        perror("test_crash");
        return 2;
    }
    page->total.next_seed = arguments.seed;
    page->total.end_seed = arguments.seed + arguments.runs;
    run_jobs(page, &arguments);
    add_up(page, arguments.jobs);
    return report(page, &arguments) ? 0 : 1;
}
