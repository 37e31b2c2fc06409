/* SPDX-License-Identifier: Apache-2.0 */
/* The hardening of the process and OpenSSL's arena. What changes the process runs in a child. */
/* Its functions are OpenSSL's to call, hence static. */
#include "lockedmem.c" /* NOLINT(bugprone-suspicious-include) */

#include "crypto.h"
#include "vdisk/vdisk.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIECES 4000u

static void *get(size_t length)
{
    return arena_malloc(length, "", 0);
}

static void put(void *memory)
{
    arena_free(memory, "", 0);
}

/* The arena alone, without OpenSSL in it. */
static int start(void **state)
{
    (void)state;
    arena.base =
        mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return arena.base == MAP_FAILED ? -1 : 0;
}

static int stop(void **state)
{
    (void)state;
    return munmap(arena.base, ARENA_BYTES);
}

static uint32_t random_of(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void pieces_are_aligned_and_do_not_overlap(void **state)
{
    static uint8_t *piece[PIECES];
    static size_t length[PIECES];
    uint32_t seed = 1;
    unsigned inside = 0;

    (void)state;
    for (unsigned step = 0; step < 40 * PIECES; step++) {
        unsigned i = random_of(&seed) % PIECES;

        if (piece[i]) {
            for (size_t k = 0; k < length[i]; k++)
                assert_int_equal(piece[i][k], (uint8_t)i);
            put(piece[i]);
        }
        length[i] = 1 + random_of(&seed) % (1u << random_of(&seed) % 14);
        piece[i] = get(length[i]);
        assert_non_null(piece[i]);
        assert_int_equal((uintptr_t)piece[i] % 16, 0);
        assert_true(usable(piece[i]) >= length[i]);
        memset(piece[i], (int)(uint8_t)i, length[i]);
        inside += in_arena(piece[i]);
    }
    assert_true(inside > 1000);
    for (unsigned i = 0; i < PIECES; i++)
        put(piece[i]);
}

static void what_does_not_fit_comes_from_elsewhere_and_all_can_be_freed(void **state)
{
    void *large = get(ARENA_BYTES), *piece[ARENA_PAGES + 8];
    unsigned inside = 0;

    (void)state;
    assert_non_null(large);
    assert_false(in_arena(large));
    for (unsigned i = 0; i < ARENA_PAGES + 8; i++) {
        piece[i] = get(PAGE_BYTES);
        assert_non_null(piece[i]);
        memset(piece[i], 1, PAGE_BYTES);
        inside += in_arena(piece[i]);
    }
    assert_in_range(inside, 1, ARENA_PAGES);
    for (unsigned i = 0; i < ARENA_PAGES + 8; i++)
        put(piece[i]);
    put(large);
    put(NULL);
    assert_null(get(0));
}

static void freed_memory_is_wiped(void **state)
{
    uint8_t *piece = get(1000);

    (void)state;
    assert_true(in_arena(piece));
    size_t at = (size_t)(piece - arena.base);
    memset(piece, 0x5a, 1000);
    put(piece);
    for (size_t i = sizeof(struct piece); i < 1000; i++)
        assert_int_equal(arena.base[at + i], 0);
}

static void growing_keeps_the_content_and_wipes_the_old_place(void **state)
{
    uint8_t *piece = arena_realloc(NULL, 16, "", 0);

    (void)state;
    assert_true(in_arena(piece));
    size_t at = (size_t)(piece - arena.base);
    memset(piece, 0x5a, 16);
    for (size_t length = 24; length < 40000; length += length / 2) {
        piece = arena_realloc(piece, length, "", 0);
        assert_non_null(piece);
        for (size_t i = 0; i < 16; i++)
            assert_int_equal(piece[i], 0x5a);
    }
    assert_int_equal(arena.base[at + 15], 0);
    piece = arena_realloc(piece, 8, "", 0);
    assert_int_equal(piece[7], 0x5a);
    assert_null(arena_realloc(piece, 0, "", 0));
}

/* --- in a child ------------------------------------------------------------------------- */

/* A line of /proc/self/status in KiB; of a descriptor, as it cannot be opened once hardened. */
static unsigned long status_kib(int fd, const char *name)
{
    static char text[8192];
    ssize_t got = pread(fd, text, sizeof(text) - 1, 0);
    char *line;

    text[got > 0 ? got : 0] = '\0';
    line = strstr(text, name);
    return line ? strtoul(line + strlen(name), NULL, 10) : 0;
}

static bool seals(void)
{
    static const uint8_t secret[32], id[16];
    struct vd_seal_context context = {id, 1, 2, 64, VD_SEAL_RAW, 0, 0};
    struct vd_cipher *cipher;
    uint8_t bytes[64] = {0}, tag[16];

    if (vdisk_init() || !(cipher = vd_cipher_new(secret)))
        return false;
    bool right = vd_seal(cipher, &context, bytes, bytes, tag) == 0 &&
                 vd_open(cipher, &context, bytes, bytes, tag) == 0;
    vd_cipher_free(cipher);
    return right;
}

static bool protected(void)
{
    struct rlimit core;

    return getrlimit(RLIMIT_CORE, &core) == 0 && core.rlim_cur == 0 && core.rlim_max == 0 &&
           (must_stay_traceable() || prctl(PR_GET_DUMPABLE) == 0);
}

/* A process that may lock `kib`, and no more. */
static bool become_unprivileged(rlim_t kib)
{
    struct rlimit limit = {kib * 1024, kib * 1024};

    return setrlimit(RLIMIT_MEMLOCK, &limit) == 0 && (geteuid() != 0 || setuid(65534) == 0);
}

static bool under_thread_sanitizer(void)
{
#ifdef __has_feature
    return __has_feature(thread_sanitizer);
#elif defined(__SANITIZE_THREAD__)
    return true;
#else
    return false;
#endif
}

/* The sanitizers make mlock() and mlockall() do nothing. */
static bool locks_are_ignored(void)
{
    return must_stay_traceable() || under_thread_sanitizer();
}

/* Each returns 0 or the number of what is wrong. */
static int unprivileged_child(void)
{
    int fd;

    if (!become_unprivileged(2048))
        return 1;
    fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 2;
    if (vd_process_harden() || !protected())
        return 3;
    void *piece = OPENSSL_malloc(100);
    if (!in_arena(piece))
        return 4;
    OPENSSL_free(piece);
    if (!locks_are_ignored() && status_kib(fd, "VmLck:") < ARENA_BYTES / 1024)
        return 5;
    return seals() ? 0 : 6;
}

static int child_without_a_limit_to_spend(void)
{
    if (!become_unprivileged(0))
        return 1;
    if (vd_process_harden() || !protected())
        return 2;
    return seals() ? 0 : 3;
}

static int late_child(void)
{
    if (!become_unprivileged(2048))
        return 1;
    OPENSSL_free(OPENSSL_malloc(1));
    return vd_process_harden() == -EBUSY ? 0 : 2;
}

static int privileged_child(void)
{
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return 1;
    if (vd_process_harden() || !protected() || arena.base)
        return 2;
    unsigned long before = status_kib(fd, "VmLck:");
    void *memory = mmap(NULL, 8 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        return 3;
    if (status_kib(fd, "VmLck:") < before + 8192)
        return 4;
    return seals() ? 0 : 5;
}

/* Whether a child can allocate whatever another thread was about; the rest of OpenSSL makes no
 * such promise. */
static bool fork_once(void)
{
    int status = 1;

    pid_t child = fork();
    if (child == 0) {
        void *piece = OPENSSL_malloc(100);

        OPENSSL_free(piece);
        _exit(in_arena(piece) ? 0 : 1);
    }
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static void *hammer(void *unused)
{
    for (unsigned i = 0; i < 200 && seals(); i++)
        unused = (void *)((uintptr_t)i + 1);
    return unused;
}

static int threaded_child(void)
{
    pthread_t thread;
    void *rounds;

    if (!become_unprivileged(2048) || vd_process_harden() || !seals())
        return 1;
    if (pthread_create(&thread, NULL, hammer, NULL))
        return 2;
    /* The thread sanitizer takes a fork that leaves a thread behind for a leak of it. */
    for (unsigned i = 0; i < 20 && !under_thread_sanitizer(); i++) {
        if (!fork_once())
            return 3;
    }
    void *own = hammer(NULL);
    if (pthread_join(thread, &rounds))
        return 4;
    return (uintptr_t)own == 200 && (uintptr_t)rounds == 200 ? 0 : 5;
}

static void expect_child(int (*run)(void))
{
    int status;

    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        arena.base = NULL;
        memset(arena.free, 0, sizeof(arena.free));
        arena.pages_taken = 0;
        _exit(run());
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void unprivileged_openssl_lives_in_locked_memory(void **state)
{
    (void)state;
    expect_child(unprivileged_child);
}

static void that_nothing_can_be_locked_is_no_error(void **state)
{
    (void)state;
    expect_child(child_without_a_limit_to_spend);
}

static void hardening_after_openssl_was_used_is_refused(void **state)
{
    (void)state;
    expect_child(late_child);
}

static void privileged_all_memory_is_locked(void **state)
{
    (void)state;
    if (locks_are_ignored()) {
        print_message("the sanitizers ignore mlockall()\n");
        skip();
    }
    if (!may_lock_everything()) {
        print_message("not allowed to lock memory without limit\n");
        skip();
    }
    expect_child(privileged_child);
}

static void threads_and_forks_share_the_arena(void **state)
{
    (void)state;
    expect_child(threaded_child);
}

int main(void)
{
    const struct CMUnitTest arena_tests[] = {
        cmocka_unit_test(freed_memory_is_wiped),
        cmocka_unit_test(growing_keeps_the_content_and_wipes_the_old_place),
        cmocka_unit_test(pieces_are_aligned_and_do_not_overlap),
        cmocka_unit_test(what_does_not_fit_comes_from_elsewhere_and_all_can_be_freed),
    };
    const struct CMUnitTest process_tests[] = {
        cmocka_unit_test(unprivileged_openssl_lives_in_locked_memory),
        cmocka_unit_test(that_nothing_can_be_locked_is_no_error),
        cmocka_unit_test(hardening_after_openssl_was_used_is_refused),
        cmocka_unit_test(privileged_all_memory_is_locked),
        cmocka_unit_test(threads_and_forks_share_the_arena),
    };
    int failed = cmocka_run_group_tests(arena_tests, start, stop);
    return failed + cmocka_run_group_tests(process_tests, NULL, NULL);
}
