/* SPDX-License-Identifier: Apache-2.0 */
/* See ctl_client.h. */
#include "ctl_client.h"

#include "report.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define REPLY_MAX (64u << 20)

static int send_line(int fd, const char *text, int with)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec vector = {(void *)(uintptr_t)text, strlen(text)};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};

    if (with >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        struct cmsghdr *part = CMSG_FIRSTHDR(&message);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(part), &with, sizeof(int));
    }
    while (vector.iov_len) {
        ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);

        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return -errno;
        vector.iov_base = (char *)vector.iov_base + sent;
        vector.iov_len -= (size_t)sent;
        message.msg_control = NULL;
        message.msg_controllen = 0;
    }
    return 0;
}

static int dial(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address))) {
        int rc = -errno;

        close(fd);
        return rc;
    }
    return fd;
}

int ctl_send(const char *path, const json_t *request, int with, struct vdisk_error *error)
{
    char *text = json_dumps(request, JSON_COMPACT), *line = NULL;
    int fd, rc;

    if (!text || asprintf(&line, "%s\n", text) < 0) {
        free(text);
        return error_set(error, -EINVAL, "the request cannot be made: its words must be UTF-8");
    }
    fd = rc = dial(path);
    if (fd >= 0)
        rc = send_line(fd, line, with);
    free(line);
    free(text);
    if (rc >= 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return error_set(error, rc, "%s", vdisk_strerror(rc));
}

json_t *ctl_receive(int fd)
{
    size_t have = 0, room = 4096;
    char *line = malloc(room);
    json_t *root = NULL;

    while (line && have < REPLY_MAX) {
        ssize_t got = recv(fd, line + have, room - have, 0);

        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            break;
        have += (size_t)got;
        if (line[have - 1] == '\n') {
            root = json_loadb(line, have, 0, NULL);
            break;
        }
        if (have == room) {
            char *wider = realloc(line, 2 * room);

            if (!wider)
                break;
            line = wider;
            room *= 2;
        }
    }
    free(line);
    return root;
}

/* As control_code() of vdiskd, back. */
static int code_of(const char *text)
{
    static const struct {
        const char *text;
        int code;
    } codes[] = {
        {"wrong-key", VDISK_E_WRONG_KEY}, {"not-authentic", VDISK_E_NOT_AUTHENTIC},
        {"malformed", VDISK_E_MALFORMED}, {"in-use", VDISK_E_IN_USE},
        {"exists", VDISK_E_EXISTS},       {"not-found", VDISK_E_NOT_FOUND},
        {"limit", VDISK_E_LIMIT},         {"invalid", -EINVAL},
        {"not-permitted", -EPERM},        {"no-space", -ENOSPC},
    };

    for (unsigned i = 0; text && i < sizeof(codes) / sizeof(*codes); i++) {
        if (strcmp(text, codes[i].text) == 0)
            return codes[i].code;
    }
    return -EIO;
}

int ctl_conclude(const json_t *reply, json_t **result, struct vdisk_error *error)
{
    const char *why = json_string_value(json_object_get(reply, "error"));

    if (!reply)
        return error_set(error, -EIO, "the connection was ended without a reply");
    if (!json_is_true(json_object_get(reply, "ok")))
        return error_set(error, code_of(json_string_value(json_object_get(reply, "code"))), "%s",
                         why ? why : "the reply makes no sense");
    if (result)
        *result = json_incref(json_object_get(reply, "result"));
    return 0;
}

int ctl_ask(const char *path, json_t *request, json_t **result, struct vdisk_error *error)
{
    int rc = 0, fd = ctl_send(path, request, -1, error);

    json_decref(request);
    if (fd < 0)
        rc = fd;
    if (rc == 0) {
        json_t *reply = ctl_receive(fd);

        close(fd);
        rc = ctl_conclude(reply, result, error);
        json_decref(reply);
    }
    return rc;
}
