/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vdisk serve: becomes `vdiskd` with one image. The key goes over by a pipe, which the kernel keeps
 * in its own memory; arguments and environment have no part of it.
 */
#include "commands.h"
#include "imagespec.h"
#include "keyopt.h"
#include "options.h"
#include "report.h"
#include "textformat.h"

#include "vdisk/vdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define ARGUMENTS_MAX (2 * OPTIONS_LIST_MAX + 48)
#define PIPE_DEFAULT  65536u
#define PROGRAM       "vdiskd"

struct serve {
    struct keyopt key;
    struct option_list nbd, image_dirs;
    const char *vhost_user, *limits, *tls_dir;
    bool read_only, tls_psk, tls_any_client, insecure, no_uring, quiet;
    struct option_size memory;
};

/* ---- the key ---- */

/* What vdiskd reads: the text of an identity; a passphrase with the newline that it takes off. */
static int write_key(int fd, const struct vdisk_key *key)
{
    char text[TEXTFORMAT_IDENTITY_CHARS];
    struct iovec parts[2] = {{(void *)(uintptr_t)key->bytes, key->length}, {"\n", 0}};
    ssize_t written;

    if (key->kind == VDISK_KEY_IDENTITY) {
        textformat_put_identity(text, key->bytes);
        parts[0] = (struct iovec){text, sizeof(text)};
    }
    if (key->kind == VDISK_KEY_PASSPHRASE)
        parts[1].iov_len = 1;
    written = writev(fd, parts, 2);
    explicit_bzero(text, sizeof(text));
    if (written < 0)
        return -errno;
    return (size_t)written == parts[0].iov_len + parts[1].iov_len ? 0 : -EMSGSIZE;
}

/* The end to read from, which is inherited. */
static int key_pipe(const struct vdisk_key *key, int *out)
{
    int ends[2], rc;

    if (pipe2(ends, O_NONBLOCK))
        return -errno;
    if (key->length >= PIPE_DEFAULT)
        (void)fcntl(ends[1], F_SETPIPE_SZ, (int)key->length + 1);
    rc = write_key(ends[1], key);
    close(ends[1]);
    if (rc == 0 && fcntl(ends[0], F_SETFL, 0)) /* it has all and its end: nothing waits */
        rc = -errno;
    if (rc)
        close(ends[0]);
    else
        *out = ends[0];
    return rc;
}

static const char *kind_word(enum vdisk_key_kind kind)
{
    return kind == VDISK_KEY_PASSPHRASE ? "passphrase"
           : kind == VDISK_KEY_IDENTITY ? "identity"
                                        : "key-file";
}

/* ---- the command line of vdiskd ---- */

struct words {
    char *word[ARGUMENTS_MAX];
    unsigned count;
    bool failed;
};

__attribute__((format(printf, 2, 3))) static void add(struct words *words, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    if (words->count + 1 == ARGUMENTS_MAX ||
        vasprintf(&words->word[words->count], format, arguments) < 0)
        words->failed = true;
    else
        words->count++;
    va_end(arguments);
}

static void add_flag(struct words *words, const char *name, bool is_set)
{
    if (is_set)
        add(words, "--%s", name);
}

/* A value of --export: commas are doubled. */
static char *quoted(const char *text)
{
    char *out = malloc(2 * strlen(text) + 1), *to = out;

    for (; out && *text; text++) {
        *to++ = *text;
        if (*text == ',')
            *to++ = ',';
    }
    if (out)
        *to = 0;
    return out;
}

static void add_export(struct words *words, const struct serve *serve, const struct imagespec *spec,
                       enum vdisk_key_kind kind, int fd)
{
    bool read_only = serve->read_only || spec->snapshot[0];
    char *image = quoted(spec->path), *snapshot = quoted(spec->snapshot);
    char *socket = quoted(serve->vhost_user ? serve->vhost_user : "");

    add(words, "--export");
    if (image && socket && snapshot)
        add(words, "=%s,key-fd=%d,key-kind=%s,snapshots%s%s%s%s%s%s%s", image, fd, kind_word(kind),
            read_only ? ",read-only" : "", serve->vhost_user ? ",vhost-user=" : "", socket,
            serve->vhost_user && snapshot[0] ? ",vhost-snapshot=" : "",
            serve->vhost_user ? snapshot : "", serve->limits ? "," : "",
            serve->limits ? serve->limits : "");
    else
        words->failed = true;
    if (spec->snapshot[0])
        add(words, "--default-export=@%s", spec->snapshot);
    free(image);
    free(snapshot);
    free(socket);
}

static void add_all(struct words *words, const struct serve *serve)
{
    for (unsigned i = 0; i < serve->nbd.count; i++)
        add(words, "--nbd=%s", serve->nbd.value[i]);
    for (unsigned i = 0; i < serve->image_dirs.count; i++)
        add(words, "--image-dir=%s", serve->image_dirs.value[i]);
    if (serve->tls_dir)
        add(words, "--tls-dir=%s", serve->tls_dir);
    if (serve->memory.given)
        add(words, "--memory=%llu", (unsigned long long)serve->memory.value);
    add_flag(words, "tls-psk", serve->tls_psk);
    add_flag(words, "tls-any-client", serve->tls_any_client);
    add_flag(words, "insecure", serve->insecure);
    add_flag(words, "no-uring", serve->no_uring);
    add_flag(words, "quiet", serve->quiet);
}

/* Beside this program, else by PATH. Returns when it cannot be executed. */
static int become(char **words)
{
    char path[VDISK_PATH_MAX + sizeof(PROGRAM)];
    ssize_t length = readlink("/proc/self/exe", path, VDISK_PATH_MAX);
    char *slash = length > 0 ? memrchr(path, '/', (size_t)length) : NULL;

    if (slash) {
        memcpy(slash + 1, PROGRAM, sizeof(PROGRAM));
        execv(path, words);
    }
    execvp(PROGRAM, words);
    return report_text(PROGRAM, -errno, "cannot be started: %s", vdisk_strerror(-errno));
}

static int start(const struct serve *serve, const struct imagespec *spec)
{
    struct held_key held = {.prompted = false};
    struct words words = {.count = 0};
    int fd = -1, status = keyopt_load(&serve->key, KEYOPT_OPEN, "serve", spec->path, &held);

    if (status != STATUS_DONE)
        return status;
    int rc = key_pipe(&held.key, &fd);
    add(&words, "vdisk"); /* its messages are ours */
    add_export(&words, serve, spec, held.key.kind, fd);
    add_all(&words, serve);
    keyopt_release(&held);
    if (rc)
        status =
            report_text(spec->path, rc, "the key cannot be handed over: %s", vdisk_strerror(rc));
    else if (words.failed)
        status = report(spec->path, -ENOMEM, NULL);
    else
        status = become(words.word);
    for (unsigned i = 0; i < words.count; i++)
        free(words.word[i]);
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
