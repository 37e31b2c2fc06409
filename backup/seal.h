/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Segments and records (SPEC.md B5), and ids (B3).
 *
 * A segment's key is used by one thread at a time; a sealer or opener of its own costs each thread
 * little.
 */
#ifndef BACKUP_SEAL_H
#define BACKUP_SEAL_H

#include "object.h"

#define VB_SEGMENT_BYTES    128u
#define VB_TAG_BYTES        16u
#define VB_RECORD_HEAD      8u
#define VB_RECORD_MAX       (2u << 20) /* sealed bytes */
#define VB_RECORD_META_MAX  VB_OBJECT_MAX
#define VB_CHUNK_BYTES      (1u << 20)
#define VB_BLOCK_BYTES      4096u
#define VB_CHUNK_BLOCKS     (VB_CHUNK_BYTES / VB_BLOCK_BYTES)
#define VB_BITMAP_BYTES     (VB_CHUNK_BLOCKS / 8)
#define VB_NUMBER_DIRECTORY UINT32_MAX

enum vb_segment_kind {
    VB_SEGMENT_DATA = 1,
    VB_SEGMENT_META = 2,
};

enum vb_record_kind {
    VB_RECORD_BASE = 1,
    VB_RECORD_PATCH = 2,
    VB_RECORD_NODE = 3,
    VB_RECORD_DIRECTORY = 4,
    VB_RECORD_INDEX = 5,
    VB_RECORD_MANIFEST = 6,
    VB_RECORD_PRUNE = 7,
};

/* What seals and opens segments, of the keys at hand; NULL: not at hand. */
struct vb_segment_keys {
    const uint8_t *repo_id;
    const uint8_t *meta_key;
    const uint8_t *data_public; /* makes data segments */
    const uint8_t *data_secret; /* opens them */
};

/* The key of one segment, in locked memory. */
struct vb_segment;

/* Makes a fresh one and its header. 0, -ENOMEM, -EIO, VDISK_E_WRONG_KEY (a key is not at hand). */
int vb_segment_make(const struct vb_segment_keys *keys, enum vb_segment_kind kind,
                    uint8_t header[static VB_SEGMENT_BYTES], struct vb_segment **out);
/* Also VDISK_E_MALFORMED, VDISK_E_NOT_AUTHENTIC. */
int vb_segment_open(const struct vb_segment_keys *keys,
                    const uint8_t header[static VB_SEGMENT_BYTES], struct vb_segment **out);
/* Wipes it. NULL is allowed. */
void vb_segment_free(struct vb_segment *segment);

/* Which record: what is authenticated beside its content. */
struct vb_record_context {
    uint32_t number; /* within the segment */
    enum vb_record_kind kind;
    struct vb_id id; /* zero for 4 to 7 */
};

/* Sealing and opening for one thread: contexts of the ciphers and of zstd, and buffers. */
struct vb_sealer;
int vb_sealer_new(const uint8_t repo_id[static VB_REPO_ID_BYTES], struct vb_sealer **out);
void vb_sealer_free(struct vb_sealer *sealer); /* wipes; NULL is allowed */

/*
 * Compresses and pads into the sealer's own buffer, where it stays until the next call: *packed
 * bytes before sealing. `level` of zstd; data that does not shrink stays as it is. `pad` is that of
 * the config. 0, -ENOMEM, -E2BIG.
 */
int vb_sealer_pack(struct vb_sealer *sealer, const void *payload, size_t length, int level,
                   unsigned pad, size_t *packed);
/* Seals what was packed last: `out` takes packed + VB_TAG_BYTES. Thread-safe for one segment in
 * several sealers. 0 or -EIO. */
int vb_sealer_seal(struct vb_sealer *sealer, const struct vb_segment *segment,
                   const struct vb_record_context *context, uint8_t *out);
/*
 * Verifies, decrypts, decompresses. The payload, at most `limit` bytes, is the sealer's until its
 * next call. VDISK_E_NOT_AUTHENTIC, VDISK_E_MALFORMED, -ENOMEM.
 */
int vb_sealer_open(struct vb_sealer *sealer, const struct vb_segment *segment,
                   const struct vb_record_context *context, const uint8_t *sealed, size_t length,
                   size_t limit, const uint8_t **payload, size_t *payload_bytes);

/* Where the next payloads go that are compressed and have so many bytes, in place of a buffer of
 * the sealer's: until a call with NULL. */
void vb_sealer_into(struct vb_sealer *sealer, uint8_t *bytes, size_t length);

/* The length of a record before sealing, with its padding. */
size_t vb_padded(size_t length, unsigned pad);
/* Takes the plaintext of a record apart: codec, payload, padding. Not the decompression.
 * VDISK_E_MALFORMED. */
int vb_record_decode(const uint8_t *plain, size_t length, uint8_t *codec, const uint8_t **payload,
                     size_t *payload_bytes);

/* HMAC-SHA-256: an id of `data` under one of the keys of struct vb_keys. */
void vb_id_of(const uint8_t key[static 32], const void *data, size_t length, struct vb_id *id);

/*
 * The body of index, manifest and prune record: a meta segment and its record 0.
 * vb_body_seal: free() *body. vb_body_open: free() *payload.
 */
int vb_body_seal(const struct vb_segment_keys *keys, enum vb_record_kind kind, const void *payload,
                 size_t length, unsigned pad, uint8_t **body, size_t *body_bytes);
int vb_body_open(const struct vb_segment_keys *keys, enum vb_record_kind kind, const uint8_t *body,
                 size_t body_bytes, uint8_t **payload, size_t *length);

#endif
