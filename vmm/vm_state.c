/* SPDX-License-Identifier: Apache-2.0 */
/* See vm_state.h. */
#include "vm_state.h"

#include "bytes_json.h"
#include "report.h"
#include "sizes.h"
#include "virtio_net.h"

#include <errno.h>
#include <linux/virtio_ids.h>
#include <stdlib.h>
#include <string.h>

#define MAC_BYTES 6u

static int no_memory(struct vdisk_error *error)
{
    return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
}

/* ---- what the guest is ---- */

/* NULL: it is no network. */
static struct virtio_device *net_at(const struct vm_devices *devices, unsigned slot)
{
    return devices->virtio[slot]->id == VIRTIO_ID_NET ? devices->virtio[slot] : NULL;
}

static json_t *describe_device(const struct vm_devices *devices, unsigned slot)
{
    const struct virtio_device *device = devices->virtio[slot];
    json_t *about =
        json_pack("{s:I, s:I}", "id", (json_int_t)device->id, "queues", (json_int_t)device->queues);
    uint8_t mac[MAC_BYTES];

    if (about && net_at(devices, slot)) {
        virtio_net_mac(net_at(devices, slot), mac);
        json_object_set_new(about, "mac", bytes_to_json(mac, sizeof(mac)));
    }
    return about;
}

static json_t *describe(const struct vm_state_parts *parts)
{
    const struct vm_devices *devices = parts->devices;
    json_t *list = json_array();
    int rc = 0;

    for (unsigned i = 0; i < devices->slots; i++)
        rc |= json_array_append_new(list, describe_device(devices, i));
    if (rc) {
        json_decref(list);
        return NULL;
    }
    return json_pack("{s:I, s:I, s:o}", "memory", (json_int_t)parts->memory->size, "cpus",
                     (json_int_t)devices->config->cpus, "devices", list);
}

static const char *kind_of(json_int_t id)
{
    switch (id) {
    case VIRTIO_ID_BLOCK:
        return "a drive";
    case VIRTIO_ID_NET:
        return "a network";
    case VIRTIO_ID_VSOCK:
        return "a vsock";
    default:
        return "another device";
    }
}

static int check_device(const struct vm_devices *devices, unsigned slot, const json_t *had,
                        struct vdisk_error *error)
{
    const struct virtio_device *device = devices->virtio[slot];
    const struct virtio_device *net = net_at(devices, slot);
    json_int_t id = json_integer_value(json_object_get(had, "id"));
    json_int_t queues = json_integer_value(json_object_get(had, "queues"));
    uint8_t mac[MAC_BYTES];

    if (id != (json_int_t)device->id)
        return error_set(error, -EINVAL,
                         "the guest's device %u was %s and is %s here: give as many drives and "
                         "networks as it had",
                         slot, kind_of(id), kind_of((json_int_t)device->id));
    if (queues != (json_int_t)device->queues)
        return error_set(error, -EINVAL, "the device %s had %lld queues, and has %u here",
                         device->name, (long long)queues, device->queues);
    if (net && bytes_from_json(json_object_get(had, "mac"), mac, sizeof(mac)) != sizeof(mac))
        return error_set(error, -EINVAL, "the saved state of the device %s makes no sense",
                         device->name);
    for (unsigned i = 0; net && i < devices->config->nets; i++) {
        const struct vm_config_net *given = &devices->config->net[i];

        if (devices->net[i] == net && given->has_mac && memcmp(mac, given->mac, sizeof(mac)) != 0)
            return error_set(error, -EINVAL, "the device %s had another address than mac= says",
                             device->name);
    }
    return 0;
}

/* Whether it is the guest that the command line describes. */
static int check(const struct vm_state_parts *parts, const json_t *state, struct vdisk_error *error)
{
    const json_t *guest = json_object_get(state, "guest");
    const json_t *list = json_object_get(guest, "devices");
    json_int_t memory = json_integer_value(json_object_get(guest, "memory"));
    json_int_t cpus = json_integer_value(json_object_get(guest, "cpus"));
    char had[SIZES_TEXT_BYTES], has[SIZES_TEXT_BYTES];
    int rc = 0;

    if (memory <= 0 || cpus <= 0 || !json_is_array(list))
        return error_set(error, -EINVAL, "the guest's state does not say what it is of");
    if ((uint64_t)memory != parts->memory->size)
        return error_set(error, -EINVAL, "the guest had %s of memory, and is given %s",
                         sizes_text(had, (uint64_t)memory), sizes_text(has, parts->memory->size));
    if (cpus != (json_int_t)parts->devices->config->cpus)
        return error_set(error, -EINVAL, "the guest had %lld processors, and is given %u",
                         (long long)cpus, parts->devices->config->cpus);
    if (json_is_object(json_object_get(state, "firmware")) != !!parts->fw_cfg)
        return error_set(error, -EINVAL, "the guest was started %s firmware: give the same",
                         parts->fw_cfg ? "without" : "by");
    if (json_array_size(list) != parts->devices->slots)
        return error_set(error, -EINVAL,
                         "the guest had %zu devices, and is given %u: give as many drives and "
                         "networks as it had",
                         json_array_size(list), parts->devices->slots);
    for (unsigned i = 0; i < parts->devices->slots && rc == 0; i++)
        rc = check_device(parts->devices, i, json_array_get(list, i), error);
    return rc;
}

/* ---- out ---- */

static int save_virtio(const struct vm_devices *devices, json_t *list, struct vdisk_error *error)
{
    for (unsigned i = 0; i < devices->slots; i++) {
        json_t *one = virtio_save(devices->virtio[i], error);

        if (!one)
            return error->code;
        if (json_array_append_new(list, one))
            return no_memory(error);
    }
    return 0;
}

static json_t *save_firmware(const struct vm_state_parts *parts)
{
    if (!parts->fw_cfg)
        return json_null();
    return json_pack("{s:o, s:o}", "rom",
                     bytes_to_json(parts->firmware->rom, parts->firmware->size), "config",
                     vm_fw_cfg_save(parts->fw_cfg));
}

static int save(const struct vm_state_parts *parts, json_t *root, struct vdisk_error *error)
{
    const struct vm_devices *devices = parts->devices;
    json_t *list = json_array(), *machine = NULL;
    int rc = json_object_set_new(root, "virtio", list) ? no_memory(error) : 0;

    if (rc == 0)
        rc = save_virtio(devices, list, error);
    /* After the devices, whose last interrupts are in it. */
    if (rc == 0)
        rc = vm_machine_save(parts->machine, &machine, error);
    if (rc)
        return rc;
    if (json_object_set_new(root, "machine", machine) ||
        json_object_set_new(root, "guest", describe(parts)) ||
        json_object_set_new(root, "serial", vm_serial_save(devices->serial)) ||
        json_object_set_new(root, "power", vm_power_save(devices->power)) ||
        json_object_set_new(root, "rtc", vm_rtc_save(devices->rtc)) ||
        json_object_set_new(root, "firmware", save_firmware(parts)))
        return no_memory(error);
    return 0;
}

int vm_state_write(const struct vm_state_parts *parts, const struct vm_stream *stream,
                   struct vdisk_error *error)
{
    json_t *root = json_object();
    int rc = root ? save(parts, root, error) : no_memory(error);

    if (rc == 0)
        rc = vm_stream_write_head(stream, root, error);
    json_decref(root);
    return rc ? rc : vm_stream_write_memory(stream, parts->memory, error);
}

/* ---- in ---- */

/* The ROM is that which the guest was started by, also when it resets itself later. */
static int load_firmware(const struct vm_state_parts *parts, const json_t *from,
                         struct vdisk_error *error)
{
    uint8_t *rom;
    ssize_t size;

    if (!parts->fw_cfg)
        return 0;
    rom = malloc(parts->firmware->size);
    if (!rom)
        return no_memory(error);
    size = bytes_from_json(json_object_get(from, "rom"), rom, parts->firmware->size);
    if (size != (ssize_t)parts->firmware->size) {
        free(rom);
        return error_set(error, -EINVAL, "the guest was started by a firmware of another size");
    }
    memcpy(parts->firmware->rom, rom, parts->firmware->size);
    free(rom);
    return vm_fw_cfg_load(parts->fw_cfg, json_object_get(from, "config"), error);
}

static int load_devices(const struct vm_state_parts *parts, const json_t *state,
                        struct vdisk_error *error)
{
    const struct vm_devices *devices = parts->devices;
    const json_t *list = json_object_get(state, "virtio");
    int rc = vm_serial_load(devices->serial, json_object_get(state, "serial"), error);

    if (rc == 0)
        rc = vm_power_load(devices->power, json_object_get(state, "power"), error);
    if (rc == 0)
        rc = vm_rtc_load(devices->rtc, json_object_get(state, "rtc"), error);
    if (rc == 0)
        rc = load_firmware(parts, json_object_get(state, "firmware"), error);
    for (unsigned i = 0; i < devices->slots && rc == 0; i++)
        rc = virtio_load(devices->virtio[i], json_array_get(list, i), error);
    return rc;
}

int vm_state_read(const struct vm_state_parts *parts, const struct vm_stream *stream,
                  struct vdisk_error *error)
{
    json_t *state;
    int rc = vm_stream_read_head(stream, &state, error);

    if (rc)
        return rc;
    rc = check(parts, state, error);
    if (rc == 0)
        rc = vm_stream_read_memory(stream, parts->memory, error);
    if (rc == 0)
        rc = vm_machine_load(parts->machine, json_object_get(state, "machine"), error);
    /* After it: levels of interrupts are the devices' to set. */
    if (rc == 0)
        rc = load_devices(parts, state, error);
    json_decref(state);
    return rc;
}
