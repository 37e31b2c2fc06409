/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a firmware is told (vmm/fw_cfg.c, vmm/firmware.c), asked for as a firmware does it: by ports
 * and by DMA, the ACPI tables with their loader's commands carried out.
 */
#include "firmware.h"
#include "fw_cfg.h"
#include "ram_map.h"
#include "vm_boot_kit.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEMORY    (2 * VM_MEMORY_MIN)
#define ACCESS_AT UINT64_C(0x5000) /* of DMA */
#define DATA_AT   UINT64_C(0x10000)

#define ERROR     1u
#define READ      2u
#define SKIP      4u
#define SELECT    8u
#define WRITE     16u

struct guest {
    struct vm_memory memory;
    struct vm_bus ports;
    struct vm_fw_cfg *cfg;
};

static void new_guest(struct guest *guest)
{
    memset(guest, 0, sizeof(*guest));
    assert_int_equal(vm_memory_new(&guest->memory, MEMORY, NULL), 0);
    guest->cfg = vm_fw_cfg_new(&guest->memory);
    assert_non_null(guest->cfg);
    assert_int_equal(vm_fw_cfg_attach(guest->cfg, &guest->ports), 0);
}

static void end_guest(struct guest *guest)
{
    vm_fw_cfg_free(guest->cfg);
    vm_memory_free(&guest->memory);
}

static uint8_t *at(const struct guest *guest, uint64_t address)
{
    return vm_memory_at(&guest->memory, address, 1);
}

/* ---- as a firmware does it ---- */

static void choose(struct guest *guest, uint16_t key)
{
    key = htole16(key);
    vm_bus_write(&guest->ports, VM_PORT_FW_CFG, (const uint8_t *)&key, 2);
}

static void take(struct guest *guest, void *to, size_t length)
{
    for (size_t i = 0; i < length; i++)
        vm_bus_read(&guest->ports, VM_PORT_FW_CFG + 1, (uint8_t *)to + i, 1);
}

static void put_access(struct guest *guest, uint32_t control, uint32_t length, uint64_t address)
{
    uint8_t *access = at(guest, ACCESS_AT);

    control = htobe32(control);
    length = htobe32(length);
    address = htobe64(address);
    memcpy(access, &control, 4);
    memcpy(access + 4, &length, 4);
    memcpy(access + 8, &address, 8);
}

static void start_dma(struct guest *guest, uint64_t access)
{
    uint32_t above = htobe32((uint32_t)(access >> 32)), below = htobe32((uint32_t)access);

    vm_bus_write(&guest->ports, VM_PORT_FW_CFG + 4, (const uint8_t *)&above, 4);
    vm_bus_write(&guest->ports, VM_PORT_FW_CFG + 8, (const uint8_t *)&below, 4);
}

/* What its control says then. */
static uint32_t dma(struct guest *guest, uint32_t control, uint32_t length, uint64_t address)
{
    uint32_t result;

    put_access(guest, control, length, address);
    start_dma(guest, ACCESS_AT);
    memcpy(&result, at(guest, ACCESS_AT), 4);
    return be32toh(result);
}

/* A file's key, and its size; 0: there is none. */
static uint16_t find_file(struct guest *guest, const char *name, uint32_t *size)
{
    uint16_t found = 0;
    uint32_t count;

    choose(guest, VM_FW_CFG_DIRECTORY);
    take(guest, &count, sizeof(count));
    for (count = be32toh(count); count > 0; count--) {
        struct {
            uint32_t size;
            uint16_t key, reserved;
            char name[56];
        } entry;

        take(guest, &entry, sizeof(entry));
        assert_int_equal(entry.name[55], 0);
        if (strcmp(entry.name, name) == 0) {
            found = be16toh(entry.key);
            *size = be32toh(entry.size);
        }
    }
    return found;
}

/* By DMA, to an address. */
static void load_file(struct guest *guest, const char *name, uint64_t to, uint32_t *size)
{
    uint16_t key = find_file(guest, name, size);

    if (key == 0)
        fail_msg("there is no file %s", name);
    assert_int_equal(dma(guest, (uint32_t)key << 16 | SELECT | READ, *size, to), 0);
}

/* ---- the device ---- */

static void test_the_device_can_be_told_by_its_signature(void **state)
{
    struct guest guest;
    uint8_t bytes[8];
    uint32_t id;

    (void)state;
    new_guest(&guest);
    choose(&guest, VM_FW_CFG_SIGNATURE);
    take(&guest, bytes, 4);
    assert_memory_equal(bytes, "QEMU", 4);
    choose(&guest, VM_FW_CFG_ID);
    take(&guest, &id, 4);
    assert_int_equal(le32toh(id), 3);
    vm_bus_read(&guest.ports, VM_PORT_FW_CFG + 4, bytes, 8);
    assert_memory_equal(bytes, "QEMU CFG", 8);
    vm_bus_read(&guest.ports, VM_PORT_FW_CFG + 8, bytes, 4);
    assert_memory_equal(bytes, " CFG", 4);
    end_guest(&guest);
}

static void test_a_file_is_the_same_by_port_and_by_dma(void **state)
{
    uint8_t data[300], have[300];
    struct guest guest;
    uint32_t size = 0;

    (void)state;
    new_guest(&guest);
    for (unsigned i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * 31 + 7);
    assert_int_equal(vm_fw_cfg_add_file(guest.cfg, "opt/other", "x", 1), 0);
    assert_int_equal(vm_fw_cfg_add_file(guest.cfg, "opt/data", data, sizeof(data)), 0);
    assert_int_equal(vm_fw_cfg_add_file(guest.cfg, "opt/empty", NULL, 0), 0);
    uint16_t key = find_file(&guest, "opt/data", &size);

    assert_int_equal(size, sizeof(data));
    choose(&guest, key);
    take(&guest, have, sizeof(have));
    assert_memory_equal(have, data, sizeof(data));
    load_file(&guest, "opt/data", DATA_AT, &size);
    assert_memory_equal(at(&guest, DATA_AT), data, sizeof(data));
    assert_int_equal(at(&guest, DATA_AT)[sizeof(data)], 0);
    assert_int_not_equal(find_file(&guest, "opt/empty", &size), 0);
    assert_int_equal(size, 0);
    assert_int_equal(find_file(&guest, "opt/none", &size), 0);
    end_guest(&guest);
}

static void test_after_the_end_there_are_zeros(void **state)
{
    struct guest guest;
    uint8_t have[8];

    (void)state;
    new_guest(&guest);
    assert_int_equal(vm_fw_cfg_add(guest.cfg, 0x100, "abc", 3), 0);
    choose(&guest, 0x100);
    take(&guest, have, 8);
    assert_memory_equal(have, "abc\0\0\0\0\0", 8);
    memset(at(&guest, DATA_AT), 0xee, 16);
    assert_int_equal(dma(&guest, 0x100 << 16 | SELECT | READ, 8, DATA_AT), 0);
    assert_memory_equal(at(&guest, DATA_AT), "abc\0\0\0\0\0\xee", 9);
    /* No such item. */
    choose(&guest, 0x101);
    take(&guest, have, 8);
    assert_memory_equal(have, "\0\0\0\0\0\0\0\0", 8);
    end_guest(&guest);
}

static void test_dma_goes_on_where_it_was(void **state)
{
    struct guest guest;
    uint8_t byte;

    (void)state;
    new_guest(&guest);
    assert_int_equal(vm_fw_cfg_add(guest.cfg, 0x100, "abcdefgh", 8), 0);
    choose(&guest, 0x4000 | 0x100); /* to write: what cannot be written is read */
    take(&guest, &byte, 1);
    assert_int_equal(byte, 'a');
    assert_int_equal(dma(&guest, SKIP, 2, UINT64_MAX), 0);
    assert_int_equal(dma(&guest, READ, 2, DATA_AT), 0);
    assert_memory_equal(at(&guest, DATA_AT), "de", 2);
    assert_int_equal(dma(&guest, SKIP, UINT32_MAX, 0), 0);
    assert_int_equal(dma(&guest, SKIP, UINT32_MAX, 0), 0);
    take(&guest, &byte, 1);
    assert_int_equal(byte, 0);
    assert_int_equal(dma(&guest, 0x100 << 16 | SELECT | SKIP, 7, 0), 0);
    take(&guest, &byte, 1);
    assert_int_equal(byte, 'h');
    end_guest(&guest);
}

static void test_nothing_can_be_written(void **state)
{
    struct guest guest;
    uint8_t byte = 'X';

    (void)state;
    new_guest(&guest);
    assert_int_equal(vm_fw_cfg_add(guest.cfg, 0x100, "abc", 3), 0);
    memset(at(&guest, DATA_AT), 'X', 16);
    assert_int_equal(dma(&guest, 0x100 << 16 | SELECT | WRITE, 3, DATA_AT), ERROR);
    choose(&guest, 0x100);
    vm_bus_write(&guest.ports, VM_PORT_FW_CFG + 1, &byte, 1);
    take(&guest, &byte, 1);
    assert_int_equal(byte, 'a');
    end_guest(&guest);
}

static void test_dma_outside_of_ram_is_refused(void **state)
{
    static const struct {
        uint64_t address;
        uint32_t length;
    } bad[] = {
        {MEMORY, 1},
        {MEMORY - 1, 2},
        {VM_VIRTIO_AT, 16},
        {UINT64_MAX, 1},
        {UINT64_MAX - 3, 8},
        {0, UINT32_MAX},
        {DATA_AT, VM_FW_CFG_DMA_MAX + 1},
    };
    struct guest guest;

    (void)state;
    new_guest(&guest);
    assert_int_equal(vm_fw_cfg_add(guest.cfg, 0x100, "abc", 3), 0);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_int_equal(dma(&guest, 0x100 << 16 | SELECT | READ, bad[i].length, bad[i].address),
                         ERROR);
    /* All of it is there, and it is the last of the memory. */
    assert_int_equal(dma(&guest, 0x100 << 16 | SELECT | READ, 3, MEMORY - 3), 0);
    assert_memory_equal(at(&guest, MEMORY - 3), "abc", 3);
    /* Nothing is read, so it does not matter where to. */
    assert_int_equal(dma(&guest, 0x100 << 16 | SELECT | READ, 0, UINT64_MAX), 0);
    end_guest(&guest);
}

static void test_a_transfer_that_is_not_in_ram_is_none(void **state)
{
    static const uint64_t bad[] = {MEMORY, MEMORY - 15, VM_VIRTIO_AT, UINT64_MAX, UINT64_MAX - 15};
    struct guest guest;
    uint8_t byte;

    (void)state;
    new_guest(&guest);
    assert_int_equal(vm_fw_cfg_add(guest.cfg, 0x100, "abc", 3), 0);
    choose(&guest, 0x100);
    put_access(&guest, READ, 3, DATA_AT);
    memcpy(at(&guest, MEMORY - 15), at(&guest, ACCESS_AT), 15);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        start_dma(&guest, bad[i]);
    assert_memory_equal(at(&guest, MEMORY - 15), at(&guest, ACCESS_AT), 15);
    take(&guest, &byte, 1);
    assert_int_equal(byte, 'a');
    /* It may lie at the end of the memory, and be what is read to. */
    memcpy(at(&guest, MEMORY - 16), at(&guest, ACCESS_AT), 16);
    start_dma(&guest, MEMORY - 16);
    assert_memory_equal(at(&guest, DATA_AT), "bc\0", 3);
    assert_int_equal(dma(&guest, 0x100 << 16 | SELECT | READ, 16, ACCESS_AT), 0);
    end_guest(&guest);
}

static void test_the_upper_half_of_an_address_is_used_once(void **state)
{
    struct guest guest;
    uint32_t above = htobe32(1), below = htobe32((uint32_t)ACCESS_AT);
    uint8_t both[8];

    (void)state;
    new_guest(&guest);
    put_access(&guest, SKIP, 0, 0);
    vm_bus_write(&guest.ports, VM_PORT_FW_CFG + 4, (const uint8_t *)&above, 4);
    vm_bus_write(&guest.ports, VM_PORT_FW_CFG + 8, (const uint8_t *)&below, 4);
    assert_int_not_equal(*(uint32_t *)at(&guest, ACCESS_AT), 0);
    vm_bus_write(&guest.ports, VM_PORT_FW_CFG + 8, (const uint8_t *)&below, 4);
    assert_int_equal(*(uint32_t *)at(&guest, ACCESS_AT), 0);
    /* And in one. */
    put_access(&guest, SKIP, 0, 0);
    memset(both, 0, 4);
    memcpy(both + 4, &below, 4);
    vm_bus_write(&guest.ports, VM_PORT_FW_CFG + 4, both, 8);
    assert_int_equal(*(uint32_t *)at(&guest, ACCESS_AT), 0);
    end_guest(&guest);
}

static void test_odd_accesses_do_nothing(void **state)
{
    uint8_t bytes[8];
    struct guest guest;

    (void)state;
    new_guest(&guest);
    choose(&guest, VM_FW_CFG_SIGNATURE);
    take(&guest, bytes, 1);
    memset(bytes, 0, sizeof(bytes));
    put_access(&guest, READ, 4, DATA_AT);
    for (unsigned offset = 0; offset < 12; offset++)
        for (unsigned size = 1; size <= 8; size *= 2)
            if (!(offset == 0 && size == 2) && !(offset == 4 && size >= 4) &&
                !(offset == 8 && size == 4))
                vm_bus_write(&guest.ports, VM_PORT_FW_CFG + offset, bytes, size);
    take(&guest, bytes, 1);
    assert_int_equal(bytes[0], 'E');
    for (unsigned offset = 0; offset < 12; offset++)
        for (unsigned size = 1; size <= 8; size *= 2)
            if (offset != 1)
                vm_bus_read(&guest.ports, VM_PORT_FW_CFG + offset, bytes, size);
    take(&guest, bytes, 1);
    assert_int_equal(bytes[0], 'M');
    /* Several at once are the next ones, as many as there are. */
    vm_bus_read(&guest.ports, VM_PORT_FW_CFG + 1, bytes, 4);
    assert_memory_equal(bytes, "U\0\0\0", 4);
    end_guest(&guest);
}

static void test_items_have_limits(void **state)
{
    static uint8_t data[VM_FW_CFG_FILE_MAX + 1];
    struct guest guest;
    char name[64];
    unsigned i;
    int rc = 0;

    (void)state;
    new_guest(&guest);
    assert_int_equal(vm_fw_cfg_add(guest.cfg, VM_FW_CFG_ID, "x", 1), -EEXIST);
    assert_int_equal(vm_fw_cfg_add(guest.cfg, VM_FW_CFG_DIRECTORY, "x", 1), -EEXIST);
    assert_int_equal(vm_fw_cfg_add(guest.cfg, 0x100, data, sizeof(data)), -EFBIG);
    assert_int_equal(vm_fw_cfg_add(guest.cfg, 0x100, data, sizeof(data) - 1), 0);
    memset(name, 'n', sizeof(name));
    name[56] = 0;
    assert_int_equal(vm_fw_cfg_add_file(guest.cfg, name, "x", 1), -ENAMETOOLONG);
    name[55] = 0;
    assert_int_equal(vm_fw_cfg_add_file(guest.cfg, name, "x", 1), 0);
    assert_int_equal(vm_fw_cfg_add_file(guest.cfg, name, "x", 1), -EEXIST);
    for (i = 0; i < 100 && rc == 0; i++) {
        snprintf(name, sizeof(name), "opt/%u", i);
        rc = vm_fw_cfg_add_file(guest.cfg, name, "x", 1);
    }
    assert_int_equal(rc, -ENOSPC);
    assert_int_equal(i, VM_FW_CFG_ITEMS - 3);
    end_guest(&guest);
}

static void test_a_firmware_goes_on_after_it_was_suspended(void **state)
{
    static const char *const bad[] = {
        "{}",
        "[]",
        "{\"key\": 256, \"offset\": 9, \"dma\": 0}",
        "{\"key\": 256, \"offset\": -1, \"dma\": 0}",
        "{\"key\": 65536, \"offset\": 0, \"dma\": 0}",
        "{\"key\": 256, \"offset\": 0, \"dma\": 4294967296}",
        "{\"key\": \"256\", \"offset\": 0, \"dma\": 0}",
    };
    struct guest guest, other;
    struct vdisk_error error;
    uint8_t byte;

    (void)state;
    new_guest(&guest);
    new_guest(&other);
    assert_int_equal(vm_fw_cfg_add(guest.cfg, 0x100, "abcdefgh", 8), 0);
    assert_int_equal(vm_fw_cfg_add(other.cfg, 0x100, "abcdefgh", 8), 0);
    choose(&guest, 0x100);
    take(&guest, &byte, 1);
    json_t *saved = vm_fw_cfg_save(guest.cfg);

    assert_non_null(saved);
    assert_int_equal(vm_fw_cfg_load(other.cfg, saved, &error), 0);
    for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        json_t *broken = json_loads(bad[i], 0, NULL);

        assert_non_null(broken);
        assert_int_equal(vm_fw_cfg_load(other.cfg, broken, &error), -EINVAL);
        assert_int_equal(error.code, -EINVAL);
        json_decref(broken);
    }
    take(&other, &byte, 1);
    assert_int_equal(byte, 'b');
    json_decref(saved);
    end_guest(&guest);
    end_guest(&other);
}

/* ---- the firmware ---- */

static const struct vm_acpi_config acpi_config = {
    .cpus = 3, .virtio_slots = 5, .serial = true, .generation = UINT64_C(0xfff000)};

static void describe(struct guest *guest, int boot_slot, bool serial)
{
    struct vm_firmware_machine machine = {&guest->memory, acpi_config, boot_slot};

    machine.acpi.serial = serial;
    assert_int_equal(vm_firmware_describe(&machine, guest->cfg), 0);
}

/* The loader of a firmware. Files that it has placed: */
struct placed {
    char name[56];
    uint64_t address;
    uint32_t size;
};

struct loader {
    struct guest *guest;
    struct placed file[2];
    unsigned files;
};

static uint32_t field(const uint8_t *bytes)
{
    uint32_t value;

    memcpy(&value, bytes, 4);
    return le32toh(value);
}

static const struct placed *placed(const struct loader *loader, const uint8_t *name)
{
    for (unsigned i = 0; i < loader->files; i++)
        if (strcmp(loader->file[i].name, (const char *)name) == 0)
            return &loader->file[i];
    fail_msg("%s is used before it is placed", (const char *)name);
    return NULL;
}

static void carry_out(struct loader *loader, const uint8_t *entry)
{
    struct guest *guest = loader->guest;

    if (field(entry) == 1) {
        struct placed *file = &loader->file[loader->files];

        assert_true(loader->files < 2);
        memcpy(file->name, entry + 4, 56);
        /* Of the F segment only what is looked for by its signature. */
        assert_int_equal(entry[64], strstr(file->name, "rsdp") ? 2 : 1);
        file->address = entry[64] == 2 ? 0xf5550 : 0x7ff000 + field(entry + 60);
        load_file(guest, file->name, file->address, &file->size);
        loader->files++;
    } else if (field(entry) == 2) {
        const struct placed *in = placed(loader, entry + 4), *to = placed(loader, entry + 60);
        uint32_t offset = field(entry + 116), bytes = entry[120];
        uint64_t value = 0;

        assert_true(offset < in->size && bytes <= 8 && bytes <= in->size - offset);
        memcpy(&value, at(guest, in->address + offset), bytes);
        assert_true(value < to->size);
        value += to->address;
        memcpy(at(guest, in->address + offset), &value, bytes);
    } else {
        const struct placed *file = placed(loader, entry + 4);
        uint32_t offset = field(entry + 60), from = field(entry + 64), length = field(entry + 68);
        uint8_t sum = 0;

        assert_int_equal(field(entry), 3);
        assert_true(offset < file->size && from < file->size && length <= file->size - from);
        for (uint32_t i = 0; i < length; i++)
            sum = (uint8_t)(sum + *at(guest, file->address + from + i));
        *at(guest, file->address + offset) = (uint8_t)(*at(guest, file->address + offset) - sum);
    }
}

static void test_a_firmware_places_the_tables_as_we_do(void **state)
{
    static uint8_t want[VM_ACPI_MAX];
    static struct vm_acpi acpi;
    struct guest guest;
    uint32_t size = 0;

    (void)state;
    new_guest(&guest);
    describe(&guest, -1, true);
    struct loader loader = {.guest = &guest};
    uint16_t key = find_file(&guest, "etc/table-loader", &size);
    uint8_t *commands = malloc(size);

    assert_non_null(commands);
    assert_true(size > 0 && size % 128 == 0);
    choose(&guest, key);
    take(&guest, commands, size);
    for (uint32_t i = 0; i < size; i += 128)
        carry_out(&loader, commands + i);
    assert_int_equal(loader.files, 2);
    const struct placed *rsdp = placed(&loader, (const uint8_t *)"etc/acpi/rsdp");
    const struct placed *tables = placed(&loader, (const uint8_t *)"etc/acpi/tables");

    assert_int_equal(vm_acpi_make(&acpi_config, &acpi), 0);
    vm_acpi_place(&acpi, tables->address - VM_ACPI_TABLES_ALIGN, want);
    assert_memory_equal(at(&guest, rsdp->address), want, rsdp->size);
    assert_memory_equal(at(&guest, tables->address), want + VM_ACPI_TABLES_ALIGN, tables->size);
    free(commands);
    end_guest(&guest);
}

static void test_a_firmware_is_told_of_memory_and_processors(void **state)
{
    struct vm_map_entry map[VM_MAP_MAX];
    struct guest guest;
    uint32_t size = 0;
    uint16_t cpus;

    (void)state;
    new_guest(&guest);
    describe(&guest, -1, true);
    load_file(&guest, "etc/e820", DATA_AT, &size);
    unsigned count = vm_map_build(&guest.memory, VM_MAP_FOR_FIRMWARE, map);

    assert_int_equal(size, count * 20);
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *entry = at(&guest, DATA_AT + i * 20);

        assert_memory_equal(entry, &map[i].address, 8);
        assert_memory_equal(entry + 8, &map[i].length, 8);
        assert_int_equal(field(entry + 16), map[i].type);
    }
    for (unsigned i = 0; i < 2; i++) {
        choose(&guest, i ? VM_FW_CFG_CPUS : VM_FW_CFG_CPUS_MAX);
        take(&guest, &cpus, 2);
        assert_int_equal(le16toh(cpus), 3);
    }
    end_guest(&guest);
}

static void test_a_firmware_is_told_what_to_boot_and_where_to_show_it(void **state)
{
    struct vm_firmware_machine wrong;
    struct guest guest;
    uint32_t size = 0;

    (void)state;
    new_guest(&guest);
    describe(&guest, 2, true);
    load_file(&guest, "bootorder", DATA_AT, &size);
    assert_string_equal(at(&guest, DATA_AT), "/virtio-mmio@00000000d0002000/disk@0,0");
    load_file(&guest, "etc/sercon-port", DATA_AT, &size);
    assert_int_equal(size, 8);
    assert_int_equal(field(at(&guest, DATA_AT)), VM_PORT_SERIAL);
    end_guest(&guest);

    new_guest(&guest);
    describe(&guest, -1, false);
    assert_int_equal(find_file(&guest, "bootorder", &size), 0);
    assert_int_equal(find_file(&guest, "etc/sercon-port", &size), 0);
    wrong = (struct vm_firmware_machine){&guest.memory, acpi_config, VM_VIRTIO_MAX};
    assert_int_equal(vm_firmware_describe(&wrong, guest.cfg), -EINVAL);
    wrong = (struct vm_firmware_machine){&guest.memory, {.cpus = 0}, -1};
    assert_int_equal(vm_firmware_describe(&wrong, guest.cfg), -EINVAL);
    end_guest(&guest);
}

static void load_firmware(struct vm_firmware *firmware, size_t size, int wanted)
{
    struct vdisk_error error = {0};
    uint8_t *bytes = malloc(size + 1);
    int fd;

    assert_non_null(bytes);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(i * 7 + i / 4096);
    fd = vm_kit_file(bytes, size);
    assert_int_equal(vm_firmware_load(fd, firmware, &error), wanted);
    assert_int_equal(error.code, wanted);
    if (wanted == 0)
        assert_memory_equal(firmware->rom, bytes, size);
    close(fd);
    free(bytes);
}

static void test_a_firmware_ends_at_4_gib_and_in_the_legacy_hole(void **state)
{
    static const size_t sizes[] = {64 << 10, 128 << 10, 256 << 10, 8 << 20};
    struct vm_firmware firmware = {0};
    struct guest guest;
    struct vm_entry entry;

    (void)state;
    new_guest(&guest);
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        size_t shadow = sizes[i] < 0x20000 ? sizes[i] : 0x20000;

        load_firmware(&firmware, sizes[i], 0);
        assert_int_equal(vm_firmware_at(&firmware) + sizes[i], UINT64_C(1) << 32);
        /* Each time anew, for it changes itself there. */
        for (unsigned k = 0; k < 2; k++) {
            memset(at(&guest, 0xd0000), 0xee, 0x40000);
            vm_firmware_place(&firmware, &guest.memory, &entry);
            assert_int_equal(entry.kind, VM_ENTRY_RESET);
            assert_memory_equal(at(&guest, 0x100000 - shadow), firmware.rom + sizes[i] - shadow,
                                shadow);
            assert_int_equal(*at(&guest, 0x100000 - shadow - 1), 0xee);
            assert_int_equal(*at(&guest, 0x100000), 0xee);
        }
        vm_firmware_free(&firmware);
    }
    end_guest(&guest);
}

static void test_what_cannot_be_a_firmware_is_refused(void **state)
{
    static const size_t sizes[] = {0, 4096, (64 << 10) - 4096, (64 << 10) + 1, (8 << 20) + 4096};
    struct vm_firmware firmware = {0};
    struct vdisk_error error;
    int ends[2];

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
        load_firmware(&firmware, sizes[i], VDISK_E_MALFORMED);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(vm_firmware_load(ends[0], &firmware, &error), VDISK_E_MALFORMED);
    close(ends[0]);
    close(ends[1]);
    assert_int_equal(vm_firmware_load(9999, &firmware, &error), -EBADF);
    assert_null(firmware.rom);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_device_can_be_told_by_its_signature),
        cmocka_unit_test(test_a_file_is_the_same_by_port_and_by_dma),
        cmocka_unit_test(test_after_the_end_there_are_zeros),
        cmocka_unit_test(test_dma_goes_on_where_it_was),
        cmocka_unit_test(test_nothing_can_be_written),
        cmocka_unit_test(test_dma_outside_of_ram_is_refused),
        cmocka_unit_test(test_a_transfer_that_is_not_in_ram_is_none),
        cmocka_unit_test(test_the_upper_half_of_an_address_is_used_once),
        cmocka_unit_test(test_odd_accesses_do_nothing),
        cmocka_unit_test(test_items_have_limits),
        cmocka_unit_test(test_a_firmware_goes_on_after_it_was_suspended),
        cmocka_unit_test(test_a_firmware_places_the_tables_as_we_do),
        cmocka_unit_test(test_a_firmware_is_told_of_memory_and_processors),
        cmocka_unit_test(test_a_firmware_is_told_what_to_boot_and_where_to_show_it),
        cmocka_unit_test(test_a_firmware_ends_at_4_gib_and_in_the_legacy_hole),
        cmocka_unit_test(test_what_cannot_be_a_firmware_is_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
