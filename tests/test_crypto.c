/* SPDX-License-Identifier: Apache-2.0 */
/* Sealing and the derivation of keys, against known answers (vectors.py) and by property. */
#include "crypto.h"
#include "vdisk/vdisk.h"
#include "vectors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/evp.h>
#include <sodium.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH 4096u

static struct vd_cipher *cipher;

static int start(void **state)
{
    (void)state;
    assert_int_equal(vdisk_init(), 0);
    cipher = vd_cipher_new(vector_epoch_secret);
    return cipher ? 0 : -1;
}

static int stop(void **state)
{
    (void)state;
    vd_cipher_free(cipher);
    return 0;
}

static struct vd_seal_context context_of(uint64_t stamp, uint64_t address, uint32_t length,
                                         enum vd_seal_kind kind, uint8_t detail, uint64_t extra)
{
    return (struct vd_seal_context){vector_image_id, stamp, address, length, kind, detail, extra};
}

static struct vd_seal_context some_context(uint32_t length)
{
    return context_of(77, 5, length, VD_SEAL_RAW, 0, 0);
}

static void fill(uint8_t *bytes, size_t length)
{
    for (size_t i = 0; i < length; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 256 + 3);
}

static unsigned distance(const uint8_t *a, const uint8_t *b, size_t length)
{
    unsigned bits = 0;

    for (size_t i = 0; i < length; i++)
        bits += (unsigned)__builtin_popcount(a[i] ^ b[i]);
    return bits;
}

/* --- known answers ---------------------------------------------------------------------- */

static void keys_are_derived_as_the_format_says(void **state)
{
    struct vd_master master;
    uint8_t key[32];

    (void)state;
    vd_master_derive(&master, vector_volume_key);
    assert_memory_equal(master.header, vector_header_key, 32);
    assert_memory_equal(master.superblock, vector_superblock_master, 32);
    assert_memory_equal(master.epoch, vector_epoch_master, 32);
    vd_superblock_secret(&master, vector_image_id, vector_salt, key);
    assert_memory_equal(key, vector_superblock_secret, 32);
    vd_epoch_secret(&master, vector_image_id, 0x010203, vector_salt, key);
    assert_memory_equal(key, vector_epoch_secret, 32);
    vd_epoch_table_secret(&master, vector_image_id, key);
    assert_memory_equal(key, vector_table_secret, 32);
    vd_key_commitment(vector_volume_key, vector_image_id, key);
    assert_memory_equal(key, vector_commitment, 32);
}

static void check_seal(const struct vd_seal_context *context, const uint8_t *tag,
                       const uint8_t *hash)
{
    uint8_t plain[LENGTH], out[LENGTH], made[VD_TAG_BYTES], digest[32];

    fill(plain, sizeof(plain));
    assert_int_equal(vd_seal(cipher, context, plain, out, made), 0);
    assert_memory_equal(made, tag, VD_TAG_BYTES);
    crypto_generichash(digest, 32, out, context->length, NULL, 0);
    assert_memory_equal(digest, hash, 32);
    assert_int_equal(vd_tag(cipher, context, out, made), 0);
    assert_memory_equal(made, tag, VD_TAG_BYTES);
    assert_int_equal(vd_open(cipher, context, out, out, tag), 0);
    assert_memory_equal(out, plain, context->length);
}

static void seals_are_as_the_format_says(void **state)
{
    struct vd_seal_context record =
        context_of(0x0102030405060708, 0x1112131415161718, 16, VD_SEAL_RECORD, 0, 0);
    struct vd_seal_context zstd =
        context_of(0xfffffffffffffffe, UINT64_C(1) << 44, 48, VD_SEAL_ZSTD, 1, 33);
    struct vd_seal_context node = context_of(UINT64_C(1) << 40 | 1, 127, 4096, VD_SEAL_NODE, 37, 0);

    (void)state;
    check_seal(&record, vector_record_tag, vector_record_hash);
    check_seal(&zstd, vector_zstd_tag, vector_zstd_hash);
    check_seal(&node, vector_node_tag, vector_node_hash);
}

/* --- opening ---------------------------------------------------------------------------- */

static void what_was_sealed_opens_again_at_every_length(void **state)
{
    const uint32_t longest = 1u << 20;
    uint8_t *plain = malloc(longest), *out = malloc(longest), tag[VD_TAG_BYTES];

    (void)state;
    assert_true(plain && out);
    for (uint32_t length = 16; length <= longest; length += length < 8192 ? 16 : length - 16) {
        struct vd_seal_context context = some_context(length);

        randombytes_buf(plain, length);
        memset(out, 0, length);
        assert_int_equal(vd_seal(cipher, &context, plain, out, tag), 0);
        assert_memory_not_equal(out, plain, length);
        assert_int_equal(vd_verify(cipher, &context, out, tag), 0);
        assert_int_equal(vd_open(cipher, &context, out, out, tag), 0);
        assert_memory_equal(out, plain, length);
    }
    free(plain);
    free(out);
}

static void sealing_in_place_gives_the_same(void **state)
{
    uint8_t plain[LENGTH], out[LENGTH], tag[VD_TAG_BYTES], tag_in_place[VD_TAG_BYTES];
    struct vd_seal_context context = some_context(LENGTH);

    (void)state;
    fill(plain, LENGTH);
    assert_int_equal(vd_seal(cipher, &context, plain, out, tag), 0);
    assert_int_equal(vd_seal(cipher, &context, plain, plain, tag_in_place), 0);
    assert_memory_equal(plain, out, LENGTH);
    assert_memory_equal(tag, tag_in_place, VD_TAG_BYTES);
}

static void calls_leave_nothing_behind_in_a_cipher(void **state)
{
    uint8_t plain[LENGTH], out[LENGTH], again[LENGTH], tag[VD_TAG_BYTES], tag_again[VD_TAG_BYTES];
    struct vd_seal_context context = some_context(LENGTH);

    (void)state;
    fill(plain, LENGTH);
    assert_int_equal(vd_seal(cipher, &context, plain, out, tag), 0);
    for (uint32_t length = 16; length <= LENGTH; length += 1008) {
        struct vd_seal_context other = context_of(length, 9, length, VD_SEAL_NODE, 16, 0);

        assert_int_equal(vd_seal(cipher, &other, plain, again, tag_again), 0);
        again[0] ^= 1;
        assert_int_equal(vd_open(cipher, &other, again, again, tag_again), VDISK_E_NOT_AUTHENTIC);
        assert_int_equal(vd_seal(cipher, &context, plain, again, tag_again), 0);
        assert_memory_equal(again, out, LENGTH);
        assert_memory_equal(tag_again, tag, VD_TAG_BYTES);
    }
}

/* Opens `sealed` apart and in place, and expects nothing to be written. */
static void expect_refused(struct vd_cipher *with, const struct vd_seal_context *context,
                           const uint8_t *sealed, const uint8_t *tag)
{
    static uint8_t untouched[LENGTH], out[LENGTH];

    memset(untouched, 0xa5, sizeof(untouched));
    memset(out, 0xa5, sizeof(out));
    assert_int_equal(vd_verify(with, context, sealed, tag), VDISK_E_NOT_AUTHENTIC);
    assert_int_equal(vd_open(with, context, sealed, out, tag), VDISK_E_NOT_AUTHENTIC);
    assert_memory_equal(out, untouched, sizeof(out));
    memcpy(out, sealed, context->length);
    assert_int_equal(vd_open(with, context, out, out, tag), VDISK_E_NOT_AUTHENTIC);
    assert_memory_equal(out, sealed, context->length);
}

static void a_changed_bit_anywhere_is_refused_and_nothing_is_written(void **state)
{
    uint8_t bytes[LENGTH], tag[VD_TAG_BYTES];
    struct vd_seal_context context = some_context(LENGTH);

    (void)state;
    fill(bytes, LENGTH);
    assert_int_equal(vd_seal(cipher, &context, bytes, bytes, tag), 0);
    for (unsigned bit = 0; bit < LENGTH * 8; bit += bit < 1024 ? 1 : 61) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        expect_refused(cipher, &context, bytes, tag);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (unsigned bit = 0; bit < VD_TAG_BYTES * 8; bit++) {
        tag[bit / 8] ^= (uint8_t)(1 << bit % 8);
        expect_refused(cipher, &context, bytes, tag);
        tag[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(vd_verify(cipher, &context, bytes, tag), 0);
}

static void another_secret_opens_nothing(void **state)
{
    uint8_t bytes[LENGTH], tag[VD_TAG_BYTES];
    struct vd_seal_context context = some_context(LENGTH);
    struct vd_cipher *other = vd_cipher_new(vector_superblock_secret);

    (void)state;
    assert_non_null(other);
    fill(bytes, LENGTH);
    assert_int_equal(vd_seal(cipher, &context, bytes, bytes, tag), 0);
    expect_refused(other, &context, bytes, tag);
    vd_cipher_free(other);
}

static void each_field_of_the_context_changes_the_tag(void **state)
{
    uint8_t bytes[LENGTH], tag[VD_TAG_BYTES], other_id[VD_ID_BYTES];
    const struct vd_seal_context right = context_of(77, 5, 1024, VD_SEAL_NODE, 16, 8);
    struct vd_seal_context wrong[7];

    (void)state;
    fill(bytes, LENGTH);
    assert_int_equal(vd_seal(cipher, &right, bytes, bytes, tag), 0);
    memset(bytes + 1024, 0, LENGTH - 1024);
    memcpy(other_id, vector_image_id, VD_ID_BYTES);
    other_id[15] ^= 1;
    for (unsigned i = 0; i < 7; i++)
        wrong[i] = right;
    wrong[0].image_id = other_id;
    wrong[1].stamp++;
    wrong[2].address++;
    wrong[3].length += 16; /* the bytes that follow are zeros: only the length tells */
    wrong[4].kind = VD_SEAL_RAW;
    wrong[5].detail++;
    wrong[6].extra++;
    for (unsigned i = 0; i < 7; i++)
        expect_refused(cipher, &wrong[i], bytes, tag);
    for (unsigned bit = 0; bit < 64; bit++) {
        struct vd_seal_context moved = right;

        moved.address ^= UINT64_C(1) << bit;
        expect_refused(cipher, &moved, bytes, tag);
        moved = right;
        moved.stamp ^= UINT64_C(1) << bit;
        expect_refused(cipher, &moved, bytes, tag);
    }
}

/* --- the tag where a stamp repeats ------------------------------------------------------ */

/* What the format would have been with a bare GMAC. */
static void bare_gmac(const uint8_t *sealed, uint32_t length, uint8_t tag[VD_TAG_BYTES])
{
    static const uint8_t key[32] = {1}, iv[12];
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int done;

    assert_non_null(ctx);
    assert_int_equal(EVP_EncryptInit_ex2(ctx, EVP_aes_256_gcm(), key, iv, NULL), 1);
    assert_int_equal(EVP_EncryptUpdate(ctx, NULL, &done, sealed, (int)length), 1);
    assert_int_equal(EVP_EncryptFinal_ex(ctx, tag, &done), 1);
    assert_int_equal(EVP_CIPHER_CTX_ctrl(ctx, EVP_CTRL_AEAD_GET_TAG, VD_TAG_BYTES, tag), 1);
    EVP_CIPHER_CTX_free(ctx);
}

/* The tag of a chosen ciphertext: that of the plaintext which XTS takes to it. */
static void our_tag(const uint8_t *sealed, uint32_t length, uint8_t tag[VD_TAG_BYTES])
{
    struct vd_seal_context context = some_context(length);
    uint8_t key[64], tweak[16] = {(uint8_t)context.stamp}, bytes[LENGTH];
    EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
    int done;

    assert_non_null(ctx);
    crypto_kdf_derive_from_key(key, sizeof(key), 1, "vdiskxts", vector_epoch_secret);
    assert_int_equal(EVP_DecryptInit_ex2(ctx, EVP_aes_256_xts(), key, tweak, NULL), 1);
    assert_int_equal(EVP_DecryptUpdate(ctx, bytes, &done, sealed, (int)length), 1);
    EVP_CIPHER_CTX_free(ctx);
    assert_int_equal(vd_seal(cipher, &context, bytes, bytes, tag), 0);
    assert_memory_equal(bytes, sealed, length);
}

static void xor_of(uint8_t *out, const uint8_t *a, const uint8_t *b, size_t length)
{
    for (size_t i = 0; i < length; i++)
        out[i] = a[i] ^ b[i];
}

/* Whether tag(a) ^ tag(b) ^ tag(c) = tag(a ^ b ^ c), by which GMAC under one nonce is forged. */
static bool is_linear_at(void (*tag_of)(const uint8_t *, uint32_t, uint8_t *),
                         uint8_t pieces[3][64])
{
    uint8_t fourth[64], tags[4][VD_TAG_BYTES], sum[VD_TAG_BYTES];

    xor_of(fourth, pieces[0], pieces[1], 64);
    xor_of(fourth, fourth, pieces[2], 64);
    for (unsigned i = 0; i < 3; i++)
        tag_of(pieces[i], 64, tags[i]);
    tag_of(fourth, 64, tags[3]);
    xor_of(sum, tags[0], tags[1], VD_TAG_BYTES);
    xor_of(sum, sum, tags[2], VD_TAG_BYTES);
    return memcmp(sum, tags[3], VD_TAG_BYTES) == 0;
}

static void the_tag_is_not_linear_as_a_bare_gmac_is(void **state)
{
    uint8_t pieces[3][64];

    (void)state;
    for (unsigned i = 0; i < 64; i++) {
        randombytes_buf(pieces, sizeof(pieces));
        assert_true(is_linear_at(bare_gmac, pieces));
        assert_false(is_linear_at(our_tag, pieces));
    }
}

/* Under GMAC the difference of two tags is a function of the difference of the messages. */
static void equal_differences_do_not_give_equal_differences_of_tags(void **state)
{
    uint8_t one[64], other[64], tags[2][VD_TAG_BYTES], seen[64][VD_TAG_BYTES];

    (void)state;
    for (unsigned i = 0; i < 64; i++) {
        randombytes_buf(one, sizeof(one));
        memcpy(other, one, sizeof(other));
        other[17] ^= 0x20;
        our_tag(one, 64, tags[0]);
        our_tag(other, 64, tags[1]);
        xor_of(seen[i], tags[0], tags[1], VD_TAG_BYTES);
        for (unsigned k = 0; k < i; k++)
            assert_memory_not_equal(seen[i], seen[k], VD_TAG_BYTES);
    }
}

/* All is fixed here, so the bounds (six standard deviations) hold always or never. */
static void two_messages_under_one_stamp_have_unrelated_tags(void **state)
{
    uint8_t plain[64], out[64], first[VD_TAG_BYTES], tag[VD_TAG_BYTES];
    struct vd_seal_context context = some_context(sizeof(plain));
    unsigned sum = 0;

    (void)state;
    fill(plain, sizeof(plain));
    assert_int_equal(vd_seal(cipher, &context, plain, out, first), 0);
    for (unsigned bit = 0; bit < 512; bit++) {
        plain[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(vd_seal(cipher, &context, plain, out, tag), 0);
        plain[bit / 8] ^= (uint8_t)(1 << bit % 8);
        unsigned bits = distance(first, tag, VD_TAG_BYTES);
        assert_in_range(bits, 30, 98);
        sum += bits;
    }
    assert_in_range(sum / 512, 62, 66);
}

static void another_stamp_gives_an_unrelated_ciphertext(void **state)
{
    uint8_t plain[LENGTH] = {0}, out[2][LENGTH], tag[VD_TAG_BYTES];

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct vd_seal_context context = context_of(77 + i, 5, LENGTH, VD_SEAL_RAW, 0, 0);

        assert_int_equal(vd_seal(cipher, &context, plain, out[i], tag), 0);
    }
    assert_in_range(distance(out[0], out[1], LENGTH), LENGTH * 4 - 550, LENGTH * 4 + 550);
    for (unsigned i = 0; i < LENGTH; i += 16)
        assert_memory_not_equal(out[0] + i, out[1] + i, 16);
}

/* --- secrets ---------------------------------------------------------------------------- */

static void secret_memory_can_be_had_in_any_length_and_is_aligned(void **state)
{
    static const size_t lengths[] = {0, 1, 15, 16, 17, 96, 4096, 10000};

    (void)state;
    for (unsigned i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        uint8_t *secret = vdisk_secret_alloc(lengths[i]);

        assert_non_null(secret);
        assert_int_equal((uintptr_t)secret % 16, 0);
        memset(secret, 1, lengths[i]);
        vdisk_secret_free(secret);
    }
    vdisk_secret_free(NULL);
    assert_null(vdisk_secret_alloc(SIZE_MAX));
    assert_null(vdisk_secret_alloc(SIZE_MAX / 2));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_are_derived_as_the_format_says),
        cmocka_unit_test(seals_are_as_the_format_says),
        cmocka_unit_test(what_was_sealed_opens_again_at_every_length),
        cmocka_unit_test(sealing_in_place_gives_the_same),
        cmocka_unit_test(calls_leave_nothing_behind_in_a_cipher),
        cmocka_unit_test(a_changed_bit_anywhere_is_refused_and_nothing_is_written),
        cmocka_unit_test(another_secret_opens_nothing),
        cmocka_unit_test(each_field_of_the_context_changes_the_tag),
        cmocka_unit_test(the_tag_is_not_linear_as_a_bare_gmac_is),
        cmocka_unit_test(equal_differences_do_not_give_equal_differences_of_tags),
        cmocka_unit_test(two_messages_under_one_stamp_have_unrelated_tags),
        cmocka_unit_test(another_stamp_gives_an_unrelated_ciphertext),
        cmocka_unit_test(secret_memory_can_be_had_in_any_length_and_is_aligned),
    };
    return cmocka_run_group_tests(tests, start, stop);
}
