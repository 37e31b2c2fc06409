/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Choosing a file system; see findfs.h.
 */
#include "findfs.h"

#include "fsprobe.h"
#include "partitions.h"
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WORDS_BYTES 300u

/* What is on the partitions, for a message: "1 vfat, 2 xfs". */
struct words {
    char text[WORDS_BYTES];
    size_t length;
};

static void put_words(struct words *words, unsigned number, const char *kind)
{
    size_t room = sizeof(words->text) - words->length;
    int length = snprintf(words->text + words->length, room, "%s%u %s", words->length ? ", " : "",
                          number, kind);

    if (length >= (int)room) /* it says enough */
        words->text[words->length] = '\0';
    else
        words->length += (size_t)length;
}

static bool is_ext(const struct fsprobe *probe)
{
    return strncmp(probe->kind, "ext", 3) == 0;
}

static int open_part(struct drive *drive, const struct partition *partition, struct findfs *out,
                     struct vdisk_error *error)
{
    memset(out, 0, sizeof(*out));
    if (partition) {
        drive_of_range(&out->part, drive, partition->offset, partition->length);
        out->number = partition->number;
    } else {
        drive_of_range(&out->part, drive, 0, drive->size);
    }
    return ext_files_open(&out->part, &out->files, error);
}

void findfs_close(struct findfs *found)
{
    ext_files_close(found->files);
    memset(found, 0, sizeof(*found));
}

/* Why it is none of ours. */
static int not_ours(const char *place, const struct fsprobe *probe, struct vdisk_error *error)
{
    if (!probe->kind[0])
        return error_set(error, VDISK_E_NOT_FOUND, "there is no file system on %s", place);
    return error_set(error, -EMEDIUMTYPE,
                     "on %s is %s; only ext2, ext3 and ext4 are read here, for others there is "
                     "`vdisk mount --files` as root",
                     place, probe->kind);
}

/* The drive itself, or the partition that was asked for. */
static int open_one(struct drive *drive, const struct partition *partition, struct findfs *out,
                    struct vdisk_error *error)
{
    char place[32] = "the drive";
    struct fsprobe probe;
    int result;

    result = open_part(drive, partition, out, error);
    if (result != VDISK_E_NOT_FOUND)
        return result;
    if (partition)
        snprintf(place, sizeof(place), "partition %u", partition->number);
    result = fsprobe_drive(&out->part, &probe);
    return result ? error_set(error, result, "%s", vdisk_strerror(result))
                  : not_ours(place, &probe, error);
}

static int not_one(unsigned readable, const struct words *all, const struct words *ours,
                   struct vdisk_error *error)
{
    if (readable > 0)
        return error_set(error, -EINVAL,
                         "there is more than one file system, choose with --partition: %s",
                         ours->text);
    if (all->length == 0)
        return error_set(error, VDISK_E_NOT_FOUND, "there is no file system on its partitions");
    return error_set(error, -EMEDIUMTYPE,
                     "on its partitions there is no ext2, ext3 or ext4 but: %s; for others there "
                     "is `vdisk mount --files` as root",
                     all->text);
}

static bool has_etc(struct findfs *candidate)
{
    uint32_t inode;
    struct stat status;

    return ext_files_walk(candidate->files, "/etc", true, &inode) == 0 &&
           ext_files_stat(candidate->files, inode, &status) == 0 && S_ISDIR(status.st_mode);
}

/* Goes through the partitions twice, since a file system stays where it was opened. */
static int choose(struct drive *drive, const struct partitions *partitions, struct findfs *out,
                  struct vdisk_error *error)
{
    const struct partition *only = NULL, *root = NULL;
    unsigned readable = 0, roots = 0;
    struct words all = {.length = 0}, ours = {.length = 0};

    for (unsigned i = 0; i < partitions->count; i++) {
        const struct partition *partition = &partitions->partition[i];
        struct fsprobe probe;
        struct drive part;
        int result;

        drive_of_range(&part, drive, partition->offset, partition->length);
        result = fsprobe_drive(&part, &probe);
        if (result)
            return error_set(error, result, "partition %u: %s", partition->number,
                             vdisk_strerror(result));
        if (probe.kind[0])
            put_words(&all, partition->number, probe.kind);
        if (!is_ext(&probe))
            continue;
        put_words(&ours, partition->number, probe.kind);
        readable++;
        only = partition;
        if (open_part(drive, partition, out, NULL) == 0) {
            if (has_etc(out)) {
                roots++;
                root = partition;
            }
            findfs_close(out);
        }
    }
    if (readable != 1 && roots != 1)
        return not_one(readable, &all, &ours, error);
    return open_part(drive, readable == 1 ? only : root, out, error);
}

int findfs_open(struct drive *drive, unsigned number, struct findfs *out, struct vdisk_error *error)
{
    struct partitions *partitions = malloc(sizeof(*partitions));
    const struct partition *partition;
    int result;

    if (!partitions)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    result = partitions_read(drive, partitions);
    if (result) {
        error_set(error, result, "its partitions: %s", vdisk_strerror(result));
    } else if (number > 0) {
        partition = partitions_find(partitions, number);
        result = partition
                     ? open_one(drive, partition, out, error)
                     : error_set(error, VDISK_E_NOT_FOUND, "there is no partition %u", number);
    } else if (partitions->table == PARTITIONS_NONE) {
        result = open_one(drive, NULL, out, error);
    } else {
        result = choose(drive, partitions, out, error);
    }
    free(partitions);
    return result;
}
