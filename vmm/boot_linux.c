/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bzImage: Documentation/arch/x86/boot.rst of Linux, "The Linux/x86 Boot Protocol", its 64-bit
 * part. The kernel is put where it prefers to run, and so need not move itself; a part of its
 * setup header goes into the zero page, with what the boot loader has to say.
 */
#include "boot_impl.h"
#include "layout.h"
#include "ram_map.h"
#include "report.h"

#include <asm/bootparam.h>
#include <assert.h>
#include <string.h>

#define HEADER_AT     0x1f1u /* the setup header, in the file and in the zero page */
#define JUMP_AT       0x201u /* a byte that says how far it goes, from the next one on */
#define BOOT_FLAG     0xaa55u
#define HEADER_MAGIC  0x53726448u /* "HdrS" */
#define VERSION_MIN   0x020cu
#define ENTRY_64      0x200u
#define SECTOR        512u
#define PARAGRAPH     16u
#define LOADER_OTHER  0xffu
#define VIDEO_NORMAL  0xffffu
#define MIB           (UINT64_C(1) << 20)

#define PAGE          UINT64_C(4096)
#define PRESENT_WRITE UINT64_C(3)
#define LARGE_PAGE    UINT64_C(0x80)
#define LARGE_BYTES   (UINT64_C(2) << 20)
#define DIRECTORIES   4u /* of 1 GiB each */
#define ENTRIES       512u
#define CODE_64       0x00af9b000000ffff

static_assert(offsetof(struct boot_params, hdr) == HEADER_AT && sizeof(struct boot_params) == PAGE,
              "the zero page");

static int read_header(struct vm_boot *boot, struct setup_header *header)
{
    size_t bytes = JUMP_AT + 1 + (size_t)boot->head[JUMP_AT] - HEADER_AT;

    /* What a header of an older protocol does not have is zero. */
    memset(header, 0, sizeof(*header));
    memcpy(header, boot->head + HEADER_AT, bytes < sizeof(*header) ? bytes : sizeof(*header));
    if (header->boot_flag != BOOT_FLAG || header->header != HEADER_MAGIC)
        return error_set(boot->error, VDISK_E_MALFORMED,
                         "the kernel is none: neither a bzImage of Linux nor an ELF file");
    if (boot->head_bytes < HEADER_AT + bytes)
        return error_set(boot->error, VDISK_E_MALFORMED,
                         "the kernel is truncated: it ends within its header");
    if (header->version < VERSION_MIN || !(header->xloadflags & XLF_KERNEL_64) ||
        !(header->loadflags & LOADED_HIGH))
        return error_set(boot->error, VDISK_E_UNSUPPORTED,
                         "the kernel has no 64-bit entry (x86-64, boot protocol 2.12 or later)");
    return 0;
}

/* How far the kernel goes from where it begins, until it has found its own memory. */
static uint64_t room_for(const struct setup_header *header)
{
    uint64_t code = (uint64_t)header->syssize * PARAGRAPH;

    return header->init_size > code ? header->init_size : code;
}

static int load_kernel(struct vm_boot *boot, const struct setup_header *header)
{
    uint64_t start = header->pref_address, end = vm_map_low_end(boot->memory);
    uint64_t sectors = header->setup_sects ? header->setup_sects : 4, room = room_for(header);
    size_t code = (size_t)header->syssize * PARAGRAPH, have;
    int rc;

    if (start < VM_HIGH_RAM || start % PAGE != 0 || code <= ENTRY_64)
        return error_set(boot->error, VDISK_E_MALFORMED, "the kernel's header makes no sense");
    if (start >= end || room > end - start)
        return error_set(boot->error, VDISK_E_LIMIT,
                         "the kernel is too large for the memory: it takes %llu MiB from %llu MiB "
                         "on, and there are %llu MiB",
                         (unsigned long long)((room + MIB - 1) / MIB),
                         (unsigned long long)(start / MIB), (unsigned long long)(end / MIB));
    uint8_t *memory = vm_memory_at(boot->memory, start, room);

    assert(memory != NULL);
    /* The size is in paragraphs, and the last of them may not be whole. */
    rc = vm_boot_read_some(boot->options->kernel_fd, (sectors + 1) * SECTOR, memory, code, &have);
    if (rc)
        return error_set(boot->error, rc, "the kernel cannot be read: %s", vdisk_strerror(rc));
    if (code - have >= PARAGRAPH)
        return error_set(boot->error, VDISK_E_MALFORMED,
                         "the kernel is truncated: %zu of its %zu bytes are missing", code - have,
                         code);
    return 0;
}

/* All of the first 4 GiB, at its own addresses: a page of level 4, one of level 3, and four of
 * level 2 with large pages. */
static void make_tables(const struct vm_memory *memory)
{
    uint64_t *table = vm_boot_low(memory, VM_BOOT_TABLES, (2 + DIRECTORIES) * PAGE);

    table[0] = (VM_BOOT_TABLES + PAGE) | PRESENT_WRITE;
    for (unsigned i = 0; i < DIRECTORIES; i++)
        table[ENTRIES + i] = (VM_BOOT_TABLES + (2 + i) * PAGE) | PRESENT_WRITE;
    for (unsigned i = 0; i < DIRECTORIES * ENTRIES; i++)
        table[2 * ENTRIES + i] = (i * LARGE_BYTES) | PRESENT_WRITE | LARGE_PAGE;
}

static void make_zero_page(const struct vm_boot *boot, const struct setup_header *header,
                           const struct vm_boot_initrd *initrd)
{
    struct boot_params *params = vm_boot_low(boot->memory, VM_ZERO_PAGE, sizeof(*params));
    struct vm_map_entry map[VM_MAP_MAX];
    unsigned count = vm_map_build(boot->memory, VM_MAP_FOR_KERNEL, map);

    params->hdr = *header;
    params->hdr.type_of_loader = LOADER_OTHER;
    params->hdr.ext_loader_ver = params->hdr.ext_loader_type = 0;
    params->hdr.loadflags &= (uint8_t)~CAN_USE_HEAP;
    params->hdr.heap_end_ptr = 0;
    params->hdr.vid_mode = VIDEO_NORMAL;
    params->hdr.setup_data = 0;
    params->hdr.code32_start = (uint32_t)header->pref_address;
    params->hdr.cmd_line_ptr = (uint32_t)VM_COMMAND_LINE;
    params->hdr.ramdisk_image = (uint32_t)initrd->address;
    params->hdr.ramdisk_size = (uint32_t)initrd->size;
    params->acpi_rsdp_addr = boot->options->rsdp;
    params->e820_entries = (uint8_t)count;
    for (unsigned i = 0; i < count; i++)
        params->e820_table[i] =
            (struct boot_e820_entry){map[i].address, map[i].length, map[i].type};
}

int vm_boot_linux(struct vm_boot *boot, struct vm_entry *out)
{
    uint64_t end = vm_map_low_end(boot->memory), above;
    struct vm_boot_initrd initrd;
    struct setup_header header;
    int rc = read_header(boot, &header);

    if (rc == 0)
        rc = vm_boot_command(boot, header.cmdline_size);
    if (rc == 0)
        rc = load_kernel(boot, &header);
    if (rc)
        return rc;
    above = (uint64_t)header.initrd_addr_max + 1;
    rc = vm_boot_initrd(boot, header.pref_address + room_for(&header), above < end ? above : end,
                        &initrd);
    if (rc)
        return rc;
    make_tables(boot->memory);
    make_zero_page(boot, &header, &initrd);
    *out = (struct vm_entry){
        .kind = VM_ENTRY_LONG,
        .address = header.pref_address + ENTRY_64,
        .argument = VM_ZERO_PAGE,
        .tables = VM_BOOT_TABLES,
        .gdt = vm_boot_gdt(boot->memory, CODE_64),
    };
    return 0;
}
