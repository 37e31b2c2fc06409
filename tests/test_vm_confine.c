/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Confinement of a guest's process (vmm/vm_confine.c): in a child process each time, of the files,
 * system calls and requests of KVM there is only what a running guest needs.
 */
#include "vm_confine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <linux/landlock.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char folder[256];

static const char *in_folder(const char *name)
{
    static char path[512];

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static int make_folder(void **state)
{
    const char *parent = getenv("TMPDIR");

    (void)state;
    snprintf(folder, sizeof(folder), "%s/confine-XXXXXX", parent ? parent : "/tmp");
    return mkdtemp(folder) && mkdir(in_folder("logs"), 0700) == 0 &&
                   mkdir(in_folder("vsock"), 0700) == 0
               ? 0
               : -1;
}

static int remove_folder(void **state)
{
    static const char *const names[] = {"logs/audit", "logs", "vsock/a", "vsock", "control"};

    (void)state;
    for (unsigned i = 0; i < sizeof(names) / sizeof(*names); i++)
        remove(in_folder(names[i]));
    return rmdir(folder);
}

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

static int confine(void)
{
    char control[512], audit[512], vsock[512];
    struct vm_config config = {.control = control, .audit_log = audit, .vsock = vsock};
    struct vdisk_error error;

    snprintf(control, sizeof(control), "%s", in_folder("control"));
    snprintf(audit, sizeof(audit), "%s", in_folder("logs/audit"));
    snprintf(vsock, sizeof(vsock), "%s", in_folder("vsock"));
    REQUIRE(vm_confine(&config, &error) == 0);
    return 0;
}

static bool is_refused(const char *path, int flags)
{
    return open(path, flags | O_CLOEXEC, 0600) < 0 && errno == EACCES;
}

static int bind_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    if (snprintf(address.sun_path, sizeof(address.sun_path), "%s", path) >=
        (int)sizeof(address.sun_path))
        return -1;
    return fd < 0 ? -1 : bind(fd, (struct sockaddr *)&address, sizeof(address));
}

static int try_files(void)
{
    int held = open(in_folder("control"), O_RDWR | O_CREAT | O_CLOEXEC, 0600), log;

    REQUIRE(held >= 0 && confine() == 0);
    REQUIRE(write(held, "x", 1) == 1); /* what was open */
    REQUIRE(is_refused("/etc/passwd", O_RDONLY) && is_refused("/dev/null", O_RDWR));
    REQUIRE(is_refused("/proc/self/maps", O_RDONLY));
    REQUIRE(is_refused(in_folder("control"), O_RDONLY));
    REQUIRE(is_refused(in_folder("new"), O_RDWR | O_CREAT));
    REQUIRE(is_refused(in_folder("vsock/new"), O_RDWR | O_CREAT));
    log = open(in_folder("logs/audit"), O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    REQUIRE(log >= 0 && write(log, "x", 1) == 1);
    REQUIRE(is_refused(in_folder("logs/audit"), O_RDONLY));
    REQUIRE(bind_socket(in_folder("new")) < 0 && errno == EACCES);
    REQUIRE(bind_socket(in_folder("vsock/a")) == 0 && unlink(in_folder("vsock/a")) == 0);
    REQUIRE(unlink(in_folder("control")) == 0);
    return 0;
}

static void test_no_file_can_be_opened_but_a_log(void **state)
{
    (void)state;
    if (syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) < 0) {
        print_message("this kernel has no Landlock\n");
        skip();
    }
    assert_int_equal(in_child(try_files), 0);
}

static int try_exec(void)
{
    REQUIRE(confine() == 0);
    execl("/bin/true", "true", NULL);
    return 2;
}

static int try_kill(void)
{
    REQUIRE(confine() == 0);
    kill(getppid(), 0);
    return 2;
}

static int try_network(void)
{
    REQUIRE(confine() == 0);
    (void)socket(AF_INET, SOCK_STREAM, 0);
    return 2;
}

static int try_other_machine(void)
{
    REQUIRE(confine() == 0);
    (void)ioctl(0, KVM_CREATE_VM, 0);
    return 2;
}

static int try_more_memory(void)
{
    REQUIRE(confine() == 0);
    (void)ioctl(0, KVM_SET_USER_MEMORY_REGION, NULL);
    return 2;
}

static void test_other_calls_end_the_process(void **state)
{
    static int (*const tries[])(void) = {try_exec, try_kill, try_network, try_other_machine,
                                         try_more_memory};

    (void)state;
    for (unsigned i = 0; i < sizeof(tries) / sizeof(*tries); i++)
        assert_int_equal(in_child(tries[i]), -SIGSYS);
}

static int try_needed_requests(void)
{
    static const unsigned long needed[] = {KVM_RUN, KVM_GET_REGS, KVM_SET_MSRS, KVM_IRQFD};
    int pipes[2];

    REQUIRE(pipe(pipes) == 0 && confine() == 0);
    for (unsigned i = 0; i < sizeof(needed) / sizeof(*needed); i++)
        REQUIRE(ioctl(pipes[0], needed[i], NULL) < 0 && errno == ENOTTY);
    return 0;
}

static void test_what_runs_a_guest_is_allowed(void **state)
{
    (void)state;
    assert_int_equal(in_child(try_needed_requests), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_file_can_be_opened_but_a_log),
        cmocka_unit_test(test_other_calls_end_the_process),
        cmocka_unit_test(test_what_runs_a_guest_is_allowed),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
