/* SPDX-License-Identifier: Apache-2.0 */
/* See statefile.h. */
#include "statefile.h"

#include "report.h"
#include "session.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC        "vdisk suspended\n"
#define MAGIC_BYTES  16u
#define VERSION      1u
#define HEADER_BYTES 32u
#define BLOCK        UINT64_C(4096)
#define MANIFEST_AT  BLOCK
#define STREAM_AT    (UINT64_C(1) << 20)
#define MANIFEST_MAX (STREAM_AT - MANIFEST_AT)
#define HEAD_MAX     (UINT64_C(17) << 20) /* of a stream, before memory */
#define RECORD_BYTES 16u                  /* before each of its pages, at most */
/* Memory is new data each time, and its guest waits. */
#define COMPRESSION  "zstd:1"
#define SLOTS        8u

/* A piece of the stream on its way. */
struct slot {
    struct vdisk_request request;
    uint8_t *data;
    bool is_busy;
};

/* Memory for all of them, or NULL. */
static uint8_t *fill_slots(struct slot slot[SLOTS])
{
    uint8_t *memory = aligned_alloc(BLOCK, (size_t)SLOTS * STATEFILE_PIECE);

    for (unsigned i = 0; i < SLOTS && memory; i++)
        slot[i].data = memory + (size_t)i * STATEFILE_PIECE;
    return memory;
}

/* The buffers are the image's until every request is done. */
static void drain(struct vdisk_image *image, const struct slot slot[SLOTS])
{
    for (unsigned i = 0; i < SLOTS; i++) {
        while (slot[i].is_busy)
            (void)vdisk_poll(image, true);
    }
}

/* ---- writing ---- */

struct statefile_writer {
    const char *path;
    struct newimage image;
    struct vdisk_workers *workers;
    uint32_t manifest_bytes;
    uint64_t stream_bytes;
    int failure; /* of the first request that failed */
    struct slot *current;
    struct slot slot[SLOTS];
    uint8_t *memory;
};

static int write_fail(const struct statefile_writer *writer, int code)
{
    return report(writer->path, code, vdisk_last_error(writer->image.image));
}

static void free_writer(struct statefile_writer *writer)
{
    session_workers_close(writer->workers);
    free(writer->memory);
    free(writer);
}

int statefile_create(const char *path, const struct vdisk_key *key, uint64_t memory,
                     struct statefile_writer **out)
{
    const struct newimage_options options = {.compress = COMPRESSION};
    uint64_t size = STREAM_AT + HEAD_MAX + memory + memory / BLOCK * RECORD_BYTES;
    struct vdisk_create_options create = {.size = (size + BLOCK - 1) / BLOCK * BLOCK};
    struct statefile_writer *writer = calloc(1, sizeof(*writer));
    int status;

    if (writer)
        writer->memory = fill_slots(writer->slot);
    if (!writer || !writer->memory) {
        free(writer);
        return report(path, -ENOMEM, NULL);
    }
    writer->path = path;
    writer->workers = session_workers();
    create.workers = writer->workers;
    status = newimage_make(&writer->image, path, &options, key, create);
    if (status != STATUS_DONE) {
        free_writer(writer);
        return status;
    }
    *out = writer;
    return STATUS_DONE;
}

int statefile_put_manifest(struct statefile_writer *writer, const json_t *manifest)
{
    char *text = json_dumps(manifest, JSON_COMPACT);
    size_t length = text ? strlen(text) : 0;
    int rc = text ? 0 : -ENOMEM;

    if (length > MANIFEST_MAX)
        rc = -EMSGSIZE;
    if (rc == 0)
        rc = vdisk_write(writer->image.image, MANIFEST_AT, text, length);
    free(text);
    writer->manifest_bytes = (uint32_t)length;
    return rc ? write_fail(writer, rc) : STATUS_DONE;
}

static void written(struct vdisk_request *request)
{
    struct statefile_writer *writer = request->owner;
    struct slot *slot = (struct slot *)request;

    slot->is_busy = false;
    if (request->result && writer->failure == 0)
        writer->failure = request->result;
}

static struct slot *find_idle(struct statefile_writer *writer)
{
    for (unsigned i = 0; i < SLOTS; i++) {
        if (!writer->slot[i].is_busy)
            return &writer->slot[i];
    }
    return NULL;
}

int statefile_buffer(struct statefile_writer *writer, uint8_t **buffer)
{
    (void)vdisk_poll(writer->image.image, false);
    while ((writer->current = find_idle(writer)) == NULL)
        (void)vdisk_poll(writer->image.image, true);
    if (writer->failure)
        return write_fail(writer, writer->failure);
    *buffer = writer->current->data;
    return STATUS_DONE;
}

void statefile_append(struct statefile_writer *writer, uint32_t length)
{
    struct slot *slot = writer->current;

    slot->is_busy = true;
    slot->request = (struct vdisk_request){
        .op = VDISK_WRITE,
        .offset = STREAM_AT + writer->stream_bytes,
        .length = length,
        .data = slot->data,
        .done = written,
        .owner = writer,
    };
    writer->stream_bytes += length;
    vdisk_submit(writer->image.image, &slot->request);
}

static int write_header(struct statefile_writer *writer)
{
    uint8_t header[HEADER_BYTES] = MAGIC;
    uint32_t version = htole32(VERSION), manifest = htole32(writer->manifest_bytes);
    uint64_t stream = htole64(writer->stream_bytes);

    memcpy(header + MAGIC_BYTES, &version, 4);
    memcpy(header + MAGIC_BYTES + 4, &manifest, 4);
    memcpy(header + MAGIC_BYTES + 8, &stream, 8);
    return vdisk_write(writer->image.image, 0, header, sizeof(header));
}

int statefile_finish(struct statefile_writer *writer)
{
    uint64_t size = (STREAM_AT + writer->stream_bytes + BLOCK - 1) / BLOCK * BLOCK;
    int rc, status;

    drain(writer->image.image, writer->slot);
    rc = writer->failure;
    if (rc == 0)
        rc = vdisk_resize(writer->image.image, size, true);
    if (rc == 0)
        rc = write_header(writer);
    if (rc == 0)
        rc = vdisk_flush(writer->image.image);
    if (rc) {
        status = write_fail(writer, rc);
        statefile_discard(writer);
        return status;
    }
    status = newimage_finish(&writer->image);
    free_writer(writer);
    return status;
}

void statefile_discard(struct statefile_writer *writer)
{
    if (!writer)
        return;
    drain(writer->image.image, writer->slot);
    newimage_discard(&writer->image);
    free_writer(writer);
}

/* ---- reading ---- */

static int read_fail(const struct statefile *file, int code)
{
    return report(file->path, code, vdisk_last_error(file->image));
}

static int fail_foreign(const struct statefile *file)
{
    return report_text(file->path, VDISK_E_MALFORMED,
                       "is not the state of a suspended guest, or not all of it");
}

static int read_manifest(struct statefile *file, uint32_t length)
{
    char *text = malloc(length);
    int rc = text ? vdisk_read(file->image, MANIFEST_AT, text, length) : -ENOMEM;

    if (rc == 0)
        file->manifest = json_loadb(text, length, JSON_REJECT_DUPLICATES, NULL);
    free(text);
    if (rc)
        return read_fail(file, rc);
    return json_is_object(file->manifest) ? STATUS_DONE : fail_foreign(file);
}

static int read_header(struct statefile *file)
{
    uint8_t header[HEADER_BYTES];
    uint64_t size = vdisk_size(file->image);
    uint32_t version, manifest;
    int rc;

    if (size < STREAM_AT)
        return fail_foreign(file);
    rc = vdisk_read(file->image, 0, header, sizeof(header));
    if (rc)
        return read_fail(file, rc);
    if (memcmp(header, MAGIC, MAGIC_BYTES) != 0)
        return fail_foreign(file);
    memcpy(&version, header + MAGIC_BYTES, 4);
    memcpy(&manifest, header + MAGIC_BYTES + 4, 4);
    memcpy(&file->stream_bytes, header + MAGIC_BYTES + 8, 8);
    manifest = le32toh(manifest);
    file->stream_bytes = le64toh(file->stream_bytes);
    if (le32toh(version) != VERSION)
        return report_text(file->path, VDISK_E_UNSUPPORTED,
                           "was written by a newer vdisk, which can go on with it");
    if (manifest == 0 || manifest > MANIFEST_MAX || file->stream_bytes > size - STREAM_AT)
        return fail_foreign(file);
    return read_manifest(file, manifest);
}

int statefile_open(const char *path, const struct vdisk_key *key, struct statefile *out)
{
    struct statefile file = {.path = path, .workers = session_workers()};
    struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .read_only = true, .workers = file.workers};
    struct vdisk_error error = {.code = 0};
    int rc = vdisk_open(path, &options, key, &file.image, &error), status;

    if (rc) {
        session_workers_close(file.workers);
        return report(path, rc, &error);
    }
    status = read_header(&file);
    if (status == STATUS_DONE)
        *out = file;
    else
        statefile_close(&file);
    return status;
}

void statefile_close(struct statefile *file)
{
    json_decref(file->manifest);
    (void)vdisk_close(file->image, NULL);
    session_workers_close(file->workers);
    memset(file, 0, sizeof(*file));
}

/* ---- its stream ---- */

struct statefile_reader {
    const struct statefile *file;
    uint64_t asked; /* bytes */
    unsigned next;  /* slot, in turn */
    struct slot *given;
    struct slot slot[SLOTS];
    uint8_t *memory;
};

static void have_read(struct vdisk_request *request)
{
    ((struct slot *)request)->is_busy = false;
}

/* The slot without a request is what is after the end. */
static void ask(struct statefile_reader *reader, struct slot *slot)
{
    uint64_t length = reader->file->stream_bytes - reader->asked;

    if (length > STATEFILE_PIECE)
        length = STATEFILE_PIECE;
    slot->request = (struct vdisk_request){
        .op = VDISK_READ,
        .offset = STREAM_AT + reader->asked,
        .length = length,
        .data = slot->data,
        .done = have_read,
    };
    reader->asked += length;
    slot->is_busy = length > 0;
    if (slot->is_busy)
        vdisk_submit(reader->file->image, &slot->request);
}

int statefile_reader_new(const struct statefile *file, struct statefile_reader **out)
{
    struct statefile_reader *reader = calloc(1, sizeof(*reader));

    if (reader)
        reader->memory = fill_slots(reader->slot);
    if (!reader || !reader->memory) {
        free(reader);
        return report(file->path, -ENOMEM, NULL);
    }
    reader->file = file;
    for (unsigned i = 0; i < SLOTS; i++)
        ask(reader, &reader->slot[i]);
    *out = reader;
    return STATUS_DONE;
}

int statefile_next(struct statefile_reader *reader, const uint8_t **data, uint64_t *length)
{
    struct slot *slot = &reader->slot[reader->next];

    if (reader->given)
        ask(reader, reader->given);
    (void)vdisk_poll(reader->file->image, false);
    while (slot->is_busy)
        (void)vdisk_poll(reader->file->image, true);
    if (slot->request.result)
        return read_fail(reader->file, slot->request.result);
    *data = slot->data;
    *length = slot->request.length;
    reader->given = slot;
    reader->next = (reader->next + 1) % SLOTS;
    return STATUS_DONE;
}

void statefile_reader_free(struct statefile_reader *reader)
{
    if (!reader)
        return;
    drain(reader->file->image, reader->slot);
    free(reader->memory);
    free(reader);
}
