/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An ELF file with a note that names its PVH entry: docs/misc/pvh.pandoc and
 * xen/include/public/arch-x86/hvm/start_info.h of Xen. Its segments go to their physical
 * addresses; ebx points to the start info.
 */
#include "boot_impl.h"
#include "layout.h"
#include "ram_map.h"
#include "report.h"

#include <assert.h>
#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SEGMENTS_MAX      64u
#define NOTES_MAX         65536u
#define NOTE_PHYS32_ENTRY 18u /* XEN_ELFNOTE_PHYS32_ENTRY, of "Xen" */
#define START_MAGIC       0x336ec578u
#define START_VERSION     1u
#define MODULES_AT        0x40u /* from VM_START_INFO on */
#define MAP_AT            0x80u
#define CODE_32           0x00cf9b000000ffff
#define MIB               (UINT64_C(1) << 20)

struct start_info {
    uint32_t magic, version, flags, modules;
    uint64_t module_list, command_line, rsdp, map;
    uint32_t map_entries, reserved;
};

struct start_module {
    uint64_t address, size, command_line, reserved;
};

struct start_map {
    uint64_t address, size;
    uint32_t type, reserved;
};

static_assert(sizeof(struct start_info) == 56 && sizeof(struct start_module) == 32 &&
                  sizeof(struct start_map) == 24,
              "as Xen has them");

struct image {
    unsigned segments;
    Elf64_Phdr segment[SEGMENTS_MAX];
    bool has_entry;
    uint64_t entry;
    uint64_t end; /* of the highest segment */
};

static int malformed(struct vm_boot *boot, const char *what)
{
    return error_set(boot->error, VDISK_E_MALFORMED, "the kernel's ELF file is malformed: %s",
                     what);
}

static int read_headers(struct vm_boot *boot, struct image *image)
{
    Elf64_Ehdr header;

    memcpy(&header, boot->head, sizeof(header));
    if (boot->head_bytes < sizeof(header))
        return malformed(boot, "it ends within its header");
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
        header.e_machine != EM_X86_64)
        return error_set(boot->error, VDISK_E_UNSUPPORTED,
                         "the kernel's ELF file is not of x86-64");
    if (header.e_phentsize != sizeof(image->segment[0]) || header.e_phnum == 0 ||
        header.e_phnum > SEGMENTS_MAX)
        return malformed(boot, "its table of segments makes no sense");
    image->segments = header.e_phnum;
    return vm_boot_read(boot, header.e_phoff, image->segment,
                        image->segments * sizeof(image->segment[0]));
}

static uint64_t round_up(uint64_t value, uint64_t step)
{
    return (value + step - 1) / step * step;
}

/* `size` is at most NOTES_MAX, and what a note says of itself has 32 bits: nothing wraps. */
static void find_entry(struct image *image, const uint8_t *notes, uint64_t size, uint64_t step)
{
    uint64_t at = 0;

    while (size - at >= sizeof(Elf64_Nhdr)) {
        Elf64_Nhdr note;

        memcpy(&note, notes + at, sizeof(note));
        uint64_t name = at + sizeof(note), value = name + round_up(note.n_namesz, step);
        uint64_t next = value + round_up(note.n_descsz, step);

        if (value > size || note.n_descsz > size - value)
            return;
        if (note.n_type == NOTE_PHYS32_ENTRY && note.n_namesz == sizeof("Xen") &&
            memcmp(notes + name, "Xen", sizeof("Xen")) == 0 &&
            (note.n_descsz == sizeof(uint32_t) || note.n_descsz == sizeof(uint64_t))) {
            image->entry = 0;
            memcpy(&image->entry, notes + value, note.n_descsz);
            image->has_entry = true;
            return;
        }
        if (next > size)
            return;
        at = next;
    }
}

static int read_notes(struct vm_boot *boot, struct image *image, const Elf64_Phdr *segment)
{
    uint8_t *notes;
    int rc;

    if (segment->p_filesz == 0 || image->has_entry)
        return 0;
    if (segment->p_filesz > NOTES_MAX)
        return malformed(boot, "its notes are too large");
    notes = malloc(segment->p_filesz);
    if (!notes)
        return error_set(boot->error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    rc = vm_boot_read(boot, segment->p_offset, notes, segment->p_filesz);
    if (rc == 0)
        find_entry(image, notes, segment->p_filesz, segment->p_align == 8 ? 8 : 4);
    free(notes);
    return rc;
}

static int load_segment(struct vm_boot *boot, struct image *image, const Elf64_Phdr *segment)
{
    uint64_t end = vm_map_low_end(boot->memory);
    uint8_t *memory;
    int rc;

    if (segment->p_memsz == 0)
        return 0;
    if (segment->p_filesz > segment->p_memsz || segment->p_paddr < VM_HIGH_RAM)
        return malformed(boot, "a segment is where no RAM can be, or larger than its memory");
    if (segment->p_paddr >= end || segment->p_memsz > end - segment->p_paddr)
        return error_set(boot->error, VDISK_E_LIMIT,
                         "the kernel is too large for the memory: it takes %llu MiB from %llu MiB "
                         "on, and there are %llu MiB",
                         (unsigned long long)(segment->p_memsz / MIB),
                         (unsigned long long)(segment->p_paddr / MIB),
                         (unsigned long long)(end / MIB));
    memory = vm_memory_at(boot->memory, segment->p_paddr, segment->p_memsz);
    assert(memory != NULL);
    rc = vm_boot_read(boot, segment->p_offset, memory, segment->p_filesz);
    if (rc)
        return rc;
    memset(memory + segment->p_filesz, 0, segment->p_memsz - segment->p_filesz);
    if (segment->p_paddr + segment->p_memsz > image->end)
        image->end = segment->p_paddr + segment->p_memsz;
    return 0;
}

static bool is_loaded(const struct image *image, uint64_t address)
{
    for (unsigned i = 0; i < image->segments; i++) {
        const Elf64_Phdr *segment = &image->segment[i];

        if (segment->p_type == PT_LOAD && address - segment->p_paddr < segment->p_memsz)
            return true;
    }
    return false;
}

static int load_image(struct vm_boot *boot, struct image *image)
{
    int rc = 0;

    for (unsigned i = 0; rc == 0 && i < image->segments; i++)
        if (image->segment[i].p_type == PT_NOTE)
            rc = read_notes(boot, image, &image->segment[i]);
    if (rc)
        return rc;
    if (!image->has_entry)
        return error_set(boot->error, VDISK_E_UNSUPPORTED,
                         "the kernel's ELF file has no PVH entry (CONFIG_PVH of Linux)");
    for (unsigned i = 0; rc == 0 && i < image->segments; i++)
        if (image->segment[i].p_type == PT_LOAD)
            rc = load_segment(boot, image, &image->segment[i]);
    if (rc)
        return rc;
    return is_loaded(image, image->entry) ? 0 : malformed(boot, "its entry is not in its segments");
}

static void make_start_info(const struct vm_boot *boot, const struct vm_boot_initrd *initrd)
{
    uint8_t *page = vm_boot_low(boot->memory, VM_START_INFO, VM_ZERO_PAGE - VM_START_INFO);
    struct start_module module = {.address = initrd->address, .size = initrd->size};
    struct vm_map_entry map[VM_MAP_MAX];
    struct start_info info = {
        .magic = START_MAGIC,
        .version = START_VERSION,
        .modules = initrd->size > 0,
        .module_list = initrd->size > 0 ? VM_START_INFO + MODULES_AT : 0,
        .command_line = VM_COMMAND_LINE,
        .rsdp = boot->options->rsdp,
        .map = VM_START_INFO + MAP_AT,
        .map_entries = vm_map_build(boot->memory, VM_MAP_FOR_KERNEL, map),
    };

    memcpy(page, &info, sizeof(info));
    memcpy(page + MODULES_AT, &module, sizeof(module));
    for (unsigned i = 0; i < info.map_entries; i++) {
        struct start_map entry = {map[i].address, map[i].length, map[i].type, 0};

        memcpy(page + MAP_AT + i * sizeof(entry), &entry, sizeof(entry));
    }
}

int vm_boot_pvh(struct vm_boot *boot, struct vm_entry *out)
{
    struct image image = {0};
    struct vm_boot_initrd initrd;
    int rc = read_headers(boot, &image);

    if (rc == 0)
        rc = vm_boot_command(boot, UINT64_MAX);
    if (rc == 0)
        rc = load_image(boot, &image);
    if (rc == 0)
        rc = vm_boot_initrd(boot, image.end, vm_map_low_end(boot->memory), &initrd);
    if (rc)
        return rc;
    make_start_info(boot, &initrd);
    *out = (struct vm_entry){
        .kind = VM_ENTRY_PVH,
        .address = image.entry,
        .argument = VM_START_INFO,
        .gdt = vm_boot_gdt(boot->memory, CODE_32),
    };
    return 0;
}
