/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk export: the drive, or a snapshot of it, in another format.
 */
#include "commands.h"
#include "copyout.h"
#include "formats.h"
#include "interrupt.h"
#include "nbd_client.h"
#include "outdevice.h"
#include "outfile.h"
#include "qemu.h"
#include "report.h"
#include "session.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

struct export
{
    struct session_options options;
    struct session session;
    const char *to, *format;
    bool force, quiet;
};

static int copy(struct export *export, struct sink *sink)
{
    const struct copyout copy = {
        .session = &export->session,
        .sink = sink,
        .length = session_size(&export->session),
        .use_map = true,
        .quiet = export->quiet,
        .verb = "export",
    };

    return copyout_run(&copy);
}

/* --- a stream ----------------------------------------------------------------------------- */

static int to_stream(struct export *export)
{
    bool is_stdout = strcmp(export->to, "-") == 0;
    const char *name = is_stdout ? "standard output" : export->to;
    int fd = is_stdout ? STDOUT_FILENO : open(export->to, O_WRONLY | O_CLOEXEC | O_NOCTTY);
    struct sink sink;
    int status;

    if (fd < 0)
        return report(name, -errno, NULL);
    sink_stream(&sink, name, fd);
    status = copy(export, &sink);
    if (!is_stdout && close(fd) < 0 && status == STATUS_DONE)
        status = report(name, -errno, NULL);
    return status;
}

/* --- a block device ----------------------------------------------------------------------- */

static int to_device(struct export *export)
{
    struct sink sink;
    int fd, status = outdevice_open(export->to, session_size(&export->session), &fd);

    if (status != STATUS_DONE)
        return status;
    sink_device(&sink, export->to, fd);
    return outdevice_close(export->to, fd, copy(export, &sink));
}

/* --- a file ------------------------------------------------------------------------------- */

static int write_raw(struct export *export, struct outfile *file)
{
    struct sink sink;
    int status;

    if (ftruncate(file->fd, (off_t)session_size(&export->session)) < 0)
        return report(export->to, -errno, NULL);
    sink_file(&sink, export->to, file->fd);
    sink_open_direct(&sink);
    status = copy(export, &sink);
    sink_close_direct(&sink);
    return status;
}

static int write_by_nbd(struct export *export, struct qemu_server *server)
{
    static const char *const no_context[NBD_CONTEXTS_MAX] = {NULL};
    struct vdisk_error error = {0};
    struct nbd_client *client = NULL;
    struct sink sink;
    int status, result;

    result = nbd_client_open(&server->address, no_context, &client, &error);
    if (result)
        return report(export->to, result, &error);
    if (nbd_client_size(client) < session_size(&export->session)) {
        nbd_client_close(client);
        return report_text(export->to, -EFBIG, "%s cannot hold a drive of that size",
                           export->format);
    }
    sink_nbd(&sink, export->to, client);
    status = copy(export, &sink);
    result = status == STATUS_DONE ? nbd_client_flush(client) : 0;
    if (result)
        status = report(export->to, result, nbd_client_error(client));
    nbd_client_close(client);
    return status;
}

static int write_foreign(struct export *export, struct outfile *file)
{
    struct qemu_server server = {.directory = ""};
    struct vdisk_error error = {0};
    int result, status;

    result = qemu_create(file->path, export->format, session_size(&export->session), &error);
    if (result == 0)
        result = qemu_serve(&server, file->path, export->format, false, &error);
    if (result)
        return report(export->to, result, &error);
    status = write_by_nbd(export, &server);
    if (status == STATUS_DONE) {
        result = qemu_finish(&server, &error);
        if (result)
            status = report(export->to, result, &error);
    }
    qemu_stop(&server);
    return status;
}

static int to_file(struct export *export)
{
    bool is_raw = formats_is_raw(export->format);
    struct vdisk_error error = {0};
    struct outfile file;
    int status, result;

    result = outfile_open(&file, export->to, export->force, !is_raw, &error);
    if (result)
        return report_text(export->to, result, "%s", error.text);
    status = is_raw ? write_raw(export, &file) : write_foreign(export, &file);
    if (status == STATUS_DONE && interrupt_pending())
        status = report(export->to, -ECANCELED, NULL);
    if (status != STATUS_DONE) {
        outfile_discard(&file);
        return status;
    }
    result = outfile_finish(&file, &error);
    return result ? report(export->to, result, &error) : STATUS_DONE;
}

/* ------------------------------------------------------------------------------------------ */

static bool is_the_image(const struct export *export, const struct stat *to)
{
    struct stat image;

    return stat(export->session.spec.path, &image) == 0 && image.st_dev == to->st_dev &&
           image.st_ino == to->st_ino;
}

static int write_out(struct export *export)
{
    bool is_raw = formats_is_raw(export->format);
    bool is_stdout = strcmp(export->to, "-") == 0;
    struct stat to;

    interrupt_catch();
    if (!is_stdout && (stat(export->to, &to) < 0 || S_ISREG(to.st_mode) || S_ISDIR(to.st_mode))) {
        if (stat(export->to, &to) == 0 && is_the_image(export, &to))
            return report_text(export->to, -EINVAL, "is the image itself; choose another name");
        return to_file(export);
    }
    if (!is_raw)
        return report_usage("export", "%s can only be written to a file", export->format);
    if (is_stdout || !S_ISBLK(to.st_mode))
        return to_stream(export);
    return to_device(export);
}

int cmd_export(int argc, char **argv)
{
    struct export export = {.options = SESSION_OPTIONS_NONE};
    const char *format = "raw";
    const struct option_spec own[] = {
        {"format", OPTION_TEXT, &format, "FORMAT", "of DEST: " FORMATS_WORDS},
        {"force", OPTION_FLAG, &export.force, NULL, "replace DEST if it exists"},
        OPTION_QUIET(&export.quiet),
        SESSION_OPTIONS(&export.options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "export",
        .operands = "IMAGE[@SNAPSHOT] DEST",
        .about = "Writes the drive, decrypted, to DEST: a new file of mode 0600, a block device,\n"
                 "or `-` for standard output. Raw is the default; the others need qemu-nbd.",
        .min = 2,
        .max = 2,
        .groups = {own},
    };
    char **operands;
    int count, status;

    status = options_parse(&usage, argc, argv, &operands, &count);
    if (status != OPTIONS_GO_ON)
        return status;
    export.format = formats_find(format);
    if (!export.format)
        return report_usage("export", "--format %s: it is one of " FORMATS_WORDS, format);
    export.to = operands[1];
    status = session_open(&export.session, "export", operands[0], &export.options,
                          SESSION_SNAPSHOT | SESSION_WORKERS);
    if (status != STATUS_DONE)
        return status;
    return session_close(&export.session, write_out(&export));
}
