/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading records: found by the index, got from the store, opened, and compared with their ids.
 */
#ifndef BACKUP_RECORD_H
#define BACKUP_RECORD_H

#include "repo_index.h"

/* For one thread: buffers, a sealer, and the keys of the segments used last. */
struct vb_reader;
int vb_reader_new(struct vb_repo *repo, struct vb_reader **out);
void vb_reader_free(struct vb_reader *reader); /* NULL is allowed */

/*
 * The plaintext of a record, the reader's until its next call. Every place where it is, is tried.
 * VDISK_E_NOT_FOUND (in no index, or no pack of it is there), VDISK_E_NOT_AUTHENTIC,
 * VDISK_E_WRONG_KEY (the role cannot read data), -errno; `error` says which object it is.
 */
int vb_record_read(struct vb_reader *reader, const struct vb_index *index, enum vb_record_kind kind,
                   const struct vb_id *id, const uint8_t **data, size_t *length,
                   struct vdisk_error *error);
/* One place of a record, out of the pack's bytes at hand (from entry->offset on) or, where they are
 * NULL, the store. */
int vb_record_read_at(struct vb_reader *reader, const struct vb_found *found, const uint8_t *sealed,
                      const uint8_t **data, size_t *length);

struct vb_node_entry;
/* A whole chunk: base with patch, VB_CHUNK_BYTES into `chunk`; zeros for no entry. */
int vb_chunk_read(struct vb_reader *reader, const struct vb_index *data,
                  const struct vb_node_entry *entry, uint8_t *chunk, struct vdisk_error *error);

#endif
