/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole image in which one structure was replaced, validly sealed, by the input; then everything
 * is asked of it. Errors are fine, and so is nonsense; nothing else.
 *
 * Input: one byte chooses the image (bit 0) and how the rest is taken (bit 1: as the structure's
 * bytes; else as changes to them, of 4 bytes each: offset (2), operation (1), value (1)); the next
 * the structure; the third what is done to the image.
 */
#include "hostile.h"
#include "require.h"
#include "tamper_kit.h"

#include <stdio.h>

static uint8_t buffer[1 << 16] __attribute__((aligned(4096)));

static bool ignore_extent(void *opaque, const struct vdisk_extent *extent)
{
    (void)opaque;
    require(extent->length > 0);
    return true;
}

struct names {
    unsigned count;
    char name[8][VDISK_NAME_MAX + 1];
};

static bool note_name(void *opaque, const struct vdisk_snapshot_info *info)
{
    struct names *names = opaque;

    if (names->count < 8)
        memcpy(names->name[names->count++], info->name, sizeof(info->name));
    return names->count < 8;
}

/* Where there was something, and the end; the size may be anything. */
static void read_all(struct vdisk_image *image, struct vdisk_snapshot *snapshot, uint64_t size)
{
    for (uint64_t at = 0; at < size && at < 8 << 20; at += 1 << 20) {
        uint64_t n = size - at < sizeof(buffer) ? size - at : sizeof(buffer);

        (void)(snapshot ? vdisk_snapshot_read(snapshot, at, buffer, n)
                        : vdisk_read(image, at, buffer, n));
    }
    if (!snapshot && size >= 65536)
        (void)vdisk_read(image, size - 65536, buffer, 65536);
    (void)vdisk_map(image, snapshot, 0, size, true, ignore_extent, NULL);
}

static void look(struct vdisk_image *image)
{
    static struct names names;
    struct vdisk_info info;

    names.count = 0;
    vdisk_get_info(image, &info);
    read_all(image, NULL, info.size);
    (void)vdisk_snapshot_list(image, note_name, &names);
    for (unsigned i = 0; i < names.count; i++) {
        struct vdisk_snapshot *snapshot;
        struct vdisk_snapshot_info about;

        if (vdisk_snapshot_open(image, names.name[i], &snapshot))
            continue;
        vdisk_snapshot_get_info(snapshot, &about);
        read_all(image, snapshot, about.size);
        (void)vdisk_diff(image, snapshot, NULL, ignore_extent, NULL);
        (void)vdisk_diff(image, NULL, snapshot, ignore_extent, NULL);
        vdisk_snapshot_close(snapshot);
    }
    (void)vdisk_check(image, NULL, NULL);
}

/* Each of these may fail, and after one that did the others must still be safe. */
static void change(struct vdisk_image *image, unsigned how)
{
    struct vdisk_check_options repair = {.struct_bytes = sizeof(repair), .repair = true};

    (void)tamper_write(image, 0, 65536, 1, true);
    (void)tamper_write(image, 1 << 20, 16384, 2, false);
    (void)vdisk_zero(image, 4096, 8192);
    (void)vdisk_flush(image);
    if (how & 1)
        (void)vdisk_snapshot_create(image, "new");
    if (how & 2)
        (void)vdisk_snapshot_delete(image, how & 4 ? "b" : "c");
    if (how & 8)
        (void)vdisk_snapshot_rollback(image, how & 4 ? "b" : "c");
    if (how & 16)
        (void)vdisk_resize(image, how & 32 ? 4 << 20 : 600 << 20, true);
    if (how & 64)
        (void)vdisk_compact(image, NULL, NULL, NULL);
    if (how & 128)
        (void)vdisk_check(image, &repair, NULL);
    (void)vdisk_discard(image, 0, vdisk_size(image) < 8 << 20 ? vdisk_size(image) : 8 << 20);
    (void)tamper_write(image, 8192, 4096, 3, false);
}

static void apply_changes(uint8_t *plain, size_t length, const uint8_t *data, size_t size)
{
    for (; size >= 4; data += 4, size -= 4) {
        uint8_t *at = plain + (size_t)(data[0] | data[1] << 8) % length;

        switch (data[2] % 4) {
        case 0:
            *at = data[3];
            break;
        case 1:
            *at ^= data[3];
            break;
        case 2:
            *at = (uint8_t)(*at + data[3]);
            break;
        default: /* bytes of one place at another */
            for (size_t i = 0; i < 8 && at + i < plain + length; i++)
                at[i] = plain[(data[3] * 16u + i) % length];
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct hostile *hostile[2];
    static uint8_t plain[HOSTILE_BYTES_MAX];
    struct vdisk_image *image;

    if (size < 3)
        return 0;
    if (!hostile[0]) {
        require(vdisk_init() == 0);
        sim_randombytes_install(1);
        hostile[0] = hostile_new(true);
        hostile[1] = hostile_new(false);
    }
    sim_randombytes_install(2);
    const struct hostile *h = hostile[data[0] & 1];
    unsigned number = data[1] % h->count;
    size_t length = h->piece[number].context.length;

    memcpy(plain, h->piece[number].plain, length);
    if (data[0] & 2)
        take_bytes(plain, length, data + 3, size - 3);
    else
        apply_changes(plain, length, data + 3, size - 3);
    struct sim *disk = hostile_disk(h, number, plain);

    struct vdisk_open_options options = {.struct_bytes = sizeof(options),
                                         .read_only = true,
                                         .cache_bytes = 1 << 18,
                                         .base_path = "/nonexistent/base",
                                         .io = sim_io(disk)};

    if (vdisk_open("simulated", &options, &tamper_key, &image, NULL) == 0) {
        look(image);
        require(vdisk_close(image, NULL) == 0);
    }
    options.read_only = false;
    if (vdisk_open("simulated", &options, &tamper_key, &image, NULL) == 0) {
        if (data[0] & 4)
            look(image);
        change(image, data[2]);
        (void)vdisk_close(image, NULL);
    }
    if (vdisk_open("simulated", &options, &tamper_key, &image, NULL) == 0) {
        look(image);
        vdisk_abandon(image);
    }
    sim_free(disk);
    return 0;
}
