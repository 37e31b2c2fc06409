/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The formats of other programs; see formats.h.
 */
#include "formats.h"

#include "child.h"
#include "json_find.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD_BYTES 512u
#define INFO_BYTES (1u << 20)

static const struct {
    const char *name, *format;
} names[] = {
    {"raw", "raw"}, {"qcow2", "qcow2"}, {"vmdk", "vmdk"}, {"vpc", "vpc"},
    {"vhd", "vpc"}, {"vhdx", "vhdx"},   {"vdi", "vdi"},
};

const char *formats_find(const char *name)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(names[i].name, name) == 0)
            return names[i].format;
    }
    return NULL;
}

bool formats_is_raw(const char *format)
{
    return strcmp(format, "raw") == 0;
}

/* --- by its bytes ------------------------------------------------------------------------- */

struct look {
    uint8_t head[HEAD_BYTES], tail[HEAD_BYTES];
};

static bool begins(const uint8_t *bytes, const char *magic, size_t length)
{
    return memcmp(bytes, magic, length) == 0;
}

static int look_at(const char *path, struct look *look, struct vdisk_error *error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    off_t end;
    int result = 0;

    memset(look, 0, sizeof(*look));
    if (fd < 0)
        return error_set(error, -errno, "%s", vdisk_strerror(-errno));
    end = lseek(fd, 0, SEEK_END);
    if (pread(fd, look->head, sizeof(look->head), 0) < 0 ||
        (end >= (off_t)HEAD_BYTES &&
         pread(fd, look->tail, sizeof(look->tail), end - (off_t)HEAD_BYTES) < 0))
        result = error_set(error, -errno, "%s", vdisk_strerror(-errno));
    close(fd);
    return result;
}

/* NULL: no magic that we know. */
static const char *by_magic(const struct look *look)
{
    if (begins(look->head, "QFI\xfb", 4))
        return "qcow2";
    if (begins(look->head, "KDMV", 4) || begins(look->head, "COWD", 4) ||
        begins(look->head, "# Disk DescriptorFile", 21))
        return "vmdk";
    if (begins(look->head, "conectix", 8) || begins(look->tail, "conectix", 8))
        return "vpc";
    if (begins(look->head, "vhdxfile", 8))
        return "vhdx";
    if (begins(look->head, "<<< ", 4) && begins(look->head + 64, "\x7f\x10\xda\xbe", 4))
        return "vdi";
    return NULL;
}

/* A VMware image that is (or may carry) a text naming the files of its data. */
static bool has_descriptor(const struct look *look)
{
    static const uint8_t no_capacity[8];

    return begins(look->head, "# Disk DescriptorFile", 21) ||
           (begins(look->head, "KDMV", 4) && memcmp(look->head + 12, no_capacity, 8) == 0);
}

/* --- by qemu-img -------------------------------------------------------------------------- */

static int refuse_references(const char *format, const char *what, struct vdisk_error *error)
{
    return error_set(error, -EINVAL,
                     "looks like %s that refers to %s; give --format %s if you trust it, or "
                     "--format raw to take its bytes as they are",
                     format, what, format);
}

static int judge(const char *info, const struct look *look, const char **format,
                 struct vdisk_error *error)
{
    char word[64] = "", other[256];
    const char *found;

    if (!json_find_string(info, "format", word, sizeof(word)))
        return error_set(error, -EINVAL, "qemu-img does not say what it is; give --format");
    found = formats_find(word);
    if (!found)
        return error_set(error, -EINVAL,
                         "looks like %s, which is none of " FORMATS_WORDS
                         "; give --format raw to take its bytes as they are",
                         word);
    if (json_find_string(info, "backing-filename", other, sizeof(other)))
        return refuse_references(found, other, error);
    if (json_has_key(info, "data-file"))
        return refuse_references(found, "an external data file", error);
    if (has_descriptor(look))
        return refuse_references(found, "other files", error);
    *format = found;
    return 0;
}

static int ask_qemu_img(const char *path, const struct look *look, const char **format,
                        struct vdisk_error *error)
{
    size_t size = strlen(path) + sizeof("file:");
    char *name = malloc(size), *info = malloc(INFO_BYTES);
    char program[] = "qemu-img", verb[] = "info", output[] = "--output=json", share[] = "-U";
    char *argv[] = {program, verb, output, share, name, NULL};
    int result = -ENOMEM;

    if (!name || !info) {
        error_set(error, result, "out of memory");
        goto out;
    }
    snprintf(name, size, "file:%s", path); /* or "nbd:x" would be no file */
    result = child_run(argv, info, INFO_BYTES, error);
    if (result == 0)
        result = judge(info, look, format, error);
out:
    free(info);
    free(name);
    return result;
}

int formats_detect(const char *path, const char **format, struct vdisk_error *error)
{
    const char *guess;
    struct look look;
    struct stat status;
    int result = look_at(path, &look, error);

    if (result)
        return result;
    guess = by_magic(&look);
    if (!guess && stat(path, &status) == 0 && S_ISBLK(status.st_mode)) {
        *format = "raw";
        return 0;
    }
    result = ask_qemu_img(path, &look, format, error);
    if (result != -ENOENT)
        return result;
    if (guess)
        return error_set(error, -ENOENT,
                         "looks like %s, which needs qemu-img and qemu-nbd (package qemu-utils)",
                         guess);
    *format = "raw";
    return 0;
}
