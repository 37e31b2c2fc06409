/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Keys of an image: each kind opens, a wrong one of each kind does not; keyslots come and go, are
 * all taken, and the last one stays; and no secret is found in the file, or in a core dump.
 */
#include "lockedmem.c" /* NOLINT(bugprone-suspicious-include) */

#include "image.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <sodium.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB    (UINT64_C(1) << 20)
#define PASSES 1u /* cheap, for tests */
#define KIB    64u

static char directory[PATH_MAX], path[PATH_MAX + 32];
static struct vdisk_error error;
static struct vdisk_image *image;
static uint8_t identity[VDISK_IDENTITY_BYTES], public_key[VDISK_PUBLIC_KEY_BYTES];
static uint8_t other_identity[VDISK_IDENTITY_BYTES], other_public_key[VDISK_PUBLIC_KEY_BYTES];

#define BYTES(k, text)                                                                             \
    (struct vdisk_key)                                                                             \
    {                                                                                              \
        .kind = (k), .bytes = (text), .length = sizeof(text) - 1, .kdf_passes = PASSES,            \
        .kdf_kib = KIB                                                                             \
    }

static struct vdisk_key passphrase(void)
{
    return BYTES(VDISK_KEY_PASSPHRASE, "correct horse battery staple");
}

static struct vdisk_key long_file(void)
{
    static const char bytes[] = "a key file of more than thirty-two bytes, all of them count";
    return (struct vdisk_key){.kind = VDISK_KEY_FILE, .bytes = bytes, .length = sizeof(bytes) - 1};
}

static struct vdisk_key short_file(void)
{
    return BYTES(VDISK_KEY_FILE, "short");
}

static struct vdisk_key recipient(const uint8_t *key)
{
    return (struct vdisk_key){
        .kind = VDISK_KEY_RECIPIENT, .bytes = key, .length = VDISK_PUBLIC_KEY_BYTES};
}

static struct vdisk_key owner(const uint8_t *secret)
{
    return (struct vdisk_key){
        .kind = VDISK_KEY_IDENTITY, .bytes = secret, .length = VDISK_IDENTITY_BYTES};
}

static int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    (void)state;
    snprintf(directory, sizeof(directory), "%s/vdisk-keys-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof(path), "%s/a.vdk", directory);
    vdisk_identity_generate(identity, public_key);
    vdisk_identity_generate(other_identity, other_public_key);
    error = (struct vdisk_error){0};
    image = NULL;
    return 0;
}

static int tear_down(void **state)
{
    char command[PATH_MAX + 16];
    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

static int create_for(const struct vdisk_key *key)
{
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options), .size = MIB, .journal_log2 = 7, .compress = true};
    return vdisk_create(path, &options, key, &image, &error);
}

static int open_as(struct vdisk_key key)
{
    struct vdisk_open_options options = {.struct_bytes = sizeof(options)};
    error = (struct vdisk_error){0};
    int r = vdisk_open(path, &options, &key, &image, &error);
    if (r) {
        assert_int_equal(error.code, r);
        assert_true(error.text[0] && !strchr(error.text, '\n'));
    }
    return r;
}

static void expect_opens(struct vdisk_key key, int slot)
{
    assert_int_equal(open_as(key), 0);
    assert_int_equal(vdisk_key_slot_used(image), slot);
    assert_int_equal(vdisk_close(image, NULL), 0);
}

static void expect_last(int result, int code)
{
    assert_int_equal(result, code);
    assert_int_equal(vdisk_last_error(image)->code, code);
    assert_true(vdisk_last_error(image)->text[0]);
}

static int add(struct vdisk_key key, unsigned *slot)
{
    return vdisk_key_add(image, &key, slot);
}

/* ---- each kind ---- */

static void test_each_kind_opens_what_it_created(void **state)
{
    struct vdisk_key made[] = {passphrase(), long_file(), short_file(), recipient(public_key)};
    struct vdisk_key opens[] = {passphrase(), long_file(), short_file(), owner(identity)};
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(create_for(&made[i]), 0);
        assert_int_equal(vdisk_close(image, NULL), 0);
        expect_opens(opens[i], 0);
        for (unsigned k = 0; k < 4; k++) {
            if (k != i)
                assert_int_equal(open_as(opens[k]), VDISK_E_WRONG_KEY);
        }
        assert_int_equal(unlink(path), 0);
    }
}

static void test_a_wrong_key_of_each_kind_does_not_open(void **state)
{
    struct vdisk_key first = passphrase();
    unsigned slot;
    (void)state;
    assert_int_equal(create_for(&first), 0);
    assert_int_equal(add(long_file(), &slot), 0);
    assert_int_equal(add(short_file(), &slot), 0);
    assert_int_equal(add(recipient(public_key), &slot), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
    assert_int_equal(open_as(BYTES(VDISK_KEY_PASSPHRASE, "correct horse battery stapl")),
                     VDISK_E_WRONG_KEY);
    assert_int_equal(open_as(BYTES(VDISK_KEY_PASSPHRASE, "correct horse battery staple ")),
                     VDISK_E_WRONG_KEY);
    assert_int_equal(open_as(BYTES(VDISK_KEY_FILE, "correct horse battery staple")),
                     VDISK_E_WRONG_KEY);
    assert_int_equal(open_as(BYTES(VDISK_KEY_PASSPHRASE, "short")), VDISK_E_WRONG_KEY);
    assert_int_equal(open_as(owner(other_identity)), VDISK_E_WRONG_KEY);
    expect_opens(passphrase(), 0);
    expect_opens(long_file(), 1);
    expect_opens(short_file(), 2);
    expect_opens(owner(identity), 3);
}

static void test_keys_that_are_none(void **state)
{
    struct vdisk_key bad[] = {
        {.kind = VDISK_KEY_PASSPHRASE, .bytes = "", .length = 0},
        {.kind = VDISK_KEY_FILE, .bytes = "", .length = 0},
        {.kind = VDISK_KEY_RECIPIENT, .bytes = public_key, .length = 31},
        {.kind = VDISK_KEY_IDENTITY, .bytes = identity, .length = 32}, /* makes no slot */
        {.kind = VDISK_KEY_PASSPHRASE, .bytes = "p", .length = 1, .kdf_passes = 17, .kdf_kib = 64},
        {.kind = VDISK_KEY_PASSPHRASE,
         .bytes = "p",
         .length = 1,
         .kdf_passes = 1,
         .kdf_kib = (1u << 20) + 1},
        {.kind = (enum vdisk_key_kind)9, .bytes = "p", .length = 1},
    };
    struct vdisk_key good = long_file();
    (void)state;
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(create_for(&bad[i]), -EINVAL);
        assert_true(error.code == -EINVAL && error.text[0]);
        assert_int_equal(access(path, F_OK), -1);
    }
    assert_int_equal(create_for(&good), 0);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        expect_last(vdisk_key_add(image, &bad[i], NULL), -EINVAL);
    struct vdisk_keyslot_info slots[VDISK_KEYSLOTS];
    assert_int_equal(vdisk_key_list(image, slots), 1);
    assert_int_equal(vdisk_close(image, NULL), 0);
    assert_int_equal(open_as(recipient(public_key)), -EINVAL); /* cannot open */
}

/* ---- keyslots ---- */

static void test_keyslots_come_and_go(void **state)
{
    struct vdisk_keyslot_info slots[VDISK_KEYSLOTS];
    struct vdisk_public_info info;
    struct vdisk_key first = long_file();
    unsigned slot = 99;
    (void)state;
    assert_int_equal(create_for(&first), 0);
    assert_int_equal(vdisk_key_slot_used(image), 0);
    for (unsigned i = 1; i < VDISK_KEYSLOTS; i++) {
        assert_int_equal(add(i % 2 ? recipient(public_key) : passphrase(), &slot), 0);
        assert_int_equal(slot, i);
    }
    slot = 99;
    expect_last(add(passphrase(), &slot), VDISK_E_LIMIT);
    assert_int_equal(slot, 99);
    assert_int_equal(vdisk_key_list(image, slots), VDISK_KEYSLOTS);
    assert_int_equal(vdisk_probe(path, &info, &error), 0);
    assert_int_equal(info.keyslots, VDISK_KEYSLOTS);
    assert_int_equal(info.slot[2].kind, VDISK_KEY_PASSPHRASE);
    assert_int_equal(info.slot[2].kdf_passes, PASSES);
    assert_int_equal(info.slot[2].kdf_kib, KIB);
    assert_int_equal(info.slot[3].kind, VDISK_KEY_RECIPIENT);
    assert_memory_equal(info.slot[3].public_key, public_key, sizeof(public_key));
    expect_last(vdisk_key_remove(image, VDISK_KEYSLOTS), VDISK_E_NOT_FOUND);
    expect_last(vdisk_key_remove(image, UINT_MAX), VDISK_E_NOT_FOUND);
    for (unsigned i = 0; i < VDISK_KEYSLOTS - 1; i++)
        assert_int_equal(vdisk_key_remove(image, i), 0);
    expect_last(vdisk_key_remove(image, 0), VDISK_E_NOT_FOUND);
    expect_last(vdisk_key_remove(image, VDISK_KEYSLOTS - 1), VDISK_E_LIMIT);
    assert_int_equal(vdisk_close(image, NULL), 0);
    assert_int_equal(open_as(long_file()), VDISK_E_WRONG_KEY);
    assert_int_equal(open_as(passphrase()), VDISK_E_WRONG_KEY);
    expect_opens(owner(identity), VDISK_KEYSLOTS - 1);
    assert_int_equal(open_as(owner(identity)), 0);
    assert_int_equal(add(passphrase(), &slot), 0); /* the first that is free */
    assert_int_equal(slot, 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
    expect_opens(passphrase(), 0);
}

static void test_a_new_key_survives_a_crash_and_both_copies_have_it(void **state)
{
    struct vdisk_key first = long_file();
    uint8_t garbage[4096];
    unsigned slot;
    (void)state;
    assert_int_equal(create_for(&first), 0);
    assert_int_equal(add(short_file(), &slot), 0);
    vdisk_abandon(image);
    expect_opens(short_file(), 1);
    randombytes_buf(garbage, sizeof(garbage));
    int fd = open(path, O_RDWR);
    assert_int_equal(pwrite(fd, garbage, sizeof(garbage), 0), sizeof(garbage));
    close(fd);
    expect_opens(short_file(), 1);
    expect_opens(long_file(), 0);
}

/* ---- secrets ---- */

static const char text[] = "what the guest has written, in clear, here and here";

struct secrets {
    uint8_t volume_key[VD_KEY_BYTES];
    struct vd_master master;
};

static void write_and_remember(struct secrets *secrets)
{
    struct vdisk_key first = passphrase();
    static char data[64 * 4096];
    assert_int_equal(create_for(&first), 0);
    for (size_t i = 0; i + sizeof(text) < sizeof(data); i += sizeof(text))
        memcpy(data + i, text, sizeof(text));
    assert_int_equal(vdisk_write(image, 512, data, sizeof(data)), 0);
    assert_int_equal(vdisk_snapshot_create(image, "the name of a snapshot"), 0);
    assert_int_equal(vdisk_write(image, 8192, text, sizeof(text)), 0);
    assert_int_equal(vdisk_flush(image), 0);
    assert_int_equal(add(long_file(), NULL), 0);
    assert_int_equal(add(recipient(public_key), NULL), 0);
    memcpy(secrets->volume_key, image->volume_key, VD_KEY_BYTES);
    secrets->master = *image->master;
}

static void expect_absent(const uint8_t *bytes, size_t length, const void *secret, size_t n)
{
    assert_null(memmem(bytes, length, secret, n));
}

static uint8_t *read_file(size_t *length)
{
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    *length = (size_t)status.st_size;
    uint8_t *bytes = malloc(*length);
    int fd = open(path, O_RDONLY);
    assert_non_null(bytes);
    assert_int_equal(read(fd, bytes, *length), *length);
    close(fd);
    return bytes;
}

static void test_no_secret_is_in_the_file(void **state)
{
    struct secrets secrets;
    size_t length;
    struct vdisk_key pass = passphrase(), file = long_file();
    (void)state;
    write_and_remember(&secrets);
    assert_int_equal(vdisk_close(image, NULL), 0);
    uint8_t *bytes = read_file(&length);
    expect_absent(bytes, length, secrets.volume_key, 16);
    expect_absent(bytes, length, secrets.master.header, 16);
    expect_absent(bytes, length, secrets.master.superblock, 16);
    expect_absent(bytes, length, secrets.master.epoch, 16);
    expect_absent(bytes, length, pass.bytes, 16);
    expect_absent(bytes, length, file.bytes, 16);
    expect_absent(bytes, length, identity, 16);
    expect_absent(bytes, length, "in clear", 8);
    expect_absent(bytes, length, "name of a", 9);
    free(bytes);
}

/* Blocks have gaps between packed clusters, and behind them: no memory of the process goes there.
 */
static void test_gaps_between_extents_hold_no_stale_memory(void **state)
{
    static const uint8_t stale[] = {0xa5, 0x5a, 0xbe};
    static uint8_t data[2 * MIB], marks[32];
    struct vdisk_create_options options = {.struct_bytes = sizeof(options),
                                           .size = 4 * MIB,
                                           .cluster_bytes = 16384,
                                           .journal_log2 = 7,
                                           .compress = true};
    struct vdisk_key first = long_file();
    size_t length;
    (void)state;
    (void)mallopt(M_PERTURB, 0x5a); /* fresh memory is full of 0xa5; with a sanitizer, of 0xbe */
    assert_int_equal(vdisk_create(path, &options, &first, &image, &error), 0);
    /* Sixteen clusters that shrink to a few bytes do not share a block, fifteen do. */
    for (size_t i = 0; i < sizeof(data); i += 16384)
        memset(data + i, 1 + (int)(i >> 14), 16384);
    assert_int_equal(vdisk_write(image, 0, data, sizeof(data)), 0);
    randombytes_buf(data + MIB, 20000); /* and raw blocks behind packed clusters */
    assert_int_equal(vdisk_write(image, 0, data, sizeof(data)), 0);
    assert_int_equal(vdisk_write(image, 4096 + 7, data, MIB), 0);
    assert_int_equal(vdisk_snapshot_create(image, "s"), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
    (void)mallopt(M_PERTURB, 0);
    uint8_t *bytes = read_file(&length);
    for (unsigned i = 0; i < 3; i++) {
        memset(marks, stale[i], sizeof(marks));
        expect_absent(bytes, length, marks, sizeof(marks));
    }
    free(bytes);
}

static unsigned cores_in_directory(void)
{
    DIR *dir = opendir(directory);
    unsigned n = 0;
    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));)
        n += strstr(entry->d_name, "core") != NULL;
    closedir(dir);
    return n;
}

/* A program that hardens itself leaves no core, whatever the limits. */
static void test_a_hardened_program_leaves_no_core(void **state)
{
    int status = 0;
    (void)state;
    pid_t child = fork();
    if (child == 0) {
        struct rlimit all = {RLIM_INFINITY, RLIM_INFINITY};
        struct secrets secrets;
        (void)setrlimit(RLIMIT_CORE, &all);
        int r = vd_process_harden();
        if (chdir(directory) || (r && r != -EBUSY)) /* OpenSSL is in use by the tests before */
            _exit(1);
        write_and_remember(&secrets);
        abort();
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    assert_false(WCOREDUMP(status));
    assert_int_equal(cores_in_directory(), 0);
}

static void test_an_open_image_can_be_opened_again_without_its_key(void **state)
{
    struct vdisk_open_options options = {.struct_bytes = sizeof(options), .read_only = true};
    struct vdisk_unlocked *unlocked = NULL;
    struct vdisk_image *again = NULL;
    struct vdisk_key key = passphrase();
    char byte = 0;
    (void)state;
    assert_int_equal(create_for(&key), 0);
    assert_int_equal(vdisk_write(image, MIB - 1, "x", 1), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
    assert_int_equal(vdisk_open(path, &options, &key, &image, &error), 0);
    unlocked = vdisk_unlocked_of(image);
    assert_non_null(unlocked);
    options.unlocked = unlocked;
    assert_int_equal(vdisk_open(path, &options, NULL, &again, &error), 0);
    vdisk_unlocked_free(unlocked);
    assert_int_equal(vdisk_key_slot_used(again), 0);
    assert_int_equal(vdisk_close(image, NULL), 0);
    assert_int_equal(vdisk_read(again, MIB - 1, &byte, 1), 0);
    assert_int_equal(byte, 'x');
    assert_int_equal(vdisk_close(again, NULL), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_each_kind_opens_what_it_created),
        TEST(test_a_wrong_key_of_each_kind_does_not_open),
        TEST(test_keys_that_are_none),
        TEST(test_an_open_image_can_be_opened_again_without_its_key),
        TEST(test_keyslots_come_and_go),
        TEST(test_a_new_key_survives_a_crash_and_both_copies_have_it),
        TEST(test_no_secret_is_in_the_file),
        TEST(test_gaps_between_extents_hold_no_stale_memory),
        TEST(test_a_hardened_program_leaves_no_core),
    };
    if (vdisk_init())
        return 1;
    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
