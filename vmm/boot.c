/* SPDX-License-Identifier: Apache-2.0 */
/* Loading a kernel: its kind, and what kinds have in common; see boot.h. */
#include "boot.h"
#include "boot_impl.h"
#include "layout.h"
#include "ram_map.h"
#include "report.h"

#include <assert.h>
#include <elf.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE     UINT64_C(4096)
#define MIB      (UINT64_C(1) << 20)
/* No file is as long, and what is read from below it ends where an off_t can be. */
#define FILE_MAX (UINT64_C(1) << 62)
/* Six pages of tables, see boot_linux.c. */
#define GDT_AT   (VM_BOOT_TABLES + 6 * PAGE)

int vm_boot_read_some(int fd, uint64_t offset, void *to, size_t length, size_t *have)
{
    size_t done = 0;

    while (done < length) {
        uint64_t at = offset + done;
        ssize_t n = at < FILE_MAX ? pread(fd, (uint8_t *)to + done, length - done, (off_t)at) : 0;

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    *have = done;
    return 0;
}

static int cannot_read(struct vm_boot *boot, const char *what, int rc)
{
    return error_set(boot->error, rc, "the %s cannot be read: %s", what, vdisk_strerror(rc));
}

int vm_boot_read(struct vm_boot *boot, uint64_t offset, void *to, size_t length)
{
    size_t have;
    int rc = vm_boot_read_some(boot->options->kernel_fd, offset, to, length, &have);

    if (rc)
        return cannot_read(boot, "kernel", rc);
    if (have < length)
        return error_set(boot->error, VDISK_E_MALFORMED,
                         "the kernel is truncated: it ends before all of it is read");
    return 0;
}

int vm_boot_initrd(struct vm_boot *boot, uint64_t from, uint64_t to, struct vm_boot_initrd *out)
{
    struct stat about;
    uint64_t size, at;
    size_t have;
    int rc, fd = boot->options->initrd_fd;

    *out = (struct vm_boot_initrd){0};
    if (fd < 0)
        return 0;
    if (fstat(fd, &about) < 0)
        return cannot_read(boot, "initrd", -errno);
    if (!S_ISREG(about.st_mode))
        return error_set(boot->error, -EINVAL, "the initrd is not a regular file");
    size = (uint64_t)about.st_size;
    if (from >= to || size > to - from || (at = (to - size) & ~(PAGE - 1)) < from)
        return error_set(boot->error, VDISK_E_LIMIT,
                         "the initrd is too large: of its %llu MiB there is room for %llu",
                         (unsigned long long)((size + MIB - 1) / MIB),
                         (unsigned long long)(from < to ? (to - from) / MIB : 0));
    if (size == 0)
        return 0;
    uint8_t *memory = vm_memory_at(boot->memory, at, size);

    assert(memory != NULL);
    rc = vm_boot_read_some(fd, 0, memory, size, &have);
    if (rc)
        return cannot_read(boot, "initrd", rc);
    if (have < size)
        return error_set(boot->error, VDISK_E_MALFORMED, "the initrd became shorter while read");
    *out = (struct vm_boot_initrd){at, size};
    return 0;
}

void *vm_boot_low(const struct vm_memory *memory, uint64_t address, size_t bytes)
{
    void *at = vm_memory_at(memory, address, bytes);

    assert(at != NULL);
    return memset(at, 0, bytes);
}

int vm_boot_command(struct vm_boot *boot, uint64_t most)
{
    const char *command = boot->options->command ? boot->options->command : "";
    size_t length = strlen(command);

    if (most > VM_COMMAND_MAX - 1)
        most = VM_COMMAND_MAX - 1;
    if (length > most)
        return error_set(boot->error, VDISK_E_LIMIT,
                         "the command line is too long: %zu characters, the kernel takes %llu",
                         length, (unsigned long long)most);
    memcpy(vm_boot_low(boot->memory, VM_COMMAND_LINE, VM_COMMAND_MAX), command, length);
    return 0;
}

uint64_t vm_boot_gdt(const struct vm_memory *memory, uint64_t code)
{
    const uint64_t gdt[] = {0, 0, code, 0x00cf93000000ffff /* data, all 4 GiB */};

    static_assert(sizeof(gdt) == VM_BOOT_GDT_BYTES, "as boot.h says");
    memcpy(vm_boot_low(memory, GDT_AT, sizeof(gdt)), gdt, sizeof(gdt));
    return GDT_AT;
}

int vm_boot_load(const struct vm_boot_options *options, const struct vm_memory *memory,
                 struct vm_entry *out, struct vdisk_error *error)
{
    struct vm_boot boot = {.options = options, .memory = memory, .error = error};
    int rc =
        vm_boot_read_some(options->kernel_fd, 0, boot.head, sizeof(boot.head), &boot.head_bytes);

    if (rc)
        return cannot_read(&boot, "kernel", rc);
    if (boot.head_bytes >= SELFMAG && memcmp(boot.head, ELFMAG, SELFMAG) == 0)
        return vm_boot_pvh(&boot, out);
    return vm_boot_linux(&boot, out);
}
