/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See virtio_net.h: begin and end, configuration, limits, what wakes it. Frames are in
 * virtio_net_in.c and virtio_net_out.c.
 *
 * With a VLAN the offloads stay on: the device moves what the header says of places in a frame by
 * the tag (net_vlan.c), and the kernel knows tagged frames with these headers both ways, as those
 * of a guest that tags its own.
 */
#include "virtio_net_impl.h"

#include "net_socket.h"
#include "net_tap.h"
#include "vhost_mapping.h"

#include <endian.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define BIT(number) (UINT64_C(1) << (number))
#define QUEUE_MAX   256u
#define MAC_BYTES   6u
#define MTU_MIN     68u

static struct net *net_of(struct virtio_device *device)
{
    return (struct net *)device;
}

/* ---- limits and counts ---- */

bool net_may_pass(struct net *net, struct net_way *way, size_t length)
{
    int64_t now, wait;

    if (way->paid)
        return true;
    now = reactor_now();
    wait = limit_take(net->limits, NULL, way == &net->out, length, now, way->waited);
    way->paid = wait == 0;
    if (wait > 0) {
        way->waited = true;
        net_wait_until(&way->limit, now + wait);
    }
    return way->paid;
}

void net_count(struct net_way *way, size_t length)
{
    way->counts.frames++;
    way->counts.bytes += length;
}

void virtio_net_limits(struct virtio_device *device, const struct limit_setting *in,
                       const struct limit_setting *out)
{
    const struct limit_settings settings = {
        .kind = {[LIMIT_READ_BYTES] = *in, [LIMIT_WRITE_BYTES] = *out}};

    limit_group_set(net_of(device)->limits, &settings);
    /* Who waits asks again. */
    virtio_kick(device, NET_IN);
    virtio_kick(device, NET_OUT);
}

void virtio_net_counts(struct virtio_device *device, struct virtio_net_counts *counts)
{
    struct net *net = net_of(device);

    pthread_mutex_lock(&device->lock);
    *counts = (struct virtio_net_counts){net->in.counts, net->out.counts, net->is_up};
    pthread_mutex_unlock(&device->lock);
}

void virtio_net_mac(struct virtio_device *device, uint8_t mac[6])
{
    pthread_mutex_lock(&device->lock);
    memcpy(mac, net_of(device)->mac, MAC_BYTES);
    pthread_mutex_unlock(&device->lock);
}

/* ---- what wakes it ---- */

static void kicked(struct virtio_device *device, unsigned queue)
{
    if (queue == NET_IN)
        net_serve_in(net_of(device));
    else
        net_serve_out(net_of(device));
}

static void wake(struct net *net, bool in, bool out)
{
    pthread_mutex_lock(&net->device.lock);
    net_look_at_link(net);
    if (in && virtio_serves(&net->device))
        net_serve_in(net);
    if (out && virtio_serves(&net->device))
        net_serve_out(net);
    pthread_mutex_unlock(&net->device.lock);
}

static void link_readable(void *opaque)
{
    wake(opaque, true, false);
}

static void link_writable(void *opaque)
{
    wake(opaque, false, true);
}

static void link_changed(void *opaque)
{
    wake(opaque, true, true);
}

static void in_limit_ended(void *opaque, int result)
{
    (void)result;
    wake(opaque, true, false);
}

static void out_limit_ended(void *opaque, int result)
{
    (void)result;
    wake(opaque, false, true);
}

void net_look_at_link(struct net *net)
{
    if (net->is_up == net->link->is_up)
        return;
    net->is_up = net->link->is_up;
    virtio_config_changed(&net->device);
}

/* ---- the device ---- */

static void read_config(struct virtio_device *device, uint32_t offset, uint8_t *data, unsigned size)
{
    const struct net *net = net_of(device);
    struct virtio_net_config config = {
        .status = htole16(net->is_up ? VIRTIO_NET_S_LINK_UP : 0),
        .max_virtqueue_pairs = htole16(1),
        .mtu = htole16((uint16_t)net->mtu),
    };

    memcpy(config.mac, net->mac, MAC_BYTES);
    memcpy(data, (const uint8_t *)&config + offset, size);
}

static int start(struct virtio_device *device)
{
    struct net *net = net_of(device);
    int rc = net_link_set_offloads(net->link, device->accepted & net->link->offloads);

    return rc ? rc : vm_queues_start(net->queues, device);
}

static void stop(struct virtio_device *device, bool keep)
{
    struct net *net = net_of(device);

    vm_queues_stop(net->queues, keep);
    if (!keep) {
        net->in.length = 0;
        net->in.paid = net->out.paid = false;
        net->in.waited = net->out.waited = false;
    }
}

static int save(struct virtio_device *device, json_t *to, struct vdisk_error *error)
{
    const struct net *net = net_of(device);
    uint64_t mac = 0;

    (void)error;
    for (unsigned i = 0; i < MAC_BYTES; i++)
        mac = mac << 8 | net->mac[i];
    if (json_object_set_new(to, "mac", json_integer((json_int_t)mac)) ||
        json_object_set_new(to, "up", json_boolean(net->is_up)) ||
        json_object_set_new(to, "queues", vm_queues_save(net->queues)))
        return -ENOMEM;
    return 0;
}

/* The address is the one that the driver has read, and the link what it was told. */
static int load(struct virtio_device *device, const json_t *from, struct vdisk_error *error)
{
    struct net *net = net_of(device);
    const json_t *number = json_object_get(from, "mac"), *up = json_object_get(from, "up");
    json_int_t mac = json_integer_value(number);

    (void)error;
    if (!json_is_integer(number) || mac < 0 || mac >> 8 * MAC_BYTES || !json_is_boolean(up))
        return -EINVAL;
    for (unsigned i = MAC_BYTES; i > 0; i--, mac >>= 8)
        net->mac[i - 1] = (uint8_t)mac;
    net->is_up = json_is_true(up);
    net_look_at_link(net);
    return vm_queues_load(net->queues, json_object_get(from, "queues"));
}

static void free_net(struct virtio_device *device)
{
    struct net *net = net_of(device);

    net_wait_stop(&net->in.limit);
    net_wait_stop(&net->out.limit);
    net_link_free(net->link);
    net_wait_finish(&net->in.limit);
    net_wait_finish(&net->out.limit);
    limit_group_free(net->limits);
    vm_queues_free(net->queues);
    free(net);
}

/* ---- making one ---- */

static int check_options(const struct virtio_net_options *options, struct vdisk_error *error)
{
    static const uint8_t none[MAC_BYTES];

    if (!options->tap == !options->socket)
        return vhost_fail(error, -EINVAL, "%s has a tap or a socket", options->name);
    if (options->vlan > NET_VLAN_MAX)
        return vhost_fail(error, -EINVAL, "%s: a VLAN is 1 to %u", options->name, NET_VLAN_MAX);
    if (options->has_mac && (options->mac[0] & 1 || memcmp(options->mac, none, sizeof(none)) == 0))
        return vhost_fail(error, -EINVAL, "%s: that is not the address of one device",
                          options->name);
    return 0;
}

/* Locally administered, of one device. -errno. */
static int choose_mac(uint8_t mac[MAC_BYTES], const struct virtio_net_options *options)
{
    if (options->has_mac) {
        memcpy(mac, options->mac, MAC_BYTES);
        return 0;
    }
    if (getrandom(mac, MAC_BYTES, 0) != MAC_BYTES)
        return -EIO;
    mac[0] = (uint8_t)((mac[0] & ~3u) | 2u);
    return 0;
}

static int open_link(struct net *net, const struct virtio_net_options *options,
                     struct reactor *reactor, struct vdisk_error *error)
{
    int rc = options->tap ? net_tap_open(options->tap, reactor, &net->link, error)
                          : net_socket_open(options->socket, reactor, &net->link, error);

    if (rc)
        return rc;
    net->link->readable = link_readable;
    net->link->writable = link_writable;
    net->link->changed = link_changed;
    net->link->opaque = net;
    net->is_up = net->link->is_up;
    net->mtu = net->link->mtu;
    return 0;
}

/* After what may fail for the options: the parts. -errno. */
static int make_parts(struct net *net, const struct virtio_net_options *options,
                      const struct vm_memory *memory, struct reactor *reactor)
{
    const struct limit_settings limits = {
        .kind = {[LIMIT_READ_BYTES] = options->in, [LIMIT_WRITE_BYTES] = options->out}};
    int rc = choose_mac(net->mac, options);

    if (rc)
        return rc;
    net_wait_init(&net->in.limit, reactor, in_limit_ended, net);
    net_wait_init(&net->out.limit, reactor, out_limit_ended, net);
    net->vlan = options->vlan;
    net->limits = limit_group_new(&limits);
    net->queues = vm_queues_new(memory, 2);
    return net->limits && net->queues ? 0 : -ENOMEM;
}

static int init_device(struct net *net, const struct virtio_net_options *options,
                       const struct vm_memory *memory, struct reactor *reactor)
{
    static const struct virtio_ops ops = {
        .read_config = read_config,
        .start = start,
        .stop = stop,
        .kicked = kicked,
        .save = save,
        .load = load,
        .free = free_net,
    };

    net->device = (struct virtio_device){
        .ops = &ops,
        .name = options->name,
        .id = VIRTIO_ID_NET,
        .offered = VM_QUEUE_FEATURES | BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_STATUS) |
                   BIT(VIRTIO_NET_F_MRG_RXBUF) | net->link->offloads,
        .queues = 2,
        .queue_max = QUEUE_MAX,
        .config_bytes = offsetof(struct virtio_net_config, mtu) + sizeof(uint16_t),
    };
    if (net->mtu >= MTU_MIN)
        net->device.offered |= BIT(VIRTIO_NET_F_MTU);
    return virtio_init(&net->device, memory, reactor);
}

int virtio_net_new(const struct virtio_net_options *options, const struct vm_memory *memory,
                   struct reactor *reactor, struct virtio_device **out, struct vdisk_error *error)
{
    struct net *net;
    int rc = check_options(options, error);

    if (rc)
        return rc;
    net = calloc(1, sizeof(*net));
    if (!net)
        return vhost_fail(error, -ENOMEM, "out of memory");
    rc = open_link(net, options, reactor, error);
    if (rc == 0) {
        rc = make_parts(net, options, memory, reactor);
        if (rc == 0)
            rc = init_device(net, options, memory, reactor);
        if (rc)
            (void)vhost_fail(error, rc, "%s: %s", options->name, vdisk_strerror(rc));
    }
    if (rc) {
        free_net(&net->device);
        return rc;
    }
    *out = &net->device;
    return 0;
}
