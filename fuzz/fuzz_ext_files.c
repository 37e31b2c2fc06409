/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Goes through all files of an ext2, ext3 or ext4 file system of any bytes, as `vdisk cp` would.
 * The input is the drive.
 */
#include "ext_listing.h"
#include "memory_drive.h"
#include "require.h"

#include <dirent.h>
#include <errno.h>

#define FOLDERS_MAX 40u
#define FILES_MAX   200u
#define READ_BYTES  4096u

struct tour {
    struct ext_files *files;
    unsigned folders, seen;
    uint8_t data[READ_BYTES];
    char target[EXT_FILES_PATH_MAX];
};

/* A few ranges and their data; the size may be forged. */
static void read_file(struct tour *tour, uint32_t inode, uint64_t size)
{
    uint64_t offset = 0;

    for (unsigned i = 0; i < 8 && offset < size; i++) {
        uint64_t length = 0;
        bool is_hole;
        int64_t got = ext_files_read(tour->files, inode, offset, tour->data, READ_BYTES);

        require(got <= (int64_t)READ_BYTES);
        if (ext_files_range(tour->files, inode, offset, &length, &is_hole))
            break;
        require(length > 0 && length <= size - offset);
        offset += length;
    }
    if (size > READ_BYTES)
        (void)ext_files_read(tour->files, inode, size - READ_BYTES, tour->data, READ_BYTES);
}

static void visit(struct tour *tour, uint32_t inode);

static void visit_folder(struct tour *tour, uint32_t inode)
{
    struct ext_listing listing;
    uint32_t found;

    if (tour->folders++ == FOLDERS_MAX || ext_listing_read(tour->files, inode, &listing))
        return;
    for (size_t i = 0; i < listing.count; i++) {
        require(listing.entry[i].name[0] && !strchr(listing.entry[i].name, '/'));
        if (i < 8)
            (void)ext_files_lookup(tour->files, inode, listing.entry[i].name, &found);
        visit(tour, listing.entry[i].inode);
    }
    ext_listing_free(&listing);
}

static void visit(struct tour *tour, uint32_t inode)
{
    struct stat status;

    if (tour->seen++ >= FILES_MAX || ext_files_stat(tour->files, inode, &status))
        return;
    require(status.st_size >= 0 && status.st_mtim.tv_nsec < 1000000000);
    if (S_ISREG(status.st_mode))
        read_file(tour, inode, (uint64_t)status.st_size);
    else if (S_ISDIR(status.st_mode))
        visit_folder(tour, inode);
    else if (S_ISLNK(status.st_mode) && ext_files_readlink(tour->files, inode, tour->target) == 0)
        require(strlen(tour->target) < EXT_FILES_PATH_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tour tour;
    struct memory_drive memory;
    struct vdisk_error error = {0};
    uint32_t inode;
    int result;

    memory_drive_init(&memory, data, size, size);
    tour.folders = tour.seen = 0;
    result = ext_files_open(&memory.drive, &tour.files, &error);
    require(result == 0 || (result == error.code && error.text[0]));
    if (result)
        return 0;
    visit(&tour, EXT_FILES_ROOT);
    (void)ext_files_walk(tour.files, "/a/link/../link/b", true, &inode);
    ext_files_close(tour.files);
    return 0;
}
