/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Tampering (SPEC.md 15, 19): whatever is done to the bytes of an image, every answer is right or
 * an error. All bytes are changed with VDISK_TEST_LONG=1, a sample otherwise; VDISK_TEST_SEED
 * chooses another sample.
 */
#include "tamper_kit.h"

#include "share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BLOCK      4096u
#define J          32u /* block of the second header copy: 2^journal_log2 */
#define BLOCKS_MAX 1024u

/* One image under attack. */
struct target {
    struct tamper_image *image;
    struct tamper_image *(*build)(void);
    uint64_t rewrite_offset, rewrite_seed; /* a raw block of the live state alone */
    unsigned blocks;                       /* that hold anything but zeros */
    uint32_t block[BLOCKS_MAX];
    bool lenient;          /* the second copies need not help */
    bool tail[BLOCKS_MAX]; /* block was written by the last flush, which nothing followed */
};

static struct target clean = {
    .build = tamper_build_clean, .rewrite_offset = 1118208, .rewrite_seed = 22};
static struct target unclean = {
    .build = tamper_build_unclean, .rewrite_offset = 1118208, .rewrite_seed = 22};
static struct target deleting = {.build = tamper_build_deleting, .rewrite_seed = 49};

static bool is_long(void)
{
    const char *value = getenv("VDISK_TEST_LONG");

    return value && strcmp(value, "1") == 0;
}

static uint64_t seed(void)
{
    const char *value = getenv("VDISK_TEST_SEED");

    return value ? strtoull(value, NULL, 0) : 1;
}

/* --- what is allowed --- */

/* Opened for writing, changed a little and closed, it is still right or an error. The new data is
 * the old: what the newest generation shows does not change. */
static void rewrite(const struct target *t, const struct sim *disk, unsigned oldest,
                    const char *what)
{
    struct sim *copy = sim_clone(disk);
    struct vdisk_image *image;
    unsigned errors;

    if (tamper_open(copy, false, &image) == 0) {
        if (oldest == TAMPER_NEWEST &&
            tamper_write(image, t->rewrite_offset, BLOCK, t->rewrite_seed, false) == 0)
            (void)vdisk_flush(image);
        (void)vdisk_close(image, NULL);
    }
    (void)tamper_judge(t->image, copy, oldest, 0, what, &errors);
    sim_free(copy);
}

static bool always_right(const struct target *t, uint64_t block)
{
    if (block % J < 3 && block < 2 * J)
        return true;                       /* a header copy or a superblock slot */
    return t != &unclean && block < J + 4; /* a journal that holds nothing */
}

static unsigned oldest_allowed(const struct target *t, unsigned i)
{
    return t->tail[i] ? t->image->count - 2 : TAMPER_NEWEST;
}

/* The whole judgement of one changed disk of which block number i (in the list) differs. */
static void expect(const struct target *t, struct sim *disk, unsigned i, uint64_t round,
                   const char *what)
{
    int flags = (round % 8 == 0 ? PICTURE_CHECK : 0) | (round % 512 == 1 ? PICTURE_WHOLE : 0);
    unsigned errors = 0;
    int r =
        tamper_judge(t->image, disk, oldest_allowed(t, i), flags & ~PICTURE_CHECK, what, &errors);

    if (!t->lenient && always_right(t, t->block[i]) && (r || errors))
        fail_msg("%s: an error (%d, %u) for damage that does not matter", what, r, errors);
    if (flags & PICTURE_CHECK && r == 0)
        (void)tamper_judge(t->image, disk, oldest_allowed(t, i), flags, what, &errors);
    if (round % 16 == 3)
        rewrite(t, disk, oldest_allowed(t, i), what);
}

/* --- the targets --- */

static bool is_zero_block(const struct sim *disk, uint64_t block)
{
    uint8_t bytes[BLOCK];

    sim_raw_read(disk, block * BLOCK, bytes, BLOCK);
    return sodium_is_zero(bytes, BLOCK);
}

static bool same_block(const struct sim *a, const struct sim *b, uint64_t block)
{
    uint8_t x[BLOCK], y[BLOCK];

    sim_raw_read(a, block * BLOCK, x, BLOCK);
    sim_raw_read(b, block * BLOCK, y, BLOCK);
    return memcmp(x, y, BLOCK) == 0;
}

static uint64_t disk_blocks(const struct sim *disk)
{
    return (sim_raw_size(disk) + BLOCK - 1) / BLOCK;
}

static void prepare(struct target *t, struct tamper_image *image)
{
    struct sim *disk = tamper_last(image)->sim;

    t->image = image;
    for (uint32_t block = 0; block < disk_blocks(disk); block++) {
        if (is_zero_block(disk, block) && block != 3)
            continue;
        assert_true(t->blocks < BLOCKS_MAX);
        t->tail[t->blocks] =
            t == &unclean && !same_block(disk, image->generation[image->count - 2].sim, block);
        t->block[t->blocks++] = block;
    }
}

static int start(void **state)
{
    (void)state;
    if (vdisk_init())
        return -1;
    sim_randombytes_install(seed());
    prepare(&clean, clean.build());
    prepare(&unclean, unclean.build());
    prepare(&deleting, deleting.build());
    return 0;
}

static int stop(void **state)
{
    (void)state;
    tamper_free(clean.image);
    tamper_free(unclean.image);
    tamper_free(deleting.image);
    return 0;
}

/* --- bytes --- */

static void flip(struct target *t, unsigned i, unsigned byte, uint8_t mask, uint64_t round)
{
    struct sim *disk = tamper_last(t->image)->sim;
    uint64_t at = (uint64_t)t->block[i] * BLOCK + byte;
    uint8_t before, after;
    char what[96];

    snprintf(what, sizeof(what), "byte %u of block %u ^ %02x (round %llu)", byte, t->block[i], mask,
             (unsigned long long)round);
    sim_raw_read(disk, at, &before, 1);
    after = before ^ mask;
    sim_raw_write(disk, at, &after, 1);
    expect(t, disk, i, round, what);
    sim_raw_write(disk, at, &before, 1);
}

static void flip_bytes(struct target *t, unsigned sample)
{
    struct sim_rng rng;
    uint64_t round = 0;

    sim_rng_seed(&rng, seed());
    for (; !is_long() && round < sample; round++)
        flip(t, (unsigned)sim_rng_below(&rng, t->blocks), (unsigned)sim_rng_below(&rng, BLOCK),
             (uint8_t)(1 + sim_rng_below(&rng, 255)), round);
    for (unsigned i = 0; is_long() && i < t->blocks; i++) {
        if (!share_has(i))
            continue;
        for (unsigned byte = 0; byte < BLOCK; byte++) {
            flip(t, i, byte, (uint8_t)(1u << byte % 8), round++);
            flip(t, i, byte, (uint8_t)(1 + sim_rng_below(&rng, 255)), round++);
        }
    }
}

static void test_no_changed_byte_of_a_closed_image_gives_wrong_data(void **state)
{
    (void)state;
    flip_bytes(&clean, 3000);
}

static void test_no_changed_byte_of_an_image_with_a_journal_gives_wrong_data(void **state)
{
    (void)state;
    flip_bytes(&unclean, 3000);
}

static void test_no_changed_byte_during_a_deletion_gives_wrong_data(void **state)
{
    (void)state;
    flip_bytes(&deleting, 800);
}

/* The heads of all structures: magic numbers, salts, tags, stamps, lengths. */
static void test_no_changed_bit_of_a_head_gives_wrong_data(void **state)
{
    struct target *targets[] = {&clean, &unclean};

    (void)state;
    for (unsigned k = 0; k < 2; k++) {
        struct target *t = targets[k];

        for (unsigned i = 0; i < t->blocks && t->block[i] < J + 4; i++) {
            for (unsigned byte = 0; byte < 80; byte++) {
                if (is_long() || (byte + i + k) % 7 == 0)
                    flip(t, i, byte, (uint8_t)(1u << byte % 8), byte);
            }
        }
    }
}

/* --- blocks --- */

/* A copy of the image with this block in the place of number i. */
static struct sim *with_block(const struct target *t, unsigned i, const struct sim *from,
                              uint64_t block)
{
    struct sim *disk = sim_clone(tamper_last(t->image)->sim);
    uint8_t bytes[BLOCK];

    sim_raw_read(from, block * BLOCK, bytes, BLOCK);
    sim_raw_write(disk, (uint64_t)t->block[i] * BLOCK, bytes, BLOCK);
    return disk;
}

static void swap(const struct target *t, unsigned a, unsigned b, uint64_t round)
{
    const struct sim *disk = tamper_last(t->image)->sim;
    struct sim *swapped = with_block(t, a, disk, t->block[b]);
    uint8_t bytes[BLOCK];
    char what[64];
    unsigned errors;

    sim_raw_read(disk, (uint64_t)t->block[a] * BLOCK, bytes, BLOCK);
    sim_raw_write(swapped, (uint64_t)t->block[b] * BLOCK, bytes, BLOCK);
    snprintf(what, sizeof(what), "blocks %u and %u swapped", t->block[a], t->block[b]);
    /* Without the last record, the one before it is the last. */
    unsigned oldest = t->tail[a] || t->tail[b] ? t->image->count - 4 : TAMPER_NEWEST;

    (void)tamper_judge(t->image, swapped, oldest, 0, what, &errors);
    if (round % 16 == 0)
        rewrite(t, swapped, oldest, what);
    sim_free(swapped);
}

static void test_no_two_blocks_can_change_places(void **state)
{
    struct target *targets[] = {&clean, &unclean};
    uint64_t round = 0;

    (void)state;
    for (unsigned k = 0; k < 2; k++) {
        struct target *t = targets[k];

        for (unsigned a = 0; a < t->blocks; a++) {
            if (!share_has(a))
                continue;
            for (unsigned b = 0; b < a; b++) {
                if (is_long() || (a * 31 + b * 17 + seed()) % 3 == 0)
                    swap(t, a, b, round++);
            }
        }
    }
}

static void test_no_block_can_be_wiped(void **state)
{
    struct target *targets[] = {&clean, &unclean, &deleting};
    struct sim *zeros = sim_new(1);
    char what[64];

    (void)state;
    for (unsigned k = 0; k < 3; k++) {
        for (unsigned i = 0; i < targets[k]->blocks; i++) {
            struct sim *disk = with_block(targets[k], i, zeros, 0);

            snprintf(what, sizeof(what), "block %u wiped", targets[k]->block[i]);
            expect(targets[k], disk, i, i, what);
            sim_free(disk);
        }
    }
    sim_free(zeros);
}

static void test_the_file_cannot_be_cut_short(void **state)
{
    struct target *targets[] = {&clean, &unclean, &deleting};
    char what[64];

    (void)state;
    for (unsigned k = 0; k < 3; k++) {
        const struct target *t = targets[k];
        uint64_t end = disk_blocks(tamper_last(t->image)->sim);

        for (uint64_t blocks = 0; blocks < end; blocks += is_long() ? 1 : 1 + blocks / 64) {
            struct sim *disk = sim_clone(tamper_last(t->image)->sim);
            struct vdisk_image *opened;
            unsigned errors;

            sim_raw_truncate(disk, blocks * BLOCK);
            snprintf(what, sizeof(what), "cut to %llu blocks", (unsigned long long)blocks);
            if (blocks < 2)
                assert_int_not_equal(tamper_open(disk, true, &opened), 0);
            else /* the second copies may be gone, the records of the last flush as well */
                (void)tamper_judge(t->image, disk,
                                   t == &unclean ? t->image->count - 4 : TAMPER_NEWEST, 0, what,
                                   &errors);
            sim_free(disk);
        }
    }
}

/* --- older versions --- */

static void test_no_older_version_of_a_block_is_taken_for_the_newest(void **state)
{
    struct target *targets[] = {&clean, &unclean, &deleting};
    char what[64];

    (void)state;
    for (unsigned k = 0; k < 3; k++) {
        struct target *t = targets[k];

        for (unsigned g = 0; g + 1 < t->image->count; g++) {
            const struct sim *old = t->image->generation[g].sim;

            for (unsigned i = 0; i < t->blocks; i++) {
                if (same_block(old, tamper_last(t->image)->sim, t->block[i]) ||
                    (g && same_block(old, t->image->generation[g - 1].sim, t->block[i])))
                    continue;
                struct sim *disk = with_block(t, i, old, t->block[i]);

                snprintf(what, sizeof(what), "block %u of generation %u", t->block[i], g);
                expect(t, disk, i, i + g, what);
                sim_free(disk);
            }
        }
    }
}

static void copy_blocks(struct sim *to, const struct sim *from, uint64_t first, uint64_t count)
{
    uint8_t bytes[BLOCK];

    for (uint64_t block = first; block < first + count; block++) {
        sim_raw_read(from, block * BLOCK, bytes, BLOCK);
        sim_raw_write(to, block * BLOCK, bytes, BLOCK);
    }
}

/* One slot: nothing changes. Both: an older state as a whole, or errors. */
static void test_older_superblocks_bring_back_nothing_or_all(void **state)
{
    struct target *targets[] = {&clean, &unclean};
    char what[64];

    (void)state;
    for (unsigned k = 0; k < 2; k++) {
        const struct target *t = targets[k];

        for (unsigned g = 0; g + 1 < t->image->count; g++) {
            const struct sim *old = t->image->generation[g].sim;

            for (unsigned way = 0; way < 6; way++) {
                struct sim *disk = sim_clone(tamper_last(t->image)->sim);
                unsigned errors = 0, oldest = way < 2 ? TAMPER_NEWEST : 0;

                snprintf(what, sizeof(what), "superblocks of generation %u, way %u", g, way);
                if (way != 1)
                    copy_blocks(disk, old, 2, 1);
                if (way != 0)
                    copy_blocks(disk, old, J + 2, 1);
                if (way >= 3) /* with their journal */
                    copy_blocks(disk, old, 4, J - 4);
                if (way >= 4) /* with the headers */
                    copy_blocks(disk, old, 0, 2);
                if (way == 5)
                    copy_blocks(disk, old, J + 4, disk_blocks(disk) / 2);
                int r = tamper_judge(t->image, disk, oldest, way < 2 ? 0 : PICTURE_CHECK, what,
                                     &errors);
                if (way < 2)
                    assert_true(r == 0 && errors == 0);
                sim_free(disk);
            }
        }
    }
}

static void test_mixtures_of_two_moments_show_one_of_them_or_errors(void **state)
{
    struct target *targets[] = {&clean, &unclean};
    unsigned rounds = is_long() ? 50000 : 500;
    struct sim_rng rng;
    char what[64];

    (void)state;
    sim_rng_seed(&rng, seed());
    for (unsigned round = 0; round < rounds; round++) {
        const struct target *t = targets[round % 2];
        unsigned g = (unsigned)sim_rng_below(&rng, t->image->count - 1), errors;
        unsigned part = 1 + (unsigned)sim_rng_below(&rng, 15);
        const struct sim *old = t->image->generation[g].sim;
        struct sim *disk = sim_clone(tamper_last(t->image)->sim);

        for (uint64_t block = 0; block < disk_blocks(disk); block++) {
            if (sim_rng_chance(&rng, part, 16))
                copy_blocks(disk, old, block, 1);
        }
        snprintf(what, sizeof(what), "mixture %u with generation %u", round, g);
        if (share_has(round / 2)) {
            (void)tamper_judge(t->image, disk, 0, 0, what, &errors);
            rewrite(t, disk, 0, what);
        }
        sim_free(disk);
    }
}

/* --- other images --- */

/* Goes its own way from the last moment of `image`. */
static struct tamper_image *fork_image(const struct tamper_image *image, uint64_t way)
{
    struct tamper_image *fork = calloc(1, sizeof(*fork));
    struct vdisk_image *opened;

    assert_non_null(fork);
    fork->sim = sim_clone(tamper_last(image)->sim);
    assert_int_equal(tamper_open(fork->sim, false, &opened), 0);
    for (unsigned i = 0; i < 4; i++) {
        uint64_t at = i << 20;

        assert_int_equal(tamper_write(opened, at + 65536, 8192, way + i, false), 0);
        assert_int_equal(tamper_write(opened, at + 131072, 16384, way + i, true), 0);
    }
    assert_int_equal(vdisk_snapshot_create(opened, "fork"), 0);
    assert_int_equal(tamper_write(opened, 0, 4096, way, false), 0);
    assert_int_equal(vdisk_close(opened, NULL), 0);
    tamper_note(fork);
    return fork;
}

static void test_pieces_of_a_copy_that_went_its_own_way_are_refused(void **state)
{
    struct target mine = {.image = fork_image(clean.image, 1000), .lenient = true};
    struct tamper_image *other = fork_image(clean.image, 2000);
    const struct sim *theirs = tamper_last(other)->sim;
    char what[64];

    (void)state;
    prepare(&mine, mine.image);
    for (unsigned i = 0; i < mine.blocks; i++) {
        if (same_block(theirs, tamper_last(mine.image)->sim, mine.block[i]))
            continue;
        struct sim *disk = with_block(&mine, i, theirs, mine.block[i]);

        snprintf(what, sizeof(what), "block %u of the other copy", mine.block[i]);
        expect(&mine, disk, i, 8, what);
        sim_free(disk);
    }
    tamper_free(other);
    tamper_free(mine.image);
}

/* Both superblocks too: then it is the other copy, or errors. */
static void test_two_copies_cannot_be_mixed(void **state)
{
    struct tamper_image *both = fork_image(clean.image, 1000);
    struct tamper_image *other = fork_image(clean.image, 2000);
    unsigned rounds = is_long() ? 20000 : 400, errors;
    struct sim_rng rng;

    (void)state;
    sim_rng_seed(&rng, seed());
    both->generation[both->count++] = *tamper_last(other);
    for (unsigned round = 0; round < rounds; round++) {
        struct sim *disk = sim_clone(both->generation[0].sim);
        unsigned part = 1 + (unsigned)sim_rng_below(&rng, 15);

        for (uint64_t block = 0; block < disk_blocks(disk); block++) {
            if (sim_rng_chance(&rng, part, 16) || block == 2 || block == J + 2)
                copy_blocks(disk, both->generation[1].sim, block, 1);
        }
        if (share_has(round))
            (void)tamper_judge(both, disk, 0, 0, "two copies mixed", &errors);
        sim_free(disk);
    }
    both->count--;
    tamper_free(other);
    tamper_free(both);
}

static void test_pieces_of_another_image_with_the_same_key_are_refused(void **state)
{
    struct tamper_image *other = tamper_build_clean();
    const struct sim *theirs = tamper_last(other)->sim;
    unsigned errors = 0;
    char what[64];

    (void)state;
    for (unsigned i = 0; i < clean.blocks; i++) {
        if (!share_has(i))
            continue;
        for (unsigned k = 0; k < (is_long() ? clean.blocks : 2); k++) {
            unsigned from = is_long() ? k : k == 0 ? i : (i * 7 + 3) % clean.blocks;
            struct sim *disk = with_block(&clean, i, theirs, clean.block[from]);

            snprintf(what, sizeof(what), "block %u of another image at %u", clean.block[from],
                     clean.block[i]);
            expect(&clean, disk, i, 8, what);
            sim_free(disk);
        }
    }
    /* Its whole header and superblocks: it is another image, and none of our data belongs to it. */
    struct sim *disk = sim_clone(tamper_last(clean.image)->sim);

    copy_blocks(disk, theirs, 0, 3);
    copy_blocks(disk, theirs, J, 3);
    assert_true(tamper_judge(clean.image, disk, TAMPER_NEWEST, 0, "another header", &errors) ||
                errors);
    sim_free(disk);
    tamper_free(other);
}

/* --- the header --- */

static void forge_checksum(struct sim *disk, uint64_t block)
{
    uint8_t bytes[2 * BLOCK];

    sim_raw_read(disk, block * BLOCK, bytes, sizeof(bytes));
    memset(bytes + 4064, 0, 32);
    crypto_generichash(bytes + 4064, 32, bytes, sizeof(bytes), NULL, 0);
    sim_raw_write(disk, block * BLOCK, bytes, sizeof(bytes));
}

/* Everybody can make the checksum right, and the generation the highest; nobody the MAC. */
static void test_a_forged_header_copy_does_not_hide_the_other(void **state)
{
    static const unsigned offsets[] = {16, 32, 48, 60, 72, 103, 4040, 4097, 4100, 4120, 4200, 4352};
    uint8_t byte;

    (void)state;
    for (unsigned copy = 0; copy < 2; copy++) {
        for (unsigned i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
            struct sim *disk = sim_clone(tamper_last(clean.image)->sim);
            uint64_t at = (uint64_t)copy * J * BLOCK;
            unsigned errors = 0;
            char what[64];

            snprintf(what, sizeof(what), "byte %u of header copy %u forged", offsets[i], copy);
            byte = 0x7f;
            sim_raw_write(disk, at + 37, &byte, 1);
            sim_raw_read(disk, at + offsets[i], &byte, 1);
            byte ^= 0x15;
            sim_raw_write(disk, at + offsets[i], &byte, 1);
            forge_checksum(disk, copy * J);
            int r = tamper_judge(clean.image, disk, TAMPER_NEWEST, 0, what, &errors);
            if (r || errors)
                fail_msg("%s: %d", what, r);
            sim_free(disk);
        }
    }
}

/* --- overlays --- */

static void test_no_changed_byte_of_an_overlay_or_its_base_gives_wrong_data(void **state)
{
    struct target overlay = {.rewrite_seed = 62};
    struct sim_rng rng;
    char path[512], what[64];

    (void)state;
    snprintf(path, sizeof(path), "%s/base-%d", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp",
             getpid());
    prepare(&overlay, tamper_build_overlay(path));
    flip_bytes(&overlay, 300);
    struct sim *base = sim_load_file(path, 1);

    assert_non_null(base);
    sim_rng_seed(&rng, seed());
    for (unsigned round = 0; round < (is_long() ? 20000u : 300u); round++) {
        uint64_t at = (uint64_t)clean.block[sim_rng_below(&rng, clean.blocks)] * BLOCK +
                      sim_rng_below(&rng, BLOCK);
        unsigned errors;
        uint8_t byte;
        FILE *file;

        if (!share_has(round))
            continue;
        file = fopen(path, "r+b");
        assert_non_null(file);
        sim_raw_read(base, at, &byte, 1);
        byte ^= 0x40;
        assert_true(fseek(file, (long)at, SEEK_SET) == 0 && fwrite(&byte, 1, 1, file) == 1);
        assert_int_equal(fflush(file), 0);
        snprintf(what, sizeof(what), "byte %llu of the base", (unsigned long long)at);
        (void)tamper_judge(overlay.image, tamper_last(overlay.image)->sim, TAMPER_NEWEST, 0, what,
                           &errors);
        byte ^= 0x40;
        assert_true(fseek(file, (long)at, SEEK_SET) == 0 && fwrite(&byte, 1, 1, file) == 1);
        fclose(file);
    }
    sim_free(base);
    tamper_free(overlay.image);
    remove(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_changed_byte_of_a_closed_image_gives_wrong_data),
        cmocka_unit_test(test_no_changed_byte_of_an_image_with_a_journal_gives_wrong_data),
        cmocka_unit_test(test_no_changed_byte_during_a_deletion_gives_wrong_data),
        cmocka_unit_test(test_no_changed_bit_of_a_head_gives_wrong_data),
        cmocka_unit_test(test_no_two_blocks_can_change_places),
        cmocka_unit_test(test_no_block_can_be_wiped),
        cmocka_unit_test(test_the_file_cannot_be_cut_short),
        cmocka_unit_test(test_no_older_version_of_a_block_is_taken_for_the_newest),
        cmocka_unit_test(test_older_superblocks_bring_back_nothing_or_all),
        cmocka_unit_test(test_mixtures_of_two_moments_show_one_of_them_or_errors),
        cmocka_unit_test(test_pieces_of_a_copy_that_went_its_own_way_are_refused),
        cmocka_unit_test(test_two_copies_cannot_be_mixed),
        cmocka_unit_test(test_pieces_of_another_image_with_the_same_key_are_refused),
        cmocka_unit_test(test_a_forged_header_copy_does_not_hide_the_other),
        cmocka_unit_test(test_no_changed_byte_of_an_overlay_or_its_base_gives_wrong_data),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
