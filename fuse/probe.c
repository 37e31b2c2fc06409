/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libblkid reads from a file descriptor. It gets that of a file in memory, as long as the drive and
 * empty but for the places where superblocks are: the first 2 MiB, the last MiB, and where NTFS has
 * the beginning of its table of files.
 */
#include "probe.h"

#include <blkid/blkid.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HEAD_BYTES  ((UINT64_C(2) << 20) + 65536) /* VMFS has its own behind 2 MiB */
#define TAIL_BYTES  (UINT64_C(1) << 20)
#define PIECE_BYTES 65536u

static bool is_zero(const uint8_t *data, size_t length)
{
    return length == 0 || (data[0] == 0 && memcmp(data, data + 1, length - 1) == 0);
}

/* Of a range, what there is of it. */
static int copy_range(struct drive *drive, uint64_t offset, uint64_t length, int fd)
{
    static const unsigned grain = 4096;
    uint8_t *piece;
    int result = 0;

    if (offset >= drive->size)
        return 0;
    if (length > drive->size - offset)
        length = drive->size - offset;
    piece = malloc(PIECE_BYTES);
    if (!piece)
        return -ENOMEM;
    while (result == 0 && length > 0) {
        size_t step = length < PIECE_BYTES ? (size_t)length : PIECE_BYTES;

        result = drive_get(drive, offset, piece, step);
        for (size_t at = 0; result == 0 && at < step; at += grain) {
            size_t part = step - at < grain ? step - at : grain;

            if (!is_zero(piece + at, part) &&
                pwrite(fd, piece + at, part, (off_t)(offset + at)) != (ssize_t)part)
                result = -EIO;
        }
        offset += step;
        length -= step;
    }
    free(piece);
    return result;
}

/* NTFS: where its boot sector says that the table of files begins, and its copy. */
static int copy_ntfs(struct drive *drive, int fd)
{
    uint8_t boot[512];
    int result;

    if (drive->size < sizeof(boot))
        return 0;
    result = drive_get(drive, 0, boot, sizeof(boot));
    if (result || memcmp(boot + 3, "NTFS    ", 8) != 0)
        return result;
    for (unsigned i = 0; result == 0 && i < 2; i++) {
        uint64_t cluster = 0, unit = (uint64_t)(boot[11] | boot[12] << 8) * boot[13], offset;

        for (unsigned j = 8; j > 0; j--)
            cluster = cluster << 8 | boot[48 + 8 * i + j - 1];
        if (!__builtin_mul_overflow(cluster, unit, &offset))
            result = copy_range(drive, offset, PIECE_BYTES, fd);
    }
    return result;
}

static int copy_places(struct drive *drive, int fd)
{
    uint64_t tail = drive->size > TAIL_BYTES ? drive->size - TAIL_BYTES : 0;
    int result = copy_range(drive, 0, HEAD_BYTES, fd);

    tail -= tail % 4096;
    if (result == 0 && drive->size > HEAD_BYTES)
        result = copy_range(drive, tail > HEAD_BYTES ? tail : HEAD_BYTES, TAIL_BYTES + 4096, fd);
    return result ? result : copy_ntfs(drive, fd);
}

/* The text is a guest's. */
static void take_text(blkid_probe probe, const char *name, char *out, size_t room)
{
    const char *value;
    size_t length = 0;

    out[0] = '\0';
    if (blkid_probe_lookup_value(probe, name, &value, &length) < 0)
        return;
    length = strnlen(value, length);
    if (length >= room)
        length = room - 1;
    memcpy(out, value, length);
    out[length] = '\0';
    for (char *at = out; *at; at++) {
        if ((unsigned char)*at < 0x20 || *at == 0x7f)
            *at = '?';
    }
}

static int look(int fd, uint64_t size, struct probe *out)
{
    blkid_probe probe = blkid_new_probe();
    const char *usage;
    int result = -ENOMEM;

    if (!probe)
        return result;
    if (blkid_probe_set_device(probe, fd, 0, (blkid_loff_t)size) == 0) {
        blkid_probe_enable_superblocks(probe, 1);
        blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_LABEL |
                                                     BLKID_SUBLKS_UUID | BLKID_SUBLKS_USAGE);
        if (blkid_do_safeprobe(probe) == 0) {
            take_text(probe, "TYPE", out->kind, sizeof(out->kind));
            take_text(probe, "LABEL", out->label, sizeof(out->label));
            take_text(probe, "UUID", out->uuid, sizeof(out->uuid));
            out->is_file_system = blkid_probe_has_value(probe, "USAGE") &&
                                  blkid_probe_lookup_value(probe, "USAGE", &usage, NULL) == 0 &&
                                  strcmp(usage, "filesystem") == 0;
        }
        result = 0;
    }
    blkid_free_probe(probe);
    return result;
}

int probe_drive(struct drive *drive, struct probe *out)
{
    int fd, result;

    memset(out, 0, sizeof(*out));
    if (drive->size == 0)
        return 0;
    fd = memfd_create("vdisk-probe", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    result = ftruncate(fd, (off_t)drive->size) < 0 ? -errno : 0;
    if (result == 0)
        result = copy_places(drive, fd);
    if (result == 0)
        result = look(fd, drive->size, out);
    close(fd);
    return result;
}
