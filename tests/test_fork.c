/* SPDX-License-Identifier: Apache-2.0 */
/*
 * No key is used twice with one tweak (SPEC.md 20): not by two copies of a file that are both
 * written, not after a crash. Where it must happen, in a process that was cloned with its memory,
 * the tags still hold.
 */
#include "pieces.h"
#include "tamper_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <openssl/evp.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB UINT64_C(1048576)

/* --- all that was ever sealed --- */

struct sealed {
    uint8_t name[16];   /* of key and tweak */
    uint8_t cipher[16]; /* of the ciphertext */
};

struct ledger {
    struct sealed *sealed; /* an open-addressed set */
    size_t count, room;
    unsigned repeats; /* names with two ciphertexts */
    unsigned forged;  /* pieces in a tree whose tag is wrong */
    const struct sim *disk;
};

static struct sealed *find(struct sealed *set, size_t room, const uint8_t *name)
{
    size_t at;

    memcpy(&at, name, sizeof(at));
    for (at &= room - 1; !sodium_is_zero(set[at].name, 16); at = (at + 1) & (room - 1)) {
        if (memcmp(set[at].name, name, 16) == 0)
            break;
    }
    return &set[at];
}

static void grow(struct ledger *ledger)
{
    size_t room = ledger->room ? ledger->room * 2 : 4096;
    struct sealed *set = calloc(room, sizeof(*set));

    assert_non_null(set);
    for (size_t i = 0; i < ledger->room; i++) {
        if (!sodium_is_zero(ledger->sealed[i].name, 16))
            *find(set, room, ledger->sealed[i].name) = ledger->sealed[i];
    }
    free(ledger->sealed);
    ledger->sealed = set;
    ledger->room = room;
}

/* The first time that (key, tweak, ciphertext) is seen the tag is looked at as well. */
static void enter(void *arg, const struct piece *piece)
{
    struct ledger *ledger = arg;
    uint8_t key[64], *bytes = malloc(piece->context.length);
    struct sealed made, *known;
    crypto_generichash_state state;

    assert_non_null(bytes);
    sim_raw_read(ledger->disk, piece->offset, bytes, piece->context.length);
    crypto_kdf_derive_from_key(key, sizeof(key), 1, "vdiskxts", piece->secret);
    crypto_generichash_init(&state, NULL, 0, 16);
    crypto_generichash_update(&state, key, sizeof(key));
    crypto_generichash_update(&state, (const uint8_t *)&piece->context.stamp, 8);
    crypto_generichash_final(&state, made.name, 16);
    crypto_generichash(made.cipher, 16, bytes, piece->context.length, NULL, 0);
    if (ledger->count * 2 >= ledger->room)
        grow(ledger);
    known = find(ledger->sealed, ledger->room, made.name);
    if (memcmp(known->cipher, made.cipher, 16) != 0) {
        struct vd_cipher *cipher = vd_cipher_new(piece->secret);
        int r = vd_verify(cipher, &piece->context, bytes, piece->tag);

        vd_cipher_free(cipher);
        if (r && piece->context.kind != VD_SEAL_RECORD) /* the ring has rests of records */
            ledger->forged++;
        if (r == 0 && piece->context.kind != VD_SEAL_EPOCHS) { /* which are not encrypted */
            if (sodium_is_zero(known->name, 16))
                ledger->count++;
            else
                ledger->repeats++;
            *known = made;
        }
    }
    free(bytes);
}

/* Everything that the image holds at this moment, also what it has in memory alone. */
static void take_stock(struct ledger *ledger, struct vdisk_image *image, const struct sim *disk)
{
    struct sim *now = sim_crash_image(disk, 1, SIM_KEEP_ALL);

    ledger->disk = now;
    assert_int_equal(pieces_visit(image, now, enter, ledger), 0);
    sim_free(now);
}

/* --- a life --- */

/* Writes here and there, with flushes, checkpoints and snapshots. */
static void live(struct vdisk_image *image, const struct sim *disk, struct ledger *ledger,
                 struct sim_rng *rng, unsigned steps)
{
    for (unsigned i = 0; i < steps; i++) {
        uint64_t offset = sim_rng_below(rng, 512) * 16384;
        char name[16];

        snprintf(name, sizeof(name), "s%u", (unsigned)sim_rng_below(rng, 1000000));
        switch (sim_rng_below(rng, 10)) {
        case 0:
            assert_int_equal(vdisk_checkpoint(image), 0);
            break;
        case 1:
            assert_int_equal(vdisk_snapshot_create(image, name), 0);
            break;
        case 2:
        case 3:
            assert_int_equal(vdisk_flush(image), 0);
            break;
        case 4:
            assert_int_equal(vdisk_discard(image, offset, 8192), 0);
            break;
        default:
            assert_int_equal(
                tamper_write(image, offset, 16384, sim_rng_next(rng), sim_rng_chance(rng, 1, 2)),
                0);
        }
        take_stock(ledger, image, disk);
    }
}

static struct sim *small_image(void)
{
    struct sim *disk = sim_new(1);
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options),
        .size = 8 * MIB,
        .cluster_bytes = 16384,
        .journal_log2 = 5,
        .compress = true,
        .io = sim_io(disk),
    };
    struct vdisk_image *image;

    sim_set_ordered(disk, true);
    assert_int_equal(vdisk_create("simulated", &options, &tamper_key, &image, NULL), 0);
    assert_int_equal(tamper_write(image, 0, 65536, 1, true), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
    return disk;
}

static void open_and_live(struct sim *disk, struct ledger *ledger, uint64_t seed, unsigned steps)
{
    struct vdisk_image *image;
    struct sim_rng rng;

    sim_rng_seed(&rng, seed);
    assert_int_equal(tamper_open(disk, false, &image), 0);
    live(image, disk, ledger, &rng, steps);
    assert_int_equal(vdisk_close(image, NULL), 0);
    assert_int_equal(tamper_open(disk, true, &image), 0);
    take_stock(ledger, image, disk);
    vdisk_abandon(image);
}

static void test_two_copies_of_a_file_never_use_a_key_and_tweak_twice(void **state)
{
    struct sim *a = small_image(), *b = sim_clone(a);
    struct ledger ledger = {0};

    (void)state;
    for (unsigned round = 0; round < 4; round++) {
        open_and_live(a, &ledger, 10 + round, 40);
        open_and_live(b, &ledger, 20 + round, 40);
    }
    assert_true(ledger.count > 500);
    assert_int_equal(ledger.repeats, 0);
    assert_int_equal(ledger.forged, 0);
    free(ledger.sealed);
    sim_free(a);
    sim_free(b);
}

/* The control: with the salts the same, as from a random generator that was cloned, the ledger
 * finds what it looks for. */
static void test_the_salt_of_the_epoch_is_what_keeps_copies_apart(void **state)
{
    struct sim *a = small_image(), *b = sim_clone(a);
    struct ledger ledger = {0};

    (void)state;
    sim_randombytes_install(99);
    open_and_live(a, &ledger, 10, 40);
    sim_randombytes_install(99);
    open_and_live(b, &ledger, 20, 40);
    assert_true(ledger.repeats > 10);
    free(ledger.sealed);
    sim_free(a);
    sim_free(b);
}

static void test_after_a_crash_no_key_and_tweak_is_used_again(void **state)
{
    struct sim *disk = small_image();
    struct ledger ledger = {0};
    struct sim_rng rng;

    (void)state;
    sim_rng_seed(&rng, 5);
    for (unsigned round = 0; round < 40; round++) {
        struct vdisk_image *image;
        struct sim *left;

        assert_int_equal(tamper_open(disk, false, &image), 0);
        take_stock(&ledger, image, disk);
        live(image, disk, &ledger, &rng, (unsigned)sim_rng_below(&rng, 16));
        left = sim_crash_image(disk, round, (enum sim_crash_mode)(round % SIM_CRASH_MODES));
        vdisk_abandon(image);
        sim_free(disk);
        disk = left;
    }
    assert_true(ledger.count > 500);
    assert_int_equal(ledger.repeats, 0);
    assert_int_equal(ledger.forged, 0);
    free(ledger.sealed);
    sim_free(disk);
}

/* --- a process that was cloned --- */

/* What a clone does after the fork; in one flush, if it does not close. */
static void go_on(struct vdisk_image *image, uint64_t way, bool close)
{
    for (unsigned i = 0; i < 6; i++) {
        assert_int_equal(tamper_write(image, i * MIB, 8192, way + i, false), 0);
        assert_int_equal(tamper_write(image, i * MIB + 65536, 32768, way + i, true), 0);
        if (close ? i % 3 == 2 : i == 5)
            assert_int_equal(vdisk_flush(image), 0);
    }
    if (close) {
        assert_int_equal(vdisk_snapshot_create(image, "since"), 0);
        assert_int_equal(tamper_write(image, 0, 4096, way, false), 0);
        assert_int_equal(vdisk_close(image, NULL), 0);
    } else {
        vdisk_abandon(image);
    }
}

/* The disk of a child that went on in its own way, with the same random numbers. */
static struct sim *clone_process(struct vdisk_image *image, struct sim *disk, bool close)
{
    char path[512];
    int status;
    pid_t child;

    snprintf(path, sizeof(path), "%s/clone", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        go_on(image, 2000, close);
        struct sim *left = sim_crash_image(disk, 1, SIM_KEEP_ALL);
        _exit(sim_save_file(left, path) ? 1 : 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    struct sim *theirs = sim_load_file(path, 1);

    assert_non_null(theirs);
    sim_set_ordered(theirs, true);
    remove(path);
    return theirs;
}

/* Before the fork, the parent's, the child's. */
static struct tamper_image *clones(bool close)
{
    struct tamper_image *both = calloc(1, sizeof(*both));
    struct sim *child;
    struct vdisk_image *image;

    assert_non_null(both);
    both->sim = small_image();
    assert_int_equal(tamper_open(both->sim, false, &image), 0);
    assert_int_equal(tamper_write(image, 7 * MIB, 4096, 3, false), 0);
    assert_int_equal(vdisk_flush(image), 0);
    tamper_note(both);
    child = clone_process(image, both->sim, close);
    go_on(image, 1000, close);
    tamper_note(both);
    sim_free(both->sim);
    both->sim = child;
    tamper_note(both);
    return both;
}

static void put_block(struct sim *to, const struct sim *from, uint64_t block)
{
    uint8_t bytes[4096];

    sim_raw_read(from, block * 4096, bytes, sizeof(bytes));
    sim_raw_write(to, block * 4096, bytes, sizeof(bytes));
}

struct stamps {
    const struct sim *mine, *theirs;
    unsigned same, different;
};

/* The clones continue alike: the same stamps at the same places. */
static void compare_piece(void *arg, const struct piece *piece)
{
    struct stamps *stamps = arg;
    static uint8_t mine[65536], theirs[65536];

    if (piece->context.kind != VD_SEAL_RAW || piece->context.length > sizeof(mine))
        return;
    sim_raw_read(stamps->mine, piece->offset, mine, piece->context.length);
    sim_raw_read(stamps->theirs, piece->offset, theirs, piece->context.length);
    if (memcmp(mine, theirs, piece->context.length) == 0) {
        stamps->same++;
        return;
    }
    struct vd_cipher *cipher = vd_cipher_new(piece->secret);
    uint8_t tag[VD_TAG_BYTES];

    stamps->different++;
    assert_int_equal(vd_verify(cipher, &piece->context, mine, piece->tag), 0);
    assert_int_equal(vd_verify(cipher, &piece->context, theirs, piece->tag), VDISK_E_NOT_AUTHENTIC);
    assert_int_equal(vd_tag(cipher, &piece->context, theirs, tag), 0);
    assert_memory_not_equal(tag, piece->tag, VD_TAG_BYTES);
    vd_cipher_free(cipher);
}

static void test_clones_of_a_process_refuse_each_others_pieces(void **state)
{
    struct tamper_image *both = clones(true);
    struct sim *parent = both->generation[1].sim, *child = both->generation[2].sim;
    struct stamps stamps = {.mine = parent, .theirs = child};
    struct vdisk_image *image;
    unsigned errors;
    char what[64];

    (void)state;
    assert_int_equal(tamper_open(parent, true, &image), 0);
    assert_int_equal(pieces_visit(image, parent, compare_piece, &stamps), 0);
    vdisk_abandon(image);
    assert_true(stamps.different >= 12); /* as it should be: else this tests nothing */
    both->count = 2;
    for (uint64_t block = 0; block < sim_raw_size(parent) / 4096; block++) {
        struct sim *disk = sim_clone(parent);

        put_block(disk, child, block);
        snprintf(what, sizeof(what), "block %llu of the clone", (unsigned long long)block);
        (void)tamper_judge(both, disk, TAMPER_NEWEST, PICTURE_CHECK, what, &errors);
        sim_free(disk);
    }
    both->count = 3;
    tamper_free(both);
}

/* Even with the superblock: the whole is the one or the other. Of a journal that was not closed the
 * last records can be cut off. */
static void test_two_clones_of_a_process_cannot_be_mixed(void **state)
{
    struct sim_rng rng;
    unsigned errors;
    char what[64];

    (void)state;
    sim_rng_seed(&rng, 1);
    for (unsigned k = 0; k < 2; k++) {
        struct tamper_image *both = clones(k == 0);
        struct sim *parent = both->generation[1].sim, *child = both->generation[2].sim;

        for (unsigned round = 0; round < 300; round++) {
            struct sim *disk = sim_clone(parent);
            unsigned part = 1 + (unsigned)sim_rng_below(&rng, 15);

            for (uint64_t block = 0; block < sim_raw_size(parent) / 4096; block++) {
                if (sim_rng_chance(&rng, part, 16))
                    put_block(disk, child, block);
            }
            snprintf(what, sizeof(what), "mixture %u of two %s clones", round,
                     k == 0 ? "closed" : "running");
            (void)tamper_judge(both, disk, 0, 0, what, &errors);
            sim_free(disk);
        }
        tamper_free(both);
    }
}

/* --- the tag --- */

static void xor_bytes(uint8_t *out, const uint8_t *a, const uint8_t *b, size_t length)
{
    for (size_t i = 0; i < length; i++)
        out[i] = a[i] ^ b[i];
}

/* AES-256-GCM over additional data with a nonce of zeros: what our tag would be without its PRF. */
static void bare_gmac(const uint8_t *bytes, size_t length, uint8_t tag[16])
{
    static const uint8_t key[32] = {1}, nonce[12];
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int done;

    assert_non_null(ctx);
    assert_int_equal(EVP_EncryptInit_ex(ctx, EVP_aes_256_gcm(), NULL, key, nonce), 1);
    assert_int_equal(EVP_EncryptUpdate(ctx, NULL, &done, bytes, (int)length), 1);
    assert_int_equal(EVP_EncryptFinal_ex(ctx, tag, &done), 1);
    assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_GCM_GET_TAG, 16, tag), 1);
    EVP_CIPHER_CTX_free(ctx);
}

/* Under a repeated nonce tag(a) ^ tag(a ^ d) of a bare GMAC depends on d alone, and gives its key
 * away. Ours must not. */
static void test_tags_under_one_stamp_have_no_linear_relation(void **state)
{
    static const uint8_t id[16] = {7}, secret[32] = {9};
    struct vd_seal_context context = {
        .image_id = id, .stamp = 5, .address = 6, .length = 4096, .kind = VD_SEAL_RAW};
    struct vd_cipher *cipher = vd_cipher_new(secret);
    uint8_t message[4][4096], difference[4096], tag[4][16], x[16], y[16];

    (void)state;
    for (unsigned round = 0; round < 64; round++) {
        randombytes_buf(message[0], 4096);
        randombytes_buf(message[2], 4096);
        memset(difference, 0, sizeof(difference));
        randombytes_buf(difference + round * 64, 16);
        xor_bytes(message[1], message[0], difference, 4096);
        xor_bytes(message[3], message[2], difference, 4096);
        for (unsigned i = 0; i < 4; i++)
            bare_gmac(message[i], 4096, tag[i]);
        xor_bytes(x, tag[0], tag[1], 16);
        xor_bytes(y, tag[2], tag[3], 16);
        assert_memory_equal(x, y, 16); /* the attack works on what it is meant for */
        for (unsigned i = 0; i < 4; i++)
            assert_int_equal(vd_tag(cipher, &context, message[i], tag[i]), 0);
        xor_bytes(x, tag[0], tag[1], 16);
        xor_bytes(y, tag[2], tag[3], 16);
        assert_memory_not_equal(x, y, 16);
    }
    vd_cipher_free(cipher);
}

static int start(void **state)
{
    (void)state;
    if (vdisk_init())
        return -1;
    sim_randombytes_install(1);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_copies_of_a_file_never_use_a_key_and_tweak_twice),
        cmocka_unit_test(test_the_salt_of_the_epoch_is_what_keeps_copies_apart),
        cmocka_unit_test(test_after_a_crash_no_key_and_tweak_is_used_again),
        cmocka_unit_test(test_clones_of_a_process_refuse_each_others_pieces),
        cmocka_unit_test(test_two_clones_of_a_process_cannot_be_mixed),
        cmocka_unit_test(test_tags_under_one_stamp_have_no_linear_relation),
    };

    return cmocka_run_group_tests(tests, start, NULL);
}
