/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Hardening of the process, and the locked arena for OpenSSL's memory.
 *
 * OpenSSL cannot tell key schedules from its other memory, and has no more than some 200 KiB of
 * the latter: so all of its small pieces go into one arena of 1 MiB, which leaves room for the
 * keys of about 200 epochs. A page of the arena, once taken, serves pieces of one size for good;
 * free pieces of a size form a list through their first bytes. What does not fit comes from
 * malloc(). All memory is wiped when it is freed.
 *
 * The arena is not wiped in a forked child, which may go on with the ciphers of its parent;
 * neither is it locked there.
 */
#include "lockedmem.h"

#include <openssl/crypto.h>

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#define PAGE_BYTES  4096u
#define ARENA_BYTES (1u << 20)
#define ARENA_PAGES (ARENA_BYTES / PAGE_BYTES)

/* The sizes of pieces, of one bin each; multiples of 16, so that pieces are aligned for any
 * type. */
static const uint16_t bin_bytes[] = {16,  32,  48,  64,   96,   128,  192, 256,
                                     384, 512, 768, 1024, 1344, 2048, 4096};
#define BINS (sizeof(bin_bytes) / sizeof(*bin_bytes))

struct piece {
    struct piece *next;
};

static struct {
    pthread_mutex_t lock; /* over all that follows but `base`, which is set once */
    uint8_t *base;        /* NULL: no arena */
    unsigned pages_taken;
    uint8_t page_bin[ARENA_PAGES];
    struct piece *free[BINS];
} arena = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* The least bin that holds `length`; BINS when none does. */
static unsigned bin_of(size_t length)
{
    unsigned bin = 0;

    while (bin < BINS && bin_bytes[bin] < length)
        bin++;
    return bin;
}

static bool in_arena(const void *memory)
{
    uintptr_t at = (uintptr_t)memory, base = (uintptr_t)arena.base;

    return base && at >= base && at - base < ARENA_BYTES;
}

static unsigned page_bin_of(const void *memory)
{
    return arena.page_bin[((uintptr_t)memory - (uintptr_t)arena.base) / PAGE_BYTES];
}

/* Bytes that may be used at `memory`, which is ours. A page's bin never changes while one of
 * its pieces is in use, so this needs no lock. */
static size_t usable(void *memory)
{
    return in_arena(memory) ? bin_bytes[page_bin_of(memory)] : malloc_usable_size(memory);
}

/* Cuts a fresh page into pieces of the bin. With the lock held. */
static void take_page(unsigned bin)
{
    if (arena.pages_taken == ARENA_PAGES)
        return;
    uint8_t *page = arena.base + (size_t)arena.pages_taken * PAGE_BYTES;
    arena.page_bin[arena.pages_taken++] = (uint8_t)bin;
    for (size_t at = 0; at + bin_bytes[bin] <= PAGE_BYTES; at += bin_bytes[bin]) {
        struct piece *piece = (void *)(page + at);

        piece->next = arena.free[bin];
        arena.free[bin] = piece;
    }
}

/* The three have the types that OpenSSL wants; `file` and `line` are of no use here. */
static void *arena_malloc(size_t length, const char *file, int line)
{
    unsigned bin = bin_of(length);
    struct piece *piece = NULL;

    (void)file;
    (void)line;
    if (length == 0)
        return NULL;
    if (bin < BINS && arena.base) {
        pthread_mutex_lock(&arena.lock);
        if (!arena.free[bin])
            take_page(bin);
        piece = arena.free[bin];
        if (piece)
            arena.free[bin] = piece->next;
        pthread_mutex_unlock(&arena.lock);
    }
    return piece ? (void *)piece : malloc(length);
}

static void arena_free(void *memory, const char *file, int line)
{
    (void)file;
    (void)line;
    if (!memory)
        return;
    OPENSSL_cleanse(memory, usable(memory));
    if (!in_arena(memory)) {
        free(memory);
        return;
    }
    struct piece *piece = memory;
    unsigned bin = page_bin_of(memory);
    pthread_mutex_lock(&arena.lock);
    piece->next = arena.free[bin];
    arena.free[bin] = piece;
    pthread_mutex_unlock(&arena.lock);
}

/* Not by realloc(), which leaves an old copy behind. */
static void *arena_realloc(void *memory, size_t length, const char *file, int line)
{
    if (length == 0) {
        arena_free(memory, file, line);
        return NULL;
    }
    size_t old = memory ? usable(memory) : 0;
    if (in_arena(memory) && length <= old)
        return memory;
    void *moved = arena_malloc(length, file, line);
    if (!moved)
        return NULL;
    if (memory)
        memcpy(moved, memory, length < old ? length : old);
    arena_free(memory, file, line);
    return moved;
}

static void lock_arena(void)
{
    pthread_mutex_lock(&arena.lock);
}

static void unlock_arena(void)
{
    pthread_mutex_unlock(&arena.lock);
}

/* 0, -EBUSY or -errno. */
static int use_arena(void)
{
    void *memory =
        mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return -errno;
    (void)mlock(memory, ARENA_BYTES);
    (void)madvise(memory, ARENA_BYTES, MADV_DONTDUMP);
    int rc = -pthread_atfork(lock_arena, unlock_arena, unlock_arena);
    if (rc == 0 && !CRYPTO_set_mem_functions(arena_malloc, arena_realloc, arena_free))
        rc = -EBUSY;
    if (rc) {
        munmap(memory, ARENA_BYTES);
        return rc;
    }
    arena.base = memory;
    return 0;
}

/*
 * Whether the kernel lets this process lock any amount. It is tried: CAP_IPC_LOCK among our
 * capabilities does not tell, as in a user namespace it counts for nothing, and mlockall() for
 * the future under a limit would make every later mmap() fail.
 */
static bool may_lock_everything(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_MEMLOCK, &limit))
        return false;
    /* As much as we are ever allowed, for the arena and for libsodium. */
    limit.rlim_cur = limit.rlim_max;
    (void)setrlimit(RLIMIT_MEMLOCK, &limit);
    if (limit.rlim_cur == RLIM_INFINITY)
        return true;
    if (limit.rlim_cur > PTRDIFF_MAX - PAGE_BYTES)
        return false;
    size_t length = limit.rlim_cur + PAGE_BYTES;
    void *memory =
        mmap(NULL, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return false;
    bool locked = mlock2(memory, length, MLOCK_ONFAULT) == 0;
    munmap(memory, length);
    return locked;
}

/* The leak detector traces its own process; it is for tests only. */
static bool must_stay_traceable(void)
{
#ifdef __has_feature
    return __has_feature(address_sanitizer);
#elif defined(__SANITIZE_ADDRESS__)
    return true;
#else
    return false;
#endif
}

int vd_process_harden(void)
{
    const struct rlimit none = {0, 0};

    if (setrlimit(RLIMIT_CORE, &none))
        return -errno;
    if (!must_stay_traceable() && prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
        return -errno;
    /* On fault: locks what is used, not the address space of every cache and stack. */
    if (may_lock_everything() && mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) == 0)
        return 0;
    return use_arena();
}
