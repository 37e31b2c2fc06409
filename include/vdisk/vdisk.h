/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libvdisk: encrypted, authenticated, compressed, copy-on-write drive images.
 *
 * An image is used by one thread: the one that opened it. Requests are asynchronous
 * (vdisk_submit, vdisk_poll); the functions without a request wait for the end themselves and
 * may be mixed with requests in flight. The library makes no threads; give it workers (io.h) for
 * more than one core.
 *
 * Caveats, first: a write is durable when a flush submitted after its completion has completed.
 * After a failed sync every later write and flush fails with VDISK_E_FAILED until the image is
 * opened again. Reads of damaged or forged data fail with VDISK_E_NOT_AUTHENTIC; nothing is ever
 * returned that was not verified.
 *
 * Offsets and lengths are bytes of the guest's drive, of any alignment; multiples of 4096 are fast.
 */
#ifndef VDISK_VDISK_H
#define VDISK_VDISK_H

#include "vdisk/error.h"
#include "vdisk/io.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VDISK_BLOCK_BYTES        4096u
#define VDISK_ID_BYTES           16u
#define VDISK_TAG_BYTES          16u
#define VDISK_KEYSLOTS           16u
#define VDISK_NAME_MAX           255u
#define VDISK_PATH_MAX           1024u
#define VDISK_SIZE_MAX           (UINT64_C(1) << 56)
#define VDISK_REQUEST_MAX        (UINT64_C(1) << 30) /* longest read or write in one request */
#define VDISK_PUBLIC_KEY_BYTES   32u
#define VDISK_IDENTITY_BYTES     32u
#define VDISK_DEFAULT_KDF_PASSES 3u
#define VDISK_DEFAULT_KDF_KIB    (256u * 1024)

struct vdisk_image;
struct vdisk_snapshot;

/* Once for each process, before anything else. 0 or -EIO. */
int vdisk_init(void);

/* --- keys ------------------------------------------------------------------------------- */

enum vdisk_key_kind {
    VDISK_KEY_PASSPHRASE = 1, /* any bytes; Argon2id */
    VDISK_KEY_FILE = 2,       /* any bytes; of fewer than 32, Argon2id */
    VDISK_KEY_RECIPIENT = 3,  /* an X25519 public key (32 bytes): can make a slot, not open one */
    VDISK_KEY_IDENTITY = 4,   /* an X25519 secret key (32 bytes): opens a recipient's slot */
};

/* What a person holds. The bytes are the caller's, best in locked memory (vdisk_secret_alloc). */
struct vdisk_key {
    enum vdisk_key_kind kind;
    const void *bytes;
    size_t length;
    uint32_t kdf_passes; /* for making a slot: 0 is the default */
    uint32_t kdf_kib;
};

/* Locked, guarded memory, wiped when freed. NULL without memory. */
void *vdisk_secret_alloc(size_t length);
void vdisk_secret_free(void *secret);

void vdisk_identity_generate(uint8_t identity[VDISK_IDENTITY_BYTES],
                             uint8_t public_key[VDISK_PUBLIC_KEY_BYTES]);

struct vdisk_keyslot_info {
    unsigned slot;
    enum vdisk_key_kind kind; /* passphrase, file or recipient */
    uint32_t kdf_passes, kdf_kib;
    int64_t created; /* seconds since 1970 */
    uint8_t public_key[VDISK_PUBLIC_KEY_BYTES];
};

/* --- the public header, without a key ------------------------------------------------------ */

struct vdisk_public_info {
    uint32_t version;
    uint8_t image_id[VDISK_ID_BYTES];
    uint64_t cluster_bytes;
    uint64_t journal_bytes;
    uint64_t split_bytes; /* 0: one file */
    uint32_t part_set;    /* in the names of the other files */
    uint64_t file_bytes;
    bool header_damaged; /* one of the two copies */
    unsigned keyslots;
    struct vdisk_keyslot_info slot[VDISK_KEYSLOTS];
};

/* Takes no lock. Errors: -errno, VDISK_E_MALFORMED, VDISK_E_UNSUPPORTED. */
int vdisk_probe(const char *path, struct vdisk_public_info *info, struct vdisk_error *error);

/* --- sources -------------------------------------------------------------------------------- */

#define VDISK_SOURCE_ID_BYTES  32u
#define VDISK_SOURCE_PIECE_MAX (1u << 20)

/*
 * What an image is filled from that is not all there yet: a drive elsewhere that does not change, a
 * backup. The caller's; it outlives the image. The functions may wait; they are called on the
 * image's workers, several at once (without workers, by its thread).
 */
struct vdisk_source {
    uint64_t size;                     /* bytes; behind them are zeros */
    uint32_t piece_bytes;              /* what is fetched at once, and best kept for a moment: a
                                        * power of two from 4096 to VDISK_SOURCE_PIECE_MAX */
    uint8_t id[VDISK_SOURCE_ID_BYTES]; /* other content has another one */
    const char *name; /* for who opens the image again: 1 to VDISK_PATH_MAX bytes */
    /* 0 or a negative error with its sentence. */
    int (*read)(struct vdisk_source *source, uint64_t offset, void *data, uint64_t length,
                struct vdisk_error *error);
    /* The first range at or after `offset` that may hold more than zeros; *length 0: none. */
    int (*next)(struct vdisk_source *source, uint64_t offset, uint64_t *start, uint64_t *length,
                struct vdisk_error *error);
};

/* --- create, open, close -------------------------------------------------------------------- */

struct vdisk_create_options {
    size_t struct_bytes;       /* sizeof(struct vdisk_create_options) */
    uint64_t size;             /* bytes, multiple of 512; 0 with a base: the base's size */
    uint64_t cluster_bytes;    /* 0: 128 KiB */
    uint64_t split_bytes;      /* 0: one file */
    uint32_t journal_log2;     /* 0: default */
    bool compress;             /* new data with zstd */
    int compress_level;        /* of zstd, -7 to 19; 0: default (4) */
    const char *base_path;     /* NULL: none; stored as given */
    const char *base_snapshot; /* NULL: the live state */
    const struct vdisk_key *base_key;
    struct vdisk_source *source;   /* NULL: none; instead of a base; size 0: the source's */
    struct vdisk_workers *workers; /* may be NULL; not owned */
    struct vdisk_io *io;           /* NULL: a plain file at path; taken over, also on failure */
};

/*
 * Makes an image that has one keyslot, for `key` (any kind but identity), and opens it for
 * writing. A failure removes what it made. Errors: VDISK_E_EXISTS, -EINVAL, -errno.
 */
int vdisk_create(const char *path, const struct vdisk_create_options *options,
                 const struct vdisk_key *key, struct vdisk_image **out, struct vdisk_error *error);

/* Opens the files of an image and of its bases, for who has a backend of their own. Embed it. */
struct vdisk_opener {
    /* As vdisk_io_plain_open, with a path and VDISK_OPEN_ flags. */
    int (*open)(const struct vdisk_opener *opener, const char *path, int flags,
                struct vdisk_io **io, struct vdisk_error *error);
};

/* What a key opened. */
struct vdisk_unlocked;

struct vdisk_open_options {
    size_t struct_bytes;
    bool read_only;
    const struct vdisk_unlocked *unlocked; /* instead of a key; not owned */
    const struct vdisk_opener *opener;     /* NULL: plain files; lives as long as the image */
    size_t cache_bytes;            /* map nodes and decompressed clusters, with bases; 0: 32 MiB */
    const char *base_path;         /* NULL: as recorded in the image */
    struct vdisk_source *source;   /* of an image that is being filled; else not looked at */
    bool without_source;           /* opens it all the same: what is missing is VDISK_E_UNFILLED */
    struct vdisk_workers *workers; /* may be NULL; not owned */
    struct vdisk_io *io;           /* NULL: a plain file at path; taken over, also on failure */
};

/*
 * The slow part of opening alone, on any thread and without a lock: finds the keyslot that the key
 * opens. Errors: VDISK_E_WRONG_KEY, VDISK_E_NOT_AUTHENTIC, VDISK_E_MALFORMED, -errno.
 */
int vdisk_unlock(const char *path, const struct vdisk_key *key, struct vdisk_unlocked **out,
                 struct vdisk_error *error);
/* Another one, for who must open the image anew later. NULL without memory. */
struct vdisk_unlocked *vdisk_unlocked_copy(const struct vdisk_unlocked *unlocked);
/* That of an open image, to open it for reading once more, for another thread. NULL without memory.
 */
struct vdisk_unlocked *vdisk_unlocked_of(const struct vdisk_image *image);
/* Wipes it. NULL is allowed. */
void vdisk_unlocked_free(struct vdisk_unlocked *unlocked);

/*
 * Opens and, after a crash, recovers. `key` is NULL when it is unlocked already. Errors:
 * VDISK_E_WRONG_KEY, VDISK_E_NOT_AUTHENTIC, VDISK_E_MALFORMED, VDISK_E_UNSUPPORTED, VDISK_E_IN_USE,
 * VDISK_E_BASE_CHANGED, VDISK_E_UNFILLED (it takes a source), -errno.
 */
int vdisk_open(const char *path, const struct vdisk_open_options *options,
               const struct vdisk_key *key, struct vdisk_image **out, struct vdisk_error *error);

/* Waits for requests in flight, makes everything durable and frees the image. With an error the
 * image is freed all the same; what was flushed before is safe. NULL is allowed. */
int vdisk_close(struct vdisk_image *image, struct vdisk_error *error);
/* Frees without writing anything, as a crash would (tests; after VDISK_E_FAILED). */
void vdisk_abandon(struct vdisk_image *image);
/* From now on, in place of cache_bytes; what is too much goes at once. Not by a coroutine of it. */
void vdisk_set_cache(struct vdisk_image *image, size_t bytes);

struct vdisk_info {
    uint8_t image_id[VDISK_ID_BYTES];
    uint64_t size;
    uint64_t cluster_bytes;
    uint64_t split_bytes;
    uint64_t generation;               /* of the last checkpoint */
    uint8_t root_tag[VDISK_TAG_BYTES]; /* tag of the map's root: with generation, an anchor */
    uint64_t used_bytes;               /* host bytes in use by data and metadata */
    uint64_t file_bytes;               /* length of the file or files */
    uint32_t epoch;
    uint64_t snapshots;
    bool compress;
    int compress_level;
    bool read_only;
    bool recovered;                          /* the journal was replayed at open */
    bool header_damaged, superblock_damaged; /* one of the two copies; check --repair mends */
    bool has_base;
    uint8_t base_id[VDISK_ID_BYTES];
    char base_path[VDISK_PATH_MAX + 1];
    char base_snapshot[VDISK_NAME_MAX + 1];
    bool has_source; /* it is being filled; has_base is false then */
    uint8_t source_id[VDISK_SOURCE_ID_BYTES];
    char source_name[VDISK_PATH_MAX + 1];
};

void vdisk_get_info(struct vdisk_image *image, struct vdisk_info *info);
struct vdisk_cache_figures {
    uint64_t bytes, limit_bytes; /* in memory */
    uint64_t hits, misses;       /* since it was opened */
};
/* What it costs and does; an image's bases are counted with it but for the journal and
 * checkpoints. */
struct vdisk_figures {
    struct vdisk_cache_figures nodes;    /* of the trees */
    struct vdisk_cache_figures clusters; /* decompressed */
    uint64_t dirty_bytes;                /* of nodes that the next checkpoint writes */
    uint64_t journal_bytes, journal_used_bytes;
    uint64_t journal_records, journal_syncs; /* since it was opened; a sync is for all flushes that
                                              * waited */
    uint64_t checkpoints;                    /* since it was opened */
};
void vdisk_get_figures(const struct vdisk_image *image, struct vdisk_figures *figures);
uint64_t vdisk_size(const struct vdisk_image *image);
/* 0, or the error for which nothing can be changed or flushed any more until the image is opened
 * again (VDISK_E_FAILED is what requests then get). */
int vdisk_failed(const struct vdisk_image *image);
/* The sentence of the last function or request that failed on this image. */
const struct vdisk_error *vdisk_last_error(const struct vdisk_image *image);

/* --- requests ------------------------------------------------------------------------------- */

enum vdisk_request_op {
    VDISK_READ,
    VDISK_WRITE,
    VDISK_FLUSH,
    VDISK_DISCARD, /* afterwards reads as zeros; space goes back to the host */
    VDISK_ZERO,    /* writes zeros without storing them */
};

/* The caller's, untouched from vdisk_submit() until done() is called from vdisk_poll(). */
struct vdisk_request {
    enum vdisk_request_op op;
    bool fua;                /* WRITE, ZERO, DISCARD: durable on completion */
    bool outlives;           /* likewise: on completion the end of this process cannot undo it */
    uint64_t offset, length; /* bytes */
    void *data;
    struct vdisk_snapshot *snapshot; /* READ: from this snapshot; NULL: the live state */
    int result; /* 0 or an error; a read that fails leaves data undefined but never unverified */
    void (*done)(struct vdisk_request *request);
    void *owner;
    struct vdisk_request *next; /* the image's while in flight */
};

/* Never calls done() itself; a request that is out of bounds completes with -EINVAL. */
void vdisk_submit(struct vdisk_image *image, struct vdisk_request *request);
/* Runs what is ready; with `wait` blocks until something has happened. Returns false when nothing
 * is in flight. */
bool vdisk_poll(struct vdisk_image *image, bool wait);
/* True when vdisk_poll would run something at once, without a completion of the io or a worker:
 * what an event loop asks before it sleeps. */
bool vdisk_ready(const struct vdisk_image *image);

/* The same, waiting. `data` must not be accessed by others meanwhile. */
int vdisk_read(struct vdisk_image *image, uint64_t offset, void *data, uint64_t length);
int vdisk_write(struct vdisk_image *image, uint64_t offset, const void *data, uint64_t length);
int vdisk_flush(struct vdisk_image *image);
int vdisk_discard(struct vdisk_image *image, uint64_t offset, uint64_t length);
int vdisk_zero(struct vdisk_image *image, uint64_t offset, uint64_t length);

/* Makes the tree on disk current and the journal empty. Runs beside requests in flight. */
int vdisk_checkpoint(struct vdisk_image *image);

/*
 * Runs entry(opaque) from vdisk_poll, in a coroutine of the image: the functions of this header
 * that wait (but for opening and closing) may be called in there, and let other requests go on
 * meanwhile. -ENOMEM.
 */
int vdisk_spawn(struct vdisk_image *image, void (*entry)(void *opaque), void *opaque);

/* --- size, space ------------------------------------------------------------------------------ */

/* New size in bytes, multiple of 512. Shrinking needs may_shrink and loses what lies beyond. */
int vdisk_resize(struct vdisk_image *image, uint64_t size, bool may_shrink);

/* Called now and then by long work; returning false ends it with -ECANCELED. */
typedef bool vdisk_progress(void *opaque, uint64_t done_bytes, uint64_t total_bytes);

struct vdisk_compact_result {
    uint64_t clusters_folded;
    uint64_t bytes_freed; /* of used_bytes */
};
/* Folds patched clusters, finishes deletions, gives free space back to the host. */
int vdisk_compact(struct vdisk_image *image, vdisk_progress *progress, void *opaque,
                  struct vdisk_compact_result *result);

/* --- filling ------------------------------------------------------------------------------------
 */

/*
 * Copies a piece (at most VDISK_SOURCE_PIECE_MAX bytes) of what the base or the source shows, and
 * is not zeros, at or after *cursor into the image itself. Nothing that was written is touched,
 * also by requests beside it. *cursor moves behind the piece, *copied (may be NULL) is what was
 * copied. Where nothing is left *cursor is the size of the drive. Several coroutines may share a
 * cursor: who fails puts it back.
 */
int vdisk_fill(struct vdisk_image *image, uint64_t *cursor, uint64_t *copied);
/*
 * When nothing of the base or the source shows any more: an ordinary image from now on, durably; a
 * source is not used any more when it returns. VDISK_E_UNFILLED: there is more to fill (the
 * live state), or a snapshot that shows the base. Waits for requests that read from it.
 */
int vdisk_detach(struct vdisk_image *image);

/* --- snapshots ----------------------------------------------------------------------------------
 */

struct vdisk_snapshot_info {
    uint64_t id;
    uint64_t parent; /* 0: none */
    uint64_t size;
    int64_t created; /* nanoseconds since 1970 */
    uint8_t root_tag[VDISK_TAG_BYTES];
    char name[VDISK_NAME_MAX + 1];
};

/* Names: 1 to 255 bytes of UTF-8 without control characters, '/' and '@'. VDISK_E_UNFILLED while
 * the image has a source. */
int vdisk_snapshot_create(struct vdisk_image *image, const char *name);
/* VDISK_E_NOT_FOUND; VDISK_E_IN_USE while open. Durable at once; space is freed before it
 * returns, or, after a crash, by the next vdisk_compact, delete or rollback. */
int vdisk_snapshot_delete(struct vdisk_image *image, const char *name);
/* The live state becomes that of the snapshot again; what was written since is lost. */
int vdisk_snapshot_rollback(struct vdisk_image *image, const char *name);
/* In order of creation; returns false from `each` to stop. */
int vdisk_snapshot_list(struct vdisk_image *image,
                        bool (*each)(void *opaque, const struct vdisk_snapshot_info *info),
                        void *opaque);
/* For reading. Close it before the image. */
int vdisk_snapshot_open(struct vdisk_image *image, const char *name, struct vdisk_snapshot **out);
void vdisk_snapshot_close(struct vdisk_snapshot *snapshot);
void vdisk_snapshot_get_info(const struct vdisk_snapshot *snapshot,
                             struct vdisk_snapshot_info *info);
int vdisk_snapshot_read(struct vdisk_snapshot *snapshot, uint64_t offset, void *data,
                        uint64_t length);

/* --- looking at the map
 * ----------------------------------------------------------------------------- */

enum vdisk_extent_kind {
    VDISK_EXTENT_HOLE,    /* nothing here; in an overlay, the base shows */
    VDISK_EXTENT_ZERO,    /* zeros, not stored */
    VDISK_EXTENT_RAW,     /* encrypted */
    VDISK_EXTENT_ZSTD,    /* compressed and encrypted */
    VDISK_EXTENT_PATCHED, /* compressed, with newer 4 KiB blocks over it */
    VDISK_EXTENT_MISSING, /* through_base: data that the source has, not here yet */
};

struct vdisk_extent {
    uint64_t offset, length; /* bytes */
    enum vdisk_extent_kind kind;
    unsigned depth; /* 0: this image, 1: its base, ... ; the deepest for a hole everywhere */
};
typedef bool vdisk_extent_callback(void *opaque, const struct vdisk_extent *extent);

/* Neighbouring ranges of a kind come as one. snapshot may be NULL. With `through_base`, holes are
 * answered by the chain of bases. */
int vdisk_map(struct vdisk_image *image, struct vdisk_snapshot *snapshot, uint64_t offset,
              uint64_t length, bool through_base, vdisk_extent_callback *each, void *opaque);

/*
 * Ranges (of 4 KiB, or clusters) whose content differs between two states of one image, by a walk
 * of both trees that skips what they share: O(changes). `old_state` or `new_state` NULL: the live
 * state, of which a consistent picture is taken. kind is that of the new state. Past the smaller of
 * two sizes everything counts as changed, unless it reads as zeros.
 */
int vdisk_diff(struct vdisk_image *image, struct vdisk_snapshot *old_state,
               struct vdisk_snapshot *new_state, vdisk_extent_callback *each, void *opaque);

/*
 * The same of a part: from the beginning of the range on, as much as takes a bounded time and
 * memory; *reached is where the next part begins, behind the range's beginning. Neighbouring ranges
 * come as one within a part; the live state is as it is while the walk passes.
 */
struct vdisk_range {
    struct vdisk_snapshot *state; /* NULL: the live one; for a difference the new one */
    uint64_t offset, length;      /* bytes */
    unsigned wanted;              /* so many ranges are enough; 0: as many as there are */
};
int vdisk_map_part(struct vdisk_image *image, const struct vdisk_range *range, bool through_base,
                   vdisk_extent_callback *each, void *opaque, uint64_t *reached);
int vdisk_diff_part(struct vdisk_image *image, struct vdisk_snapshot *old_state,
                    const struct vdisk_range *range, vdisk_extent_callback *each, void *opaque,
                    uint64_t *reached);

/* --- check
 * -------------------------------------------------------------------------------------------- */

struct vdisk_check_finding {
    const char *text; /* one line; valid during the call */
    bool repaired;
    bool data;               /* offset and length name a damaged range of the drive */
    uint64_t offset, length; /* bytes */
    const char *snapshot;    /* NULL: the live state (or not about data) */
};
struct vdisk_check_options {
    size_t struct_bytes;
    bool repair; /* mends what can be: header copies, superblock slots, use counts */
    void (*finding)(void *opaque, const struct vdisk_check_finding *finding);
    vdisk_progress *progress;
    void *opaque;
};
struct vdisk_check_result {
    uint64_t nodes, extents, data_bytes; /* verified */
    uint64_t damaged, repaired, leaked_blocks;
};
/* Reads and verifies everything. 0 when clean (or all repaired), VDISK_E_DAMAGED with findings. */
int vdisk_check(struct vdisk_image *image, const struct vdisk_check_options *options,
                struct vdisk_check_result *result);

/* --- keyslots of an open image
 * ------------------------------------------------------------------------ */

unsigned vdisk_key_list(struct vdisk_image *image, struct vdisk_keyslot_info slots[VDISK_KEYSLOTS]);
/* The slot the image was opened with, or -1. */
int vdisk_key_slot_used(const struct vdisk_image *image);
int vdisk_key_add(struct vdisk_image *image, const struct vdisk_key *key, unsigned *slot);
/* Refuses the last one (VDISK_E_LIMIT). */
int vdisk_key_remove(struct vdisk_image *image, unsigned slot);

/*
 * Re-encryption: writes a copy of the image at `path`, under a new volume key, beside it, with all
 * snapshots and the same image id, and renames it over `path` when it is durable. Until that moment
 * the old image is whole and in place; an interrupted rotation leaves a `path.rotate` that the next
 * one replaces. Keys: `keys[0]` opens; a slot is made for each of `keys`, and for each recipient's
 * slot. Other slots are lost: VDISK_E_LIMIT unless drop_others.
 */
int vdisk_key_rotate(const char *path, const struct vdisk_key *keys, unsigned key_count,
                     bool drop_others, struct vdisk_workers *workers, vdisk_progress *progress,
                     void *opaque, struct vdisk_error *error);

#endif
