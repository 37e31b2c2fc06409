/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk backup serve: a backup is a drive at once. Makes the image, unless it is there, and becomes
 * `vdiskd`, which fills it beside its clients; both keys go over by pipes.
 */
#include "backup_image.h"
#include "launch.h"
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PROGRAM "vdiskd"

struct serve {
    struct backup_filling filling;
    struct keyopt image_key;
    struct option_list nbd;
    const char *vhost_user, *limits, *socket;
    struct option_size rate, memory;
    bool wait, no_uring, quiet;
};

static void add_export(struct launch *words, const struct serve *serve, int fd, const char *source)
{
    char *image = launch_quoted(serve->filling.path);
    char *vhost = launch_quoted(serve->vhost_user ? serve->vhost_user : "");
    char rate[40] = "";

    if (serve->rate.given)
        snprintf(rate, sizeof(rate), ",fill-rate=%llu", (unsigned long long)serve->rate.value);
    launch_add(words, "--export");
    if (image && vhost)
        launch_add(words, "=%s,key-fd=%d,key-kind=%s%s%s%s%s%s%s%s", image, fd,
                   launch_key_kind(backup_filling_key(&serve->filling)->kind), source, rate,
                   serve->wait ? ",wait-when-failing" : "", serve->vhost_user ? ",vhost-user=" : "",
                   vhost, serve->limits ? "," : "", serve->limits ? serve->limits : "");
    else
        words->failed = true;
    free(image);
    free(vhost);
}

static void add_all(struct launch *words, const struct serve *serve)
{
    for (unsigned i = 0; i < serve->nbd.count; i++)
        launch_add(words, "--nbd=%s", serve->nbd.value[i]);
    if (serve->socket)
        launch_add(words, "--socket=%s", serve->socket);
    if (serve->memory.given)
        launch_add(words, "--memory=%llu", (unsigned long long)serve->memory.value);
    launch_flag(words, "no-uring", serve->no_uring);
    launch_flag(words, "quiet", serve->quiet);
}

static int become(struct serve *serve)
{
    struct launch words = {.count = 0};
    int source_fd, fd = -1, status = STATUS_FAILED, rc;
    char *source = backup_filling_words(&serve->filling, &source_fd);

    if (!source)
        return status;
    rc = launch_key_pipe(backup_filling_key(&serve->filling), &fd);
    launch_add(&words, "vdisk"); /* its messages are ours */
    add_export(&words, serve, fd, source);
    add_all(&words, serve);
    if (rc) {
        status = report_text(serve->filling.path, rc, "the key cannot be handed over: %s",
                             vdisk_strerror(rc));
    } else if (words.failed) {
        status = report(serve->filling.path, -ENOMEM, NULL);
    } else {
        if (!serve->filling.to)
            report_note(serve->filling.path, "is the new image");
        backup_filling_release(&serve->filling); /* not to be found in memory from now on */
        status = launch_become(PROGRAM, &words);
    }
    launch_free(&words);
    free(source);
    close(source_fd);
    if (fd >= 0)
        close(fd);
    return status;
}

int cmd_backup_serve(int argc, char **argv)
{
    struct serve serve = {.filling = {.options = BACKUP_OPTIONS_NONE},
                          .image_key = {.prefix = "image-"}};
    struct backup_filling *filling = &serve.filling;
    const struct option_spec own[] = {
        {"nbd", OPTION_LIST, &serve.nbd, "ADDRESS", "by NBD: unix:PATH or tcp:HOST:PORT"},
        {"vhost-user", OPTION_TEXT, &serve.vhost_user, "SOCKET", "to a virtual machine"},
        {"drive", OPTION_TEXT, &filling->drive, "NAME", "of which drive `latest` is"},
        KEYOPT_OPEN_OPTIONS(&serve.image_key, "image-"),
        {"fill-rate", OPTION_SIZE, &serve.rate, "SIZE", "to be copied a second at most"},
        {"wait-when-failing", OPTION_FLAG, &serve.wait, NULL,
         "while the repository is away, reads wait in place of failing"},
        {"limits", OPTION_TEXT, &serve.limits, "LIMITS",
         "read-ops=N/BURST,write-bytes=SIZE,... a second"},
        {"socket", OPTION_TEXT, &serve.socket, "PATH", "management, for `vdisk ctl`"},
        {"memory", OPTION_SIZE, &serve.memory, "SIZE", "for caches and clients' data (256M)"},
        {"no-uring", OPTION_FLAG, &serve.no_uring, NULL, "threads in place of io_uring"},
        OPTION_QUIET(&serve.quiet),
        BACKUP_OPTIONS(&filling->options),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "backup serve",
        .operands = "REPO BACKUP|latest [DEST.vdk]",
        .about =
            "Serves a backup at once, for reading and writing, until SIGTERM. DEST.vdk (named\n"
            "after the drive) is a new image that is filled meanwhile and then needs the\n"
            "repository no more; named again, it goes on being filled. The key of a new\n"
            "image is KEY, unless --image-key-file or the like names another.",
        .min = 2,
        .max = 3,
        .groups = {own},
    };
    char **operands;
    int count, status = options_parse(&usage, argc, argv, &operands, &count);

    if (status != OPTIONS_GO_ON)
        return status;
    if (serve.nbd.count == 0 && !serve.vhost_user)
        return report_usage(usage.command, "give --nbd ADDRESS or --vhost-user SOCKET");
    filling->command = usage.command;
    filling->image_key = &serve.image_key;
    filling->repo = operands[0];
    filling->backup = operands[1];
    filling->to = count > 2 ? operands[2] : NULL;
    status = backup_filling_begin(filling);
    if (status == STATUS_DONE)
        status = become(&serve);
    backup_filling_release(filling);
    return status;
}
