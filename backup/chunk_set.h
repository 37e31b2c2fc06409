/* SPDX-License-Identifier: Apache-2.0 */
/* A set of chunks of a drive, as ranges: as large as the number of changes, not as the drive. */
#ifndef BACKUP_CHUNK_SET_H
#define BACKUP_CHUNK_SET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vb_range {
    uint64_t first, end; /* chunks */
};

/* Zeroed is empty. */
struct vb_chunk_set {
    struct vb_range *range;
    size_t count, room;
};

void vb_chunk_set_release(struct vb_chunk_set *ranges);
/* The chunks that `length` bytes from `offset` on touch. -ENOMEM. */
int vb_chunk_set_add(struct vb_chunk_set *ranges, uint64_t offset, uint64_t length);
/* After the last one was added: in order, and apart from each other. */
void vb_chunk_set_settle(struct vb_chunk_set *ranges);
/* The first range with a chunk at or behind `chunk`; NULL: none. */
const struct vb_range *vb_chunk_set_from(const struct vb_chunk_set *ranges, uint64_t chunk);
/* Whether one of these chunks, at least one, is in the set. */
bool vb_chunk_set_touch(const struct vb_chunk_set *ranges, uint64_t first, uint64_t end);

#endif
