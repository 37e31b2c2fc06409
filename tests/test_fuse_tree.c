/* SPDX-License-Identifier: Apache-2.0 */
/* What a mount shows (tree.h), and its holes (extents.h), over a backing that is made up. */
#include "extents.h"
#include "tree.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SECTOR 512u
#define SIZE   (UINT64_C(64) << 20)
#define STEP   (UINT64_C(1) << 20)

/* Each MiB is data, or not, by the states' patterns; sector 0 is a table of partitions. */
struct fake {
    struct backing backing;
    struct access access;
    struct backing_state state[3];
    uint64_t data; /* bit N: MiB N is data */
    uint8_t table[SECTOR];
    uint64_t part_bytes; /* as much of a map as comes at a time */
    unsigned maps, reads;
    int failure;
};

static struct fake fake;

static int fake_read(struct access *access, unsigned state, uint64_t offset, void *data,
                     uint64_t length)
{
    uint8_t *to = data;

    (void)access;
    assert_true(state < fake.backing.count);
    assert_true(offset + length <= fake.state[state].size);
    fake.reads++;
    for (uint64_t i = 0; i < length; i++)
        to[i] = state == 0 && offset + i < SECTOR ? fake.table[offset + i] : 0;
    return fake.failure;
}

static int fake_map(struct access *access, unsigned state, uint64_t offset, uint64_t length,
                    access_range *each, void *opaque, uint64_t *reached)
{
    uint64_t end = offset + length;

    (void)access;
    (void)state;
    fake.maps++;
    if (fake.part_bytes && length > fake.part_bytes)
        end = offset + fake.part_bytes;
    while (offset < end) {
        uint64_t next = (offset / STEP + 1) * STEP;

        next = next < end ? next : end;
        if (!each(opaque, offset, next - offset, !(fake.data >> (offset / STEP) & 1)))
            break;
        offset = next;
    }
    *reached = offset;
    return fake.failure;
}

static int fake_info(struct access *access, char **text)
{
    (void)access;
    *text = strdup("{}\n");
    return 0;
}

static void put_partition(unsigned slot, uint32_t first, uint32_t sectors)
{
    uint8_t *entry = fake.table + 446 + slot * 16u;

    entry[4] = 0x83;
    memcpy(entry + 8, &first, 4);
    memcpy(entry + 12, &sectors, 4);
    fake.table[510] = 0x55;
    fake.table[511] = 0xaa;
}

static struct tree *make(bool writable)
{
    static const struct access_ops ops = {.read = fake_read, .map = fake_map, .info = fake_info};
    struct tree *tree;

    fake = (struct fake){
        .access.ops = &ops,
        .state = {{"", SIZE, 0}, {"monday", SIZE / 2, 5000000007}, {"disk", SIZE, 1}},
    };
    fake.backing =
        (struct backing){.name = "fake", .writable = writable, .count = 3, .state = fake.state};
    put_partition(0, 2048, 4096);
    put_partition(2, 8192, 2048);
    tree = tree_new(&fake.backing, NULL);
    assert_non_null(tree);
    return tree;
}

static uint64_t look(struct tree *tree, const char *path)
{
    char text[256], *rest = text, *word;
    uint64_t inode = TREE_ROOT;

    strcpy(text, path);
    while ((word = strsep(&rest, "/"))) {
        if (tree_lookup(tree, &fake.access, inode, word, &inode))
            return 0;
    }
    return inode;
}

static void names_are_found_and_listed_alike(void **state)
{
    static const char *const folders[] = {"partitions", "snapshots", "snapshots/monday",
                                          "snapshots/monday/partitions", "snapshots/disk"};
    struct tree *tree = make(false);
    unsigned listed = 0;

    (void)state;
    for (unsigned i = 0; i <= sizeof(folders) / sizeof(*folders); i++) {
        uint64_t folder = i ? look(tree, folders[i - 1]) : TREE_ROOT, inode, found;
        char name[TREE_NAME_BYTES];

        assert_true(tree_is_folder(tree, folder));
        for (uint64_t n = 0; tree_list(tree, &fake.access, folder, n, name, &inode) == 0; n++) {
            assert_int_equal(tree_lookup(tree, &fake.access, folder, name, &found), 0);
            assert_true(found == inode);
            listed++;
        }
    }
    assert_int_equal(listed, 4 + 2 + 2 + 2 + 0 + 2);
    tree_free(tree);
}

static void what_is_not_there_is_not_found(void **state)
{
    static const char *const paths[] = {
        "nothing",
        "partitions/0",
        "partitions/2",
        "partitions/01",
        "partitions/1x",
        "partitions/-1",
        "partitions/99999999999",
        "partitions/",
        "snapshots/tuesday",
        "snapshots/",
        "disk/1",
        "partitions/1/1",
        "info.json/1",
        "snapshots/monday/partitions/1",
    };
    struct tree *tree = make(false);
    struct tree_view view;
    struct stat attributes;

    (void)state;
    for (unsigned i = 0; i < sizeof(paths) / sizeof(*paths); i++)
        assert_true(look(tree, paths[i]) == 0);
    for (uint64_t inode = 5; inode < 5 + (UINT64_C(1) << 20); inode += 4093) {
        if (tree_view(tree, &fake.access, inode, &view) == 0)
            assert_true(view.offset + view.length <= fake.state[view.state].size);
        (void)tree_attributes(tree, &fake.access, inode, &attributes);
    }
    assert_int_equal(tree_attributes(tree, &fake.access, UINT64_C(1) << 40, &attributes), -ENOENT);
    tree_free(tree);
}

static void a_view_is_a_range_of_a_state(void **state)
{
    struct tree *tree = make(true);
    struct tree_view view;
    struct stat attributes;

    (void)state;
    assert_int_equal(tree_view(tree, &fake.access, look(tree, "partitions/3"), &view), 0);
    assert_int_equal(view.state, 0);
    assert_true(view.writable && view.offset == 8192 * SECTOR && view.length == 2048 * SECTOR);
    assert_int_equal(tree_view(tree, &fake.access, look(tree, "snapshots/monday/disk"), &view), 0);
    assert_int_equal(view.state, 1);
    assert_true(!view.writable && view.offset == 0 && view.length == SIZE / 2);
    assert_int_equal(tree_view(tree, &fake.access, look(tree, "partitions"), &view), -EISDIR);
    assert_int_equal(
        tree_attributes(tree, &fake.access, look(tree, "snapshots/monday/disk"), &attributes), 0);
    assert_true(attributes.st_mtim.tv_sec == 5 && attributes.st_mtim.tv_nsec == 7);
    assert_true(S_ISREG(attributes.st_mode) && (attributes.st_mode & 0777) == 0400);
    tree_free(tree);
}

static void a_table_is_read_again_only_after_a_change(void **state)
{
    struct tree *tree = make(true);
    uint64_t inode = look(tree, "partitions/1");
    struct tree_view view;
    unsigned reads = fake.reads;

    (void)state;
    assert_true(inode != 0 && look(tree, "partitions/4") == 0);
    put_partition(3, 20480, 2048);
    assert_true(look(tree, "partitions/4") == 0);
    assert_int_equal(fake.reads, reads);
    tree_changed(tree);
    assert_true(look(tree, "partitions/4") != 0);
    memset(fake.table, 0, sizeof(fake.table));
    tree_changed(tree);
    assert_int_equal(tree_view(tree, &fake.access, inode, &view), -ENOENT);
    tree_free(tree);
}

static void what_is_stored_is_counted(void **state)
{
    struct tree *tree = make(false);
    struct stat attributes;

    (void)state;
    fake.data = 0x1f1;
    assert_int_equal(tree_attributes(tree, &fake.access, look(tree, "disk"), &attributes), 0);
    assert_int_equal(attributes.st_blocks, 6 * STEP / SECTOR);
    unsigned maps = fake.maps;
    assert_int_equal(tree_attributes(tree, &fake.access, look(tree, "disk"), &attributes), 0);
    assert_int_equal(fake.maps, maps); /* once and for all */
    /* From 4 MiB, 1 MiB. */
    assert_int_equal(tree_attributes(tree, &fake.access, look(tree, "partitions/3"), &attributes),
                     0);
    assert_int_equal(attributes.st_blocks, STEP / SECTOR);
    tree_free(tree);
}

static void holes_are_found_however_the_map_comes(void **state)
{
    static const uint64_t parts[] = {0, STEP, 3 * STEP, STEP / 3, 4096};
    const struct tree_view view = {.offset = 2 * STEP + 512, .length = 8 * STEP};
    struct tree *tree = make(false);
    uint64_t found;

    (void)state;
    fake.data = 0x0d8; /* data in MiB 3, 4, 6, 7 */
    for (unsigned i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
        fake.part_bytes = parts[i];
        assert_int_equal(extents_seek(&fake.access, &view, 0, true, &found), 0);
        assert_true(found == 0);
        assert_int_equal(extents_seek(&fake.access, &view, 7, false, &found), 0);
        assert_true(found == STEP - 512);
        assert_int_equal(extents_seek(&fake.access, &view, STEP, false, &found), 0);
        assert_true(found == STEP); /* in the midst of data */
        assert_int_equal(extents_seek(&fake.access, &view, STEP, true, &found), 0);
        assert_true(found == 3 * STEP - 512);
        assert_int_equal(extents_seek(&fake.access, &view, 6 * STEP, false, &found), -ENXIO);
        assert_int_equal(extents_seek(&fake.access, &view, 6 * STEP, true, &found), 0);
        assert_true(found == 6 * STEP);
        assert_int_equal(extents_stored(&fake.access, &view, &found), 0);
        assert_true(found == 4 * STEP);
    }
    fake.data = UINT64_MAX;
    assert_int_equal(extents_seek(&fake.access, &view, 5, true, &found), 0);
    assert_true(found == view.length); /* there is one at the end */
    fake.failure = -EIO;
    assert_int_equal(extents_seek(&fake.access, &view, 5, true, &found), -EIO);
    tree_free(tree);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_found_and_listed_alike),
        cmocka_unit_test(what_is_not_there_is_not_found),
        cmocka_unit_test(a_view_is_a_range_of_a_state),
        cmocka_unit_test(a_table_is_read_again_only_after_a_change),
        cmocka_unit_test(what_is_stored_is_counted),
        cmocka_unit_test(holes_are_found_however_the_map_comes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
