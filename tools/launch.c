/* SPDX-License-Identifier: Apache-2.0 */
/* See launch.h. */
#include "launch.h"

#include "report.h"
#include "textformat.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define PIPE_DEFAULT 65536u
#define PROGRAM_MAX  32u

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

int launch_key_pipe(const struct vdisk_key *key, int *out)
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

const char *launch_key_kind(enum vdisk_key_kind kind)
{
    return kind == VDISK_KEY_PASSPHRASE ? "passphrase"
           : kind == VDISK_KEY_IDENTITY ? "identity"
                                        : "key-file";
}

/* ---- words ---- */

void launch_add(struct launch *words, const char *format, ...)
{
    va_list arguments;

    va_start(arguments, format);
    if (words->count + 1 == LAUNCH_WORDS_MAX ||
        vasprintf(&words->word[words->count], format, arguments) < 0)
        words->failed = true;
    else
        words->count++;
    va_end(arguments);
}

void launch_flag(struct launch *words, const char *name, bool is_set)
{
    if (is_set)
        launch_add(words, "--%s", name);
}

void launch_free(struct launch *words)
{
    for (unsigned i = 0; i < words->count; i++)
        free(words->word[i]);
    words->count = 0;
}

char *launch_quoted(const char *text)
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

int launch_become(const char *program, struct launch *words)
{
    char path[VDISK_PATH_MAX + PROGRAM_MAX];
    ssize_t length = readlink("/proc/self/exe", path, VDISK_PATH_MAX);
    char *slash = length > 0 ? memrchr(path, '/', (size_t)length) : NULL;

    if (slash) {
        memcpy(slash + 1, program, strlen(program) + 1);
        execv(path, words->word);
    }
    execvp(program, words->word);
    return report_text(program, -errno, "cannot be started: %s", vdisk_strerror(-errno));
}
