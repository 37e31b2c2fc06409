/* SPDX-License-Identifier: Apache-2.0 */
/* See vm_netns.h. */
#include "vm_netns.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool good = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    if (fd >= 0)
        close(fd);
    return good;
}

/* Root there is who we are here. */
static bool enter_as_user(void)
{
    const uid_t uid = geteuid();
    const gid_t gid = getegid();
    char users[64], groups[64];

    (void)snprintf(users, sizeof(users), "0 %u 1", uid);
    (void)snprintf(groups, sizeof(groups), "0 %u 1", gid);
    return unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 && write_file("/proc/self/uid_map", users) &&
           write_file("/proc/self/setgroups", "deny") && write_file("/proc/self/gid_map", groups);
}

const char *vm_netns_enter(void)
{
    int fd;

    if (unshare(CLONE_NEWNET) && !enter_as_user())
        return "network namespaces are not permitted";
    fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return "/dev/net/tun cannot be opened";
    close(fd);
    /* Neighbours and routers would be asked for on each new tap. */
    (void)write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    return NULL;
}

/* ---- taps ---- */

static void name_it(struct ifreq *request, const char *name)
{
    memset(request, 0, sizeof(*request));
    assert_true(strlen(name) < IFNAMSIZ);
    memcpy(request->ifr_name, name, strlen(name) + 1);
}

bool vm_netns_make_tap(const char *name, short flags, int owner)
{
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    struct ifreq request;
    bool known;

    assert_true(fd >= 0);
    name_it(&request, name);
    request.ifr_flags = (short)(IFF_TAP | IFF_NO_PI | flags);
    assert_int_equal(ioctl(fd, TUNSETIFF, &request), 0);
    known = owner < 0 || ioctl(fd, TUNSETOWNER, (unsigned long)owner) == 0;
    if (known)
        assert_int_equal(ioctl(fd, TUNSETPERSIST, 1ul), 0);
    close(fd);
    return known;
}

/* RTM_DELLINK. */
void vm_netns_remove(const char *name)
{
    struct {
        struct nlmsghdr header;
        struct ifinfomsg link;
    } request = {
        .header = {.nlmsg_len = sizeof(request),
                   .nlmsg_type = RTM_DELLINK,
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
        .link = {.ifi_index = (int)if_nametoindex(name)},
    };
    struct {
        struct nlmsghdr header;
        struct nlmsgerr error;
        uint8_t more[256];
    } answer;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

    assert_true(fd >= 0);
    assert_int_equal(send(fd, &request, sizeof(request), 0), sizeof(request));
    assert_true(recv(fd, &answer, sizeof(answer), 0) > 0);
    assert_int_equal(answer.error.error, 0);
    close(fd);
}

bool vm_netns_exists(const char *name)
{
    return if_nametoindex(name) > 0;
}

static void control(unsigned long what, struct ifreq *request)
{
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(ioctl(fd, what, request), 0);
    close(fd);
}

bool vm_netns_is_up(const char *name)
{
    struct ifreq request;

    name_it(&request, name);
    control(SIOCGIFFLAGS, &request);
    return request.ifr_flags & IFF_UP;
}

void vm_netns_set_up(const char *name, bool up)
{
    struct ifreq request;

    name_it(&request, name);
    control(SIOCGIFFLAGS, &request);
    request.ifr_flags = (short)(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
    control(SIOCSIFFLAGS, &request);
}

void vm_netns_set_mtu(const char *name, int mtu)
{
    struct ifreq request;

    name_it(&request, name);
    request.ifr_mtu = mtu;
    control(SIOCSIFMTU, &request);
}

void vm_netns_set_right(bool on)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    const uint32_t bit = 1u << CAP_NET_ADMIN;

    assert_int_equal(syscall(SYS_capget, &header, data), 0);
    data[0].effective = on ? data[0].effective | bit : data[0].effective & ~bit;
    assert_int_equal(syscall(SYS_capset, &header, data), 0);
}

/* ---- frames ---- */

int vm_netns_packets(const char *name, bool with_header)
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    const struct sockaddr_ll address = {.sll_family = AF_PACKET,
                                        .sll_protocol = htons(ETH_P_ALL),
                                        .sll_ifindex = (int)if_nametoindex(name)};

    assert_true(fd >= 0);
    assert_int_equal(setsockopt(fd, SOL_PACKET, PACKET_AUXDATA, &one, sizeof(one)), 0);
    assert_int_equal(setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof(one)), 0);
    if (with_header)
        assert_int_equal(setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &one, sizeof(one)), 0);
    assert_int_equal(bind(fd, (const struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

void vm_netns_send(int fd, const struct virtio_net_hdr *header, const uint8_t *frame, size_t length)
{
    const struct iovec parts[2] = {{(void *)(uintptr_t)header, header ? sizeof(*header) : 0},
                                   {(void *)(uintptr_t)frame, length}};

    ssize_t sent;

    do {
        sent = writev(fd, parts, 2);
    } while (sent < 0 && errno == ENETDOWN); /* was down: is told once */
    assert_int_equal(sent, length + parts[0].iov_len);
}

bool vm_netns_receive(int fd, bool with_header, struct vm_netns_frame *frame)
{
    struct iovec parts[2] = {{&frame->header, with_header ? sizeof(frame->header) : 0},
                             {frame->bytes, sizeof(frame->bytes)}};
    union {
        struct cmsghdr header;
        uint8_t bytes[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
    } control;
    struct msghdr message = {.msg_iov = parts,
                             .msg_iovlen = 2,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    const struct cmsghdr *part;
    struct tpacket_auxdata data;
    ssize_t got;

    do {
        got = recvmsg(fd, &message, 0);
    } while (got < 0 && errno == ENETDOWN); /* the same */
    if (got < 0) {
        assert_int_equal(errno, EAGAIN);
        return false;
    }
    part = CMSG_FIRSTHDR(&message);
    frame->length = (size_t)got - parts[0].iov_len;
    assert_non_null(part);
    memcpy(&data, CMSG_DATA(part), sizeof(data));
    frame->vlan = data.tp_status & TP_STATUS_VLAN_VALID ? data.tp_vlan_tci : 0;
    return true;
}
