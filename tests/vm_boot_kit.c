/* SPDX-License-Identifier: Apache-2.0 */
/* Small kernels; see vm_boot_kit.h. */
#include "vm_boot_kit.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PARAGRAPH 16u

size_t vm_kit_linux(uint8_t file[VM_KIT_KERNEL_MAX], const uint8_t *code, size_t size)
{
    size_t payload = (512 + size + PARAGRAPH - 1) / PARAGRAPH * PARAGRAPH;
    struct setup_header header = {
        .setup_sects = 1,
        .syssize = (uint32_t)(payload / PARAGRAPH),
        .boot_flag = 0xaa55,
        .jump = 0x6aeb, /* over the header */
        .header = 0x53726448,
        .version = 0x020f,
        .loadflags = LOADED_HIGH,
        .initrd_addr_max = 0x7fffffff,
        .kernel_alignment = 0x1000,
        .relocatable_kernel = 1,
        .min_alignment = 12,
        .xloadflags = XLF_KERNEL_64,
        .cmdline_size = VM_KIT_COMMAND_MAX,
        .pref_address = VM_KIT_LINUX_AT,
        .init_size = VM_KIT_LINUX_ROOM,
    };

    assert_true(size <= VM_KIT_PAYLOAD_MAX);
    memset(file, 0, VM_KIT_KERNEL_MAX);
    memcpy(file + 0x1f1, &header, sizeof(header));
    memcpy(file + VM_KIT_LINUX_CODE, code, size);
    return 1024 + payload;
}

static size_t put_note(uint8_t *to, const char *name, uint32_t type, uint32_t value)
{
    Elf64_Nhdr note = {(uint32_t)strlen(name) + 1, sizeof(value), type};

    memcpy(to, &note, sizeof(note));
    memcpy(to + sizeof(note), name, note.n_namesz);
    memcpy(to + sizeof(note) + (note.n_namesz + 3u) / 4 * 4, &value, sizeof(value));
    return sizeof(note) + (note.n_namesz + 3u) / 4 * 4 + sizeof(value);
}

size_t vm_kit_pvh(uint8_t file[VM_KIT_KERNEL_MAX], const uint8_t *code, size_t size)
{
    Elf64_Ehdr header = {
        .e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
        .e_type = ET_EXEC,
        .e_machine = EM_X86_64,
        .e_version = EV_CURRENT,
        .e_phoff = VM_KIT_PVH_SEGMENTS,
        .e_ehsize = sizeof(Elf64_Ehdr),
        .e_phentsize = sizeof(Elf64_Phdr),
        .e_phnum = 2,
    };
    Elf64_Phdr segment[2] = {
        {.p_type = PT_NOTE, .p_offset = VM_KIT_PVH_NOTES, .p_align = 4},
        {.p_type = PT_LOAD,
         .p_offset = VM_KIT_PVH_CODE,
         .p_paddr = VM_KIT_PVH_AT,
         .p_filesz = size,
         .p_memsz = VM_KIT_PVH_ROOM,
         .p_align = 4096},
    };
    size_t notes;

    assert_true(size <= VM_KIT_PAYLOAD_MAX);
    memset(file, 0, VM_KIT_KERNEL_MAX);
    notes = put_note(file + VM_KIT_PVH_NOTES, "Linux", 18, 0x12345678);
    notes += put_note(file + VM_KIT_PVH_NOTES + notes, "Xen", 18, (uint32_t)VM_KIT_PVH_AT);
    segment[0].p_filesz = segment[0].p_memsz = notes;
    memcpy(file, &header, sizeof(header));
    memcpy(file + VM_KIT_PVH_SEGMENTS, segment, sizeof(segment));
    memcpy(file + VM_KIT_PVH_CODE, code, size);
    return VM_KIT_PVH_CODE + size;
}

int vm_kit_file(const void *bytes, size_t size)
{
    int fd = memfd_create("file", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(pwrite(fd, bytes, size, 0), size);
    return fd;
}
