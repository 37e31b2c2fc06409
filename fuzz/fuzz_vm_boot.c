/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Kernels of any bytes: loading ends, with an entry that is in RAM or a reason; and touches nothing
 * but what is a kernel's: neither the ACPI tables nor the VMM's own page.
 *
 * The input: 2 bytes for the size of the initrd in KiB, 1 for the length of the command line in
 * units of 16, 1 to spare, then the kernel's file.
 */
#include "boot.h"
#include "layout.h"
#include "ram_map.h"
#include "require.h"

#include <sys/mman.h>
#include <unistd.h>

#define HEAD   4u
#define MEMORY VM_MEMORY_MIN
#define MARK   0xa5

static struct vm_memory memory;
static int kernel, initrd;
static char command[16 * 256];
static uint8_t marks[VM_ACPI_MAX];

static void begin(void)
{
    if (memory.count > 0)
        return;
    require(vm_memory_new(&memory, MEMORY, NULL) == 0);
    kernel = memfd_create("kernel", 0);
    initrd = memfd_create("initrd", 0);
    require(kernel >= 0 && initrd >= 0);
    memset(marks, MARK, sizeof(marks));
    memcpy(vm_memory_at(&memory, VM_ACPI_AT, VM_ACPI_MAX), marks, VM_ACPI_MAX);
    memcpy(vm_memory_at(&memory, vm_map_low_end(&memory), VM_OUR_PAGE), marks, VM_OUR_PAGE);
}

static void check_entry(const struct vm_entry *entry)
{
    require(entry->kind == VM_ENTRY_LONG || entry->kind == VM_ENTRY_PVH);
    require(entry->address >= VM_HIGH_RAM && entry->address < vm_map_low_end(&memory));
    require(vm_memory_at(&memory, entry->argument, 56) != NULL);
    require(vm_memory_at(&memory, entry->gdt, VM_BOOT_GDT_BYTES) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vm_boot_options options = {.initrd_fd = -1, .command = command, .rsdp = VM_ACPI_AT};
    struct vdisk_error error = {0};
    struct vm_entry entry;
    uint8_t head[HEAD];

    begin();
    take_bytes(head, HEAD, data, size);
    data += size < HEAD ? size : HEAD;
    size -= size < HEAD ? size : HEAD;
    require(ftruncate(kernel, 0) == 0 && pwrite(kernel, data, size, 0) == (ssize_t)size);
    options.kernel_fd = kernel;
    if (head[0] || head[1]) {
        require(ftruncate(initrd, (head[0] | head[1] << 8) * 1024) == 0);
        options.initrd_fd = initrd;
    }
    memset(command, 0, sizeof(command));
    memset(command, 'x', head[2] * 16u);

    int rc = vm_boot_load(&options, &memory, &entry, &error);

    if (rc == 0)
        check_entry(&entry);
    else
        require(error.code == rc && error.text[0] != 0);
    require(memcmp(vm_memory_at(&memory, VM_ACPI_AT, VM_ACPI_MAX), marks, VM_ACPI_MAX) == 0);
    require(memcmp(vm_memory_at(&memory, vm_map_low_end(&memory), VM_OUR_PAGE), marks,
                   VM_OUR_PAGE) == 0);
    return 0;
}
