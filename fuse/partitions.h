/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The partitions of a drive: GPT (from either of its copies) and MBR with logical partitions.
 *
 * The tables are read by code of our own: libblkid and libfdisk want a file descriptor, and there
 * is none. All of it comes from a guest, so: what does not lie within the drive is left out or cut
 * off, a chain of logical partitions ends after as many as may be, and partitions that overlap are
 * no harm, since each is nothing but a range to read.
 */
#ifndef FUSE_PARTITIONS_H
#define FUSE_PARTITIONS_H

#include "drive.h"

#include <stdint.h>

#define PARTITIONS_MAX             256u
#define PARTITIONS_GUID_CHARS      36u
#define PARTITIONS_NAME_TEXT_BYTES (36u * 3 + 1) /* 36 units of UTF-16, as UTF-8 */

enum partitions_table {
    PARTITIONS_NONE,
    PARTITIONS_MBR,
    PARTITIONS_GPT,
};

struct partition {
    unsigned number;         /* as Linux counts them: logical ones from 5 on; there may be gaps */
    uint64_t offset, length; /* bytes; within the drive, and not empty */
    char type[PARTITIONS_GUID_CHARS + 1];  /* GPT: a GUID in upper case; MBR: "0x83" */
    char uuid[PARTITIONS_GUID_CHARS + 1];  /* GPT: its own GUID in lower case; MBR: "1234abcd-01" */
    char name[PARTITIONS_NAME_TEXT_BYTES]; /* GPT: UTF-8, "" without; control characters are '?' */
};

struct partitions {
    enum partitions_table table;
    unsigned count;
    struct partition partition[PARTITIONS_MAX]; /* by number */
};

/* Reads the table; none is no error. The struct is large (50 KiB). 0, -ENOMEM, or an error of the
 * drive; `out` then has what was found before. */
int partitions_read(struct drive *drive, struct partitions *out);

/* The one of that number, or NULL. */
const struct partition *partitions_find(const struct partitions *partitions, unsigned number);

/* "gpt", "mbr", or "none". */
const char *partitions_table_name(enum partitions_table table);

#endif
