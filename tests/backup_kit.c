/* SPDX-License-Identifier: Apache-2.0 */
/* Repositories, drives, restores that compare; see backup_kit.h. */
#include "backup_kit.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

const struct vdisk_key kit_read_key = {
    .kind = VDISK_KEY_FILE, .bytes = "the key file of who reads it all", .length = 32};
const struct vdisk_key kit_put_key = {
    .kind = VDISK_KEY_FILE, .bytes = "the key file of the first host..", .length = 32};
const struct vdisk_key kit_other_put_key = {
    .kind = VDISK_KEY_FILE, .bytes = "the key file of the second host.", .length = 32};
const struct vdisk_key kit_maintain_key = {
    .kind = VDISK_KEY_FILE, .bytes = "the key file of who tidies it up", .length = 32};

/* --- repositories ------------------------------------------------------------------------- */

struct vb_repo *kit_repo_open(struct kit_store *kit, const struct vdisk_key *key)
{
    struct vdisk_error error = {0};
    struct vb_repo *repo = NULL;
    int result = vb_repo_open(kit_store_handle(kit), key, &repo, &error);

    if (result)
        print_message("opening: %s\n", error.text);
    assert_int_equal(result, 0);
    return repo;
}

static void add_key(struct vb_repo *repo, enum vb_role role, const struct vdisk_key *key)
{
    struct vdisk_error error = {0};
    struct vb_id slot;

    assert_int_equal(vb_repo_key_add(repo, role, key, false, vb_role_name(role), &slot, &error), 0);
}

struct kit_store *kit_repo_make(uint64_t seed)
{
    const struct vb_init_options options = {
        .pad = seed % 2 ? VB_PAD_DEFAULT : 0, .level = 1, .writer_name = "reader"};
    struct kit_store *kit = kit_store_new(seed);
    struct vb_store *store = kit_store_handle(kit);
    struct vdisk_error error = {0};
    struct vb_repo *repo;

    assert_int_equal(vb_repo_init(store, &options, &kit_read_key, &error), 0);
    store->ops->close(store);
    repo = kit_repo_open(kit, &kit_read_key);
    add_key(repo, VB_ROLE_PUT, &kit_put_key);
    add_key(repo, VB_ROLE_PUT, &kit_other_put_key);
    add_key(repo, VB_ROLE_MAINTAIN, &kit_maintain_key);
    vb_repo_close(repo);
    return kit;
}

/* --- drives ------------------------------------------------------------------------------- */

static struct kit_drive *of(struct vb_drive *drive)
{
    return (struct kit_drive *)drive;
}

static int drive_open(struct vb_drive *drive, void **reader, struct vdisk_error *error)
{
    (void)error;
    *reader = drive;
    return 0;
}

static void copy_out(const struct kit_drive *drive, uint64_t offset, uint8_t *to, size_t length)
{
    while (length > 0) {
        size_t at = offset % VB_CHUNK_BYTES, piece = VB_CHUNK_BYTES - at;
        const uint8_t *chunk = drive->chunk[offset / VB_CHUNK_BYTES];

        piece = piece < length ? piece : length;
        if (chunk)
            memcpy(to, chunk + at, piece);
        else
            memset(to, 0, piece);
        to += piece;
        offset += piece;
        length -= piece;
    }
}

static int drive_read(void *reader, uint64_t offset, void *data, size_t length,
                      struct vdisk_error *error)
{
    struct kit_drive *drive = reader;

    (void)error;
    if (drive->fails)
        return -EIO;
    assert_true(offset < drive->drive.size && length <= drive->drive.size - offset);
    copy_out(drive, offset, data, length);
    __atomic_fetch_add(&drive->read_bytes, length, __ATOMIC_RELAXED);
    return 0;
}

static void drive_close(void *reader)
{
    (void)reader;
}

static bool is_zero_block(const struct kit_drive *drive, size_t block)
{
    static const uint8_t zeros[VB_BLOCK_BYTES];
    const uint8_t *chunk = drive->chunk[block / VB_CHUNK_BLOCKS];

    return !chunk ||
           memcmp(chunk + block % VB_CHUNK_BLOCKS * VB_BLOCK_BYTES, zeros, VB_BLOCK_BYTES) == 0;
}

/* Runs of blocks that changed, or, without a base, that are not zeros. */
static bool known_zero(const struct kit_drive *drive, size_t block)
{
    return !drive->blind && is_zero_block(drive, block);
}

static int drive_next(struct vb_drive *vb_drive, uint64_t from, struct vb_span *span,
                      struct vdisk_error *error)
{
    struct kit_drive *drive = of(vb_drive);
    size_t blocks = (size_t)((drive->drive.size + VB_BLOCK_BYTES - 1) / VB_BLOCK_BYTES);
    size_t block = (size_t)(from / VB_BLOCK_BYTES), first;

    (void)error;
    *span = (struct vb_span){0};
    while (block < blocks && (vb_drive->base ? !drive->dirty[block] : known_zero(drive, block)))
        block++;
    if (block == blocks)
        return 0;
    first = block;
    span->is_zero = vb_drive->base && known_zero(drive, block);
    while (block < blocks &&
           (vb_drive->base ? drive->dirty[block] && known_zero(drive, block) == span->is_zero
                           : !known_zero(drive, block)))
        block++;
    span->offset = first * VB_BLOCK_BYTES;
    span->length = (block == blocks ? drive->drive.size : block * VB_BLOCK_BYTES) - span->offset;
    return 0;
}

struct kit_drive *kit_drive_new(uint64_t size, struct sim_rng *rng)
{
    static const struct vb_drive_ops ops = {
        .open = drive_open, .read = drive_read, .close = drive_close, .next = drive_next};
    struct kit_drive *drive = calloc(1, sizeof(*drive));

    assert_non_null(drive);
    drive->drive.ops = &ops;
    if (rng)
        sim_rng_fill(rng, drive->id, sizeof(drive->id));
    kit_drive_resize(drive, size);
    return drive;
}

void kit_drive_free(struct kit_drive *drive)
{
    for (size_t i = 0; i < drive->chunks; i++)
        free(drive->chunk[i]);
    free(drive->chunk);
    free(drive->dirty);
    free(drive);
}

void kit_drive_resize(struct kit_drive *drive, uint64_t size)
{
    size_t chunks = (size_t)((size + VB_CHUNK_BYTES - 1) / VB_CHUNK_BYTES);

    assert_true(size >= drive->drive.size); /* it only grows */
    drive->chunk = realloc(drive->chunk, chunks * sizeof(*drive->chunk));
    drive->dirty = realloc(drive->dirty, chunks * VB_CHUNK_BLOCKS);
    assert_non_null(drive->chunk);
    assert_non_null(drive->dirty);
    memset(drive->chunk + drive->chunks, 0, (chunks - drive->chunks) * sizeof(*drive->chunk));
    memset(drive->dirty + drive->chunks * VB_CHUNK_BLOCKS, 0,
           (chunks - drive->chunks) * VB_CHUNK_BLOCKS);
    drive->chunks = chunks;
    drive->drive.size = size;
}

struct kit_drive *kit_drive_copy(const struct kit_drive *drive)
{
    struct kit_drive *copy = kit_drive_new(drive->drive.size, NULL);

    memcpy(copy->id, drive->id, sizeof(copy->id));
    for (size_t i = 0; i < drive->chunks; i++) {
        if (!drive->chunk[i])
            continue;
        copy->chunk[i] = malloc(VB_CHUNK_BYTES);
        assert_non_null(copy->chunk[i]);
        memcpy(copy->chunk[i], drive->chunk[i], VB_CHUNK_BYTES);
    }
    return copy;
}

void kit_drive_write(struct kit_drive *drive, uint64_t offset, const void *data, size_t length)
{
    const uint8_t *from = data;

    while (length > 0 && offset < drive->drive.size) {
        size_t at = offset % VB_CHUNK_BYTES, piece = VB_CHUNK_BYTES - at;
        uint8_t **chunk = &drive->chunk[offset / VB_CHUNK_BYTES];

        piece = piece < length ? piece : length;
        piece = piece < drive->drive.size - offset ? piece : (size_t)(drive->drive.size - offset);
        if (!*chunk)
            *chunk = calloc(1, VB_CHUNK_BYTES);
        assert_non_null(*chunk);
        if (from)
            memcpy(*chunk + at, from, piece);
        else
            memset(*chunk + at, 0, piece);
        for (size_t block = offset / VB_BLOCK_BYTES; block <= (offset + piece - 1) / VB_BLOCK_BYTES;
             block++)
            drive->dirty[block] = 1;
        from = from ? from + piece : NULL;
        offset += piece;
        length -= piece;
    }
}

void kit_drive_scribble(struct kit_drive *drive, struct sim_rng *rng, unsigned writes)
{
    static const size_t sizes[] = {1, 512, 4096, 4096, 12288, 65536, 300000, VB_CHUNK_BYTES};
    uint8_t *data = malloc(VB_CHUNK_BYTES);

    assert_non_null(data);
    while (writes-- > 0) {
        size_t length = sizes[sim_rng_below(rng, sizeof(sizes) / sizeof(sizes[0]))];
        uint64_t offset = sim_rng_below(rng, drive->drive.size);
        unsigned kind = (unsigned)sim_rng_below(rng, 6);

        if (sim_rng_chance(rng, 2, 3)) /* most of it near the beginning */
            offset %= 6 * VB_CHUNK_BYTES;
        if (sim_rng_chance(rng, 1, 2))
            offset -= offset % VB_BLOCK_BYTES;
        offset %= drive->drive.size;
        if (kind < 3)
            sim_rng_fill(rng, data, length);
        else
            memset(data, (int)sim_rng_below(rng, 3), length); /* the same again and again */
        kit_drive_write(drive, offset, kind == 5 ? NULL : data, length);
    }
    free(data);
}

/* --- backing up --------------------------------------------------------------------------- */

int kit_backup(struct vb_repo *repo, struct kit_drive *drive, bool whole,
               struct vb_create_result *result, struct vdisk_error *error)
{
    const struct vb_create_options options = {.repo = repo, .drive = &drive->drive, .threads = 2};
    struct vb_manifest manifest = {.size = drive->drive.size,
                                   .created = 1,
                                   .sequence = 1,
                                   .consistency = VB_CONSISTENT_CRASH,
                                   .source = VB_FROM_RAW,
                                   .drive_name = "drive"};
    const struct vb_backup *newest;
    struct vb_backups backups;
    int outcome;

    memset(error, 0, sizeof(*error));
    outcome = vb_backups_load(repo, &backups, error);
    if (outcome)
        return outcome;
    newest = vb_backups_newest(&backups, drive->id);
    memcpy(manifest.drive, drive->id, sizeof(manifest.drive));
    if (newest) {
        manifest.previous = newest->name;
        manifest.sequence = newest->manifest.sequence + 1;
    }
    whole = whole || vb_id_is_zero(&drive->base.name) || !vb_repo_trusts(repo, &drive->base.signer);
    drive->drive.base = whole ? NULL : &drive->base;
    drive->read_bytes = 0;
    outcome = vb_create(&options, &manifest, result, error);
    vb_backups_release(&backups);
    if (outcome)
        return outcome;
    drive->base = (struct vb_backup){
        .name = result->name, .signer = repo->keys->sign_public, .manifest = manifest};
    memset(drive->dirty, 0, drive->chunks * VB_CHUNK_BLOCKS);
    return 0;
}

/* --- restoring ---------------------------------------------------------------------------- */

struct comparing {
    struct vb_target target;
    const struct kit_drive *drive;
    uint8_t *written; /* chunks */
};

static int compare(struct vb_target *target, uint64_t offset, const void *data, size_t length,
                   struct vdisk_error *error)
{
    struct comparing *comparing = (struct comparing *)target;
    static const uint8_t zeros[VB_CHUNK_BYTES];
    const uint8_t *chunk = comparing->drive->chunk[offset / VB_CHUNK_BYTES];

    (void)error;
    assert_int_equal(offset % VB_CHUNK_BYTES, 0);
    assert_true(offset + length <= comparing->drive->drive.size);
    if (memcmp(data, chunk ? chunk : zeros, length) != 0)
        abort(); /* wrong bytes, the one thing that must not be */
    comparing->written[offset / VB_CHUNK_BYTES] = 1;
    return 0;
}

int kit_restore(struct vb_repo *repo, const struct vb_id *name, const struct kit_drive *drive,
                struct vdisk_error *error)
{
    struct comparing comparing = {.target = {.any_thread = true, .write = compare}, .drive = drive};
    struct vb_restore_options options = {.repo = repo, .target = &comparing.target, .threads = 2};
    struct vb_restore_result done;
    struct vb_backups backups;
    int result;

    memset(error, 0, sizeof(*error));
    result = vb_backups_load(repo, &backups, error);
    if (result)
        return result;
    options.backup = vb_backups_find(&backups, name);
    if (!options.backup) {
        vb_backups_release(&backups);
        return VDISK_E_NOT_FOUND;
    }
    assert_true(options.backup->manifest.size == drive->drive.size);
    comparing.written = calloc(drive->chunks, 1);
    assert_non_null(comparing.written);
    result = vb_restore(&options, &done, error);
    for (size_t i = 0; i < drive->chunks * VB_CHUNK_BLOCKS && result == 0; i++) {
        if (!comparing.written[i / VB_CHUNK_BLOCKS])
            assert_true(is_zero_block(drive, i));
    }
    free(comparing.written);
    vb_backups_release(&backups);
    return result;
}

/* --- verifying ---------------------------------------------------------------------------- */

static void finding(void *opaque, const char *text)
{
    struct kit_verdict *verdict = opaque;
    size_t length = strlen(verdict->all);

    if (verdict->findings++ == 0)
        snprintf(verdict->first, sizeof(verdict->first), "%s", text);
    snprintf(verdict->all + length, sizeof(verdict->all) - length, "%s\n", text);
}

static void judge(void *opaque, const struct vb_backup *backup, uint64_t damaged_bytes,
                  const char *why)
{
    struct kit_verdict *verdict = opaque;

    if (damaged_bytes)
        assert_true(why[0]);
    else if (verdict->good < KIT_GOOD_MAX)
        verdict->good_name[verdict->good] = backup->name;
    verdict->good += damaged_bytes == 0;
    verdict->bad += damaged_bytes > 0;
}

int kit_verify(struct vb_repo *repo, bool data, struct kit_verdict *verdict)
{
    struct vb_backups backups;
    struct vb_verify_options options = {.repo = repo,
                                        .backups = &backups,
                                        .data = data,
                                        .finding = finding,
                                        .verdict = judge,
                                        .opaque = verdict};
    struct vdisk_error error = {0};
    struct vb_verify_result done;
    int result;

    memset(verdict, 0, sizeof(*verdict));
    assert_int_equal(vb_backups_load(repo, &backups, &error), 0);
    result = vb_verify(&options, &done, &error);
    vb_backups_release(&backups);
    return result;
}
