/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of front ends; see vhost_mapping.h. */
#include "vhost_mapping.h"

#include <errno.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Those of this thread: the signal comes to the one whose access it was. */
static _Thread_local struct vhost_mapping *volatile mappings;
static struct sigaction others;

int vhost_fail(struct vdisk_error *error, int code, const char *format, ...)
{
    va_list arguments;

    if (error) {
        error->code = code;
        va_start(arguments, format);
        vsnprintf(error->text, sizeof(error->text), format, arguments);
        va_end(arguments);
    }
    return code;
}

static void on_bus_error(int number, siginfo_t *about, void *context)
{
    int saved = errno;

    (void)context;
    for (struct vhost_mapping *mapping = mappings; mapping; mapping = mapping->next) {
        if ((uintptr_t)about->si_addr - (uintptr_t)mapping->base >= mapping->bytes)
            continue;
        // cppcheck-suppress leakReturnValNotUsed ; it is where the mapping was
        if (mmap(mapping->base, mapping->bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
            break;
        *mapping->lost = 1;
        errno = saved;
        return;
    }
    /* Not ours: the access is made again, and then it is as if we had never been there. */
    (void)sigaction(number, &others, NULL);
    errno = saved;
}

/* Each time, for somebody else may have taken the signal since. */
static void catch_bus_errors(void)
{
    static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO}, now;
    sigset_t one;

    sigemptyset(&action.sa_mask);
    pthread_mutex_lock(&mutex);
    if (sigaction(SIGBUS, NULL, &now) == 0 && now.sa_sigaction != on_bus_error) {
        others = now;
        (void)sigaction(SIGBUS, &action, NULL);
    }
    pthread_mutex_unlock(&mutex);
    /* A thread that blocks the signal would be killed by it. */
    sigemptyset(&one);
    sigaddset(&one, SIGBUS);
    (void)pthread_sigmask(SIG_UNBLOCK, &one, NULL);
}

/* Mappings of a hugetlbfs are of whole huge pages. */
static uint64_t page_bytes(int fd)
{
    struct statfs about;

    if (fstatfs(fd, &about) == 0 && (unsigned long)about.f_type == HUGETLBFS_MAGIC &&
        about.f_bsize > 0 && about.f_bsize <= INT64_C(1) << 34)
        return (uint64_t)about.f_bsize;
    return (uint64_t)sysconf(_SC_PAGESIZE);
}

static int check_range(int fd, uint64_t offset, uint64_t size, uint64_t page,
                       struct vdisk_error *error)
{
    struct stat about;
    uint64_t end;

    if (size == 0 || __builtin_add_overflow(offset, size, &end) || end > INT64_MAX - page)
        return vhost_fail(error, -EINVAL, "a memory range is empty or wraps");
    if (fstat(fd, &about))
        return vhost_fail(error, -errno, "fstat of shared memory: %s", strerror(errno));
    if (!S_ISREG(about.st_mode) || (uint64_t)about.st_size < end)
        return vhost_fail(error, -EINVAL, "shared memory is shorter than was said");
    return 0;
}

int vhost_map(int fd, uint64_t offset, uint64_t size, volatile sig_atomic_t *lost,
              struct vhost_mapping **out, uint8_t **at, struct vdisk_error *error)
{
    uint64_t page = page_bytes(fd), start = offset / page * page;
    int rc = check_range(fd, offset, size, page, error);
    struct vhost_mapping *mapping;

    if (rc)
        return rc;
    mapping = malloc(sizeof(*mapping));
    if (!mapping)
        return vhost_fail(error, -ENOMEM, "there is no memory");
    mapping->lost = lost;
    mapping->bytes = (offset + size + page - 1) / page * page - start;
    mapping->base = mmap(NULL, mapping->bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                         fd, (off_t)start);
    if (mapping->base == MAP_FAILED) {
        rc = vhost_fail(error, -errno, "mmap of shared memory: %s", strerror(errno));
        free(mapping);
        return rc;
    }
    (void)madvise(mapping->base, mapping->bytes, MADV_DONTDUMP);
    catch_bus_errors();
    mapping->next = mappings;
    mappings = mapping;
    *out = mapping;
    *at = mapping->base + (offset - start);
    return 0;
}

void vhost_unmap(struct vhost_mapping *mapping)
{
    if (!mapping)
        return;
    if (mappings == mapping) {
        mappings = mapping->next;
    } else {
        struct vhost_mapping *before = mappings;

        while (before->next != mapping)
            before = before->next;
        before->next = mapping->next;
    }
    (void)munmap(mapping->base, mapping->bytes);
    free(mapping);
}
