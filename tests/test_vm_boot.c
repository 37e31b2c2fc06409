/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loading kernels (vmm/boot*.c): a kernel finds what its boot protocol promises, and a file that is
 * none, or does not fit, is refused with the reason.
 */
#include "boot.h"
#include "layout.h"
#include "ram_map.h"
#include "vm_boot_kit.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB   (UINT64_C(1) << 20)
#define GIB   (UINT64_C(1) << 30)
#define SMALL (16 * MIB)
#define PAGE  UINT64_C(4096)

static const uint8_t code[] = {0xf4, 0xeb, 0xfd, 1, 2, 3, 4, 5, 6, 7, 8, 9};

struct
try {
    struct vm_memory memory;
    uint8_t file[VM_KIT_KERNEL_MAX];
    size_t size;
    struct vm_boot_options options;
    struct vm_entry entry;
    struct vdisk_error error;
};

static void new_try(struct try *try, uint64_t memory, bool pvh)
{
    memset(try, 0, sizeof(*try));
    assert_int_equal(vm_memory_new(&try->memory, memory, NULL), 0);
    try->size = pvh ? vm_kit_pvh(try->file, code, sizeof(code))
                    : vm_kit_linux(try->file, code, sizeof(code));
    try->options = (struct vm_boot_options){.kernel_fd = -1, .initrd_fd = -1};
}

static void end_try(struct try *try)
{
    if (try->options.initrd_fd >= 0)
        close(try->options.initrd_fd);
    vm_memory_free(&try->memory);
}

static int load(struct try *try)
{
    int rc;

    try->options.kernel_fd = vm_kit_file(try->file, try->size);
    try->error = (struct vdisk_error){0};
    rc = vm_boot_load(&try->options, &try->memory, &try->entry, &try->error);
    close(try->options.kernel_fd);
    if (rc) {
        assert_int_equal(try->error.code, rc);
        assert_true(strlen(try->error.text) > 20);
    }
    return rc;
}

static const void *at(const struct try *try, uint64_t guest, uint64_t bytes)
{
    const void *host = vm_memory_at(&try->memory, guest, bytes);

    assert_non_null(host);
    return host;
}

static const struct boot_params *zero_page(const struct try *try)
{
    return at(try, VM_ZERO_PAGE, sizeof(struct boot_params));
}

static void put_header(struct try *try, const struct setup_header *header)
{
    memcpy(try->file + 0x1f1, header, sizeof(*header));
}

static struct setup_header header_of(const struct try *try)
{
    struct setup_header header;

    memcpy(&header, try->file + 0x1f1, sizeof(header));
    return header;
}

static void test_a_bzimage_begins_at_its_64_bit_entry(void **state)
{
    struct try try;

    (void)state;
    new_try(&try, SMALL, false);
    assert_int_equal(load(&try), 0);
    assert_int_equal(try.entry.kind, VM_ENTRY_LONG);
    assert_int_equal(try.entry.address, VM_KIT_LINUX_AT + 512);
    assert_int_equal(try.entry.argument, VM_ZERO_PAGE);
    assert_memory_equal(at(&try, try.entry.address, sizeof(code)), code, sizeof(code));

    const uint64_t *gdt = at(&try, try.entry.gdt, VM_BOOT_GDT_BYTES);

    assert_int_equal(gdt[0], 0);
    assert_int_equal(gdt[2] >> 40 & 0xff, 0x9b); /* present, code, accessed */
    assert_int_equal(gdt[2] >> 53 & 3, 1);       /* of 64 bits */
    assert_int_equal(gdt[3] >> 40 & 0xff, 0x93); /* data, writable */
    end_try(&try);
}

/* As a processor translates it. */
static uint64_t translate(const struct try *try, uint64_t address)
{
    uint64_t table = try->entry.tables, entry;

    for (unsigned shift = 39;; shift -= 9) {
        entry = *(const uint64_t *)at(try, table + (address >> shift & 511) * 8, 8);
        if ((entry & 3) != 3)
            return UINT64_MAX;
        if (shift == 21) {
            assert_true(entry & 0x80);
            return (entry & ~(2 * MIB - 1)) + (address & (2 * MIB - 1));
        }
        assert_false(entry & 0x80);
        table = entry & ~(PAGE - 1);
    }
}

static void test_the_first_4_gib_are_mapped_where_they_are(void **state)
{
    struct try try;

    (void)state;
    new_try(&try, SMALL, false);
    assert_int_equal(load(&try), 0);
    for (uint64_t address = 0; address < 4 * GIB; address += MIB + 0x123)
        assert_int_equal(translate(&try, address), address);
    assert_int_equal(translate(&try, 4 * GIB - 1), 4 * GIB - 1);
    assert_int_equal(translate(&try, 4 * GIB), UINT64_MAX);
    /* The GDT is behind the tables, not in them. */
    assert_true(try.entry.gdt >= try.entry.tables + 6 * PAGE);
    end_try(&try);
}

static void test_the_zero_page_says_what_the_loader_did(void **state)
{
    static const char initrd[] = "an initrd";
    struct setup_header header;
    struct try try;

    (void)state;
    new_try(&try, SMALL, false);
    header = header_of(&try);
    header.loadflags |= CAN_USE_HEAP;
    header.setup_data = 0x1234;
    put_header(&try, &header);
    try.options.command = "console=ttyS0 quiet";
    try.options.rsdp = VM_ACPI_AT;
    try.options.initrd_fd = vm_kit_file(initrd, sizeof(initrd));
    assert_int_equal(load(&try), 0);

    const struct boot_params *params = zero_page(&try);

    assert_int_equal(params->hdr.type_of_loader, 0xff);
    assert_int_equal(params->hdr.loadflags, LOADED_HIGH);
    assert_int_equal(params->hdr.setup_data, 0);
    assert_int_equal(params->hdr.version, header.version);
    assert_int_equal(params->hdr.init_size, header.init_size);
    assert_int_equal(params->hdr.code32_start, VM_KIT_LINUX_AT);
    assert_int_equal(params->acpi_rsdp_addr, VM_ACPI_AT);
    assert_int_equal(params->sentinel, 0);
    assert_string_equal(at(&try, params->hdr.cmd_line_ptr, 64), "console=ttyS0 quiet");
    assert_int_equal(params->hdr.ramdisk_size, sizeof(initrd));
    assert_memory_equal(at(&try, params->hdr.ramdisk_image, sizeof(initrd)), initrd,
                        sizeof(initrd));
    end_try(&try);
}

static void test_the_map_of_the_zero_page_is_the_machines(void **state)
{
    struct vm_map_entry map[VM_MAP_MAX];
    struct try try;

    (void)state;
    new_try(&try, 5 * GIB, false);
    assert_int_equal(load(&try), 0);

    const struct boot_params *params = zero_page(&try);
    unsigned count = vm_map_build(&try.memory, VM_MAP_FOR_KERNEL, map);

    assert_int_equal(params->e820_entries, count);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(params->e820_table[i].addr, map[i].address);
        assert_int_equal(params->e820_table[i].size, map[i].length);
        assert_int_equal(params->e820_table[i].type, map[i].type);
    }
    end_try(&try);
}

/* Where an initrd of that size goes; 0: nowhere. */
static uint64_t initrd_at(struct try *try, size_t size)
{
    uint8_t *bytes = malloc(size);
    uint64_t address = 0;

    assert_non_null(bytes);
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(i * 7 + 1);
    try->options.initrd_fd = vm_kit_file(bytes, size);
    int rc = load(try);

    close(try->options.initrd_fd);
    try->options.initrd_fd = -1;
    if (rc == 0) {
        address = zero_page(try)->hdr.ramdisk_image;
        assert_int_equal(zero_page(try)->hdr.ramdisk_size, size);
        assert_memory_equal(at(try, address, size), bytes, size);
        assert_memory_equal(at(try, try->entry.address, sizeof(code)), code, sizeof(code));
    } else {
        assert_int_equal(rc, VDISK_E_LIMIT);
        assert_non_null(strstr(try->error.text, "initrd"));
    }
    free(bytes);
    return address;
}

static void test_an_initrd_goes_as_high_as_it_can(void **state)
{
    const uint64_t end = SMALL - PAGE, begin = VM_KIT_LINUX_AT + VM_KIT_LINUX_ROOM;
    struct setup_header header;
    struct try try;

    (void)state;
    new_try(&try, SMALL, false);
    assert_int_equal(initrd_at(&try, 10000), end - 3 * PAGE);
    /* The kernel says how high it may be. */
    header = header_of(&try);
    header.initrd_addr_max = (uint32_t)(8 * MIB - 1);
    put_header(&try, &header);
    assert_int_equal(initrd_at(&try, 10000), 8 * MIB - 3 * PAGE);
    header.initrd_addr_max = UINT32_MAX;
    put_header(&try, &header);
    /* Just what there is between the kernel and the end. */
    assert_int_equal(initrd_at(&try, end - begin), begin);
    assert_int_equal(initrd_at(&try, end - begin + 1), 0);
    header.initrd_addr_max = (uint32_t)VM_KIT_LINUX_AT;
    put_header(&try, &header);
    assert_int_equal(initrd_at(&try, 1), 0);
    /* Room enough, but not from the beginning of a page on. */
    header.initrd_addr_max = UINT32_MAX;
    header.init_size = VM_KIT_LINUX_ROOM + 1;
    put_header(&try, &header);
    assert_int_equal(initrd_at(&try, end - begin - 1), 0);
    assert_int_equal(initrd_at(&try, end - begin - PAGE), begin + PAGE);
    end_try(&try);
}

static void test_an_initrd_larger_than_all_memory_is_refused(void **state)
{
    static const off_t sizes[] = {1 << 24, 1 << 30, (off_t)1 << 40, INT64_MAX - 4095};
    struct try try;

    (void)state;
    new_try(&try, SMALL, false);
    try.options.initrd_fd = vm_kit_file("", 0);
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        assert_int_equal(ftruncate(try.options.initrd_fd, sizes[i]), 0);
        assert_int_equal(load(&try), VDISK_E_LIMIT);
        assert_non_null(strstr(try.error.text, "initrd is too large"));
    }
    end_try(&try);
}

static void test_an_initrd_is_below_the_gap_in_large_memory(void **state)
{
    struct setup_header header;
    struct try try;

    (void)state;
    new_try(&try, 8 * GIB, false);
    header = header_of(&try);
    header.initrd_addr_max = UINT32_MAX;
    put_header(&try, &header);
    assert_int_equal(initrd_at(&try, 1), VM_GAP_BEGIN - 2 * PAGE);
    end_try(&try);
}

static void test_an_initrd_is_a_file_that_can_be_read(void **state)
{
    struct try try;
    int ends[2];

    (void)state;
    new_try(&try, SMALL, false);
    assert_int_equal(pipe(ends), 0);
    try.options.initrd_fd = ends[0];
    assert_int_equal(load(&try), -EINVAL);
    assert_non_null(strstr(try.error.text, "regular file"));
    close(ends[1]);
    close(ends[0]);
    try.options.initrd_fd = 9999;
    assert_int_equal(load(&try), -EBADF);
    assert_non_null(strstr(try.error.text, "initrd"));
    try.options.initrd_fd = vm_kit_file("", 0);
    assert_int_equal(load(&try), 0);
    assert_int_equal(zero_page(&try)->hdr.ramdisk_size, 0);
    end_try(&try);
}

static void test_a_pvh_kernel_gets_the_start_info(void **state)
{
    static const char initrd[] = "modules are initrds";
    struct vm_map_entry map[VM_MAP_MAX];
    struct try try;

    (void)state;
    new_try(&try, 5 * GIB, true);
    try.options.command = "root=/dev/vda";
    try.options.rsdp = VM_ACPI_AT;
    try.options.initrd_fd = vm_kit_file(initrd, sizeof(initrd));
    /* Memory after its file's bytes is zero. */
    memset(vm_memory_at(&try.memory, VM_KIT_PVH_AT, VM_KIT_PVH_ROOM), 0xee, VM_KIT_PVH_ROOM);
    assert_int_equal(load(&try), 0);
    assert_int_equal(try.entry.kind, VM_ENTRY_PVH);
    assert_int_equal(try.entry.address, VM_KIT_PVH_AT);
    assert_memory_equal(at(&try, VM_KIT_PVH_AT, sizeof(code)), code, sizeof(code));
    const uint8_t *rest = at(&try, VM_KIT_PVH_AT, VM_KIT_PVH_ROOM);

    for (size_t i = sizeof(code); i < VM_KIT_PVH_ROOM; i++)
        assert_int_equal(rest[i], 0);
    const uint32_t *info = at(&try, try.entry.argument, 56);
    const uint64_t *pointers = (const uint64_t *)(info + 4);

    assert_int_equal(info[0], 0x336ec578);
    assert_int_equal(info[1], 1);
    assert_int_equal(info[3], 1);
    assert_string_equal(at(&try, pointers[1], 64), "root=/dev/vda");
    assert_int_equal(pointers[2], VM_ACPI_AT);
    const uint64_t *module = at(&try, pointers[0], 32);

    assert_int_equal(module[0], VM_GAP_BEGIN - 2 * PAGE);
    assert_int_equal(module[1], sizeof(initrd));
    assert_memory_equal(at(&try, module[0], sizeof(initrd)), initrd, sizeof(initrd));
    unsigned count = vm_map_build(&try.memory, VM_MAP_FOR_KERNEL, map);

    assert_int_equal(info[12], count);
    for (unsigned i = 0; i < count; i++) {
        const uint64_t *entry = at(&try, pointers[3] + i * 24, 24);

        assert_int_equal(entry[0], map[i].address);
        assert_int_equal(entry[1], map[i].length);
        assert_int_equal(entry[2], map[i].type);
    }
    const uint64_t *gdt = at(&try, try.entry.gdt, VM_BOOT_GDT_BYTES);

    assert_int_equal(gdt[2], 0x00cf9b000000ffff);
    end_try(&try);
}

static void test_a_pvh_kernel_without_an_initrd_has_no_modules(void **state)
{
    struct try try;

    (void)state;
    new_try(&try, SMALL, true);
    assert_int_equal(load(&try), 0);
    const uint32_t *info = at(&try, try.entry.argument, 56);

    assert_int_equal(info[3], 0);
    assert_int_equal(info[4], 0);
    end_try(&try);
}

static void test_a_command_line_is_as_long_as_the_kernel_takes(void **state)
{
    char command[VM_COMMAND_MAX + 1];
    struct try try;

    (void)state;
    for (unsigned pvh = 0; pvh < 2; pvh++) {
        size_t most = pvh ? VM_COMMAND_MAX - 1 : VM_KIT_COMMAND_MAX;

        new_try(&try, SMALL, pvh);
        memset(command, 'x', sizeof(command));
        command[most] = 0;
        try.options.command = command;
        assert_int_equal(load(&try), 0);
        assert_string_equal(at(&try, VM_COMMAND_LINE, VM_COMMAND_MAX), command);
        command[most] = 'x';
        command[most + 1] = 0;
        assert_int_equal(load(&try), VDISK_E_LIMIT);
        assert_non_null(strstr(try.error.text, "command line"));
        end_try(&try);
    }
}

/* A kernel may say that it takes more than there is place for. */
static void test_a_command_line_ends_where_its_place_ends(void **state)
{
    char command[VM_COMMAND_MAX + 1];
    struct setup_header header;
    struct try try;

    (void)state;
    new_try(&try, SMALL, false);
    header = header_of(&try);
    header.cmdline_size = UINT32_MAX;
    put_header(&try, &header);
    memset(command, 'x', sizeof(command));
    command[VM_COMMAND_MAX] = 0;
    try.options.command = command;
    assert_int_equal(load(&try), VDISK_E_LIMIT);
    end_try(&try);
}

static void refused(struct try *try, int code_wanted, const char *text)
{
    assert_int_equal(load(try), code_wanted);
    if (!strstr(try->error.text, text))
        fail_msg("`%s` does not say `%s`", try->error.text, text);
}

static void test_what_is_no_kernel_is_refused(void **state)
{
    struct try try;

    (void)state;
    new_try(&try, SMALL, false);
    try.file[0x202] ^= 1;
    refused(&try, VDISK_E_MALFORMED, "neither a bzImage");
    try.file[0x202] ^= 1;
    try.file[0x1fe] = 0;
    refused(&try, VDISK_E_MALFORMED, "neither a bzImage");
    try.size = 0;
    refused(&try, VDISK_E_MALFORMED, "neither a bzImage");
    try.size = 3;
    memcpy(try.file, ELFMAG, 3);
    refused(&try, VDISK_E_MALFORMED, "neither a bzImage");
    try.options.kernel_fd = -1;
    assert_int_equal(vm_boot_load(&try.options, &try.memory, &try.entry, &try.error), -EBADF);
    end_try(&try);
}

static void test_a_bzimage_without_a_64_bit_entry_is_refused(void **state)
{
    struct setup_header header, good;
    struct try try;

    (void)state;
    new_try(&try, SMALL, false);
    good = header = header_of(&try);
    header.version = 0x020b;
    put_header(&try, &header);
    refused(&try, VDISK_E_UNSUPPORTED, "64-bit entry");
    header = good;
    header.xloadflags = (uint16_t)~XLF_KERNEL_64;
    put_header(&try, &header);
    refused(&try, VDISK_E_UNSUPPORTED, "64-bit entry");
    /* A header so short that it has no such flags. */
    put_header(&try, &good);
    try.file[0x201] = 0x20;
    refused(&try, VDISK_E_UNSUPPORTED, "64-bit entry");
    end_try(&try);
}

static void test_a_bzimage_has_to_fit_into_the_memory(void **state)
{
    struct setup_header header, good;
    struct try try;

    (void)state;
    new_try(&try, SMALL, false);
    good = header = header_of(&try);
    header.init_size = (uint32_t)(SMALL - PAGE - VM_KIT_LINUX_AT);
    put_header(&try, &header);
    assert_int_equal(load(&try), 0);
    header.init_size++;
    put_header(&try, &header);
    refused(&try, VDISK_E_LIMIT, "too large for the memory");
    header = good;
    header.syssize = UINT32_MAX;
    put_header(&try, &header);
    refused(&try, VDISK_E_LIMIT, "too large for the memory");
    static const uint64_t far[] = {SMALL, SMALL - PAGE, GIB, UINT64_C(1) << 32, ~UINT64_C(4095)};

    for (unsigned i = 0; i < sizeof(far) / sizeof(*far); i++) {
        header = good;
        header.pref_address = far[i];
        put_header(&try, &header);
        refused(&try, VDISK_E_LIMIT, "too large for the memory");
    }
    static const uint64_t low[] = {0, 0x1000, 0xff000, VM_KIT_LINUX_AT + 1};

    for (unsigned i = 0; i < sizeof(low) / sizeof(*low); i++) {
        header = good;
        header.pref_address = low[i];
        put_header(&try, &header);
        refused(&try, VDISK_E_MALFORMED, "makes no sense");
    }
    header = good;
    header.syssize = 512 / 16;
    put_header(&try, &header);
    refused(&try, VDISK_E_MALFORMED, "makes no sense");
    end_try(&try);
}

static void test_a_truncated_kernel_is_refused(void **state)
{
    struct try try;

    (void)state;
    for (unsigned pvh = 0; pvh < 2; pvh++) {
        new_try(&try, SMALL, pvh);
        size_t whole = try.size, spare = pvh ? 0 : 15; /* bytes of the last paragraph */

        for (size_t size = 4; size < whole - spare; size++) {
            try.size = size;
            assert_int_equal(load(&try), VDISK_E_MALFORMED);
        }
        assert_non_null(strstr(try.error.text, "truncated"));
        try.size = whole - spare;
        assert_int_equal(load(&try), 0);
        end_try(&try);
    }
}

static Elf64_Phdr segment_of(const struct try *try, unsigned i)
{
    Elf64_Phdr segment;

    memcpy(&segment, try->file + VM_KIT_PVH_SEGMENTS + i * sizeof(segment), sizeof(segment));
    return segment;
}

static void put_segment(struct try *try, unsigned i, const Elf64_Phdr *segment)
{
    memcpy(try->file + VM_KIT_PVH_SEGMENTS + i * sizeof(*segment), segment, sizeof(*segment));
}

static void test_a_segment_has_to_fit_into_the_memory(void **state)
{
    Elf64_Phdr segment, good;
    struct try try;

    (void)state;
    new_try(&try, SMALL, true);
    good = segment = segment_of(&try, 1);
    segment.p_memsz = SMALL - PAGE - VM_KIT_PVH_AT;
    put_segment(&try, 1, &segment);
    assert_int_equal(load(&try), 0);
    segment.p_memsz++;
    put_segment(&try, 1, &segment);
    refused(&try, VDISK_E_LIMIT, "too large for the memory");
    static const uint64_t sizes[] = {UINT64_MAX, UINT64_MAX - VM_KIT_PVH_AT + 1, INT64_MAX};

    for (unsigned i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        segment.p_memsz = sizes[i];
        put_segment(&try, 1, &segment);
        refused(&try, VDISK_E_LIMIT, "too large for the memory");
    }
    segment = good;
    segment.p_paddr = VM_EBDA;
    put_segment(&try, 1, &segment);
    refused(&try, VDISK_E_MALFORMED, "where no RAM can be");
    segment.p_paddr = UINT64_MAX;
    put_segment(&try, 1, &segment);
    refused(&try, VDISK_E_LIMIT, "too large for the memory");
    segment = good;
    segment.p_filesz = good.p_memsz + 1;
    put_segment(&try, 1, &segment);
    refused(&try, VDISK_E_MALFORMED, "larger than its memory");
    static const uint64_t offsets[] = {UINT64_MAX, INT64_MAX, UINT64_C(1) << 62, 1 << 20};

    for (unsigned i = 0; i < sizeof(offsets) / sizeof(*offsets); i++) {
        segment = good;
        segment.p_offset = offsets[i];
        put_segment(&try, 1, &segment);
        refused(&try, VDISK_E_MALFORMED, "truncated");
    }
    end_try(&try);
}

static void test_an_elf_file_without_a_usable_entry_is_refused(void **state)
{
    Elf64_Phdr segment, good;
    struct try try;

    (void)state;
    new_try(&try, SMALL, true);
    good = segment = segment_of(&try, 0);
    segment.p_filesz = 24; /* the first note only */
    put_segment(&try, 0, &segment);
    refused(&try, VDISK_E_UNSUPPORTED, "no PVH entry");
    for (size_t size = 25; size < good.p_filesz; size++) {
        segment.p_filesz = size;
        put_segment(&try, 0, &segment);
        refused(&try, VDISK_E_UNSUPPORTED, "no PVH entry");
    }
    segment.p_filesz = UINT64_MAX;
    put_segment(&try, 0, &segment);
    refused(&try, VDISK_E_MALFORMED, "notes");
    put_segment(&try, 0, &good);
    /* A name of three characters that nothing ends is not Xen's. */
    try.file[VM_KIT_PVH_NOTES + 24] = 3;
    refused(&try, VDISK_E_UNSUPPORTED, "no PVH entry");
    try.file[VM_KIT_PVH_NOTES + 24] = 4;
    /* The value is the last of the notes. */
    uint8_t *entry = try.file + VM_KIT_PVH_NOTES + good.p_filesz - 4;

    memset(entry, 0xff, 4);
    refused(&try, VDISK_E_MALFORMED, "entry is not in its segments");
    memset(entry, 0, 4);
    refused(&try, VDISK_E_MALFORMED, "entry is not in its segments");
    end_try(&try);
}

static void test_an_elf_file_of_another_kind_is_refused(void **state)
{
    struct try try;

    (void)state;
    new_try(&try, SMALL, true);
    try.file[EI_CLASS] = ELFCLASS32;
    refused(&try, VDISK_E_UNSUPPORTED, "not of x86-64");
    try.file[EI_CLASS] = ELFCLASS64;
    try.file[offsetof(Elf64_Ehdr, e_machine)] = EM_AARCH64;
    refused(&try, VDISK_E_UNSUPPORTED, "not of x86-64");
    try.file[offsetof(Elf64_Ehdr, e_machine)] = EM_X86_64;
    try.file[offsetof(Elf64_Ehdr, e_phnum)] = 65;
    refused(&try, VDISK_E_MALFORMED, "table of segments");
    try.file[offsetof(Elf64_Ehdr, e_phnum)] = 0;
    refused(&try, VDISK_E_MALFORMED, "table of segments");
    try.file[offsetof(Elf64_Ehdr, e_phnum)] = 2;
    try.file[offsetof(Elf64_Ehdr, e_phentsize)] = 32;
    refused(&try, VDISK_E_MALFORMED, "table of segments");
    try.file[offsetof(Elf64_Ehdr, e_phentsize)] = sizeof(Elf64_Phdr);
    memset(try.file + offsetof(Elf64_Ehdr, e_phoff), 0xff, 8);
    refused(&try, VDISK_E_MALFORMED, "truncated");
    end_try(&try);
}

/* After a reset the guest's memory has whatever it left. */
static void test_loading_again_does_not_see_what_was_there(void **state)
{
    const uint64_t low = VM_COMMAND_LINE + VM_COMMAND_MAX - VM_START_INFO;
    struct try try;

    (void)state;
    for (unsigned pvh = 0; pvh < 2; pvh++) {
        /* The parts that belong to the kind. */
        const uint64_t begin = pvh ? VM_START_INFO : VM_ZERO_PAGE;
        uint8_t *first = malloc(low);

        assert_non_null(first);
        new_try(&try, SMALL, pvh);
        try.options.command = "again";
        assert_int_equal(load(&try), 0);
        memcpy(first, at(&try, VM_START_INFO, low), low);
        memset(vm_memory_at(&try.memory, 0, VM_HIGH_RAM), 0xee, VM_HIGH_RAM);
        assert_int_equal(load(&try), 0);
        assert_memory_equal(at(&try, begin, PAGE), first + (begin - VM_START_INFO), PAGE);
        assert_memory_equal(at(&try, try.entry.gdt, VM_BOOT_GDT_BYTES),
                            first + (try.entry.gdt - VM_START_INFO), VM_BOOT_GDT_BYTES);
        assert_memory_equal(at(&try, VM_COMMAND_LINE, VM_COMMAND_MAX),
                            first + (VM_COMMAND_LINE - VM_START_INFO), VM_COMMAND_MAX);
        if (!pvh)
            assert_memory_equal(at(&try, VM_BOOT_TABLES, 6 * PAGE),
                                first + (VM_BOOT_TABLES - VM_START_INFO), 6 * PAGE);
        free(first);
        end_try(&try);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_bzimage_begins_at_its_64_bit_entry),
        cmocka_unit_test(test_the_first_4_gib_are_mapped_where_they_are),
        cmocka_unit_test(test_the_zero_page_says_what_the_loader_did),
        cmocka_unit_test(test_the_map_of_the_zero_page_is_the_machines),
        cmocka_unit_test(test_an_initrd_goes_as_high_as_it_can),
        cmocka_unit_test(test_an_initrd_larger_than_all_memory_is_refused),
        cmocka_unit_test(test_an_initrd_is_below_the_gap_in_large_memory),
        cmocka_unit_test(test_an_initrd_is_a_file_that_can_be_read),
        cmocka_unit_test(test_a_pvh_kernel_gets_the_start_info),
        cmocka_unit_test(test_a_pvh_kernel_without_an_initrd_has_no_modules),
        cmocka_unit_test(test_a_command_line_is_as_long_as_the_kernel_takes),
        cmocka_unit_test(test_a_command_line_ends_where_its_place_ends),
        cmocka_unit_test(test_what_is_no_kernel_is_refused),
        cmocka_unit_test(test_a_bzimage_without_a_64_bit_entry_is_refused),
        cmocka_unit_test(test_a_bzimage_has_to_fit_into_the_memory),
        cmocka_unit_test(test_a_truncated_kernel_is_refused),
        cmocka_unit_test(test_a_segment_has_to_fit_into_the_memory),
        cmocka_unit_test(test_an_elf_file_without_a_usable_entry_is_refused),
        cmocka_unit_test(test_an_elf_file_of_another_kind_is_refused),
        cmocka_unit_test(test_loading_again_does_not_see_what_was_there),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
