/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See net_tap.h. The kernel's side of a tap speaks the header of virtio-net, so that checksums and
 * the cutting of large frames are left to whoever needs them done.
 */
#include "net_tap.h"

#include "vhost_mapping.h"

#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define BIT(number) (UINT64_C(1) << (number))
#define OFFLOADS                                                                                   \
    (BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6) |          \
     BIT(VIRTIO_NET_F_HOST_ECN) | BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) |    \
     BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_GUEST_ECN))

/* ---- frames ---- */

static int tap_receive(struct net_link *link, struct virtio_net_hdr_v1 *header, uint8_t *frame)
{
    const struct iovec parts[2] = {{header, sizeof(*header)}, {frame, NET_FRAME_MAX}};
    ssize_t got;

    do {
        got = readv(link->fd, parts, 2);
    } while (got < 0 && errno == EINTR);
    if (got < 0 && (errno == EAGAIN || errno == ENOMEM))
        return -EAGAIN;
    if (got < 0 && errno != EINVAL) {
        link->is_up = false;
        return -ENOTCONN;
    }
    if (got < (ssize_t)(sizeof(*header) + NET_FRAME_MIN))
        return -EBADMSG;
    return (int)(got - (ssize_t)sizeof(*header));
}

static int tap_send(struct net_link *link, const struct virtio_net_hdr_v1 *header,
                    const uint8_t *frame, size_t length)
{
    const struct iovec parts[2] = {{(void *)(uintptr_t)header, sizeof(*header)},
                                   {(void *)(uintptr_t)frame, length}};
    ssize_t sent;

    do {
        sent = writev(link->fd, parts, 2);
    } while (sent < 0 && errno == EINTR);
    if (sent >= 0)
        return 0;
    if (errno == EBADFD) {
        link->is_up = false;
        return -ENOTCONN;
    }
    return -errno; /* EIO: it is set down */
}

static int tap_set_offloads(struct net_link *link, uint64_t features)
{
    static const struct {
        unsigned feature, flag;
    } table[] = {
        {VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM},
        {VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4},
        {VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6},
        {VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN},
    };
    unsigned long flags = 0;

    for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (features & BIT(table[i].feature))
            flags |= table[i].flag;
    return ioctl(link->fd, TUNSETOFFLOAD, flags) < 0 ? -errno : 0;
}

static void tap_free(struct net_link *link)
{
    net_link_end(link);
    free(link);
}

/* ---- opening ---- */

static int fail_to_attach(int code, const char *name, bool exists, struct vdisk_error *error)
{
    if (code == -EBUSY)
        return vhost_fail(error, code, "tap %s is in use by another process", name);
    if (code == -EPERM && exists)
        return vhost_fail(error, code, "tap %s may be opened by its owner or group only", name);
    if (code == -EPERM)
        return vhost_fail(error, code,
                          "there is no tap %s, and making one takes CAP_NET_ADMIN: `ip tuntap add "
                          "%s mode tap user USER`",
                          name, name);
    if (code == -EINVAL && exists)
        return vhost_fail(error, code, "the interface %s is not a tap", name);
    return vhost_fail(error, code, "cannot open tap %s: %s", name, vdisk_strerror(code));
}

/* One that was made for several queues wants to hear it from whoever takes one of them. */
static int attach(int fd, const char *name, bool exists, struct vdisk_error *error)
{
    static const short kinds[] = {0, IFF_MULTI_QUEUE};
    int code = 0;

    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        struct ifreq request = {.ifr_flags =
                                    (short)(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | kinds[i])};

        memcpy(request.ifr_name, name, strlen(name) + 1);
        code = ioctl(fd, TUNSETIFF, &request) < 0 ? -errno : 0;
        if (code != -EINVAL || !exists)
            break;
    }
    return code ? fail_to_attach(code, name, exists, error) : 0;
}

/* By a socket, of any kind. -errno. */
static int set_up(int fd, struct ifreq *request)
{
    if (ioctl(fd, SIOCGIFFLAGS, request) < 0)
        return -errno;
    request->ifr_flags = (short)(request->ifr_flags | IFF_UP);
    return ioctl(fd, SIOCSIFFLAGS, request) < 0 ? -errno : 0;
}

/* What the interface itself says and is told: its MTU; one that we made is set up. */
static int look_at_interface(struct net_link *link, const char *name, bool made,
                             struct vdisk_error *error)
{
    struct ifreq request = {.ifr_mtu = 0};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), code = 0;

    memcpy(request.ifr_name, name, strlen(name) + 1);
    if (fd < 0 || ioctl(fd, SIOCGIFMTU, &request) < 0)
        code = -errno;
    else
        link->mtu = (unsigned)request.ifr_mtu;
    if (code == 0 && made)
        code = set_up(fd, &request);
    if (fd >= 0)
        close(fd);
    return code ? vhost_fail(error, code, "cannot set up tap %s: %s", name, vdisk_strerror(code))
                : 0;
}

static int set_header(struct net_link *link, const char *name, struct vdisk_error *error)
{
    int bytes = (int)sizeof(struct virtio_net_hdr_v1), little = 1;

    if (ioctl(link->fd, TUNSETVNETHDRSZ, &bytes) < 0 || ioctl(link->fd, TUNSETVNETLE, &little) < 0)
        return vhost_fail(error, -errno, "the kernel's taps are too old for %s: %s", name,
                          strerror(errno));
    if (tap_set_offloads(link, OFFLOADS) == 0)
        link->offloads = OFFLOADS;
    return tap_set_offloads(link, 0);
}

static int open_tap(struct net_link *link, const char *name, struct vdisk_error *error)
{
    bool exists = if_nametoindex(name) > 0;
    int rc;

    link->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (link->fd < 0)
        return vhost_fail(error, -errno, "cannot open /dev/net/tun: %s", strerror(errno));
    rc = attach(link->fd, name, exists, error);
    if (rc == 0)
        rc = set_header(link, name, error);
    if (rc == 0)
        rc = look_at_interface(link, name, !exists, error);
    return rc;
}

int net_tap_open(const char *name, struct reactor *reactor, struct net_link **out,
                 struct vdisk_error *error)
{
    static const struct net_link_ops ops = {
        .receive = tap_receive,
        .send = tap_send,
        .set_offloads = tap_set_offloads,
        .free = tap_free,
    };
    struct net_link *link;
    int rc;

    /* The kernel would make a number of %d. */
    if (*name == '\0' || strlen(name) >= IFNAMSIZ || strpbrk(name, "%/: \t\n"))
        return vhost_fail(error, -EINVAL, "`%s` is no name of a tap", name);
    link = calloc(1, sizeof(*link));
    if (!link)
        return vhost_fail(error, -ENOMEM, "out of memory");
    net_link_init(link, &ops, reactor);
    rc = open_tap(link, name, error);
    if (rc) {
        net_link_free(link);
        return rc;
    }
    link->is_up = true;
    *out = link;
    return 0;
}
