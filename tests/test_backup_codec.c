/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The codecs of a repository: what is encoded decodes to the same, what is cut does not decode; and
 * keyslots, emergency keys, padding.
 */
#include "backup_kit.h"

#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

/* --- padding ------------------------------------------------------------------------------ */

static void test_padding_is_small_and_hides_little_differences(void **state)
{
    (void)state;
    for (size_t length = 1; length < 3000000; length += 1 + length / 50) {
        for (unsigned pad = 0; pad <= 8; pad += pad ? 1 : 3) {
            size_t padded = vb_padded(length, pad);

            assert_true(padded >= length && padded % 16 == 0);
            assert_true(padded - length < 16 + (pad ? length >> pad : 0));
            assert_int_equal(vb_padded(padded, pad), padded);
        }
    }
    assert_int_equal(vb_padded(500001, 5), vb_padded(502000, 5));
}

/* --- keyslots ----------------------------------------------------------------------------- */

static const uint8_t repo_id[VB_REPO_ID_BYTES] = "repository id 1";

static void make_keys(struct vb_keys *keys)
{
    memset(keys, 0, sizeof(*keys));
    randombytes_buf(keys->master, sizeof(keys->master));
    randombytes_buf(keys->sign_seed, sizeof(keys->sign_seed));
    vb_keys_derive(keys);
}

static int unwrap_encoded(const struct vb_slot *slot, const struct vdisk_key *key,
                          const struct vb_id *root, struct vb_keys *keys)
{
    uint8_t body[VB_SLOT_BODY_BYTES];
    struct vb_slot decoded;

    vb_slot_encode(slot, body);
    assert_int_equal(vb_slot_decode(&decoded, body, sizeof(body)), 0);
    return vb_slot_unwrap(&decoded, key, repo_id, root, keys);
}

static void check_slot(const struct vdisk_key *lock, const struct vdisk_key *key,
                       const struct vdisk_key *wrong)
{
    static const enum vb_role roles[] = {VB_ROLE_READ, VB_ROLE_PUT, VB_ROLE_MAINTAIN};
    struct vb_keys read, keys, back;
    struct vdisk_error error = {0};
    struct vb_id other_root = {{1}};
    struct vb_slot slot;

    make_keys(&read);
    for (unsigned i = 0; i < 3; i++) {
        vb_keys_for_role(&read, roles[i], &keys);
        assert_int_equal(vb_slot_wrap(&slot, &keys, lock, false, repo_id, &error), 0);
        assert_int_equal(unwrap_encoded(&slot, key, &read.root_public, &back), 0);
        assert_memory_equal(&back, &keys, sizeof(keys));
        assert_int_equal(unwrap_encoded(&slot, wrong, &read.root_public, &back), VDISK_E_WRONG_KEY);
        assert_int_equal(unwrap_encoded(&slot, key, &other_root, &back), VDISK_E_NOT_AUTHENTIC);
        if (slot.kind != VB_SLOT_RECIPIENT) {
            slot.role = roles[(i + 1) % 3]; /* it is bound */
            assert_int_equal(unwrap_encoded(&slot, key, &read.root_public, &back),
                             VDISK_E_WRONG_KEY);
        }
    }
}

static void test_slots_open_with_their_key(void **state)
{
    static const uint8_t long_file[40] = "forty bytes of a key file";
    uint8_t identity[VDISK_IDENTITY_BYTES], public_key[VDISK_PUBLIC_KEY_BYTES], other[32];
    struct vdisk_key passphrase = {.kind = VDISK_KEY_PASSPHRASE,
                                   .bytes = "correct horse",
                                   .length = 13,
                                   .kdf_passes = 1,
                                   .kdf_kib = 8};
    struct vdisk_key wrong = {.kind = VDISK_KEY_PASSPHRASE, .bytes = "wrong horse", .length = 11};
    struct vdisk_key file = {.kind = VDISK_KEY_FILE, .bytes = long_file, .length = 40};
    struct vdisk_key wrong_file = {.kind = VDISK_KEY_FILE, .bytes = long_file, .length = 39};
    struct vdisk_key recipient = {
        .kind = VDISK_KEY_RECIPIENT, .bytes = public_key, .length = sizeof(public_key)};
    struct vdisk_key opens = {
        .kind = VDISK_KEY_IDENTITY, .bytes = identity, .length = sizeof(identity)};
    struct vdisk_key opens_not = {
        .kind = VDISK_KEY_IDENTITY, .bytes = other, .length = sizeof(other)};

    (void)state;
    vdisk_identity_generate(identity, public_key);
    randombytes_buf(other, sizeof(other));
    check_slot(&passphrase, &passphrase, &wrong);
    check_slot(&file, &file, &wrong_file);
    check_slot(&recipient, &opens, &opens_not);
}

static void test_costs_are_bounded(void **state)
{
    struct vdisk_key key = {.kind = VDISK_KEY_PASSPHRASE,
                            .bytes = "secret",
                            .length = 6,
                            .kdf_passes = 1,
                            .kdf_kib = 8};
    struct vdisk_error error = {0};
    struct vb_keys keys, back;
    struct vb_slot slot;

    (void)state;
    make_keys(&keys);
    assert_int_equal(vb_slot_wrap(&slot, &keys, &key, false, repo_id, &error), 0);
    slot.kib = 1u << 30;
    assert_int_equal(unwrap_encoded(&slot, &key, &keys.root_public, &back), VDISK_E_UNSUPPORTED);
    slot.kib = 8;
    slot.passes = 1000000;
    assert_int_equal(unwrap_encoded(&slot, &key, &keys.root_public, &back), VDISK_E_UNSUPPORTED);
    key.kdf_passes = 17;
    assert_true(vb_slot_wrap(&slot, &keys, &key, false, repo_id, &error) != 0);
}

static void test_emergency_text_finds_slips(void **state)
{
    static const uint8_t bytes[VB_EMERGENCY_BYTES] = {0,  1,  2,   3,   250, 251, 7,  8,  99, 100,
                                                      60, 61, 200, 201, 202, 5,   31, 32, 33, 77};
    static const char digits[] = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";
    char text[VB_EMERGENCY_TEXT_BYTES], typed[80];
    uint8_t back[VB_EMERGENCY_BYTES];
    size_t length = 0;

    (void)state;
    vb_emergency_text(bytes, text);
    assert_int_equal(strlen(text), 44);
    assert_true(vb_emergency_parse(text, strlen(text), back));
    assert_memory_equal(back, bytes, sizeof(back));
    for (const char *at = text; *at; at++) { /* as it may be typed in */
        if (*at == '-')
            continue;
        typed[length++] = *at == '0' ? 'o' : *at == '1' ? 'l' : (char)(*at | (*at > '9' ? 32 : 0));
        if (length % 7 == 0)
            typed[length++] = ' ';
    }
    assert_true(vb_emergency_parse(typed, length, back));
    assert_memory_equal(back, bytes, sizeof(back));
    for (size_t i = 0; text[i]; i++) {
        char right = text[i];

        for (unsigned k = 0; right != '-' && k < 32; k++) {
            text[i] = digits[k];
            assert_int_equal(vb_emergency_parse(text, strlen(text), back), digits[k] == right);
        }
        text[i] = right;
    }
    assert_false(vb_emergency_parse(text, strlen(text) - 1, back));
    assert_false(vb_emergency_parse("", 0, back));
}

/* --- nodes, index, manifests -------------------------------------------------------------------
 */

static void test_nodes(void **state)
{
    static uint8_t bytes[VB_NODE_MAX];
    struct vb_node node, back;
    struct sim_rng rng;

    (void)state;
    sim_rng_seed(&rng, 1);
    for (unsigned round = 0; round < 50; round++) {
        size_t length;

        memset(&node, 0, sizeof(node));
        node.level = (uint8_t)(round % 3 ? 0 : round % 6);
        for (unsigned i = 0; i < VB_NODE_CHILDREN; i++) {
            struct vb_node_entry *entry = &node.entry[i];

            if (i && sim_rng_chance(&rng, 1, 2))
                continue;
            entry->state = node.level               ? VB_NODE_CHILD
                           : sim_rng_below(&rng, 2) ? VB_NODE_BASE
                                                    : VB_NODE_PATCHED;
            sim_rng_fill(&rng, &entry->id, sizeof(entry->id));
            if (entry->state != VB_NODE_PATCHED)
                continue;
            sim_rng_fill(&rng, entry->bitmap, sizeof(entry->bitmap));
            sim_rng_fill(&rng, &entry->patch, sizeof(entry->patch));
        }
        length = vb_node_encode(&node, bytes);
        assert_true(length <= VB_NODE_MAX);
        assert_int_equal(vb_node_decode(&back, bytes, length), 0);
        assert_memory_equal(&back, &node, sizeof(node));
        assert_true(vb_node_decode(&back, bytes, length - 1) != 0);
        assert_true(vb_node_decode(&back, bytes, 7) != 0);
    }
}

static void test_tree_levels(void **state)
{
    static const uint64_t mib = 1 << 20;

    (void)state;
    assert_int_equal(vb_tree_level(1), 0);
    assert_int_equal(vb_tree_level(128 * mib), 0);
    assert_int_equal(vb_tree_level(128 * mib + 1), 1);
    assert_int_equal(vb_tree_level(128 * 128 * mib), 1);
    assert_int_equal(vb_tree_level(128 * 128 * mib + 512), 2);
    assert_int_equal(vb_tree_level(VDISK_SIZE_MAX), 5);
}

static void test_index(void **state)
{
    struct vb_pack packs[3] = {{.length = 1000000}, {.length = 500000}, {.length = 70000}}, *back;
    uint8_t *payload;
    size_t length, count;

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        packs[i].name.b[0] = (uint8_t)(9 - i); /* encoded in ascending order */
        packs[i].segment_count = (uint16_t)(1 + i);
        packs[i].segments = calloc(packs[i].segment_count, VB_SEGMENT_BYTES);
        packs[i].entry_count = 10 * i;
        packs[i].entries = calloc(30, sizeof(*packs[i].entries));
        assert_non_null(packs[i].segments);
        assert_non_null(packs[i].entries);
        for (unsigned k = 0; k < packs[i].entry_count; k++)
            packs[i].entries[k] = (struct vb_entry){.id = {{(uint8_t)k}},
                                                    .offset = 1000 + 100 * k,
                                                    .length = 90,
                                                    .number = k,
                                                    .kind = 1};
    }
    assert_int_equal(vb_index_encode(packs, 3, &payload, &length), 0);
    for (size_t cut = 1; cut < length; cut += 37)
        assert_int_equal(vb_index_decode(payload, length - cut, &back, &count), VDISK_E_MALFORMED);
    assert_int_equal(vb_index_decode(payload, length, &back, &count), 0);
    assert_int_equal(count, 3);
    for (unsigned i = 0; i < 3; i++) {
        const struct vb_pack *was = &packs[2 - i];

        assert_memory_equal(&back[i].name, &was->name, sizeof(was->name));
        assert_int_equal(back[i].length, was->length);
        assert_int_equal(back[i].entry_count, was->entry_count);
        assert_memory_equal(back[i].entries, was->entries,
                            was->entry_count * sizeof(*was->entries));
        vb_pack_release(&back[i]);
        vb_pack_release(&packs[2 - i]);
    }
    free(back);
    free(payload);
}

static void test_manifests(void **state)
{
    static uint8_t bytes[VB_MANIFEST_MAX];
    struct vb_manifest manifest = {.drive = {1},
                                   .sequence = 7,
                                   .size = UINT64_C(300) << 20,
                                   .created = 12345,
                                   .immutable_until = 99,
                                   .previous = {{2}},
                                   .root = {{3}},
                                   .level = 1,
                                   .consistency = VB_CONSISTENT_FILES,
                                   .source = VB_FROM_IMAGE,
                                   .compress = true,
                                   .compress_level = -7,
                                   .cluster_bytes = 65536,
                                   .snapshot_id = 4,
                                   .bytes_read = 5,
                                   .bytes_stored = 6,
                                   .bytes_data = 8,
                                   .drive_name = "größe",
                                   .host = "h",
                                   .snapshot_name = "backup-12345678-7",
                                   .tag_count = 2,
                                   .tag = {"weekly", ""}};
    struct vb_manifest back;
    size_t length = vb_manifest_encode(&manifest, bytes);

    (void)state;
    assert_int_equal(vb_manifest_decode(&back, bytes, length), 0);
    assert_memory_equal(&back, &manifest, sizeof(manifest));
    for (size_t cut = 1; cut <= length; cut++)
        assert_int_equal(vb_manifest_decode(&back, bytes, length - cut), VDISK_E_MALFORMED);
    for (unsigned source = 0; source <= VB_FROM_NBD + 1; source++) {
        bool is_one = source >= VB_FROM_IMAGE && source <= VB_FROM_NBD;

        manifest.source = (uint8_t)source;
        length = vb_manifest_encode(&manifest, bytes);
        assert_int_equal(vb_manifest_decode(&back, bytes, length), is_one ? 0 : VDISK_E_MALFORMED);
    }
    manifest.source = VB_FROM_IMAGE;
    manifest.level = 2; /* not that of the size */
    length = vb_manifest_encode(&manifest, bytes);
    assert_int_equal(vb_manifest_decode(&back, bytes, length), VDISK_E_MALFORMED);
    manifest.level = 1;
    memcpy(manifest.host, "a\nb", 4);
    length = vb_manifest_encode(&manifest, bytes);
    assert_int_equal(vb_manifest_decode(&back, bytes, length), VDISK_E_MALFORMED);
}

/* --- records ------------------------------------------------------------------------------ */

static void test_records_are_bound(void **state)
{
    struct vb_record_context context = {.number = 3, .kind = VB_RECORD_BASE, .id = {{1}}}, wrong;
    uint8_t meta_key[32] = {1}, data_secret[32] = {2}, data_public[32], header[VB_SEGMENT_BYTES];
    struct vb_segment_keys keys = {.repo_id = repo_id,
                                   .meta_key = meta_key,
                                   .data_public = data_public,
                                   .data_secret = data_secret};
    static uint8_t payload[5000], sealed[8000];
    struct vb_segment *segment, *opened;
    struct vb_sealer *sealer;
    const uint8_t *back;
    size_t packed, length;

    (void)state;
    crypto_scalarmult_base(data_public, data_secret);
    randombytes_buf(payload, sizeof(payload));
    assert_int_equal(vb_sealer_new(repo_id, &sealer), 0);
    for (enum vb_segment_kind kind = VB_SEGMENT_DATA; kind <= VB_SEGMENT_META; kind++) {
        assert_int_equal(vb_segment_make(&keys, kind, header, &segment), 0);
        assert_int_equal(vb_sealer_pack(sealer, payload, sizeof(payload), 1, 5, &packed), 0);
        assert_int_equal(vb_sealer_seal(sealer, segment, &context, sealed), 0);
        length = packed + VB_TAG_BYTES;
        assert_int_equal(vb_segment_open(&keys, header, &opened), 0);
        assert_int_equal(vb_sealer_open(sealer, opened, &context, sealed, length, sizeof(payload),
                                        &back, &packed),
                         0);
        assert_int_equal(packed, sizeof(payload));
        assert_memory_equal(back, payload, sizeof(payload));
        assert_int_equal(vb_sealer_open(sealer, opened, &context, sealed, length,
                                        sizeof(payload) - 1, &back, &packed),
                         VDISK_E_MALFORMED);
        wrong = context;
        wrong.number++;
        assert_true(vb_sealer_open(sealer, opened, &wrong, sealed, length, 5000, &back, &packed));
        wrong = context;
        wrong.kind = VB_RECORD_PATCH;
        assert_true(vb_sealer_open(sealer, opened, &wrong, sealed, length, 5000, &back, &packed));
        wrong = context;
        wrong.id.b[9]++;
        assert_true(vb_sealer_open(sealer, opened, &wrong, sealed, length, 5000, &back, &packed));
        vb_segment_free(opened);
        vb_segment_free(segment);
        /* Each byte of a segment's header matters. */
        for (unsigned i = 0; i < VB_SEGMENT_BYTES; i++) {
            header[i] ^= 1;
            assert_true(vb_segment_open(&keys, header, &opened) != 0);
            header[i] ^= 1;
        }
    }
    vb_sealer_free(sealer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_padding_is_small_and_hides_little_differences),
        cmocka_unit_test(test_slots_open_with_their_key),
        cmocka_unit_test(test_costs_are_bounded),
        cmocka_unit_test(test_emergency_text_finds_slips),
        cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_tree_levels),
        cmocka_unit_test(test_index),
        cmocka_unit_test(test_manifests),
        cmocka_unit_test(test_records_are_bound),
    };

    return vdisk_init() ? 1 : cmocka_run_group_tests(tests, NULL, NULL);
}
