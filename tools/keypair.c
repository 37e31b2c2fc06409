/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making a key pair; see keypair.h. The secret half is in locked memory until it is in its file.
 */
#include "keypair.h"

#include "report.h"
#include "textformat.h"

#include "vdisk/vdisk.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* In one piece of vdisk_secret_alloc(). */
struct secret_half {
    uint8_t identity[VDISK_IDENTITY_BYTES];
    char text[TEXTFORMAT_IDENTITY_CHARS + 1];
};

static int write_all(int fd, const char *text, size_t length)
{
    while (length > 0) {
        ssize_t put = write(fd, text, length);

        if (put < 0 && errno != EINTR)
            return -errno;
        if (put > 0) {
            text += put;
            length -= (size_t)put;
        }
    }
    return fsync(fd) < 0 && errno != EINVAL && errno != EROFS ? -errno : 0;
}

/* Makes the file, which must not exist; removes it when it cannot be written. */
static int write_new(const char *path, mode_t mode, const char *text, size_t length)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOCTTY, mode);
    int result;

    if (fd < 0)
        return errno == EEXIST ? VDISK_E_EXISTS : -errno;
    result = write_all(fd, text, length);
    if (close(fd) < 0 && result == 0)
        result = -errno;
    if (result)
        unlink(path);
    return result;
}

int keypair_generate(const char *path)
{
    struct secret_half *secret = NULL;
    uint8_t public_key[VDISK_PUBLIC_KEY_BYTES];
    char recipient[TEXTFORMAT_RECIPIENT_CHARS + 1], public_path[PATH_MAX];
    int result;

    if (snprintf(public_path, sizeof(public_path), "%s.pub", path) >= (int)sizeof(public_path))
        return report_text(path, -ENAMETOOLONG, "the name is too long");
    secret = vdisk_secret_alloc(sizeof(*secret));
    if (!secret)
        return report(path, -ENOMEM, NULL);
    vdisk_identity_generate(secret->identity, public_key);
    textformat_put_identity(secret->text, secret->identity);
    secret->text[TEXTFORMAT_IDENTITY_CHARS] = '\n';
    textformat_put_recipient(recipient, public_key);
    recipient[TEXTFORMAT_RECIPIENT_CHARS] = '\n';
    result = write_new(path, 0600, secret->text, sizeof(secret->text));
    vdisk_secret_free(secret);
    if (result)
        return report(path, result, NULL);
    result = write_new(public_path, 0644, recipient, sizeof(recipient));
    if (result) {
        unlink(path);
        return report(public_path, result, NULL);
    }
    fwrite(recipient, 1, sizeof(recipient), stdout);
    return STATUS_DONE;
}
