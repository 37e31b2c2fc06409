/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qemu-nbd and qemu-img; see qemu.h.
 */
#include "qemu.h"

#include "interrupt.h"
#include "report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define START_TRIES   1500 /* of 10 ms */
#define START_STEP_NS 10000000
#define SOCKET_NAME   "/nbd"

static int make_directory(struct qemu_server *server, struct vdisk_error *error)
{
    const char *place = getenv("TMPDIR");
    size_t size = sizeof(server->directory) - sizeof(SOCKET_NAME);
    int length;

    if (!place || !place[0])
        place = "/tmp";
    length = snprintf(server->directory, size, "%s/vdisk-XXXXXX", place);
    if (length < 0 || (size_t)length >= size) /* a socket's path must be short */
        snprintf(server->directory, size, "/tmp/vdisk-XXXXXX");
    if (!mkdtemp(server->directory)) {
        int result = error_set(error, -errno, "no directory for a socket can be made in %s: %s",
                               place, vdisk_strerror(-errno));

        server->directory[0] = '\0';
        return result;
    }
    snprintf(server->address.socket, sizeof(server->address.socket), "%.*s%s", (int)size,
             server->directory, SOCKET_NAME);
    return 0;
}

static void remove_directory(struct qemu_server *server)
{
    if (!server->directory[0])
        return;
    unlink(server->address.socket);
    rmdir(server->directory);
    server->directory[0] = '\0';
}

/*
 * driver=FORMAT,file.driver=file,file.filename=PATH: with this, unlike with a bare name, no part
 * of PATH is taken for a protocol or an option. A comma is written twice. The caller frees.
 */
static char *image_option(const char *path, const char *format)
{
    size_t size = 2 * strlen(path) + strlen(format) + 64;
    char *option = malloc(size);
    char *at;

    if (!option)
        return NULL;
    at = option + snprintf(option, size, "driver=%s,file.driver=file,file.filename=", format);
    for (; *path; path++) {
        *at++ = *path;
        if (*path == ',')
            *at++ = ',';
    }
    *at = '\0';
    return option;
}

static int wait_for_socket(struct qemu_server *server, struct vdisk_error *error)
{
    const struct timespec step = {.tv_nsec = START_STEP_NS};
    struct stat status;

    for (int i = 0; i < START_TRIES; i++) {
        if (interrupt_pending())
            return error_set(error, -ECANCELED, "interrupted");
        if (stat(server->address.socket, &status) == 0 && S_ISSOCK(status.st_mode))
            return 0;
        if (child_has_ended(&server->child)) {
            int result = child_wait(&server->child, error);

            return result ? result : error_set(error, -EIO, "qemu-nbd ended at once");
        }
        nanosleep(&step, NULL);
    }
    return error_set(error, -ETIMEDOUT, "qemu-nbd does not begin to serve");
}

int qemu_serve(struct qemu_server *server, const char *path, const char *format, bool read_only,
               struct vdisk_error *error)
{
    char program[] = "qemu-nbd", options[] = "--image-opts", socket_flag[] = "-k";
    char share[] = "--shared=4", cache[] = "--cache=writeback", only_read[] = "--read-only";
    char *image = image_option(path, format);
    char *argv[] = {program, options, socket_flag, server->address.socket,
                    share,   cache,   image,       read_only ? only_read : NULL,
                    NULL};
    int result;

    memset(server, 0, sizeof(*server));
    if (!image)
        return error_set(error, -ENOMEM, "out of memory");
    result = make_directory(server, error);
    if (result == 0)
        result = child_start(&server->child, argv, false, error);
    free(image);
    if (result == 0)
        result = wait_for_socket(server, error);
    if (result)
        qemu_stop(server);
    return result;
}

void qemu_stop(struct qemu_server *server)
{
    child_kill(&server->child);
    remove_directory(server);
}

int qemu_finish(struct qemu_server *server, struct vdisk_error *error)
{
    int result = child_wait(&server->child, error);

    remove_directory(server);
    return result;
}

int qemu_create(const char *path, const char *format, uint64_t size, struct vdisk_error *error)
{
    size_t name_size = strlen(path) + sizeof("file:");
    char program[] = "qemu-img", verb[] = "create", quiet[] = "-q", f[] = "-f", o[] = "-o";
    char exact[] = "force_size=on", format_text[16], size_text[24];
    char *name = malloc(name_size);
    char *argv[] = {program, verb, quiet, f, format_text, o, exact, name, size_text, NULL};
    int result;

    if (!name)
        return error_set(error, -ENOMEM, "out of memory");
    snprintf(name, name_size, "file:%s", path);
    snprintf(format_text, sizeof(format_text), "%s", format);
    snprintf(size_text, sizeof(size_text), "%llu", (unsigned long long)size);
    if (strcmp(format, "vpc") != 0) { /* only a VHD would round the size */
        argv[5] = name;
        argv[6] = size_text;
        argv[7] = NULL;
    }
    result = child_run(argv, NULL, 0, error);
    free(name);
    return result;
}
