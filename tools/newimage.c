/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making an image; see newimage.h.
 *
 * An image in several files is removed by its part set (SPEC.md, "Files"), which is random and
 * stands in the first file: an import that fails removes the files it made and no others.
 */
#include "newimage.h"

#include "report.h"
#include "sizes.h"

#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SECTOR_BYTES  512u
#define CLUSTER_MIN   (UINT64_C(16) << 10)
#define CLUSTER_MAX   (UINT64_C(1) << 20)
#define SPLIT_UNIT    (UINT64_C(1) << 20)
#define SPLIT_MIN     (UINT64_C(16) << 20)
#define ZSTD_FASTEST  (-7)
#define ZSTD_TIGHTEST 19

/* "zstd", "zstd:LEVEL", "none"; NULL is zstd. */
static bool parse_compress(const char *text, bool *compress, int *level)
{
    uint64_t number;
    bool negative;

    *compress = true;
    *level = 0;
    if (!text || strcmp(text, "zstd") == 0)
        return true;
    if (strcmp(text, "none") == 0) {
        *compress = false;
        return true;
    }
    if (strncmp(text, "zstd:", 5) != 0)
        return false;
    text += 5;
    negative = *text == '-';
    if (!sizes_parse_number(text + negative, &number) || number > ZSTD_TIGHTEST)
        return false;
    *level = negative ? -(int)number : (int)number;
    return *level >= ZSTD_FASTEST;
}

int newimage_check(const struct newimage_options *options, const char *command)
{
    uint64_t cluster = options->cluster.value, split = options->split.value;
    bool compress;
    int level;

    if (!parse_compress(options->compress, &compress, &level))
        return report_usage(command, "--compress %s: it is zstd, zstd:LEVEL (-7 to 19) or none",
                            options->compress);
    if (options->cluster.given &&
        (cluster < CLUSTER_MIN || cluster > CLUSTER_MAX || (cluster & (cluster - 1))))
        return report_usage(command, "--cluster-size must be a power of two from 16K to 1M");
    if (options->split.given && (split < SPLIT_MIN || split % SPLIT_UNIT || split > VDISK_SIZE_MAX))
        return report_usage(command, "--split must be a multiple of 1M, and 16M or more");
    return STATUS_DONE;
}

int newimage_check_size(const char *command, const char *what, uint64_t size)
{
    char limit[SIZES_TEXT_BYTES];

    if (size == 0)
        return report_usage(command, "%s: a drive cannot have no size", what);
    if (size % SECTOR_BYTES)
        return report_usage(command, "%s: the size of a drive is a multiple of %u", what,
                            SECTOR_BYTES);
    if (size > VDISK_SIZE_MAX)
        return report_usage(command, "%s: a drive has at most %s", what,
                            sizes_text(limit, VDISK_SIZE_MAX));
    return STATUS_DONE;
}

int newimage_make(struct newimage *image, const char *path, const struct newimage_options *options,
                  const struct vdisk_key *key, struct vdisk_create_options create)
{
    struct vdisk_error error = {0};
    struct vdisk_image *made = NULL;
    int result;

    parse_compress(options->compress, &create.compress, &create.compress_level);
    create.struct_bytes = sizeof(create);
    create.cluster_bytes = options->cluster.value;
    create.split_bytes = options->split.value;
    result = vdisk_create(path, &create, key, &made, &error);
    if (result)
        return report(path, result, &error);
    *image = (struct newimage){.path = path, .image = made};
    return STATUS_DONE;
}

/* Removes all parts but the first, which are named PATH.SSSSSSSS.nnn. */
static void remove_parts(const char *path, uint32_t part_set)
{
    const char *slash = strrchr(path, '/');
    char prefix[NAME_MAX + 16], directory[PATH_MAX];
    const struct dirent *entry;
    DIR *names;

    snprintf(prefix, sizeof(prefix), "%s.%08x.", slash ? slash + 1 : path, part_set);
    snprintf(directory, sizeof(directory), "%.*s", slash ? (int)(slash - path) + 1 : 1,
             slash ? path : ".");
    names = opendir(directory);
    if (!names)
        return;
    // cppcheck-suppress readdirCalled ; one stream, one thread
    while ((entry = readdir(names))) {
        const char *number = entry->d_name + strlen(prefix);

        if (strncmp(entry->d_name, prefix, strlen(prefix)) == 0 && *number &&
            strspn(number, "0123456789") == strlen(number))
            unlinkat(dirfd(names), entry->d_name, 0);
    }
    closedir(names);
}

static void remove_files(const char *path)
{
    struct vdisk_public_info info;

    if (vdisk_probe(path, &info, NULL) == 0 && info.split_bytes)
        remove_parts(path, info.part_set);
    unlink(path);
}

int newimage_finish(struct newimage *image)
{
    const char *path = image->path;
    struct vdisk_error error = {0};
    int result = vdisk_close(image->image, &error);

    memset(image, 0, sizeof(*image));
    if (!result)
        return STATUS_DONE;
    remove_files(path);
    return report(path, result, &error);
}

void newimage_discard(struct newimage *image)
{
    if (!image->image)
        return;
    remove_files(image->path);
    vdisk_abandon(image->image);
    memset(image, 0, sizeof(*image));
}
