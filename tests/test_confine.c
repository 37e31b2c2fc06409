/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Confinement (vdiskd/confine.c): in a child process each time, what is forbidden is refused and
 * what is needed works.
 */
#include "confine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SKIPPED 77

static char folder[256];

/* In a child: its exit status, or minus the signal that ended it. */
static int in_child(int (*run)(void))
{
    int status;
    pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(20);
        _exit(run());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

/* In a child the line of what did not hold is told. */
#define REQUIRE(holds)                                                                             \
    do {                                                                                           \
        if (!(holds)) {                                                                            \
            dprintf(STDOUT_FILENO, "line %d: %s (errno %d)\n", __LINE__, #holds, errno);           \
            return 1;                                                                              \
        }                                                                                          \
    } while (0)

static int make_folder(void **state)
{
    const char *parent = getenv("TMPDIR");

    (void)state;
    snprintf(folder, sizeof(folder), "%s/confine-XXXXXX", parent ? parent : "/tmp");
    return mkdtemp(folder) && chmod(folder, 0755) == 0 ? 0 : -1;
}

static const char *in_folder(const char *name)
{
    static char path[512];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static int remove_folder(void **state)
{
    static const char *const names[] = {"in/a", "in", "ro/a", "ro", "sockets/a", "sockets", "out"};

    (void)state;
    for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
        remove(in_folder(names[i]));
    return rmdir(folder);
}

static int try_dumps(void)
{
    struct rlimit limit;

    REQUIRE(confine_dumps(NULL) == 0);
    REQUIRE(getrlimit(RLIMIT_CORE, &limit) == 0 && limit.rlim_max == 0);
    REQUIRE(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
    return 0;
}

static void test_there_are_no_core_dumps(void **state)
{
    (void)state;
    assert_int_equal(in_child(try_dumps), 0);
}

static int try_user(void)
{
    const gid_t some[] = {1, 2, 3};
    gid_t groups[8];

    REQUIRE(setgroups(3, some) == 0);
    REQUIRE(confine_user("65534", NULL) == 0);
    REQUIRE(getuid() == 65534 && geteuid() == 65534);
    REQUIRE(getgid() != 0 && getegid() == getgid());
    REQUIRE(getgroups(8, groups) == 0);
    REQUIRE(setuid(0) != 0 && seteuid(0) != 0 && setgid(0) != 0);
    REQUIRE(open("/etc/shadow", O_RDONLY) < 0);
    REQUIRE(prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0);
    REQUIRE(confine_user("65534", NULL) == 0); /* that is who we are */
    REQUIRE(confine_user("0", NULL) == -EPERM);
    return 0;
}

static int try_unknown_user(void)
{
    struct vdisk_error error;

    REQUIRE(confine_user("no-such-user", &error) == VDISK_E_NOT_FOUND);
    REQUIRE(strstr(error.text, "no-such-user"));
    REQUIRE(confine_user(NULL, &error) == 0);
    return 0;
}

static void test_root_is_given_up_for_good(void **state)
{
    (void)state;
    assert_int_equal(in_child(try_unknown_user), 0);
    if (geteuid() != 0) {
        print_message("only root can become another user\n");
        skip();
    }
    assert_int_equal(in_child(try_user), 0);
}

static int try_privileges(void)
{
    REQUIRE(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 0);
    REQUIRE(confine_privileges(NULL) == 0);
    REQUIRE(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1);
    return 0;
}

static void test_no_program_gets_new_privileges(void **state)
{
    (void)state;
    assert_int_equal(in_child(try_privileges), 0);
}

/* Whether the file can be opened so. */
static int may_open(const char *name, int flags)
{
    int fd = open(in_folder(name), flags | O_CLOEXEC, 0600);

    if (fd < 0)
        return 0;
    close(fd);
    return 1;
}

static int try_files(void)
{
    char inside[300], read_only[300], sockets[300];
    int held;

    snprintf(inside, sizeof(inside), "%s/in", folder);
    snprintf(read_only, sizeof(read_only), "%s/ro", folder);
    snprintf(sockets, sizeof(sockets), "%s/sockets", folder);
    const struct confine_path paths[] = {{.path = inside, .may_write = true},
                                         {.path = read_only},
                                         {.path = sockets, .only_remove = true}};
    REQUIRE(mkdir(inside, 0755) == 0 && mkdir(read_only, 0755) == 0 && mkdir(sockets, 0755) == 0);
    REQUIRE(may_open("sockets/a", O_RDWR | O_CREAT));
    REQUIRE(may_open("out", O_RDWR | O_CREAT) && may_open("ro/a", O_RDWR | O_CREAT));
    held = open(in_folder("out"), O_RDWR);
    REQUIRE(held >= 0);
    REQUIRE(confine_privileges(NULL) == 0);
    int rc = confine_files(paths, 3, NULL);
    if (rc == 1)
        return SKIPPED;
    REQUIRE(rc == 0);
    REQUIRE(may_open("in/a", O_RDWR | O_CREAT) && may_open("in/a", O_RDWR | O_TRUNC));
    REQUIRE(unlink(in_folder("in/a")) == 0);
    REQUIRE(may_open("ro/a", O_RDONLY));
    REQUIRE(!may_open("ro/a", O_RDWR) && errno == EACCES);
    REQUIRE(!may_open("ro/b", O_RDWR | O_CREAT));
    REQUIRE(!may_open("out", O_RDONLY) && errno == EACCES);
    REQUIRE(open("/etc/passwd", O_RDONLY) < 0 && errno == EACCES);
    REQUIRE(unlink(in_folder("out")) < 0);
    REQUIRE(!may_open("sockets/a", O_RDONLY) && !may_open("sockets/b", O_RDWR | O_CREAT));
    REQUIRE(unlink(in_folder("sockets/a")) == 0);
    REQUIRE(rename(in_folder("ro/a"), "x") < 0);
    REQUIRE(write(held, "x", 1) == 1); /* what was open */
    REQUIRE(ftruncate(held, 100) == 0);
    execl("/bin/true", "true", NULL);
    REQUIRE(errno == EACCES);
    return 0;
}

static void test_only_the_folders_of_images_can_be_reached(void **state)
{
    int end = in_child(try_files);

    (void)state;
    if (end == SKIPPED) {
        print_message("this kernel has no Landlock\n");
        skip();
    }
    assert_int_equal(end, 0);
}

static int try_missing_path(void)
{
    const struct confine_path path = {.path = "/nonexistent/folder", .may_write = true};
    struct vdisk_error error;
    int rc = confine_files(&path, 1, &error);

    REQUIRE(rc == 1 || rc == -ENOENT);
    REQUIRE(open("/etc/passwd", O_RDONLY) >= 0); /* nothing was confined */
    return 0;
}

static void test_a_path_that_is_missing_is_an_error(void **state)
{
    (void)state;
    assert_int_equal(in_child(try_missing_path), 0);
}

static void *count_up(void *arg)
{
    ++*(int *)arg;
    return NULL;
}

static int confine_for_test(void)
{
    REQUIRE(confine_privileges(NULL) == 0);
    REQUIRE(confine_syscalls(NULL, NULL) == 0);
    return 0;
}

static int try_needed_calls(void)
{
    const struct timespec moment = {.tv_nsec = 1000};
    pthread_t thread;
    int count = 0, pair[2], status = confine_for_test();

    REQUIRE(status == 0);
    int fd = open(in_folder("out"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(fd >= 0 && pwrite(fd, "abc", 3, 0) == 3 && fdatasync(fd) == 0);
    REQUIRE(fallocate(fd, 0, 0, 4096) == 0);
    REQUIRE(pthread_create(&thread, NULL, count_up, &count) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0 && count == 1);
    void *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED && munmap(memory, 1 << 20) == 0);
    REQUIRE(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    REQUIRE(send(pair[0], "x", 1, MSG_NOSIGNAL) == 1);
    REQUIRE(socket(AF_INET, SOCK_STREAM, 0) >= 0);
    REQUIRE(eventfd(0, EFD_CLOEXEC) >= 0);
    REQUIRE(isatty(fd) == 0);
    REQUIRE(nanosleep(&moment, NULL) == 0);
    for (size_t length = 16; length < 1 << 24; length *= 2)
        free(malloc(length));
    return 0;
}

static int try_exec(void)
{
    REQUIRE(confine_for_test() == 0);
    execl("/bin/true", "true", NULL);
    return 2;
}

static int try_ptrace(void)
{
    REQUIRE(confine_for_test() == 0);
    ptrace(PTRACE_TRACEME, 0, NULL, NULL);
    return 2;
}

static int try_mount(void)
{
    REQUIRE(confine_for_test() == 0);
    mount("none", "/nonexistent", "tmpfs", 0, NULL);
    return 2;
}

static int try_kill(void)
{
    REQUIRE(confine_for_test() == 0);
    kill(getppid(), 0);
    return 2;
}

static int try_packets(void)
{
    REQUIRE(confine_for_test() == 0);
    socket(AF_NETLINK, SOCK_RAW, 0);
    return 2;
}

static int try_code(void)
{
    REQUIRE(confine_for_test() == 0);
    (void)mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return 2;
}

static int try_terminal(void)
{
    REQUIRE(confine_for_test() == 0);
    ioctl(0, TIOCSTI, "x"); /* types for whoever sits there */
    return 2;
}

static void test_what_serving_needs_is_allowed(void **state)
{
    (void)state;
    assert_int_equal(in_child(try_needed_calls), 0);
}

static void test_other_system_calls_end_the_process(void **state)
{
    static int (*const tries[])(void) = {try_exec,    try_ptrace, try_mount,   try_kill,
                                         try_packets, try_code,   try_terminal};

    (void)state;
    for (unsigned i = 0; i < sizeof(tries) / sizeof(*tries); i++)
        assert_int_equal(in_child(tries[i]), -SIGSYS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_are_no_core_dumps),
        cmocka_unit_test(test_root_is_given_up_for_good),
        cmocka_unit_test(test_no_program_gets_new_privileges),
        cmocka_unit_test_setup_teardown(test_only_the_folders_of_images_can_be_reached, make_folder,
                                        remove_folder),
        cmocka_unit_test(test_a_path_that_is_missing_is_an_error),
        cmocka_unit_test_setup_teardown(test_what_serving_needs_is_allowed, make_folder,
                                        remove_folder),
        cmocka_unit_test(test_other_system_calls_end_the_process),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
