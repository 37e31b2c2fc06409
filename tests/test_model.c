/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Random operations on images, and the same on plain bytes in memory (drive_run.h), for each kind
 * of image: both must agree at any time.
 *
 * VDISK_TEST_SEED=n runs each test with this one seed, VDISK_TEST_STEPS=n with so many steps.
 * VDISK_TEST_LONG=1 runs many seeds. An argument chooses tests by name.
 */
#include "drive_run.h"
#include "share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHAIN 3u

static char directory[128];

static int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    (void)state;
    snprintf(directory, sizeof(directory), "%s/vdisk-model-XXXXXX", tmp ? tmp : "/tmp");
    return vdisk_init() || !mkdtemp(directory) ? -1 : 0;
}

static int tear_down(void **state)
{
    char command[200];
    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

static void run_once(const struct drive_config *config, uint64_t seed)
{
    struct drive_run run;
    drive_begin(&run, config, seed);
    snprintf(run.path, sizeof(run.path), "%s/image-%llu", directory, (unsigned long long)seed);
    drive_create(&run, NULL, NULL);
    drive_steps(&run);
    drive_end(&run);
    if (config->files)
        assert_true(unlink(run.path) == 0);
}

static void each_seed(const struct drive_config *config,
                      void (*once)(const struct drive_config *, uint64_t))
{
    const char *text = getenv("VDISK_TEST_SEED");
    uint64_t from = text ? strtoull(text, NULL, 0) : 1;
    uint64_t seeds = text ? 1 : getenv("VDISK_TEST_LONG") ? 60 : 2;
    for (uint64_t seed = from; seed < from + seeds; seed++) {
        if (!share_has(seed))
            continue;
        print_message("seed %llu\n", (unsigned long long)seed);
        once(config, seed);
    }
}

/* ---- overlays ---- */

static void overlay_once(const struct drive_config *config, uint64_t seed)
{
    struct drive_state *below_state[CHAIN] = {NULL};
    char path[CHAIN][200], snapshot[24] = "";
    for (unsigned depth = 0; depth < CHAIN; depth++) {
        struct drive_run run;
        drive_begin(&run, config, seed + depth * 1000);
        run.below = depth ? below_state[depth - 1] : NULL;
        snprintf(run.path, sizeof(run.path), "%s/chain-%u", directory, depth);
        memcpy(path[depth], run.path, sizeof(path[depth]));
        drive_create(&run, depth ? path[depth - 1] : NULL, snapshot[0] ? snapshot : NULL);
        drive_steps(&run);
        bool saved = run.snapshots && drive_chance(&run, 1, 2);
        unsigned n = saved ? (unsigned)drive_random(&run, run.snapshots) : 0;
        snprintf(snapshot, sizeof(snapshot), "%s", saved ? run.snapshot[n].name : "");
        below_state[depth] = drive_copy(saved ? run.snapshot[n].state : run.live);
        drive_release_held(&run);
        assert_int_equal(vdisk_close(run.image, NULL), 0);
        run.image = NULL;
        drive_end(&run);
    }
    for (unsigned depth = 0; depth < CHAIN; depth++) {
        drive_free(below_state[depth]);
        assert_int_equal(unlink(path[depth]), 0);
    }
}

/* ---- the tests ---- */

static void test_raw_small_clusters_and_journal(void **state)
{
    (void)state;
    each_seed(&(struct drive_config){.cluster_bytes = 16384, .journal_log2 = 5, .steps = 600},
              run_once);
}

static void test_compressed_small_clusters(void **state)
{
    (void)state;
    each_seed(
        &(struct drive_config){.cluster_bytes = 16384, .compress = true, .level = -5, .steps = 600},
        run_once);
}

static void test_compressed_with_a_tiny_cache(void **state)
{
    (void)state;
    each_seed(
        &(struct drive_config){.compress = true, .cache_bytes = 1, .journal_log2 = 7, .steps = 600},
        run_once);
}

static void test_compressed_large_clusters(void **state)
{
    (void)state;
    each_seed(
        &(struct drive_config){
            .cluster_bytes = 1 << 20, .compress = true, .level = 3, .steps = 500},
        run_once);
}

static void test_workers(void **state)
{
    (void)state;
    each_seed(&(struct drive_config){.compress = true, .threads = 2, .steps = 500}, run_once);
}

static void test_files_with_workers(void **state)
{
    (void)state;
    each_seed(&(struct drive_config){.compress = true, .threads = 2, .files = true, .steps = 500},
              run_once);
}

static void test_files_raw(void **state)
{
    (void)state;
    each_seed(&(struct drive_config){.files = true, .steps = 500}, run_once);
}

static void test_split_files(void **state)
{
    (void)state;
    each_seed(&(struct drive_config){.files = true, .split_bytes = 16 << 20, .steps = 500},
              run_once);
}

static void test_overlays(void **state)
{
    (void)state;
    each_seed(&(struct drive_config){.compress = true, .files = true, .steps = 200}, overlay_once);
}

static void test_overlays_raw(void **state)
{
    (void)state;
    each_seed(&(struct drive_config){.cluster_bytes = 16384, .files = true, .steps = 200},
              overlay_once);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_raw_small_clusters_and_journal),
        cmocka_unit_test(test_compressed_small_clusters),
        cmocka_unit_test(test_compressed_with_a_tiny_cache),
        cmocka_unit_test(test_compressed_large_clusters),
        cmocka_unit_test(test_workers),
        cmocka_unit_test(test_files_with_workers),
        cmocka_unit_test(test_files_raw),
        cmocka_unit_test(test_split_files),
        cmocka_unit_test(test_overlays),
        cmocka_unit_test(test_overlays_raw),
    };
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
