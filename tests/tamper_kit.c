/* SPDX-License-Identifier: Apache-2.0 */
/* Images to tamper with (tamper_kit.h). */
#include "tamper_kit.h"

#include "image.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)

static const char key_file[] = "a key file of 64 bytes, so that opening is cheap in every test..";
const struct vdisk_key tamper_key = {VDISK_KEY_FILE, key_file, sizeof(key_file) - 1, 0, 0};
const char *const tamper_passphrase = "correct horse";

static void must(int r, const char *what)
{
    if (r == 0)
        return;
    fprintf(stderr, "tamper_kit: %s: %s\n", what, vdisk_strerror(r));
    abort(); /* a test cannot go on */
}

#define MUST(call) must(call, #call)

int tamper_open(struct sim *sim, bool read_only, struct vdisk_image **image)
{
    struct vdisk_open_options options = {.struct_bytes = sizeof(options),
                                         .read_only = read_only,
                                         .cache_bytes = 1 << 20,
                                         .io = sim_io(sim)};

    return vdisk_open("simulated", &options, &tamper_key, image, NULL);
}

int tamper_write(struct vdisk_image *image, uint64_t offset, uint64_t length, uint64_t seed,
                 bool packs)
{
    uint8_t *data = aligned_alloc(4096, (length + 4095) / 4096 * 4096);
    struct sim_rng rng;
    int r;

    if (!data)
        abort();
    sim_rng_seed(&rng, seed);
    sim_rng_fill(&rng, data, length);
    for (uint64_t i = 0; packs && i < length; i++)
        data[i] = i % 4096 < 64 ? data[i] : (uint8_t)(seed + i / 4096);
    r = vdisk_write(image, offset, data, length);
    free(data);
    return r;
}

void tamper_note(struct tamper_image *image)
{
    struct tamper_generation *generation = &image->generation[image->count++];
    struct vdisk_image *opened;

    if (image->count > TAMPER_GENERATIONS)
        abort();
    generation->sim = sim_crash_image(image->sim, 1, SIM_KEEP_ALL);
    sim_set_ordered(generation->sim, true);
    MUST(tamper_open(generation->sim, true, &opened));
    generation->picture = picture_take(opened);
    vdisk_abandon(opened);
}

void tamper_free(struct tamper_image *image)
{
    for (unsigned i = 0; i < image->count; i++) {
        picture_free(image->generation[i].picture);
        sim_free(image->generation[i].sim);
    }
    sim_free(image->sim);
    free(image);
}

/* --- judging --- */

int tamper_judge(const struct tamper_image *image, struct sim *disk, unsigned oldest, int flags,
                 const char *what, unsigned *errors)
{
    unsigned last = image->count - 1;
    char text[160] = "";

    oldest = oldest < last ? oldest : last;
    *errors = 0;
    for (unsigned g = last + 1; g-- > oldest;) {
        struct picture_result result;
        struct vdisk_image *opened;
        int r = tamper_open(disk, true, &opened);

        if (r) {
            if (r > -10000 || r == VDISK_E_WRONG_KEY)
                fail_msg("%s: opening fails with %d", what, r);
            return r;
        }
        result = picture_compare(image->generation[g].picture, opened, flags);
        vdisk_abandon(opened);
        *errors = result.errors;
        if (!result.wrong)
            return 0;
        if (g == last)
            memcpy(text, result.text, sizeof(text));
    }
    fail_msg("%s: %s", what, text);
    return 0;
}

/* --- building --- */

static struct tamper_image *begin(const char *base_path, uint64_t size, struct vdisk_image **image)
{
    struct tamper_image *made = calloc(1, sizeof(*made));
    struct vdisk_create_options options = {
        .struct_bytes = sizeof(options),
        .size = size,
        .cluster_bytes = 16 * KIB,
        .journal_log2 = 5,
        .compress = true,
        .base_path = base_path,
        .base_key = &tamper_key,
    };

    if (!made)
        abort();
    made->sim = sim_new(1);
    sim_set_ordered(made->sim, true);
    options.io = sim_io(made->sim);
    MUST(vdisk_create("simulated", &options, &tamper_key, image, NULL));
    return made;
}

static void add_slots(struct vdisk_image *image)
{
    struct vdisk_key passphrase = {VDISK_KEY_PASSPHRASE, tamper_passphrase,
                                   strlen(tamper_passphrase), 1, 8};
    uint8_t identity[VDISK_IDENTITY_BYTES], public_key[VDISK_PUBLIC_KEY_BYTES];
    struct vdisk_key recipient = {VDISK_KEY_RECIPIENT, public_key, sizeof(public_key), 0, 0};

    vdisk_identity_generate(identity, public_key);
    MUST(vdisk_key_add(image, &passphrase, NULL));
    MUST(vdisk_key_add(image, &recipient, NULL));
}

static void fill(struct tamper_image *made, struct vdisk_image *image)
{
    MUST(tamper_write(image, 0, 64 * KIB, 1, true));        /* extents that share blocks */
    MUST(tamper_write(image, 1 * MIB, 32 * KIB, 2, false)); /* a raw run */
    MUST(vdisk_zero(image, 1 * MIB + 8 * KIB, 8 * KIB));    /* a zero run in it */
    MUST(vdisk_flush(image));
    tamper_note(made);
    MUST(tamper_write(image, 3 * MIB, 16 * KIB, 3, true));
    MUST(tamper_write(image, 3 * MIB + 4 * KIB, 4 * KIB, 4, false)); /* a patch over it */
    MUST(vdisk_zero(image, 4 * MIB, 2 * MIB));                       /* a zero subtree */
    MUST(tamper_write(image, 299 * MIB, 8 * KIB, 5, false));
    MUST(tamper_write(image, 300 * MIB - 512, 512, 6, false));
    MUST(vdisk_flush(image));
    tamper_note(made);
}

/* Every state that a superblock or a record leads to is noted. */
static void settle(struct tamper_image *made, struct vdisk_image *image)
{
    MUST(vdisk_flush(image));
    tamper_note(made);
}

/* a has two children: b, and, after a rollback, c. So a stays when it is deleted, marked. */
static void branch(struct tamper_image *made, struct vdisk_image *image)
{
    MUST(vdisk_snapshot_create(image, "a"));
    tamper_note(made);
    MUST(tamper_write(image, 0, 16 * KIB, 10, true));
    MUST(tamper_write(image, 1 * MIB, 4 * KIB, 11, false));
    MUST(vdisk_discard(image, 299 * MIB, 8 * KIB));
    settle(made, image);
    MUST(vdisk_snapshot_create(image, "b"));
    tamper_note(made);
    MUST(tamper_write(image, 1 * MIB + 4 * KIB, 4 * KIB, 12, false));
    settle(made, image);
    MUST(vdisk_snapshot_rollback(image, "a"));
    tamper_note(made);
    MUST(tamper_write(image, 32 * KIB, 16 * KIB, 13, true));
    settle(made, image);
    MUST(vdisk_snapshot_create(image, "c"));
    tamper_note(made);
    MUST(vdisk_snapshot_delete(image, "a"));
    tamper_note(made);
    MUST(tamper_write(image, 36 * KIB, 4 * KIB, 14, false));
    settle(made, image);
}

struct tamper_image *tamper_build_clean(void)
{
    struct vdisk_image *image;
    struct tamper_image *made = begin(NULL, 300 * MIB, &image);

    add_slots(image);
    tamper_note(made);
    fill(made, image);
    MUST(vdisk_close(image, NULL));
    tamper_note(made);
    MUST(tamper_open(made->sim, false, &image));
    branch(made, image);
    MUST(vdisk_close(image, NULL));
    tamper_note(made);
    MUST(tamper_open(made->sim, false, &image));
    MUST(tamper_write(image, 1 * MIB + 64 * KIB, 8 * KIB, 20, false));
    MUST(tamper_write(image, 1 * MIB + 128 * KIB, 32 * KIB, 21, true));
    MUST(vdisk_flush(image));
    tamper_note(made);
    MUST(tamper_write(image, 1 * MIB + 68 * KIB, 4 * KIB, 22, false));
    settle(made, image);
    MUST(vdisk_close(image, NULL));
    tamper_note(made);
    return made;
}

struct tamper_image *tamper_build_unclean(void)
{
    struct tamper_image *made = tamper_build_clean();
    struct vdisk_image *image;

    MUST(tamper_open(made->sim, false, &image));
    for (unsigned i = 0; i < 3; i++) {
        uint64_t at = (i + 1) * 2 * MIB;

        MUST(tamper_write(image, at + 64 * KIB, 8 * KIB, 30 + i, false));
        MUST(tamper_write(image, at + 128 * KIB, 16 * KIB, 40 + i, true));
        MUST(vdisk_zero(image, i * 16 * KIB, 4 * KIB));
        MUST(vdisk_flush(image));
        tamper_note(made);
    }
    vdisk_abandon(image);
    return made;
}

struct sim *tamper_interrupt_deletion(const struct sim *disk, uint64_t nth)
{
    struct sim_fault fault = {.op = VDISK_IO_SYNC, .nth = nth, .error = -EIO, .sticky = true};
    struct sim *copy = sim_clone(disk), *left;
    struct vdisk_image *image;

    sim_add_fault(copy, &fault);
    MUST(tamper_open(copy, false, &image));
    (void)vdisk_snapshot_delete(image, "victim");
    vdisk_abandon(image);
    left = sim_crash_image(copy, 1, SIM_KEEP_NONE);
    sim_set_ordered(left, true);
    sim_free(copy);
    return left;
}

static bool is_deleting(struct sim *disk)
{
    struct vdisk_image *image;
    bool deleting;

    MUST(tamper_open(disk, true, &image));
    deleting = image->super->deleting && image->super->delete_cursor;
    vdisk_abandon(image);
    return deleting;
}

struct tamper_image *tamper_build_deleting(void)
{
    struct vdisk_image *image;
    struct tamper_image *made = begin(NULL, 160 * MIB, &image);
    struct sim *left = NULL;

    /* More leaves than one step of a deletion takes. */
    for (unsigned i = 0; i < 66; i++)
        MUST(tamper_write(image, i * 2 * MIB, 4 * KIB, 50 + i, false));
    MUST(vdisk_snapshot_create(image, "victim"));
    tamper_note(made);
    for (unsigned i = 0; i < 66; i++)
        MUST(tamper_write(image, i * 2 * MIB + 4 * KIB, 4 * KIB, 150 + i, false));
    MUST(tamper_write(image, 0, 4 * KIB, 49, false));
    MUST(vdisk_close(image, NULL));
    for (uint64_t nth = 1; nth < 20 && !(left && is_deleting(left)); nth++) {
        sim_free(left);
        left = tamper_interrupt_deletion(made->sim, nth);
    }
    must(left && is_deleting(left) ? 0 : -EINVAL, "no deletion was interrupted");
    sim_free(made->sim);
    made->sim = left;
    MUST(tamper_open(left, false, &image)); /* mends the slot that was not written */
    MUST(vdisk_close(image, NULL));
    tamper_note(made);
    return made;
}

struct tamper_image *tamper_build_overlay(const char *base_path)
{
    struct tamper_image *base = tamper_build_clean(), *made;
    struct vdisk_image *image;

    MUST(sim_save_file(tamper_last(base)->sim, base_path));
    tamper_free(base);
    made = begin(base_path, 0, &image);
    MUST(tamper_write(image, 16 * KIB, 20 * KIB, 60, true));
    MUST(tamper_write(image, 1 * MIB + 4 * KIB, 4 * KIB, 61, false));
    MUST(vdisk_discard(image, 3 * MIB, 8 * KIB));
    MUST(vdisk_zero(image, 298 * MIB, 2 * MIB));
    MUST(vdisk_flush(image));
    tamper_note(made);
    MUST(vdisk_snapshot_create(image, "over"));
    MUST(tamper_write(image, 0, 4 * KIB, 62, false));
    MUST(vdisk_close(image, NULL));
    tamper_note(made);
    return made;
}
