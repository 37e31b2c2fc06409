/* SPDX-License-Identifier: Apache-2.0 */
/* Images with validly sealed nonsense in them (hostile.h). */
#include "hostile.h"

#include "bytes.h"
#include "image.h"
#include "pieces.h"
#include "require.h"
#include "tamper_kit.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)

/* --- building --- */

static void fill(struct vdisk_image *image)
{
    require(tamper_write(image, 0, 64 * KIB, 1, true) == 0);
    require(tamper_write(image, 1 * MIB, 32 * KIB, 2, false) == 0);
    require(vdisk_zero(image, 1 * MIB + 8 * KIB, 8 * KIB) == 0);
    require(vdisk_snapshot_create(image, "a") == 0);
    require(tamper_write(image, 4 * KIB, 4 * KIB, 3, false) == 0);
    require(vdisk_zero(image, 2 * MIB, 2 * MIB) == 0);
    require(vdisk_snapshot_create(image, "b") == 0);
    require(vdisk_snapshot_rollback(image, "a") == 0);
    require(tamper_write(image, 6 * MIB, 16 * KIB, 4, true) == 0);
    require(vdisk_snapshot_create(image, "c") == 0);
    require(vdisk_snapshot_delete(image, "a") == 0);
    require(tamper_write(image, 16 * KIB, 8 * KIB, 5, false) == 0);
}

static struct sim *build(bool closed)
{
    struct sim *disk = sim_new(1), *left;
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options),
        .size = 8 * MIB,
        .cluster_bytes = 16 * KIB,
        .journal_log2 = 5,
        .compress = true,
        .io = sim_io(disk),
    };
    struct vdisk_image *image;

    sim_set_ordered(disk, true);
    require(vdisk_create("simulated", &options, &tamper_key, &image, NULL) == 0);
    fill(image);
    require(vdisk_close(image, NULL) == 0);
    require(tamper_open(disk, false, &image) == 0);
    require(tamper_write(image, 6 * MIB + 4 * KIB, 4 * KIB, 6, false) == 0);
    if (closed) {
        require(vdisk_close(image, NULL) == 0);
    } else {
        require(vdisk_checkpoint(image) == 0);
        require(tamper_write(image, 3 * MIB, 8 * KIB, 7, false) == 0);
        require(tamper_write(image, 7 * MIB, 32 * KIB, 8, true) == 0);
        require(vdisk_zero(image, 0, 4 * KIB) == 0);
        require(vdisk_discard(image, 6 * MIB, 8 * KIB) == 0);
        require(vdisk_flush(image) == 0);
        vdisk_abandon(image);
    }
    left = sim_crash_image(disk, 1, SIM_KEEP_ALL);
    sim_set_ordered(left, true);
    sim_free(disk);
    return left;
}

/* --- collecting --- */

static void collect(void *arg, const struct piece *piece)
{
    struct hostile *h = arg;
    struct hostile_piece *made = &h->piece[h->count];

    if (piece->context.kind == VD_SEAL_RAW || piece->context.kind == VD_SEAL_ZSTD)
        return;
    for (unsigned i = 0; i < h->count; i++) {
        if (h->piece[i].offset == piece->offset)
            return;
    }
    if (piece->context.kind == VD_SEAL_SUPERBLOCK && h->count &&
        h->piece[h->count - 1].context.kind == VD_SEAL_SUPERBLOCK) {
        h->piece[h->count - 1].second_at = piece->offset;
        return;
    }
    require(h->count < HOSTILE_PIECES_MAX);
    *made =
        (struct hostile_piece){.context = piece->context, .offset = piece->offset, .parent = -1};
    made->context.image_id = h->image_id;
    memcpy(made->secret, piece->secret, VD_KEY_BYTES);
    made->plain = malloc(piece->context.length);
    require(made->plain != NULL);
    sim_raw_read(h->disk, piece->offset, made->plain, piece->context.length);
    struct vd_cipher *cipher = vd_cipher_new(piece->secret);
    int r = piece->context.kind == VD_SEAL_EPOCHS
                ? vd_verify(cipher, &piece->context, made->plain, piece->tag)
                : vd_open(cipher, &piece->context, made->plain, made->plain, piece->tag);

    vd_cipher_free(cipher);
    if (r == 0)
        h->count++;
    else
        free(made->plain);
}

/* Where references are in the plaintext of a piece; false where there are none. */
static bool holds_references(const struct hostile_piece *piece, size_t *from, size_t *end)
{
    const struct vd_seal_context *context = &piece->context;

    *from = 0;
    *end = context->length;
    if (context->kind == VD_SEAL_SUPERBLOCK) {
        *from = 64;
        *end = 192;
        return true;
    }
    return (context->kind == VD_SEAL_NODE || context->kind == VD_SEAL_EPOCHS) &&
           (context->detail % 16 > 0 || context->detail == VD_TREE_SNAPS * 16);
}

/* The piece whose plaintext holds the tag of this one, which is of a tree. */
static void find_parent(struct hostile *h, struct hostile_piece *piece)
{
    size_t from, end;

    for (unsigned i = 0; i < h->count; i++) {
        if (!holds_references(&h->piece[i], &from, &end))
            continue;
        for (size_t at = from; at + VD_REF_BYTES <= end; at += 8) {
            const uint8_t *p = h->piece[i].plain + at;

            if (vd_get48(p) * VD_BLOCK != piece->offset || vd_get64(p + 8) != piece->context.stamp)
                continue;
            piece->parent = (int)i;
            piece->tag_at = at + 16;
        }
    }
    require(piece->parent >= 0);
}

struct hostile *hostile_new(bool closed)
{
    struct hostile *h = calloc(1, sizeof(*h));
    struct vdisk_image *image;

    require(h != NULL);
    h->disk = build(closed);
    require(tamper_open(h->disk, true, &image) == 0);
    memcpy(h->image_id, image->header.image_id, VD_ID_BYTES);
    require(pieces_visit(image, h->disk, collect, h) == 0);
    vdisk_abandon(image);
    for (unsigned i = 0; i < h->count; i++) {
        struct hostile_piece *piece = &h->piece[i];

        if (piece->context.kind == VD_SEAL_RECORD)
            piece->tag_at = piece->offset - VD_RECORD_HEAD;
        else if (piece->context.kind == VD_SEAL_SUPERBLOCK)
            piece->tag_at = piece->offset - VD_SUPER_BODY_AT + VD_SALT_BYTES;
        else
            find_parent(h, piece);
    }
    return h;
}

/* --- forging --- */

struct sim *hostile_disk(const struct hostile *h, unsigned number, const uint8_t *plain)
{
    static uint8_t bytes[HOSTILE_BYTES_MAX], sealed[HOSTILE_BYTES_MAX];
    const struct hostile_piece *piece = &h->piece[number];
    struct sim *disk = sim_clone(h->disk);
    uint8_t tag[VD_TAG_BYTES];

    memcpy(bytes, plain, piece->context.length);
    for (;;) {
        struct vd_cipher *cipher = vd_cipher_new(piece->secret);
        bool plain_kind = piece->context.kind == VD_SEAL_EPOCHS;

        memcpy(sealed, bytes, piece->context.length);
        require(cipher &&
                (plain_kind ? vd_tag(cipher, &piece->context, sealed, tag)
                            : vd_seal(cipher, &piece->context, sealed, sealed, tag)) == 0);
        vd_cipher_free(cipher);
        sim_raw_write(disk, piece->offset, sealed, piece->context.length);
        if (piece->parent < 0)
            break;
        uint64_t at = piece->tag_at;
        piece = &h->piece[piece->parent];
        memcpy(bytes, piece->plain, piece->context.length);
        memcpy(bytes + at, tag, VD_TAG_BYTES);
    }
    sim_raw_write(disk, piece->tag_at, tag, VD_TAG_BYTES);
    if (piece->second_at) {
        sim_raw_write(disk, piece->second_at, sealed, piece->context.length);
        sim_raw_write(disk, piece->second_at - VD_TAG_BYTES, tag, VD_TAG_BYTES);
    }
    return disk;
}
