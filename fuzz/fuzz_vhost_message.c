/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A conversation of any messages with a back end that serves a drive: it is answered or ended, and
 * nothing of it is kept.
 *
 * The input is a row of messages: four bytes (request, flags, descriptors, bytes of payload), then
 * the payload. The low half of the third byte is how many descriptors come along, the rest of which
 * kind; memory has a split ring at SPLIT_AT and a packed one at PACKED_AT, each with requests that
 * wait. The server runs in the same thread: an input does the same each time.
 */
#include "require.h"
#include "task.h"
#include "vhost_message.h"
#include "vhost_server.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>

#define GUEST        UINT64_C(0x40000000)
#define MEMORY       65536u
#define SPLIT_AT     0u
#define PACKED_AT    4096u
#define HEADERS_AT   8192u
#define STATUS_AT    12288u
#define DATA_AT      16384u
#define RING         16u
#define MESSAGES_MAX 64u
#define SIZE         (UINT64_C(1) << 20)
#define AVAIL_BIT    (1u << VRING_PACKED_DESC_F_AVAIL)

enum kind {
    MEMORY_FD,
    EVENT_FD,
    SHORT_FD,
    NULL_FD,
    KINDS,
};

static struct exports *exports;
static struct vhost_server *server;
static int listener, fds[KINDS];
static uint8_t *memory, before[MEMORY];
static unsigned opened, ended;

/* The server lives on, and what only a stack of its tasks knows of looks lost. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
    return 1;
}

/* ---- the server, once ---- */

static void on_event(void *opaque, const struct vhost_event *event)
{
    (void)opaque;
    require(event->kind != VHOST_EVENT_FAILED || event->reason[0]);
    opened += event->kind == VHOST_EVENT_OPENED;
    ended += event->kind == VHOST_EVENT_CLOSED;
}

static void serve(void *image)
{
    struct vdisk_key key = {.kind = VDISK_KEY_FILE,
                            .bytes = (const uint8_t *)"any 32 bytes are as good as this",
                            .length = 32};
    struct vdisk_unlocked *unlocked;
    struct export_options options = {.name = "drive", .path = image};
    struct vhost_options front = {.export_name = "drive", .queues_max = 4, .event = on_event};
    char address[16];

    require(vdisk_unlock(image, &key, &unlocked, NULL) == 0);
    options.unlocked = unlocked;
    require(export_add(exports, &options, NULL) == 0);
    vdisk_unlocked_free(unlocked);
    snprintf(address, sizeof(address), "fd:%d", listener);
    front.address = address;
    require(vhost_server_start(exports, &front, &server, NULL) == 0);
}

static void make_image(char *folder, char *path, size_t room)
{
    const char *tmp = getenv("TMPDIR");
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = SIZE};
    struct vdisk_key key = {.kind = VDISK_KEY_FILE,
                            .bytes = (const uint8_t *)"any 32 bytes are as good as this",
                            .length = 32};
    struct vdisk_image *image;

    snprintf(folder, room, "%s/vdisk-fuzz-XXXXXX", tmp ? tmp : "/tmp");
    require(mkdtemp(folder) != NULL);
    snprintf(path, room + 2, "%s/a", folder);
    require(vdisk_create(path, &create, &key, &image, NULL) == 0);
    require(vdisk_close(image, NULL) == 0);
}

/* Requests that wait: a read, a write, a flush, the id, a discard. */
static void lay_out(void)
{
    static const uint32_t types[] = {VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_FLUSH,
                                     VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_DISCARD};
    static const uint32_t lengths[] = {4096, 4096, 16, 20, 16};
    struct vring_desc *split = (void *)(before + SPLIT_AT);
    struct vring_packed_desc *packed = (void *)(before + PACKED_AT);
    uint16_t *avail = (void *)(before + SPLIT_AT + 256);

    avail[1] = 5;
    for (unsigned i = 0; i < 5; i++) {
        struct virtio_blk_outhdr header = {.type = types[i]};
        bool is_in = types[i] == VIRTIO_BLK_T_IN || types[i] == VIRTIO_BLK_T_GET_ID;

        memcpy(before + HEADERS_AT + i * 16, &header, sizeof(header));
        avail[2 + i] = (uint16_t)(3 * i);
        for (unsigned k = 0; k < 3; k++) {
            uint64_t at = k == 0   ? HEADERS_AT + i * 16
                          : k == 1 ? DATA_AT + i * 4096
                                   : STATUS_AT + i;
            uint32_t length = k == 0 ? 16 : k == 1 ? lengths[i] : 1;
            unsigned flags = (k == 2 || (k == 1 && is_in) ? VRING_DESC_F_WRITE : 0) |
                             (k < 2 ? VRING_DESC_F_NEXT : 0);

            split[3 * i + k] =
                (struct vring_desc){GUEST + at, length, (uint16_t)flags, (uint16_t)(3 * i + k + 1)};
            packed[3 * i + k] = (struct vring_packed_desc){GUEST + at, length, (uint16_t)i,
                                                           (uint16_t)(flags | AVAIL_BIT)};
        }
    }
    before[DATA_AT + 4 * 4096 + 8] = 8; /* sectors to discard */
}

static void step_until(const unsigned *counter, unsigned value)
{
    while (*counter < value)
        reactor_step(exports_main(exports), true);
}

static void set_up(void)
{
    struct exports_options options = {.reactors = 1, .workers = 1};
    struct sockaddr_un any = {.sun_family = AF_UNIX};
    char folder[4096], image[sizeof(folder) + 2];

    require(vdisk_init() == 0);
    make_image(folder, image, sizeof(folder));
    lay_out();
    fds[MEMORY_FD] = memfd_create("memory", MFD_CLOEXEC);
    fds[SHORT_FD] = memfd_create("short", MFD_CLOEXEC);
    fds[NULL_FD] = open("/dev/null", O_RDWR | O_CLOEXEC);
    require(ftruncate(fds[MEMORY_FD], MEMORY) == 0 && ftruncate(fds[SHORT_FD], 4096) == 0);
    memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, fds[MEMORY_FD], 0);
    require(memory != MAP_FAILED);
    /* Bound to a name of the kernel's choice. */
    listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    require(bind(listener, (struct sockaddr *)&any, sizeof(any.sun_family)) == 0 &&
            listen(listener, 8) == 0);
    require(exports_new(&options, &exports, NULL) == 0);
    require(task_spawn(exports_main(exports), serve, image) == 0);
    while (!server)
        reactor_step(exports_main(exports), true);
    unlink(image);
    rmdir(folder);
}

/* ---- one conversation ---- */

static int dial(void)
{
    struct sockaddr_un address;
    socklen_t length = sizeof(address);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    require(getsockname(listener, (struct sockaddr *)&address, &length) == 0);
    require(fd >= 0 && connect(fd, (struct sockaddr *)&address, length) == 0);
    return fd;
}

static void send_message(int fd, const uint8_t head[4], const uint8_t *payload, unsigned length)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(15 * sizeof(int))];
    } control = {.bytes = {0}};
    uint32_t header[3] = {head[0], head[1], head[3]};
    struct iovec vectors[2] = {{header, sizeof(header)}, {(void *)(uintptr_t)payload, length}};
    struct msghdr whole = {.msg_iov = vectors, .msg_iovlen = 2};
    unsigned count = head[2] & 15;

    if (count > 0) {
        whole.msg_control = &control;
        whole.msg_controllen = CMSG_SPACE(count * sizeof(int));
        control.header.cmsg_level = SOL_SOCKET;
        control.header.cmsg_type = SCM_RIGHTS;
        control.header.cmsg_len = CMSG_LEN(count * sizeof(int));
    }
    for (unsigned i = 0; i < count; i++)
        memcpy(CMSG_DATA(&control.header) + i * sizeof(int), &fds[(head[2] >> 4) % KINDS],
               sizeof(int));
    (void)sendmsg(fd, &whole, MSG_NOSIGNAL);
}

/* Answers are of no interest; their descriptors have to be closed. */
static void read_answers(int fd)
{
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control;
    char bytes[1024] = {0};

    for (;;) {
        struct iovec vector = {bytes, sizeof(bytes)};
        struct msghdr part = {.msg_iov = &vector,
                              .msg_iovlen = 1,
                              .msg_control = &control,
                              .msg_controllen = sizeof(control)};
        int got;

        if (recvmsg(fd, &part, MSG_CMSG_CLOEXEC) <= 0)
            return;
        if (!CMSG_FIRSTHDR(&part))
            continue;
        memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&part)), sizeof(got));
        close(got);
    }
}

/* But for pipes, which are a symbolizer's. */
static unsigned descriptors(void)
{
    DIR *folder = opendir("/proc/self/fd");
    struct dirent *entry;
    unsigned count = 0;

    require(folder != NULL);
    while ((entry = readdir(folder))) {
        char what[64] = "";

        if (readlinkat(dirfd(folder), entry->d_name, what, sizeof(what) - 1) > 0)
            count += strncmp(what, "/memfd:", 7) == 0 || strncmp(what, "socket:", 7) == 0 ||
                     strncmp(what, "anon_inode:", 11) == 0;
    }
    closedir(folder);
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static unsigned held;

    if (!server)
        set_up();
    memcpy(memory, before, MEMORY);
    fds[EVENT_FD] = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    int fd = dial();

    step_until(&opened, opened + 1);
    for (unsigned i = 0; i < MESSAGES_MAX && size >= 4; i++) {
        unsigned length = data[3] < size - 4 ? data[3] : (unsigned)(size - 4);

        send_message(fd, data, data + 4, length);
        data += 4 + length;
        size -= 4 + length;
        for (unsigned k = 0; k < 8; k++)
            reactor_step(exports_main(exports), false);
        read_answers(fd);
    }
    close(fd);
    step_until(&ended, opened);
    close(fds[EVENT_FD]);
    if (!held)
        held = descriptors();
    for (unsigned i = 0; i < 1000 && descriptors() > held; i++)
        reactor_step(exports_main(exports), false);
    require(descriptors() <= held);
    return 0;
}
