/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reading keys; see key.h.
 */
#include "key.h"

#include "report.h"
#include "textformat.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KEY_MAX (1u << 20)

static int out_of_memory(struct vdisk_error *error)
{
    return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
}

/* Up to `room` bytes: how many, -errno. A file is read from its beginning, whoever shares it. */
static ssize_t fill(int fd, bool is_file, uint8_t *bytes, size_t room)
{
    size_t have = 0;

    while (have < room) {
        ssize_t more = is_file ? pread(fd, bytes + have, room - have, (off_t)have)
                               : read(fd, bytes + have, room - have);

        if (more < 0 && errno != EINTR)
            return -errno;
        if (more == 0)
            break;
        have += more > 0 ? (size_t)more : 0;
    }
    return (ssize_t)have;
}

/* Only what is a file of bounded size, unless it may wait: nobody can make us wait for a pipe. */
static int read_key(const struct key_source *source, int fd, struct key_held *held,
                    struct vdisk_error *error)
{
    struct stat status;

    if (fstat(fd, &status))
        return error_set(error, -errno, "the key: %s", vdisk_strerror(-errno));
    bool is_file = S_ISREG(status.st_mode);
    if ((!is_file && !source->may_wait) ||
        (is_file && (status.st_size <= 0 || status.st_size > KEY_MAX)))
        return error_set(error, -EINVAL, "the key is not a file of 1 byte to 1 MiB");
    size_t room = (is_file ? (size_t)status.st_size : KEY_MAX) + 1;
    held->bytes = vdisk_secret_alloc(room);
    if (!held->bytes)
        return out_of_memory(error);
    ssize_t got = fill(fd, is_file, held->bytes, room);
    if (got < 0)
        return error_set(error, (int)got, "the key: %s", vdisk_strerror((int)got));
    if (got == 0 || (size_t)got == room)
        return error_set(error, -EINVAL, "the key is empty, or longer than it may be");
    held->key =
        (struct vdisk_key){.kind = source->kind, .bytes = held->bytes, .length = (size_t)got};
    return 0;
}

static int decode(struct key_held *held, struct vdisk_error *error)
{
    struct vdisk_key *key = &held->key;
    uint8_t *raw;
    bool is_good;

    if (key->kind == VDISK_KEY_PASSPHRASE && key->length > 1 &&
        held->bytes[key->length - 1] == '\n')
        key->length--;
    if (key->kind != VDISK_KEY_IDENTITY && key->kind != VDISK_KEY_RECIPIENT)
        return 0;
    raw = vdisk_secret_alloc(VDISK_IDENTITY_BYTES);
    if (!raw)
        return out_of_memory(error);
    is_good = key->kind == VDISK_KEY_IDENTITY
                  ? textformat_get_identity(key->bytes, key->length, raw)
                  : textformat_get_recipient(key->bytes, key->length, raw);
    vdisk_secret_free(held->bytes);
    held->bytes = raw;
    key->bytes = raw;
    key->length = VDISK_IDENTITY_BYTES;
    return is_good ? 0 : error_set(error, -EINVAL, "the file is no key of that kind");
}

int key_load(const struct key_source *source, struct key_held *held, struct vdisk_error *error)
{
    int flags = O_RDONLY | O_CLOEXEC | O_NOCTTY | (source->may_wait ? 0 : O_NONBLOCK);
    int fd = source->file ? open(source->file, flags) : source->fd;
    int rc;

    *held = (struct key_held){.bytes = NULL};
    if (fd < 0 && source->file)
        return error_set(error, -errno, "the key %s: %s", source->file, vdisk_strerror(-errno));
    if (fd < 0)
        return error_set(error, -EINVAL, "no key came: it needs `key_file` or a descriptor");
    rc = read_key(source, fd, held, error);
    if (source->file)
        close(fd);
    return rc ? rc : decode(held, error);
}

void key_release(struct key_held *held)
{
    vdisk_secret_free(held->bytes);
    held->bytes = NULL;
}

int key_unlock(const struct key_source *source, const char *image, struct vdisk_unlocked **out,
               struct vdisk_error *error)
{
    struct key_held held;
    int rc = key_load(source, &held, error);

    if (rc == 0)
        rc = vdisk_unlock(image, &held.key, out, error);
    key_release(&held);
    return rc;
}
