/* SPDX-License-Identifier: Apache-2.0 */
/* See vm_devices.h. */
#include "vm_devices.h"

#include "log.h"
#include "report.h"
#include "virtio_balloon.h"
#include "virtio_blk.h"
#include "virtio_mmio.h"
#include "virtio_net.h"
#include "virtio_rng.h"
#include "virtio_vsock.h"

#include <errno.h>
#include <linux/virtio_mmio.h>

/* ---- what PCs have had ---- */

static void serial_irq(void *opaque, bool high)
{
    const struct vm_devices *devices = opaque;

    if (devices->machine)
        vm_machine_set_irq(devices->machine, VM_IRQ_SERIAL, high);
}

static void rtc_irq(void *opaque, bool high)
{
    const struct vm_devices *devices = opaque;

    if (devices->machine)
        vm_machine_set_irq(devices->machine, VM_IRQ_RTC, high);
}

static int begin_legacy(struct vm_devices *devices, const struct vm_power_events *power)
{
    const struct vm_rtc_options clock = {
        .irq = rtc_irq, .opaque = devices, .reactor = devices->reactor};
    int rc;

    devices->serial = vm_serial_new(serial_irq, devices);
    devices->power = vm_power_new(power, NULL);
    devices->rtc = vm_rtc_new(&clock);
    devices->legacy = vm_ports_new(power->reset, power->opaque);
    if (!devices->serial || !devices->power || !devices->rtc || !devices->legacy)
        return -ENOMEM;
    rc = vm_serial_add(devices->serial, &devices->ports, VM_PORT_SERIAL);
    if (rc == 0)
        rc = vm_power_add(devices->power, &devices->ports);
    if (rc == 0)
        rc = vm_rtc_add(devices->rtc, &devices->ports, VM_PORT_RTC);
    return rc ? rc : vm_ports_add(devices->legacy, &devices->ports);
}

/* ---- virtio ---- */

/* The device belongs to `devices` from now on. */
static int place(struct vm_devices *devices, unsigned slot, struct virtio_device *device)
{
    devices->virtio[slot] = device;
    return virtio_mmio_add(&devices->mmio, vm_virtio_address(slot), device);
}

static int begin_nets(struct vm_devices *devices, struct vdisk_error *error)
{
    static const char *const names[VM_NETS_MAX] = {"net 0", "net 1", "net 2", "net 3",
                                                   "net 4", "net 5", "net 6", "net 7"};
    int rc = 0;

    for (unsigned i = 0; i < devices->config->nets && rc == 0; i++) {
        const struct vm_config_net *net = &devices->config->net[i];
        struct virtio_net_options options = {
            .name = names[i],
            .tap = net->tap,
            .socket = net->socket,
            .has_mac = net->has_mac,
            .vlan = net->vlan,
            .in = net->in,
            .out = net->out,
        };

        for (unsigned byte = 0; byte < sizeof(net->mac); byte++)
            options.mac[byte] = net->mac[byte];
        rc = virtio_net_new(&options, devices->memory, devices->reactor, &devices->net[i], error);
        if (rc == 0)
            rc = place(devices, devices->slots++, devices->net[i]);
    }
    return rc;
}

static int begin_vsock(struct vm_devices *devices, struct vdisk_error *error)
{
    const struct virtio_vsock_options options = {
        .folder = devices->config->vsock,
        .cid = devices->config->vsock_cid,
        .name = "vsock",
    };
    struct virtio_device *device;
    int rc;

    if (!options.folder)
        return 0;
    rc = virtio_vsock_new(&options, devices->memory, devices->reactor, &device, error);
    return rc ? rc : place(devices, devices->slots++, device);
}

static int begin_virtio(struct vm_devices *devices, struct vdisk_error *error)
{
    const struct vm_config *config = devices->config;
    struct virtio_device *rng;
    int rc;

    devices->slots = config->drives;
    if (config->drives + config->nets + (config->vsock ? 1u : 0u) + 2 > VM_VIRTIO_MAX)
        return error_set(error, VDISK_E_LIMIT,
                         "drives, networks and other devices are more than %u together",
                         VM_VIRTIO_MAX);
    rc = begin_nets(devices, error);
    if (rc == 0)
        rc = virtio_rng_new(devices->memory, devices->reactor, &rng);
    if (rc == 0)
        rc = place(devices, devices->slots++, rng);
    if (rc == 0)
        rc = virtio_balloon_new(devices->memory, devices->reactor, &devices->balloon);
    if (rc == 0)
        rc = place(devices, devices->slots++, devices->balloon);
    return rc ? rc : begin_vsock(devices, error);
}

int vm_devices_begin(struct vm_devices *devices, const struct vm_power_events *power,
                     struct vdisk_error *error)
{
    int rc = begin_legacy(devices, power);

    return rc ? rc : begin_virtio(devices, error);
}

static void drive_told(void *opaque, const char *what)
{
    const struct vm_config_drive *drive = opaque;

    log_event(LOG_WARNING, "drive", "socket", drive->socket, "note", what, NULL);
}

int vm_devices_add_drives(struct vm_devices *devices, struct vdisk_error *error)
{
    const struct vm_config *config = devices->config;
    int rc = 0;

    for (unsigned i = 0; i < config->drives && rc == 0; i++) {
        const struct vm_config_drive *drive = &config->drive[i];
        const struct virtio_blk_options options = {
            .socket = drive->socket,
            .name = drive->socket,
            .read_only = drive->read_only,
            .queues = drive->queues,
            .cpus = config->cpus,
            .told = drive_told,
            .opaque = (void *)(uintptr_t)drive,
        };
        struct virtio_device *device;

        rc = virtio_blk_new(&options, devices->memory, devices->reactor, &device, error);
        if (rc == 0)
            rc = place(devices, i, device);
    }
    return rc;
}

static int wire(struct vm_devices *devices, unsigned slot)
{
    struct virtio_device *device = devices->virtio[slot];
    uint64_t address = vm_virtio_address(slot) + VIRTIO_MMIO_QUEUE_NOTIFY;
    int rc = vm_machine_irqfd(devices->machine, vm_virtio_irq(slot), device->line.fd);

    for (unsigned i = 0; i < device->queues && rc == 0; i++)
        rc = vm_machine_ioeventfd(devices->machine, address, i, device->kick[i], true);
    return rc;
}

int vm_devices_wire(struct vm_devices *devices, struct vdisk_error *error)
{
    int rc = 0;

    for (unsigned i = 0; i < devices->slots && rc == 0; i++)
        rc = wire(devices, i);
    return rc ? error_set(error, rc, "devices cannot be wired to the machine: %s",
                          vdisk_strerror(rc))
              : 0;
}

void vm_devices_free(struct vm_devices *devices)
{
    for (unsigned i = 0; i < VM_VIRTIO_MAX; i++)
        virtio_free(devices->virtio[i]);
    vm_ports_free(devices->legacy);
    vm_rtc_free(devices->rtc);
    vm_power_free(devices->power);
    vm_serial_free(devices->serial);
}

/* ---- while the machine is stopped ---- */

void vm_devices_reset(struct vm_devices *devices)
{
    for (unsigned i = 0; i < devices->slots; i++) {
        struct virtio_device *device = devices->virtio[i];

        pthread_mutex_lock(&device->lock);
        virtio_set_status(device, 0);
        pthread_mutex_unlock(&device->lock);
    }
    vm_power_reset(devices->power);
    vm_serial_reset(devices->serial);
    vm_rtc_reset(devices->rtc);
}

void vm_devices_pause(struct vm_devices *devices)
{
    for (unsigned i = 0; i < devices->slots; i++)
        virtio_pause(devices->virtio[i]);
}

void vm_devices_resume(struct vm_devices *devices)
{
    for (unsigned i = 0; i < devices->slots; i++)
        virtio_resume(devices->virtio[i]);
}
