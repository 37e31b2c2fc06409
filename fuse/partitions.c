/* SPDX-License-Identifier: Apache-2.0 */
/*
 * GPT (UEFI specification, chapter 5) and MBR; see partitions.h.
 */
#include "partitions.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MBR_BYTES        512u
#define MBR_ENTRIES      446u /* where the four are */
#define MBR_ENTRY_BYTES  16u
#define GPT_HEADER_BYTES 92u
#define GPT_ENTRY_BYTES  128u /* at least; a power of two times that */
#define GPT_TABLE_MAX    (UINT32_C(1) << 20)
#define FIRST_LOGICAL    5u

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) | (uint32_t)get16(p + 2) << 16;
}

static uint64_t get64(const uint8_t *p)
{
    return (uint64_t)get32(p) | (uint64_t)get32(p + 4) << 32;
}

const char *partitions_table_name(enum partitions_table table)
{
    static const char *const names[] = {"none", "mbr", "gpt"};

    return names[table];
}

const struct partition *partitions_find(const struct partitions *partitions, unsigned number)
{
    for (unsigned i = 0; i < partitions->count; i++) {
        if (partitions->partition[i].number == number)
            return &partitions->partition[i];
    }
    return NULL;
}

/* A new partition at the end of the list; NULL if it would not lie within the drive, or there is no
 * room. The units are sectors. */
static struct partition *add(struct partitions *out, const struct drive *drive, unsigned number,
                             uint64_t first, uint64_t count, uint32_t sector)
{
    struct partition *partition;

    if (out->count == PARTITIONS_MAX || count == 0 || first >= drive->size / sector)
        return NULL;
    partition = &out->partition[out->count++];
    memset(partition, 0, sizeof(*partition));
    partition->number = number;
    partition->offset = first * sector;
    partition->length = drive->size - partition->offset;
    if (count < partition->length / sector)
        partition->length = count * sector;
    return partition;
}

/* --- GPT ---------------------------------------------------------------------------------- */

/* Its first three parts are little-endian numbers. */
static void put_guid(char text[PARTITIONS_GUID_CHARS + 1], const uint8_t *guid, bool is_upper)
{
    snprintf(text, PARTITIONS_GUID_CHARS + 1,
             is_upper ? "%08X-%04X-%04X-%02X%02X-%02X%02X%02X%02X%02X%02X"
                      : "%08x-%04x-%04x-%02x%02x-%02x%02x%02x%02x%02x%02x",
             get32(guid), get16(guid + 4), get16(guid + 6), guid[8], guid[9], guid[10], guid[11],
             guid[12], guid[13], guid[14], guid[15]);
}

static char *put_utf8(char *to, uint32_t c)
{
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
        *to++ = (char)(0x80 | (c & 0x3f));
    } else if (c < 0x10000) {
        *to++ = (char)(0xe0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
        *to++ = (char)(0x80 | (c & 0x3f));
    } else {
        *to++ = (char)(0xf0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 0x3f));
        *to++ = (char)(0x80 | (c >> 6 & 0x3f));
        *to++ = (char)(0x80 | (c & 0x3f));
    }
    return to;
}

/* 36 units of UTF-16; half a pair and a control character become '?'. */
static void put_name(char text[PARTITIONS_NAME_TEXT_BYTES], const uint8_t *units)
{
    char *to = text;

    for (unsigned i = 0; i < 36; i++) {
        uint32_t c = get16(units + 2 * i);
        uint32_t low = i + 1 < 36 ? get16(units + 2 * i + 2) : 0;

        if (c == 0)
            break;
        if (c >= 0xd800 && c < 0xdc00 && low >= 0xdc00 && low < 0xe000) {
            c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
            i++;
        }
        if (c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0xd800 && c < 0xe000))
            c = '?';
        to = put_utf8(to, c);
    }
    *to = '\0';
}

struct gpt_header {
    uint64_t table;       /* sector */
    uint32_t count, each; /* entries, and the bytes of one */
    uint32_t table_crc;
};

/* That of Ethernet. */
static uint32_t crc32_of(const uint8_t *data, size_t length)
{
    uint32_t crc = UINT32_MAX;

    for (size_t i = 0; i < length; i++) {
        crc ^= data[i];
        for (unsigned bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    }
    return ~crc;
}

/* False if the sector holds no header, or one that we would not believe. */
static bool decode_header(uint8_t *bytes, uint32_t sector, uint64_t where, struct gpt_header *out)
{
    uint32_t length = get32(bytes + 12), crc = get32(bytes + 16);

    if (memcmp(bytes, "EFI PART", 8) != 0 || length < GPT_HEADER_BYTES || length > sector)
        return false;
    memset(bytes + 16, 0, 4);
    if (crc32_of(bytes, length) != crc || get64(bytes + 24) != where)
        return false;
    out->table = get64(bytes + 72);
    out->count = get32(bytes + 80);
    out->each = get32(bytes + 84);
    out->table_crc = get32(bytes + 88);
    return out->each >= GPT_ENTRY_BYTES && out->each % 8 == 0 && out->each <= GPT_TABLE_MAX &&
           out->count > 0 && out->count <= GPT_TABLE_MAX / out->each;
}

static void add_entry(const struct drive *drive, uint32_t sector, unsigned number,
                      const uint8_t *entry, struct partitions *out)
{
    static const uint8_t unused[16];
    uint64_t first = get64(entry + 32), last = get64(entry + 40);
    struct partition *partition;

    if (memcmp(entry, unused, sizeof(unused)) == 0 || last < first || last == UINT64_MAX)
        return;
    partition = add(out, drive, number, first, last - first + 1, sector);
    if (!partition)
        return;
    put_guid(partition->type, entry, true);
    put_guid(partition->uuid, entry + 16, false);
    put_name(partition->name, entry + 56);
}

/* The copy whose header is in sector `where`. 1 if it is good, 0 if not, or an error. */
static int read_gpt_at(struct drive *drive, uint32_t sector, uint64_t where, struct partitions *out)
{
    uint8_t bytes[4096];
    struct gpt_header header;
    uint8_t *table;
    size_t length;
    int result;

    result = drive_get(drive, where * sector, bytes, sector);
    if (result)
        return result;
    if (!decode_header(bytes, sector, where, &header))
        return 0;
    length = (size_t)header.count * header.each;
    if (header.table > drive->size / sector || length > drive->size - header.table * sector)
        return 0;
    table = malloc(length);
    if (!table)
        return -ENOMEM;
    result = drive_get(drive, header.table * sector, table, length);
    if (result == 0 && crc32_of(table, length) == header.table_crc) {
        out->table = PARTITIONS_GPT;
        for (uint32_t i = 0; i < header.count; i++)
            add_entry(drive, sector, i + 1, table + (size_t)i * header.each, out);
        result = 1;
    }
    free(table);
    return result;
}

/* 1 if there is one, 0 if not. An error only if neither copy could be read. */
static int read_gpt(struct drive *drive, struct partitions *out)
{
    static const uint32_t sectors[] = {512, 4096};
    int error = 0;

    for (unsigned i = 0; i < 4; i++) {
        uint32_t sector = sectors[i / 2];
        uint64_t count = drive->size / sector;
        int result;

        if (count < 3)
            continue;
        result = read_gpt_at(drive, sector, i % 2 ? count - 1 : 1, out);
        if (result > 0)
            return result;
        error = error ? error : result;
    }
    return error;
}

/* --- MBR ---------------------------------------------------------------------------------- */

struct mbr_entry {
    uint8_t type;
    uint32_t first, count; /* sectors */
};

static struct mbr_entry mbr_entry(const uint8_t bytes[MBR_BYTES], unsigned i)
{
    const uint8_t *at = bytes + MBR_ENTRIES + i * MBR_ENTRY_BYTES;

    return (struct mbr_entry){.type = at[4], .first = get32(at + 8), .count = get32(at + 12)};
}

static bool is_extended(uint8_t type)
{
    return type == 0x05 || type == 0x0f || type == 0x85;
}

/* The same two bytes end the first sector of file systems with a boot program. */
static bool is_mbr(const uint8_t bytes[MBR_BYTES])
{
    if (bytes[510] != 0x55 || bytes[511] != 0xaa)
        return false;
    for (unsigned i = 0; i < 4; i++) {
        if (bytes[MBR_ENTRIES + i * MBR_ENTRY_BYTES] & 0x7f)
            return false;
    }
    if (memcmp(bytes + 3, "NTFS    ", 8) == 0 || memcmp(bytes + 3, "EXFAT   ", 8) == 0)
        return false;
    return memcmp(bytes + 54, "FAT", 3) != 0 && memcmp(bytes + 82, "FAT32", 5) != 0;
}

static void add_mbr(struct partitions *out, const struct drive *drive, unsigned number,
                    uint64_t first, const struct mbr_entry *entry, uint32_t disk)
{
    struct partition *partition = add(out, drive, number, first, entry->count, 512);

    if (!partition)
        return;
    snprintf(partition->type, sizeof(partition->type), "0x%02x", entry->type);
    snprintf(partition->uuid, sizeof(partition->uuid), "%08x-%02x", disk, number);
}

/* A chain of sectors, each with a logical partition, relative to itself, and the next link,
 * relative to the first. 0, or an error of the drive. */
static int read_chain(struct drive *drive, const struct mbr_entry *extended, uint32_t disk,
                      unsigned *number, struct partitions *out)
{
    uint64_t at = extended->first;
    uint8_t bytes[MBR_BYTES];

    for (unsigned links = 0; links < PARTITIONS_MAX; links++) {
        uint64_t next = 0;
        int result;

        if (at >= drive->size / 512)
            return 0;
        result = drive_get(drive, at * 512, bytes, sizeof(bytes));
        if (result || bytes[510] != 0x55 || bytes[511] != 0xaa)
            return result;
        for (unsigned i = 0; i < 4; i++) {
            struct mbr_entry entry = mbr_entry(bytes, i);

            if (entry.type == 0 || entry.count == 0)
                continue;
            if (is_extended(entry.type))
                next = next ? next : (uint64_t)extended->first + entry.first;
            else if (i < 2) /* the others are remains of old tools */
                add_mbr(out, drive, (*number)++, at + entry.first, &entry, disk);
        }
        if (next <= at) /* tools write it in order, and so it has an end */
            return 0;
        at = next;
    }
    return 0;
}

static int read_mbr(struct drive *drive, const uint8_t bytes[MBR_BYTES], struct partitions *out)
{
    uint32_t disk = get32(bytes + 440);
    unsigned number = FIRST_LOGICAL;
    int result = 0;

    out->table = PARTITIONS_MBR;
    for (unsigned i = 0; i < 4; i++) {
        struct mbr_entry entry = mbr_entry(bytes, i);

        if (entry.type != 0 && entry.type != 0xee && !is_extended(entry.type))
            add_mbr(out, drive, i + 1, entry.first, &entry, disk);
    }
    for (unsigned i = 0; result == 0 && i < 4; i++) {
        struct mbr_entry entry = mbr_entry(bytes, i);

        if (is_extended(entry.type) && entry.first > 0)
            result = read_chain(drive, &entry, disk, &number, out);
    }
    if (out->count == 0)
        out->table = PARTITIONS_NONE;
    return result;
}

int partitions_read(struct drive *drive, struct partitions *out)
{
    uint8_t bytes[MBR_BYTES];
    bool has_gpt = false;
    int result;

    out->table = PARTITIONS_NONE;
    out->count = 0;
    if (drive->size < sizeof(bytes))
        return 0;
    result = drive_get(drive, 0, bytes, sizeof(bytes));
    if (result || !is_mbr(bytes))
        return result;
    for (unsigned i = 0; i < 4; i++)
        has_gpt = has_gpt || mbr_entry(bytes, i).type == 0xee;
    result = has_gpt ? read_gpt(drive, out) : 0;
    if (result)
        return result < 0 ? result : 0;
    return read_mbr(drive, bytes, out);
}
