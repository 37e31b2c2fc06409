/* SPDX-License-Identifier: Apache-2.0 */
/* See nbd_kit.h. Server and client take turns on one thread; the drive lies in memory. */
#include "nbd_kit.h"

#include "nbd_proto.h"
#include "nbd_server.h"
#include "require.h"
#include "task.h"

#include <errno.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DRIVE_BYTES  (UINT64_C(1) << 20)
#define ANSWER_BYTES ((size_t)4 << 20)
#define INPUT_MAX    65536u

static const uint8_t key_bytes[32] = "any 32 bytes are as good as this";
static const struct vdisk_key key = {
    .kind = VDISK_KEY_FILE, .bytes = key_bytes, .length = sizeof(key_bytes)};

static struct sockaddr_un address = {.sun_family = AF_UNIX};
static struct exports *exports;
static uint8_t *room;
static char image_path[64];

static void make_image(void)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = DRIVE_BYTES};
    struct vdisk_image *image;
    uint8_t block[8192];

    memset(block, 'a', sizeof(block));
    require(vdisk_create(image_path, &create, &key, &image, NULL) == 0);
    require(vdisk_write(image, 0, block, sizeof(block)) == 0);
    require(vdisk_snapshot_create(image, "one") == 0);
    require(vdisk_write(image, 65536, block, sizeof(block)) == 0);
    require(vdisk_close(image, NULL) == 0);
}

static void serve(void *arg)
{
    static char listen_at[128];
    const char *const addresses[] = {listen_at};
    struct export_options export = {.name = "", .path = image_path};
    struct nbd_options options = {.addresses = addresses, .address_count = 1};
    struct vdisk_unlocked *unlocked;
    struct nbd_server *server;
    struct vdisk_error error;

    snprintf(listen_at, sizeof(listen_at), "unix:%s", address.sun_path);
    require(vdisk_unlock(image_path, &key, &unlocked, NULL) == 0);
    export.unlocked = unlocked;
    require(export_add(exports, &export, &error) == 0);
    vdisk_unlocked_free(unlocked);
    require(nbd_server_start(task_reactor(task_current()), exports, &options, &server, &error) ==
            0);
    *(bool *)arg = true;
}

static char folder[40];

static void clean_up(void)
{
    unlink(address.sun_path);
    rmdir(folder);
}

static void set_up(void)
{
    struct exports_options options = {.reactors = 1, .workers = 1, .no_uring = true};
    const char *memory = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    bool done = false;

    require(vdisk_init() == 0);
    room = malloc(ANSWER_BYTES);
    require(room != NULL);
    snprintf(folder, sizeof(folder), "%s/vdisk-fuzz-XXXXXX", memory);
    require(mkdtemp(folder) != NULL);
    snprintf(image_path, sizeof(image_path), "%s/a.vdk", folder);
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", folder);
    make_image();
    require(exports_new(&options, &exports, NULL) == 0);
    require(task_spawn(exports_main(exports), serve, &done) == 0);
    while (!done)
        reactor_step(exports_main(exports), true);
    unlink(image_path);
    (void)atexit(clean_up);
}

static int dial(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), size = 1 << 20;

    require(fd >= 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    require(connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    return fd;
}

/* False: there is nothing now. */
static bool hear(int fd, struct nbd_kit_answer *answer, bool *over)
{
    static uint8_t beyond[65536];
    bool fits = answer->length < ANSWER_BYTES;
    ssize_t got = recv(fd, fits ? room + answer->length : beyond,
                       fits ? ANSWER_BYTES - answer->length : sizeof(beyond), MSG_DONTWAIT);

    if (got < 0 && errno == EAGAIN)
        return false;
    *over = got <= 0;
    if (got > 0) {
        answer->length += fits ? (size_t)got : 0;
        answer->total += (size_t)got;
    }
    return true;
}

struct nbd_kit_answer nbd_kit_say(const uint8_t *first, size_t first_bytes, const uint8_t *data,
                                  size_t size)
{
    struct nbd_kit_answer answer = {0};
    bool over = false;
    int fd;

    if (!exports)
        set_up();
    fd = dial();
    require(first_bytes + size <= 2 * INPUT_MAX);
    require(send(fd, first, first_bytes, MSG_NOSIGNAL) == (ssize_t)first_bytes);
    require(send(fd, data, size, MSG_NOSIGNAL) == (ssize_t)size);
    (void)shutdown(fd, SHUT_WR);
    while (!over) {
        if (!hear(fd, &answer, &over))
            reactor_step(exports_main(exports), true);
    }
    close(fd);
    answer.bytes = room;
    return answer;
}

void nbd_kit_option_replies(const struct nbd_kit_answer *answer, size_t *at)
{
    while (answer->length - *at >= NBD_OPT_REPLY_BYTES &&
           nbd_get64(answer->bytes + *at) == NBD_REP_MAGIC) {
        uint32_t length = nbd_get32(answer->bytes + *at + 16);

        require(length <= answer->length - *at - NBD_OPT_REPLY_BYTES);
        *at += NBD_OPT_REPLY_BYTES + length;
    }
}
