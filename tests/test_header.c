/* SPDX-License-Identifier: Apache-2.0 */
/* The header's codec and its keyslots, against known answers (vectors.py) and by property. */
#include "bytes.h"
#include "header.h"
#include "vectors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <sodium.h>
#include <time.h>

/* Costs that a test can afford; 0 is the default, hence never 0. */
#define PASSES 1u
#define KIB    8u

enum vector_slot {
    SLOT_PASSPHRASE = 0,
    SLOT_FILE = 1,
    SLOT_EMPTY = 2,
    SLOT_SHORT_FILE = 3,
    SLOT_RECIPIENT = 4,
    VECTOR_SLOTS = 5,
};

static int start(void **state)
{
    (void)state;
    return vdisk_init();
}

static struct vdisk_key key_of(enum vdisk_key_kind kind, const void *bytes, size_t length)
{
    return (struct vdisk_key){kind, bytes, length, PASSES, KIB};
}

static struct vdisk_key passphrase(const char *text)
{
    return key_of(VDISK_KEY_PASSPHRASE, text, strlen(text));
}

/* The header of vectors.py. */
static struct vd_header vector_header(void)
{
    struct vd_header header = {
        .generation = 5,
        .compat_features = UINT64_C(1) << 63,
        .cluster_log2 = 16,
        .journal_log2 = 9,
        .part_set = 0xdeadbeef,
        .split_bytes = 64 << 20,
    };

    memcpy(header.image_id, vector_image_id, sizeof(header.image_id));
    memcpy(header.commitment, vector_commitment, sizeof(header.commitment));
    for (unsigned i = 0; i < VECTOR_SLOTS; i++)
        assert_int_equal(
            vd_keyslot_decode(&header.slot[i], vector_slots + i * VD_KEYSLOT_BYTES, NULL), 0);
    return header;
}

static void vector_bytes(uint8_t bytes[VD_HEADER_BYTES])
{
    struct vd_header header = vector_header();

    vd_header_encode(&header, vector_header_key, bytes);
}

static void fix_checksum(uint8_t bytes[VD_HEADER_BYTES])
{
    memset(bytes + 4064, 0, 32);
    crypto_generichash(bytes + 4064, 32, bytes, VD_HEADER_BYTES, NULL, 0);
}

/* A header whose only slot is `slot`. */
static struct vd_header header_with(const struct vd_keyslot *slot)
{
    struct vd_header header = vector_header();

    memset(header.slot, 0, sizeof(header.slot));
    header.slot[3] = *slot;
    return header;
}

/* Unlocks; on success the volume key must be the right one, on failure nothing be written. */
static int unlock(const struct vd_header *header, const struct vdisk_key *key, unsigned *slot)
{
    uint8_t volume_key[VD_KEY_BYTES], untouched[VD_KEY_BYTES];
    struct vdisk_error error = {0};

    memset(untouched, 0xa5, sizeof(untouched));
    memset(volume_key, 0xa5, sizeof(volume_key));
    *slot = 99;
    int rc = vd_header_unlock(header, key, slot, volume_key, &error);
    if (rc == 0) {
        assert_memory_equal(volume_key, vector_volume_key, VD_KEY_BYTES);
    } else {
        assert_int_equal(*slot, 99);
        assert_memory_equal(volume_key, untouched, VD_KEY_BYTES);
        assert_int_equal(error.code, rc);
        assert_true(error.text[0] != '\0');
    }
    return rc;
}

static int wrap(struct vd_keyslot *slot, const struct vdisk_key *key)
{
    struct vdisk_error error = {0};

    int rc = vd_keyslot_wrap(slot, key, vector_image_id, vector_volume_key, 1234, &error);
    assert_int_equal(error.code, rc);
    return rc;
}

/* --- codec ------------------------------------------------------------------------------ */

static void the_header_is_encoded_as_the_format_says(void **state)
{
    uint8_t bytes[VD_HEADER_BYTES], hash[32];

    (void)state;
    vector_bytes(bytes);
    assert_memory_equal(bytes + 4096, vector_slots, sizeof(vector_slots));
    assert_memory_equal(bytes + 4032, vector_header_mac, 32);
    assert_memory_equal(bytes + 4064, vector_header_checksum, 32);
    crypto_generichash(hash, 32, bytes, sizeof(bytes), NULL, 0);
    assert_memory_equal(hash, vector_header_hash, 32);
}

static void what_was_encoded_decodes_to_the_same(void **state)
{
    struct vd_header header, expected = vector_header();
    uint8_t bytes[VD_HEADER_BYTES], again[VD_HEADER_BYTES];
    struct vdisk_error error;

    (void)state;
    vector_bytes(bytes);
    assert_int_equal(vd_header_decode(&header, bytes, &error), 0);
    assert_int_equal(header.generation, expected.generation);
    assert_true(header.compat_features == expected.compat_features); /* unknown bits are kept */
    assert_int_equal(header.cluster_log2, expected.cluster_log2);
    assert_int_equal(header.journal_log2, expected.journal_log2);
    assert_int_equal(header.part_set, expected.part_set);
    assert_int_equal(header.split_bytes, expected.split_bytes);
    assert_memory_equal(header.image_id, expected.image_id, VD_ID_BYTES);
    assert_memory_equal(header.commitment, expected.commitment, 32);
    assert_int_equal(vd_header_verify(bytes, vector_header_key), 0);
    vd_header_encode(&header, vector_header_key, again);
    assert_memory_equal(again, bytes, sizeof(bytes));
}

static void any_changed_byte_fails_the_checksum(void **state)
{
    uint8_t bytes[VD_HEADER_BYTES];
    struct vd_header header;

    (void)state;
    vector_bytes(bytes);
    for (unsigned i = 0; i < VD_HEADER_BYTES; i++) {
        uint8_t was = bytes[i];

        bytes[i] ^= (uint8_t)(1 + i % 255);
        assert_int_equal(vd_header_decode(&header, bytes, NULL), VDISK_E_MALFORMED);
        bytes[i] = was;
    }
}

/* Whoever changes the file can make the checksum right, but not the MAC. */
static void any_changed_byte_with_a_right_checksum_fails_the_mac(void **state)
{
    uint8_t bytes[VD_HEADER_BYTES];
    struct vd_header header;

    (void)state;
    vector_bytes(bytes);
    for (unsigned i = 0; i < VD_HEADER_BYTES; i++) {
        uint8_t was = bytes[i];

        if (i >= 4064 && i < 4096)
            continue; /* the checksum itself */
        bytes[i] ^= (uint8_t)(1 + i % 255);
        fix_checksum(bytes);
        int rc = vd_header_decode(&header, bytes, NULL);
        assert_true(rc == 0 || rc == VDISK_E_MALFORMED || rc == VDISK_E_UNSUPPORTED);
        assert_int_equal(vd_header_verify(bytes, vector_header_key), VDISK_E_NOT_AUTHENTIC);
        bytes[i] = was;
    }
    fix_checksum(bytes);
    assert_int_equal(vd_header_verify(bytes, vector_header_key), 0);
    assert_int_equal(vd_header_verify(bytes, vector_epoch_master), VDISK_E_NOT_AUTHENTIC);
}

/* A changed slot gives the right volume key or none: never another one. */
static void any_changed_byte_of_a_slot_never_unlocks_to_another_key(void **state)
{
    const struct vdisk_key keys[] = {passphrase("correct horse"),
                                     key_of(VDISK_KEY_IDENTITY, vector_identity, 32)};
    const unsigned slots[] = {SLOT_PASSPHRASE, SLOT_RECIPIENT};
    uint8_t bytes[VD_HEADER_BYTES];
    struct vd_header header;
    unsigned opened = 0, slot;

    (void)state;
    vector_bytes(bytes);
    for (unsigned k = 0; k < 2; k++) {
        for (unsigned i = 4096 + slots[k] * 256; i < 4096 + slots[k] * 256 + 256; i++) {
            bytes[i] ^= 0x01;
            fix_checksum(bytes);
            if (vd_header_decode(&header, bytes, NULL) == 0)
                opened += unlock(&header, &keys[k], &slot) == 0;
            bytes[i] ^= 0x01;
        }
    }
    assert_int_equal(opened, 16); /* the time of creation, which only the MAC covers */
}

struct field {
    unsigned offset, size;
    uint64_t value;
    int rc;
};

static void each_field_has_its_bounds(void **state)
{
    static const struct field fields[] = {
        {0, 1, 0x88, VDISK_E_MALFORMED},
        {7, 1, 0x0d, VDISK_E_MALFORMED},
        {8, 4, 0, VDISK_E_UNSUPPORTED},
        {8, 4, 2, VDISK_E_UNSUPPORTED},
        {12, 4, 8191, VDISK_E_MALFORMED},
        {12, 4, 16384, VDISK_E_MALFORMED},
        {32, 8, 0, VDISK_E_MALFORMED},
        {32, 8, UINT64_MAX, 0},
        {40, 8, 1, VDISK_E_UNSUPPORTED},
        {40, 8, UINT64_C(1) << 63, VDISK_E_UNSUPPORTED},
        {48, 8, UINT64_MAX, 0},
        {56, 1, 13, VDISK_E_MALFORMED},
        {56, 1, 14, 0},
        {56, 1, 20, 0},
        {56, 1, 21, VDISK_E_MALFORMED},
        {57, 1, 4, VDISK_E_MALFORMED},
        {57, 1, 5, 0},
        {57, 1, 16, 0},
        {57, 1, 17, VDISK_E_MALFORMED},
        {58, 1, 1, VDISK_E_MALFORMED},
        {59, 1, 1, VDISK_E_MALFORMED},
        {64, 8, 0, 0},
        {64, 8, 15 << 20, VDISK_E_MALFORMED},
        {64, 8, 16 << 20, 0},
        {64, 8, (16 << 20) + 1, VDISK_E_MALFORMED},
        {64, 8, 17 << 20, 0},
        {104, 1, 1, VDISK_E_MALFORMED},
        {4031, 1, 1, VDISK_E_MALFORMED},
        {4096, 1, 4, VDISK_E_MALFORMED}, /* kind of the first slot */
        {4096, 1, 0, VDISK_E_MALFORMED}, /* empty, but not zero */
        {4097, 1, 1, VDISK_E_MALFORMED}, /* zero bytes of a passphrase's slot */
        {4099, 1, 1, VDISK_E_MALFORMED},
        {4108, 1, 1, VDISK_E_MALFORMED},
        {4111, 1, 1, VDISK_E_MALFORMED},
        {4096 + 112, 1, 1, VDISK_E_MALFORMED},
        {4096 + 143, 1, 1, VDISK_E_MALFORMED},
        {4096 + 144, 1, 1, VDISK_E_MALFORMED}, /* public key */
        {4096 + 255, 1, 1, VDISK_E_MALFORMED},
        {4096 + 512 + 255, 1, 1, VDISK_E_MALFORMED}, /* in an empty slot */
        {4096 + 1024 + 4, 4, 1, VDISK_E_MALFORMED},  /* passes of a recipient */
        {4096 + 1024 + 8, 4, 8, VDISK_E_MALFORMED},  /* memory */
        {4096 + 1024 + 16, 1, 1, VDISK_E_MALFORMED}, /* salt */
        {4096 + 1024 + 55, 1, 1, VDISK_E_MALFORMED}, /* nonce */
        {4096 + 1024 + 176, 1, 1, VDISK_E_MALFORMED},
        {4096 + 15 * 256 + 1, 1, 1, VDISK_E_MALFORMED},
    };
    uint8_t bytes[VD_HEADER_BYTES], encoded[8];
    struct vdisk_error error;
    struct vd_header header, untouched;

    (void)state;
    for (unsigned i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
        vector_bytes(bytes);
        vd_put64(encoded, fields[i].value);
        memcpy(bytes + fields[i].offset, encoded, fields[i].size);
        fix_checksum(bytes);
        memset(&header, 0xa5, sizeof(header));
        memset(&untouched, 0xa5, sizeof(untouched));
        error.code = 0;
        int rc = vd_header_decode(&header, bytes, &error);
        if (rc != fields[i].rc)
            print_message("offset %u, value %#llx\n", fields[i].offset,
                          (unsigned long long)fields[i].value);
        assert_int_equal(rc, fields[i].rc);
        assert_int_equal(error.code, rc);
        if (rc)
            assert_memory_equal(&header, &untouched, sizeof(header));
    }
}

/* --- keyslots --------------------------------------------------------------------------- */

static void slots_made_by_another_program_open(void **state)
{
    struct vd_header header = vector_header();
    const struct vdisk_key text = passphrase("correct horse");
    const struct vdisk_key brief = key_of(VDISK_KEY_FILE, "short", 5);
    const struct vdisk_key identity = key_of(VDISK_KEY_IDENTITY, vector_identity, 32);
    struct vdisk_key file;
    uint8_t content[100];
    unsigned slot;

    (void)state;
    for (unsigned i = 0; i < sizeof(content); i++)
        content[i] = (uint8_t)(i * 7 + 3);
    file = key_of(VDISK_KEY_FILE, content, sizeof(content));
    assert_int_equal(unlock(&header, &text, &slot), 0);
    assert_int_equal(slot, SLOT_PASSPHRASE);
    assert_int_equal(unlock(&header, &file, &slot), 0);
    assert_int_equal(slot, SLOT_FILE);
    assert_int_equal(unlock(&header, &brief, &slot), 0);
    assert_int_equal(slot, SLOT_SHORT_FILE);
    assert_int_equal(unlock(&header, &identity, &slot), 0);
    assert_int_equal(slot, SLOT_RECIPIENT);
}

/* Makes a slot with `making`, opens it with `opening`, and not with an altered one. */
static void round_trip(const struct vdisk_key *making, const struct vdisk_key *opening,
                       struct vd_keyslot *made)
{
    uint8_t bytes[VD_HEADER_BYTES], altered[4096];
    struct vdisk_key wrong = *opening;
    struct vd_header header;
    unsigned slot;

    assert_int_equal(wrap(made, making), 0);
    header = header_with(made);
    vd_header_encode(&header, vector_header_key, bytes);
    assert_int_equal(vd_header_decode(&header, bytes, NULL), 0);
    assert_int_equal(unlock(&header, opening, &slot), 0);
    assert_int_equal(slot, 3);
    assert_true(opening->length <= sizeof(altered));
    memcpy(altered, opening->bytes, opening->length);
    altered[opening->length - 1] ^= 2;
    wrong.bytes = altered;
    assert_int_equal(unlock(&header, &wrong, &slot), VDISK_E_WRONG_KEY);
    header.image_id[0] ^= 1;
    assert_int_equal(unlock(&header, opening, &slot), VDISK_E_WRONG_KEY);
}

static void every_kind_of_slot_opens_with_its_key_only(void **state)
{
    uint8_t file[4096], identity[VDISK_IDENTITY_BYTES], public_key[VDISK_PUBLIC_KEY_BYTES];
    struct vdisk_key key, opening;
    struct vd_keyslot slot;

    (void)state;
    key = passphrase("x");
    round_trip(&key, &key, &slot);
    assert_int_equal(slot.kind, VDISK_KEY_PASSPHRASE);
    randombytes_buf(file, sizeof(file));
    for (size_t length = 32; length <= sizeof(file); length *= 2) {
        key = (struct vdisk_key){VDISK_KEY_FILE, file, length, 0, 0};
        round_trip(&key, &key, &slot);
        assert_int_equal(slot.kind, VDISK_KEY_FILE);
        assert_int_equal(slot.passes, 0);
        assert_int_equal(slot.kib, 0);
    }
    vdisk_identity_generate(identity, public_key);
    key = key_of(VDISK_KEY_RECIPIENT, public_key, sizeof(public_key));
    opening = key_of(VDISK_KEY_IDENTITY, identity, sizeof(identity));
    round_trip(&key, &opening, &slot);
    assert_int_equal(slot.kind, VDISK_KEY_RECIPIENT);
    assert_memory_equal(slot.public_key, public_key, sizeof(public_key));
    assert_int_equal(slot.created, 1234);
}

static void a_key_file_of_fewer_than_32_bytes_is_stretched(void **state)
{
    uint8_t file[32];
    struct vdisk_key key;
    struct vd_keyslot slot;

    (void)state;
    randombytes_buf(file, sizeof(file));
    key = key_of(VDISK_KEY_FILE, file, 31);
    round_trip(&key, &key, &slot);
    assert_int_equal(slot.passes, PASSES);
    assert_int_equal(slot.kib, KIB);
    /* A longer one too, where the key names a cost. */
    key = key_of(VDISK_KEY_FILE, file, 32);
    round_trip(&key, &key, &slot);
    assert_int_equal(slot.passes, PASSES);
}

static void a_short_file_does_not_open_an_unstretched_slot(void **state)
{
    struct vd_header header;
    struct vd_keyslot slot;
    unsigned number;
    uint8_t kek[32], ad[61] = "vdisk keyslot";
    crypto_generichash_state hash;
    const struct vdisk_key key = key_of(VDISK_KEY_FILE, "short", 5);

    (void)state;
    /* As a careless or malicious writer would make it; a reader must not take part. */
    slot = (struct vd_keyslot){.kind = VDISK_KEY_FILE};
    crypto_generichash_init(&hash, NULL, 0, 32);
    crypto_generichash_update(&hash, (const uint8_t *)"vdisk key file", 14);
    crypto_generichash_update(&hash, slot.salt, 16);
    crypto_generichash_update(&hash, (const uint8_t *)"short", 5);
    crypto_generichash_final(&hash, kek, 32);
    memcpy(ad + 13, vector_image_id, 16);
    ad[29] = VDISK_KEY_FILE;
    crypto_aead_xchacha20poly1305_ietf_encrypt(slot.wrapped, NULL, vector_volume_key, 32, ad,
                                               sizeof(ad), NULL, slot.nonce, kek);
    header = header_with(&slot);
    assert_int_equal(unlock(&header, &key, &number), VDISK_E_WRONG_KEY);
}

static void a_slot_to_another_volume_key_is_refused_by_the_commitment(void **state)
{
    const struct vdisk_key key = passphrase("correct horse");
    uint8_t other[VD_KEY_BYTES] = {9};
    struct vd_header header = vector_header();
    struct vd_keyslot slot;
    unsigned number;

    (void)state;
    assert_int_equal(vd_keyslot_wrap(&slot, &key, vector_image_id, other, 0, NULL), 0);
    header.slot[5] = header.slot[SLOT_PASSPHRASE];
    header.slot[0] = slot;
    assert_int_equal(unlock(&header, &key, &number), 0);
    assert_int_equal(number, 5); /* the forged one before it was passed over */
    header = header_with(&slot);
    assert_int_equal(unlock(&header, &key, &number), VDISK_E_WRONG_KEY);
}

static double seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void a_cost_out_of_bounds_is_refused_without_being_run(void **state)
{
    static const uint32_t costs[][2] = {
        {1, UINT32_MAX},
        {UINT32_MAX, 8},
        {UINT32_MAX, UINT32_MAX},
        {1, VD_KDF_KIB_MAX + 1},
        {VD_KDF_PASSES_MAX + 1, 8},
        {1, 7},
        {1, 0},
        {0, 8},
    };
    const struct vdisk_key key = passphrase("correct horse");
    struct vd_header header = vector_header();
    unsigned slot;

    (void)state;
    double began = seconds();
    for (unsigned i = 0; i < sizeof(costs) / sizeof(*costs); i++) {
        header.slot[SLOT_PASSPHRASE].passes = costs[i][0];
        header.slot[SLOT_PASSPHRASE].kib = costs[i][1];
        assert_int_equal(unlock(&header, &key, &slot), VDISK_E_UNSUPPORTED);
    }
    /* The same slot as it should be, later in the table, still opens. */
    header.slot[7] = vector_header().slot[SLOT_PASSPHRASE];
    assert_int_equal(unlock(&header, &key, &slot), 0);
    assert_int_equal(slot, 7);
    assert_true(seconds() - began < 0.5);
}

static void no_slot_is_made_that_could_not_be_opened(void **state)
{
    static const uint8_t zeros[32];
    struct vdisk_key keys[] = {
        passphrase(""),
        key_of(VDISK_KEY_FILE, "", 0),
        key_of(VDISK_KEY_RECIPIENT, vector_public_key, 31),
        key_of(VDISK_KEY_RECIPIENT, vector_public_key, 33),
        key_of(VDISK_KEY_RECIPIENT, zeros, 32), /* of low order */
        key_of(VDISK_KEY_IDENTITY, vector_identity, 32),
        key_of((enum vdisk_key_kind)0, "x", 1),
        passphrase("x"),
        passphrase("x"),
        passphrase("x"),
    };
    struct vd_keyslot slot, untouched;

    (void)state;
    keys[7].kdf_passes = VD_KDF_PASSES_MAX + 1;
    keys[8].kdf_kib = VD_KDF_KIB_MAX + 1;
    keys[9].kdf_kib = VD_KDF_KIB_MIN - 1;
    memset(&slot, 0xa5, sizeof(slot));
    memset(&untouched, 0xa5, sizeof(untouched));
    for (unsigned i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        assert_int_equal(wrap(&slot, &keys[i]), -EINVAL);
        assert_memory_equal(&slot, &untouched, sizeof(slot));
    }
}

static void a_key_that_can_open_nothing_is_refused(void **state)
{
    const struct vdisk_key keys[] = {
        key_of(VDISK_KEY_RECIPIENT, vector_public_key, 32),
        key_of(VDISK_KEY_IDENTITY, vector_identity, 31),
        key_of((enum vdisk_key_kind)0, "x", 1),
    };
    const struct vdisk_key empty = {VDISK_KEY_PASSPHRASE, NULL, 0, 0, 0};
    struct vd_header header = vector_header();
    unsigned slot;

    (void)state;
    for (unsigned i = 0; i < sizeof(keys) / sizeof(*keys); i++)
        assert_int_equal(unlock(&header, &keys[i], &slot), -EINVAL);
    assert_int_equal(unlock(&header, &empty, &slot), VDISK_E_WRONG_KEY);
    memset(header.slot, 0, sizeof(header.slot));
    assert_int_equal(unlock(&header, &keys[0], &slot), -EINVAL);
    const struct vdisk_key text = passphrase("correct horse");
    assert_int_equal(unlock(&header, &text, &slot), VDISK_E_WRONG_KEY);
}

static void two_slots_for_one_key_share_nothing(void **state)
{
    const struct vdisk_key keys[] = {passphrase("x"),
                                     key_of(VDISK_KEY_RECIPIENT, vector_public_key, 32)};
    struct vd_keyslot one, other;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(wrap(&one, &keys[i]), 0);
        assert_int_equal(wrap(&other, &keys[i]), 0);
        assert_memory_not_equal(one.wrapped, other.wrapped, 32);
    }
    assert_int_equal(wrap(&one, &keys[0]), 0);
    assert_int_equal(wrap(&other, &keys[0]), 0);
    assert_memory_not_equal(one.salt, other.salt, sizeof(one.salt));
    assert_memory_not_equal(one.nonce, other.nonce, sizeof(one.nonce));
}

static void a_slot_is_described_without_its_secrets(void **state)
{
    struct vd_header header = vector_header();
    struct vdisk_keyslot_info info;

    (void)state;
    vd_keyslot_info(&header.slot[SLOT_SHORT_FILE], 3, &info);
    assert_int_equal(info.slot, 3);
    assert_int_equal(info.kind, VDISK_KEY_FILE);
    assert_int_equal(info.kdf_passes, 2);
    assert_int_equal(info.kdf_kib, 16);
    assert_int_equal(info.created, 3000);
    vd_keyslot_info(&header.slot[SLOT_RECIPIENT], 4, &info);
    assert_int_equal(info.kind, VDISK_KEY_RECIPIENT);
    assert_memory_equal(info.public_key, vector_public_key, 32);
    header.slot[0].created = UINT64_MAX;
    vd_keyslot_info(&header.slot[0], 0, &info);
    assert_true(info.created == INT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_header_is_encoded_as_the_format_says),
        cmocka_unit_test(what_was_encoded_decodes_to_the_same),
        cmocka_unit_test(any_changed_byte_fails_the_checksum),
        cmocka_unit_test(any_changed_byte_with_a_right_checksum_fails_the_mac),
        cmocka_unit_test(any_changed_byte_of_a_slot_never_unlocks_to_another_key),
        cmocka_unit_test(each_field_has_its_bounds),
        cmocka_unit_test(slots_made_by_another_program_open),
        cmocka_unit_test(every_kind_of_slot_opens_with_its_key_only),
        cmocka_unit_test(a_key_file_of_fewer_than_32_bytes_is_stretched),
        cmocka_unit_test(a_short_file_does_not_open_an_unstretched_slot),
        cmocka_unit_test(a_slot_to_another_volume_key_is_refused_by_the_commitment),
        cmocka_unit_test(a_cost_out_of_bounds_is_refused_without_being_run),
        cmocka_unit_test(no_slot_is_made_that_could_not_be_opened),
        cmocka_unit_test(a_key_that_can_open_nothing_is_refused),
        cmocka_unit_test(two_slots_for_one_key_share_nothing),
        cmocka_unit_test(a_slot_is_described_without_its_secrets),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
