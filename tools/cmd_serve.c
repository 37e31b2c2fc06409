/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk serve: becomes `vdiskd` with one image. The key goes over by a pipe, which the kernel keeps
 * in its own memory; arguments and environment have no part of it.
 */
#include "commands.h"
#include "imagespec.h"
#include "keyopt.h"
#include "launch.h"
#include "options.h"
#include "report.h"

#include "vdisk/vdisk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROGRAM "vdiskd"

struct serve {
    struct keyopt key;
    struct option_list nbd, image_dirs;
    const char *vhost_user, *limits, *tls_dir;
    bool read_only, tls_psk, tls_any_client, insecure, no_uring, quiet;
    struct option_size memory;
};

static void add_export(struct launch *words, const struct serve *serve,
                       const struct imagespec *spec, enum vdisk_key_kind kind, int fd)
{
    bool read_only = serve->read_only || spec->snapshot[0];
    char *image = launch_quoted(spec->path), *snapshot = launch_quoted(spec->snapshot);
    char *socket = launch_quoted(serve->vhost_user ? serve->vhost_user : "");

    launch_add(words, "--export");
    if (image && socket && snapshot)
        launch_add(words, "=%s,key-fd=%d,key-kind=%s%s%s%s%s%s%s%s", image, fd,
                   launch_key_kind(kind), read_only ? ",read-only" : "",
                   serve->vhost_user ? ",vhost-user=" : "", socket,
                   serve->vhost_user && snapshot[0] ? ",vhost-snapshot=" : "",
                   serve->vhost_user ? snapshot : "", serve->limits ? "," : "",
                   serve->limits ? serve->limits : "");
    else
        words->failed = true;
    if (spec->snapshot[0])
        launch_add(words, "--default-export=@%s", spec->snapshot);
    free(image);
    free(snapshot);
    free(socket);
}

static void add_all(struct launch *words, const struct serve *serve)
{
    for (unsigned i = 0; i < serve->nbd.count; i++)
        launch_add(words, "--nbd=%s", serve->nbd.value[i]);
    for (unsigned i = 0; i < serve->image_dirs.count; i++)
        launch_add(words, "--image-dir=%s", serve->image_dirs.value[i]);
    if (serve->tls_dir)
        launch_add(words, "--tls-dir=%s", serve->tls_dir);
    if (serve->memory.given)
        launch_add(words, "--memory=%llu", (unsigned long long)serve->memory.value);
    launch_flag(words, "tls-psk", serve->tls_psk);
    launch_flag(words, "tls-any-client", serve->tls_any_client);
    launch_flag(words, "insecure", serve->insecure);
    launch_flag(words, "no-uring", serve->no_uring);
    launch_flag(words, "quiet", serve->quiet);
}

static int start(const struct serve *serve, const struct imagespec *spec)
{
    struct held_key held = {.prompted = false};
    struct launch words = {.count = 0};
    int fd = -1, status = keyopt_load(&serve->key, KEYOPT_OPEN, "serve", spec->path, &held);

    if (status != STATUS_DONE)
        return status;
    int rc = launch_key_pipe(&held.key, &fd);
    launch_add(&words, "vdisk"); /* its messages are ours */
    add_export(&words, serve, spec, held.key.kind, fd);
    add_all(&words, serve);
    keyopt_release(&held);
    if (rc)
        status =
            report_text(spec->path, rc, "the key cannot be handed over: %s", vdisk_strerror(rc));
    else if (words.failed)
        status = report(spec->path, -ENOMEM, NULL);
    else
        status = launch_become(PROGRAM, &words);
    launch_free(&words);
    if (fd >= 0)
        close(fd);
    return status;
}

int cmd_serve(int argc, char **argv)
{
    struct serve serve = {.key = {.prefix = ""}};
    const struct option_spec own[] = {
        {"nbd", OPTION_LIST, &serve.nbd, "ADDRESS", "by NBD: unix:PATH or tcp:HOST:PORT"},
        {"vhost-user", OPTION_TEXT, &serve.vhost_user, "SOCKET", "to a virtual machine"},
        {"read-only", OPTION_FLAG, &serve.read_only, NULL, "nobody may write"},
        KEYOPT_OPEN_OPTIONS(&serve.key, ""),
        {"limits", OPTION_TEXT, &serve.limits, "LIMITS",
         "read-ops=N/BURST,write-bytes=SIZE,... a second"},
        {"tls-dir", OPTION_TEXT, &serve.tls_dir, "DIR", "certificates, or keys.psk, for TCP"},
        {"tls-psk", OPTION_FLAG, &serve.tls_psk, NULL, "keys, not certificates"},
        {"tls-any-client", OPTION_FLAG, &serve.tls_any_client, NULL, "clients need no certificate"},
        {"insecure", OPTION_FLAG, &serve.insecure, NULL,
         "TCP without TLS, for other hosts as well"},
        {"memory", OPTION_SIZE, &serve.memory, "SIZE", "for caches and clients' data (256M)"},
        {"image-dir", OPTION_LIST, &serve.image_dirs, "DIR", "where a base of the image lies"},
        {"no-uring", OPTION_FLAG, &serve.no_uring, NULL, "threads in place of io_uring"},
        OPTION_QUIET(&serve.quiet),
        {.kind = OPTION_END},
    };
    const struct usage usage = {
        .command = "serve",
        .operands = "IMAGE[@SNAPSHOT]",
        .about = "Serves an image until SIGTERM. By NBD it is the default export, its snapshots\n"
                 "are exports @NAME.",
        .min = 1,
        .max = 1,
        .groups = {own},
    };
    struct imagespec spec;
    struct stat file;
    char **operands;
    int count, status = options_parse(&usage, argc, argv, &operands, &count);

    if (status != OPTIONS_GO_ON)
        return status;
    if (serve.nbd.count == 0 && !serve.vhost_user)
        return report_usage("serve", "give --nbd ADDRESS or --vhost-user SOCKET");
    status = imagespec_parse("serve", operands[0], &spec);
    if (status != STATUS_DONE)
        return status;
    if (stat(spec.path, &file) < 0)
        return report(spec.path, -errno, NULL);
    return start(&serve, &spec);
}
