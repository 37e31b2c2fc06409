/* SPDX-License-Identifier: Apache-2.0 */
/* A firmware and what it is told; see firmware.h. */
#include "firmware.h"
#include "layout.h"
#include "ram_map.h"
#include "report.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE        UINT64_C(4096)
#define RSDP_FILE   "etc/acpi/rsdp"
#define TABLES_FILE "etc/acpi/tables"

/* ---- the image ---- */

static int read_all(int fd, uint8_t *to, uint64_t size)
{
    for (uint64_t done = 0; done < size;) {
        ssize_t n = pread(fd, to + done, size - done, (off_t)done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO; /* it became shorter */
        done += (uint64_t)n;
    }
    return 0;
}

int vm_firmware_load(int fd, struct vm_firmware *out, struct vdisk_error *error)
{
    struct stat about;
    uint64_t size;
    uint8_t *rom;
    int rc;

    if (fstat(fd, &about) < 0)
        return error_set(error, -errno, "the firmware cannot be read: %s", vdisk_strerror(-errno));
    size = (uint64_t)about.st_size;
    if (!S_ISREG(about.st_mode) || size < VM_FIRMWARE_MIN || size > VM_FIRMWARE_MAX ||
        size % PAGE != 0)
        return error_set(error, VDISK_E_MALFORMED,
                         "the firmware is none: a file of a multiple of 4 KiB, from 64 KiB to 8 "
                         "MiB, is wanted");
    rom = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (rom == MAP_FAILED)
        return error_set(error, -errno, "%s", vdisk_strerror(-errno));
    rc = read_all(fd, rom, size);
    if (rc) {
        munmap(rom, size);
        return error_set(error, rc, "the firmware cannot be read: %s", vdisk_strerror(rc));
    }
    *out = (struct vm_firmware){rom, size};
    return 0;
}

void vm_firmware_free(struct vm_firmware *firmware)
{
    if (firmware->rom)
        munmap(firmware->rom, firmware->size);
    *firmware = (struct vm_firmware){0};
}

void vm_firmware_place(const struct vm_firmware *firmware, const struct vm_memory *memory,
                       struct vm_entry *out)
{
    uint64_t room = VM_FIRMWARE_SHADOW_END - VM_FIRMWARE_SHADOW;
    uint64_t bytes = firmware->size < room ? firmware->size : room;
    uint8_t *to = vm_memory_at(memory, VM_FIRMWARE_SHADOW_END - bytes, bytes);

    assert(to != NULL);
    memcpy(to, firmware->rom + (firmware->size - bytes), bytes);
    *out = (struct vm_entry){.kind = VM_ENTRY_RESET};
}

/* ---- what it is told ---- */

enum loader_command {
    LOADER_ALLOCATE = 1,
    LOADER_ADD_POINTER = 2,
    LOADER_ADD_CHECKSUM = 3,
};

enum loader_zone {
    LOADER_HIGH = 1,
    LOADER_F_SEGMENT = 2,
};

/* bios-linker-loader of QEMU; little-endian. */
struct loader_entry {
    uint32_t command;
    union {
        struct {
            char file[VM_FW_CFG_NAME_BYTES];
            uint32_t align;
            uint8_t zone;
        } allocate;
        struct {
            char in[VM_FW_CFG_NAME_BYTES], to[VM_FW_CFG_NAME_BYTES];
            uint32_t at;
            uint8_t bytes;
        } pointer;
        struct {
            char file[VM_FW_CFG_NAME_BYTES];
            uint32_t at, from, length;
        } sum;
        uint8_t all[124];
    };
};

static_assert(sizeof(struct loader_entry) == 128, "as firmware has it");

#define LOADER_ENTRIES (2 + VM_ACPI_POINTERS + VM_ACPI_SUMS)

static void put_name(char to[VM_FW_CFG_NAME_BYTES], struct vm_acpi_spot spot)
{
    snprintf(to, VM_FW_CFG_NAME_BYTES, "%s", spot.in_rsdp ? RSDP_FILE : TABLES_FILE);
}

static unsigned make_loader(const struct vm_acpi *acpi, struct loader_entry entry[LOADER_ENTRIES])
{
    const struct vm_acpi_spot rsdp = {.in_rsdp = true}, tables = {.in_rsdp = false};
    unsigned count = 2;

    memset(entry, 0, LOADER_ENTRIES * sizeof(*entry));
    entry[0].command = entry[1].command = LOADER_ALLOCATE;
    put_name(entry[0].allocate.file, rsdp);
    entry[0].allocate.align = 16;
    entry[0].allocate.zone = LOADER_F_SEGMENT;
    put_name(entry[1].allocate.file, tables);
    entry[1].allocate.align = VM_ACPI_TABLES_ALIGN;
    entry[1].allocate.zone = LOADER_HIGH;
    for (unsigned i = 0; i < acpi->pointers; i++, count++) {
        const struct vm_acpi_pointer *pointer = &acpi->pointer[i];

        entry[count].command = LOADER_ADD_POINTER;
        put_name(entry[count].pointer.in, pointer->spot);
        put_name(entry[count].pointer.to, tables);
        entry[count].pointer.at = pointer->spot.at;
        entry[count].pointer.bytes = (uint8_t)pointer->bytes;
    }
    for (unsigned i = 0; i < acpi->sums; i++, count++) {
        const struct vm_acpi_sum *sum = &acpi->sum[i];

        entry[count].command = LOADER_ADD_CHECKSUM;
        put_name(entry[count].sum.file, sum->spot);
        entry[count].sum.at = sum->spot.at;
        entry[count].sum.from = sum->from;
        entry[count].sum.length = sum->length;
    }
    return count;
}

static int add_acpi(const struct vm_acpi_config *config, struct vm_fw_cfg *cfg)
{
    struct loader_entry entry[LOADER_ENTRIES];
    struct vm_acpi acpi;
    unsigned count;
    int rc = vm_acpi_make(config, &acpi);

    if (rc)
        return rc;
    count = make_loader(&acpi, entry);
    rc = vm_fw_cfg_add_file(cfg, RSDP_FILE, acpi.rsdp, sizeof(acpi.rsdp));
    if (rc == 0)
        rc = vm_fw_cfg_add_file(cfg, TABLES_FILE, acpi.tables, acpi.size);
    if (rc == 0)
        rc = vm_fw_cfg_add_file(cfg, "etc/table-loader", entry, count * sizeof(*entry));
    return rc;
}

static int add_memory(const struct vm_memory *memory, struct vm_fw_cfg *cfg)
{
    struct vm_map_entry map[VM_MAP_MAX];
    uint8_t bytes[VM_MAP_MAX * 20], *to = bytes; /* address, length, type; nothing between them */
    unsigned count = vm_map_build(memory, VM_MAP_FOR_FIRMWARE, map);

    for (unsigned i = 0; i < count; i++, to += 20) {
        uint32_t type = map[i].type;

        memcpy(to, &map[i].address, 8);
        memcpy(to + 8, &map[i].length, 8);
        memcpy(to + 16, &type, 4);
    }
    return vm_fw_cfg_add_file(cfg, "etc/e820", bytes, (size_t)(to - bytes));
}

static int add_boot_order(int slot, struct vm_fw_cfg *cfg)
{
    char text[64];
    int length = snprintf(text, sizeof(text), "/virtio-mmio@%016llx/disk@0,0",
                          (unsigned long long)vm_virtio_address((unsigned)slot));

    return vm_fw_cfg_add_file(cfg, "bootorder", text, (size_t)length + 1);
}

int vm_firmware_describe(const struct vm_firmware_machine *machine, struct vm_fw_cfg *cfg)
{
    const uint16_t cpus = (uint16_t)machine->acpi.cpus;
    const uint64_t serial = VM_PORT_SERIAL;
    int rc;

    if (machine->boot_slot >= (int)VM_VIRTIO_MAX)
        return -EINVAL;
    rc = add_acpi(&machine->acpi, cfg);
    if (rc == 0)
        rc = add_memory(machine->memory, cfg);
    if (rc == 0)
        rc = vm_fw_cfg_add(cfg, VM_FW_CFG_CPUS, &cpus, sizeof(cpus));
    if (rc == 0)
        rc = vm_fw_cfg_add(cfg, VM_FW_CFG_CPUS_MAX, &cpus, sizeof(cpus));
    if (rc == 0 && machine->acpi.serial)
        rc = vm_fw_cfg_add_file(cfg, "etc/sercon-port", &serial, sizeof(serial));
    if (rc == 0 && machine->boot_slot >= 0)
        rc = add_boot_order(machine->boot_slot, cfg);
    return rc;
}
