/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk import: a new image with the content of a drive in another format.
 *
 * A raw drive is read by us, another format through qemu-nbd, which runs for as long and no longer.
 * Until the last byte is durable the new image is one to be removed.
 */
#include "commands.h"
#include "copyin.h"
#include "formats.h"
#include "interrupt.h"
#include "newimage.h"
#include "qemu.h"
#include "report.h"
#include "session.h"
#include "source.h"
#include "zeros.h"

#include <errno.h>

#define SECTOR_BYTES UINT64_C(512)

struct import {
    struct newimage_options image;
    const char *format; /* NULL: to be found out */
    bool quiet;
    struct qemu_server server;
    struct source source;
};

static int open_nbd_uri(struct import *import, const char *text)
{
    struct nbd_address address;
    const char *wrong = nbd_uri_parse(text, &address);
    int result;

    if (import->format && !formats_is_raw(import->format))
        return report_usage("import", "what comes by NBD is raw, --format %s does not apply",
                            import->format);
    if (wrong)
        return report_usage("import", "%s: %s", text, wrong);
    result = source_open_nbd(&import->source, text, &address);
    return result ? report(text, result, &import->source.error) : STATUS_DONE;
}

static int open_foreign(struct import *import, const char *path)
{
    struct vdisk_error error = {0};
    int result = qemu_serve(&import->server, path, import->format, true, &error);

    if (result)
        return report(path, result, &error);
    result = source_open_nbd(&import->source, path, &import->server.address);
    return result ? report(path, result, &import->source.error) : STATUS_DONE;
}

static int open_source(struct import *import, const char *path)
{
    struct vdisk_error error = {0};
    int result;

    if (nbd_uri_is(path))
        return open_nbd_uri(import, path);
    /* Also for another format: what cannot be read is best said by us. */
    result = source_open_file(&import->source, path);
    if (result)
        return report(path, result, &import->source.error);
    if (!import->format) {
        result = formats_detect(path, &import->format, &error);
        if (result)
            return report(path, result, &error);
        if (!import->quiet)
            report_note(path, "taken for %s; --format says otherwise", import->format);
    }
    if (formats_is_raw(import->format))
        return STATUS_DONE;
    source_close(&import->source);
    return open_foreign(import, path);
}

static int copy(struct import *import, struct newimage *image)
{
    struct vdisk_info info;
    struct copyin copy = {
        .source = &import->source,
        .image = image->image,
        .path = image->path,
        .quiet = import->quiet,
    };
    int status;

    vdisk_get_info(image->image, &info);
    copy.unit = info.compress ? info.cluster_bytes : ZEROS_BLOCK_BYTES;
    status = copyin_run(&copy);
    if (status == STATUS_DONE && interrupt_pending())
        status = report(image->path, -ECANCELED, NULL);
    if (status == STATUS_DONE)
        return newimage_finish(image);
    newimage_discard(image);
    return status;
}

static int make(struct import *import, const char *path)
{
    struct vdisk_workers *workers = NULL;
    struct vdisk_create_options create = {0};
    struct held_key key = {.prompted = false};
    struct newimage image;
    uint64_t size = import->source.size;
    int status;

    if (size == 0)
        return report_text(import->source.name, -EINVAL, "is empty: there is no drive in it");
    if (size > VDISK_SIZE_MAX)
        return report_text(import->source.name, -EFBIG, "is larger than an image can be");
    create.size = (size + SECTOR_BYTES - 1) / SECTOR_BYTES * SECTOR_BYTES;
    status = keyopt_load(&import->image.key, KEYOPT_MAKE, "import", path, &key);
    if (status != STATUS_DONE)
        return status;
    workers = session_workers();
    create.workers = workers;
    status = newimage_make(&image, path, &import->image, &key.key, create);
    keyopt_release(&key);
    if (status == STATUS_DONE)
        status = copy(import, &image);
    session_workers_close(workers);
    return status;
}

static int run(struct import *import, const char *from, const char *to)
{
    int status;

    interrupt_catch();
    status = open_source(import, from);
    if (status == STATUS_DONE)
        status = make(import, to);
    source_close(&import->source);
    qemu_stop(&import->server);
    return status;
}

int cmd_import(int argc, char **argv)
{
    struct import import = {.image = {.key = {.prefix = ""}}};
    const char *format = NULL;
    const struct option_spec own[] = {
        {"format", OPTION_TEXT, &format, "FORMAT", "of SOURCE: " FORMATS_WORDS},
        OPTION_QUIET(&import.quiet),
        NEWIMAGE_OPTIONS(&import.image),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "import",
        .operands = "SOURCE IMAGE",
        .about = "Makes IMAGE with the drive in SOURCE: a file, a block device or an NBD URI\n"
                 "(nbd://HOST:PORT/NAME, nbd+unix:///NAME?socket=PATH). Without --format it is\n"
                 "found out and said. KEY is as for `vdisk create`. Formats other than raw need\n"
                 "qemu-nbd.",
        .min = 2,
        .max = 2,
        .groups = {own},
    };
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    if (format) {
        import.format = formats_find(format);
        if (!import.format)
            return report_usage("import", "--format %s: it is one of " FORMATS_WORDS, format);
    }
    status = newimage_check(&import.image, "import");
    return status == STATUS_DONE ? run(&import, operands[0], operands[1]) : status;
}
