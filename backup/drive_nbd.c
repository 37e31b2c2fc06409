/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An export of NBD to be backed up; see backup_drive.h.
 *
 * The first connection is for the metadata contexts, and for the first reader; it is shared with
 * those that get none of their own. The server is not trusted: what it says of a range counts up to
 * the end of the drive, and where it says nothing the range is looked at.
 */
#include "backup_drive.h"

#include "nbd_client.h"
#include "report.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define EXTENTS_MAX 1024u               /* kept of one answer */
#define STATE_STEP  (UINT32_C(1) << 30) /* asked about at once */
#define STATE_UNIT  UINT32_C(65536)     /* taken as one when the server says nothing */

enum {
    ALLOCATION,
    BITMAP
};

struct extent {
    uint64_t offset, end;
    uint32_t state;
};

/* What a context says from some offset on, as it was last told. */
struct told {
    unsigned next, count;
    struct extent extent[EXTENTS_MAX];
};

struct nbd_drive {
    struct vb_drive drive;
    const struct nbd_address *address;
    pthread_mutex_t mutex; /* of the first connection, and `readers` */
    struct nbd_client *first;
    unsigned readers;
    char *context; /* of the bitmap; NULL: none */
    struct told told[NBD_CONTEXTS_MAX];
};

struct nbd_reader {
    struct nbd_drive *of;
    struct nbd_client *own; /* NULL: the first one */
};

/* --- reading ------------------------------------------------------------------------------ */

static int read_piece(struct nbd_client *client, uint64_t offset, void *data, uint32_t length,
                      struct vdisk_error *error)
{
    struct nbd_read read = {.offset = offset, .length = length, .data = data};
    int result = nbd_client_read(client, &read);

    while (result == 0 && !read.is_done)
        result = nbd_client_wait(client);
    if (result == 0)
        result = read.result;
    if (result)
        return error_set(error, result, "%s", nbd_client_error(client)->text);
    return 0;
}

static int nbd_read(void *opaque, uint64_t offset, void *data, size_t length,
                    struct vdisk_error *error)
{
    struct nbd_reader *reader = opaque;
    struct nbd_client *client = reader->own ? reader->own : reader->of->first;
    uint8_t *to = data;
    int result = 0;

    if (!reader->own)
        pthread_mutex_lock(&reader->of->mutex);
    while (length > 0 && result == 0) {
        uint32_t step = length < NBD_CLIENT_REQUEST_MAX ? (uint32_t)length : NBD_CLIENT_REQUEST_MAX;

        result = read_piece(client, offset, to, step, error);
        to += step;
        offset += step;
        length -= step;
    }
    if (!reader->own)
        pthread_mutex_unlock(&reader->of->mutex);
    return result;
}

static void nbd_reader_close(void *opaque)
{
    struct nbd_reader *reader = opaque;

    nbd_client_close(reader->own);
    free(reader);
}

/* A server may say that it takes several, and mean fewer: who has to wait shares. */
static int connect_reader(struct nbd_reader *reader, struct vdisk_error *error)
{
    static const char *const no_context[NBD_CONTEXTS_MAX] = {NULL};
    struct nbd_drive *of = reader->of;
    int result = nbd_client_open(of->address, no_context, &reader->own, error);

    if (result == -ETIMEDOUT)
        return 0;
    if (result == 0 && nbd_client_size(reader->own) != of->drive.size)
        result = error_set(error, -ESTALE, "the drive has another size on another connection");
    return result;
}

static int nbd_reader_open(struct vb_drive *drive, void **out, struct vdisk_error *error)
{
    struct nbd_drive *of = (struct nbd_drive *)drive;
    struct nbd_reader *reader = calloc(1, sizeof(*reader));
    bool is_first;
    int result = 0;

    if (!reader)
        return -ENOMEM;
    reader->of = of;
    pthread_mutex_lock(&of->mutex);
    is_first = of->readers++ == 0;
    pthread_mutex_unlock(&of->mutex);
    if (!is_first && nbd_client_may_be_several(of->first))
        result = connect_reader(reader, error);
    if (result) {
        nbd_reader_close(reader);
        return result;
    }
    *out = reader;
    return 0;
}

/* --- what there is to be looked at ------------------------------------------------------------ */

static bool take_state(void *opaque, uint64_t offset, uint64_t length, uint32_t state)
{
    struct told *told = opaque;

    if (length > UINT64_MAX - offset)
        length = UINT64_MAX - offset;
    told->extent[told->count++] =
        (struct extent){.offset = offset, .end = offset + length, .state = state};
    return told->count < EXTENTS_MAX;
}

static int ask(struct nbd_drive *of, unsigned context, uint64_t offset, struct vdisk_error *error)
{
    struct told *told = &of->told[context];
    uint64_t left = of->drive.size - offset;
    uint32_t step = left < STATE_STEP ? (uint32_t)left : STATE_STEP;
    int result;

    told->next = told->count = 0;
    pthread_mutex_lock(&of->mutex);
    result = nbd_client_state(of->first, context, offset, step, take_state, told);
    if (result)
        error_set(error, result, "%s", nbd_client_error(of->first)->text);
    pthread_mutex_unlock(&of->mutex);
    return result;
}

/* What the context says at `offset`, and how far, at most to the end of the drive. */
static int look(struct nbd_drive *of, unsigned context, uint64_t offset, struct extent *out,
                struct vdisk_error *error)
{
    struct told *told = &of->told[context];
    int result = 0;

    *out = (struct extent){.offset = offset, .end = of->drive.size};
    if (!nbd_client_has_context(of->first, context))
        return 0;
    while (told->next < told->count && told->extent[told->next].end <= offset)
        told->next++;
    if (told->next == told->count)
        result = ask(of, context, offset, error);
    if (result)
        return result;
    if (told->count == 0) {
        out->state = context == BITMAP ? NBD_STATE_DIRTY : 0;
        out->end = offset + STATE_UNIT;
    } else {
        out->state = told->extent[told->next].state;
        out->end = told->extent[told->next].end;
    }
    if (out->end > of->drive.size)
        out->end = of->drive.size;
    return 0;
}

static int nbd_next(struct vb_drive *drive, uint64_t from, struct vb_span *span,
                    struct vdisk_error *error)
{
    struct nbd_drive *of = (struct nbd_drive *)drive;

    *span = (struct vb_span){.offset = from};
    while (from < drive->size) {
        struct extent changed = {.end = drive->size, .state = NBD_STATE_DIRTY}, allocated;
        int result = of->context ? look(of, BITMAP, from, &changed, error) : 0;

        if (result)
            return result;
        if (!(changed.state & NBD_STATE_DIRTY)) {
            from = changed.end;
            continue;
        }
        result = look(of, ALLOCATION, from, &allocated, error);
        if (result)
            return result;
        if (allocated.end > changed.end)
            allocated.end = changed.end;
        span->offset = from;
        span->is_zero = allocated.state & NBD_STATE_ZERO;
        if (of->context || !span->is_zero) {
            span->length = allocated.end - from;
            return 0;
        }
        from = allocated.end;
    }
    return 0;
}

/* --- opening ---------------------------------------------------------------------------------- */

static int connect_first(struct nbd_drive *of, const char *bitmap, struct vdisk_error *error)
{
    const char *context[NBD_CONTEXTS_MAX] = {NBD_CONTEXT_ALLOCATION};
    int result;

    if (bitmap && asprintf(&of->context, NBD_CONTEXT_BITMAP "%s", bitmap) < 0) {
        of->context = NULL;
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    }
    context[BITMAP] = of->context;
    result = nbd_client_open(of->address, context, &of->first, error);
    if (result)
        return result;
    of->drive.size = nbd_client_size(of->first);
    if (bitmap && !nbd_client_has_context(of->first, BITMAP))
        return error_set(error, VDISK_E_NOT_FOUND,
                         "the server has no dirty bitmap `%s` for this export", bitmap);
    if (of->drive.size == 0 || of->drive.size > VDISK_SIZE_MAX)
        return error_set(error, of->drive.size ? -EFBIG : -EINVAL, "is %s",
                         of->drive.size ? "too large" : "empty");
    return 0;
}

int vb_drive_nbd_open(const struct nbd_address *address, const char *bitmap, struct vb_drive **out,
                      struct vdisk_error *error)
{
    static const struct vb_drive_ops ops = {
        .open = nbd_reader_open,
        .read = nbd_read,
        .close = nbd_reader_close,
        .next = nbd_next,
    };
    struct nbd_drive *of = calloc(1, sizeof(*of));
    int result;

    if (!of)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    of->drive.ops = &ops;
    of->address = address;
    pthread_mutex_init(&of->mutex, NULL); /* cannot fail on Linux */
    result = connect_first(of, bitmap, error);
    if (result) {
        vb_drive_nbd_close(&of->drive);
        return result;
    }
    *out = &of->drive;
    return 0;
}

void vb_drive_nbd_close(struct vb_drive *drive)
{
    struct nbd_drive *of = (struct nbd_drive *)drive;

    if (!of)
        return;
    nbd_client_close(of->first);
    pthread_mutex_destroy(&of->mutex);
    free(of->context);
    free(of);
}
