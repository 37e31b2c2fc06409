/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The memory of a guest. Every range is checked when it enters the table, so that translation has
 * only to compare; `x - start < size` cannot wrap where `x < start + size` could.
 */
#include "vhost_memory.h"

#include <errno.h>
#include <string.h>

void vhost_memory_clear(struct vhost_memory *memory)
{
    for (unsigned i = 0; i < memory->count; i++)
        vhost_unmap(memory->region[i].mapping);
    memory->count = 0;
}

static bool overlap(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a - b < b_size || b - a < a_size;
}

static int check_region(const struct vhost_memory *memory, uint64_t guest, uint64_t size,
                        uint64_t user, struct vdisk_error *error)
{
    uint64_t end;

    /* The last byte may be that of the address space, but not beyond. */
    if (size == 0 || __builtin_add_overflow(guest, size - 1, &end) ||
        __builtin_add_overflow(user, size - 1, &end))
        return vhost_fail(error, -EINVAL, "a memory region is empty or wraps");
    if (memory->count >= VHOST_REGIONS_MAX)
        return vhost_fail(error, VDISK_E_LIMIT, "more than %u memory regions", VHOST_REGIONS_MAX);
    for (unsigned i = 0; i < memory->count; i++) {
        const struct vhost_region *other = &memory->region[i];

        if (overlap(guest, size, other->guest, other->size) ||
            overlap(user, size, other->user, other->size))
            return vhost_fail(error, -EINVAL, "memory regions overlap");
    }
    return 0;
}

int vhost_memory_add_mapped(struct vhost_memory *memory, uint64_t guest, uint64_t size,
                            uint64_t user, void *host, struct vdisk_error *error)
{
    int rc = check_region(memory, guest, size, user, error);

    if (rc)
        return rc;
    memory->region[memory->count++] =
        (struct vhost_region){.guest = guest, .user = user, .size = size, .host = host};
    return 0;
}

int vhost_memory_add(struct vhost_memory *memory, uint64_t guest, uint64_t size, uint64_t user,
                     uint64_t offset, int fd, struct vdisk_error *error)
{
    struct vhost_region region = {.guest = guest, .user = user, .size = size};
    int rc = check_region(memory, guest, size, user, error);

    if (rc)
        return rc;
    rc = vhost_map(fd, offset, size, &memory->lost, &region.mapping, &region.host, error);
    if (rc)
        return rc;
    memory->region[memory->count++] = region;
    return 0;
}

int vhost_memory_remove(struct vhost_memory *memory, uint64_t guest, uint64_t size, uint64_t user,
                        struct vdisk_error *error)
{
    for (unsigned i = 0; i < memory->count; i++) {
        struct vhost_region *region = &memory->region[i];

        if (region->guest != guest || region->size != size || region->user != user)
            continue;
        vhost_unmap(region->mapping);
        *region = memory->region[--memory->count];
        return 0;
    }
    return vhost_fail(error, VDISK_E_NOT_FOUND, "there is no such memory region");
}

void *vhost_memory_user(const struct vhost_memory *memory, uint64_t user, uint64_t length)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct vhost_region *region = &memory->region[i];
        uint64_t at = user - region->user;

        if (at < region->size && length <= region->size - at)
            return region->host + at;
    }
    return NULL;
}

bool vhost_memory_user_to_guest(const struct vhost_memory *memory, uint64_t user, uint64_t *guest)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct vhost_region *region = &memory->region[i];

        if (user - region->user < region->size) {
            *guest = region->guest + (user - region->user);
            return true;
        }
    }
    return false;
}

/* Where the address is, and in *length how many bytes there are from it, at most as many as that
 * was. */
static uint8_t *find(const struct vhost_memory *memory, uint64_t guest, size_t *length)
{
    for (unsigned i = 0; i < memory->count; i++) {
        const struct vhost_region *region = &memory->region[i];
        uint64_t at = guest - region->guest;

        if (at >= region->size)
            continue;
        if (*length > region->size - at)
            *length = region->size - at;
        return region->host + at;
    }
    return NULL;
}

int vhost_memory_read(const struct vhost_memory *memory, uint64_t guest, void *to, size_t length)
{
    uint8_t *next = to;

    while (length > 0) {
        size_t part = length;
        const uint8_t *from = find(memory, guest, &part);

        if (!from)
            return -EFAULT;
        memcpy(next, from, part);
        next += part;
        length -= part;
        if (__builtin_add_overflow(guest, part, &guest) && length > 0)
            return -EFAULT;
    }
    return memory->lost ? -EFAULT : 0;
}

int vhost_memory_write(struct vhost_memory *memory, uint64_t guest, const void *from, size_t length)
{
    const uint8_t *next = from;

    while (length > 0) {
        size_t part = length;
        uint8_t *to = find(memory, guest, &part);

        if (!to)
            return -EFAULT;
        memcpy(to, next, part);
        /* After the data: who copies the page once it is marked finds them. */
        vhost_log_mark(&memory->log, guest, part);
        next += part;
        length -= part;
        if (__builtin_add_overflow(guest, part, &guest) && length > 0)
            return -EFAULT;
    }
    return memory->lost ? -EFAULT : 0;
}

void vhost_log_clear(struct vhost_log *log)
{
    vhost_unmap(log->mapping);
    log->mapping = NULL;
    log->bits = NULL;
    log->bytes = 0;
}

int vhost_log_set(struct vhost_memory *memory, uint64_t size, uint64_t offset, int fd,
                  struct vdisk_error *error)
{
    struct vhost_mapping *mapping;
    uint8_t *bits;
    int rc = vhost_map(fd, offset, size, &memory->lost, &mapping, &bits, error);

    if (rc)
        return rc;
    vhost_log_clear(&memory->log);
    memory->log.mapping = mapping;
    memory->log.bits = bits;
    memory->log.bytes = size;
    return 0;
}

void vhost_log_mark(struct vhost_log *log, uint64_t address, uint64_t length)
{
    uint64_t last;

    if (!log->enabled || !log->bits || length == 0)
        return;
    if (__builtin_add_overflow(address, length - 1, &last))
        last = UINT64_MAX;
    for (uint64_t page = address / VHOST_LOG_PAGE;
         page <= last / VHOST_LOG_PAGE && page / 8 < log->bytes; page++)
        __atomic_fetch_or(&log->bits[page / 8], (uint8_t)(1u << page % 8), __ATOMIC_RELEASE);
}
