/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memfd is sealed in its size: who it is shared with cannot cut it short, which would be a
 * SIGBUS here.
 */
#include "memory.h"
#include "layout.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE UINT64_C(4096)

static int make_file(struct vm_memory *memory)
{
    int fd = memfd_create("guest-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0)
        return -errno;
    memory->fd = fd;
    if (ftruncate(fd, (off_t)memory->size) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    return 0;
}

static int add_region(struct vm_memory *memory, uint64_t guest, uint64_t offset, uint64_t size)
{
    struct vm_region *region = &memory->region[memory->count];
    void *host = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, memory->fd,
                      (off_t)offset);

    if (host == MAP_FAILED)
        return -errno;
    *region = (struct vm_region){.guest = guest, .size = size, .offset = offset, .host = host};
    memory->count++;
    /* The guest's secrets do not go into a core file. */
    if (madvise(host, size, MADV_DONTDUMP) < 0)
        return -errno;
    /* Kernels without these need no telling. */
    (void)madvise(host, size, MADV_UNMERGEABLE);
    (void)madvise(host, size, MADV_HUGEPAGE);
    return 0;
}

int vm_memory_new(struct vm_memory *memory, uint64_t size, struct vdisk_error *error)
{
    uint64_t low = size < VM_GAP_BEGIN ? size : VM_GAP_BEGIN;
    int rc;

    if (size < VM_MEMORY_MIN || size > VM_MEMORY_MAX || size % PAGE != 0)
        return error_set(error, -EINVAL,
                         "a machine's memory is a multiple of 4 KiB, from 16 MiB to 4 TiB");
    *memory = (struct vm_memory){.fd = -1, .size = size};
    rc = make_file(memory);
    if (rc == 0)
        rc = add_region(memory, 0, 0, low);
    if (rc == 0 && low < size)
        rc = add_region(memory, VM_GAP_END, low, size - low);
    if (rc) {
        vm_memory_free(memory);
        return error_set(error, rc, "the machine's memory cannot be had: %s", vdisk_strerror(rc));
    }
    return 0;
}

void vm_memory_free(struct vm_memory *memory)
{
    for (unsigned i = 0; i < memory->count; i++)
        munmap(memory->region[i].host, memory->region[i].size);
    if (memory->fd >= 0)
        close(memory->fd);
    *memory = (struct vm_memory){.fd = -1};
}

void *vm_memory_at(const struct vm_memory *memory, uint64_t guest, uint64_t length)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct vm_region *region = &memory->region[i];
        uint64_t at = guest - region->guest;

        if (at < region->size && length <= region->size - at)
            return region->host + at;
    }
    return NULL;
}
