/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The terminal in raw mode (vmm/terminal.c) is as it was before whatever becomes of the process. A
 * child has the terminal, and comes to one end after the other.
 */
#include "terminal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

static int user, terminal; /* the two sides */
static struct termios before;

static int set_up(void **state)
{
    (void)state;
    user = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (user < 0 || grantpt(user) || unlockpt(user))
        return -1;
    terminal = open(ptsname(user), O_RDWR | O_NOCTTY | O_CLOEXEC);
    return terminal < 0 ? -1 : tcgetattr(terminal, &before);
}

static int tear_down(void **state)
{
    (void)state;
    close(user);
    close(terminal);
    return 0;
}

static bool is_raw(void)
{
    struct termios now;

    assert_int_equal(tcgetattr(terminal, &now), 0);
    return !(now.c_lflag & (ICANON | ECHO | ISIG | IEXTEN)) && !(now.c_oflag & OPOST) &&
           !(now.c_iflag & (ICRNL | IXON | ISTRIP));
}

static bool is_restored(void)
{
    struct termios now;

    assert_int_equal(tcgetattr(terminal, &now), 0);
    return now.c_iflag == before.c_iflag && now.c_oflag == before.c_oflag &&
           now.c_lflag == before.c_lflag && now.c_cflag == before.c_cflag &&
           memcmp(now.c_cc, before.c_cc, sizeof(now.c_cc)) == 0;
}

/* In the child, which has no test to fail. */
static void need(bool holds)
{
    if (!holds)
        _exit(99);
}

/* Ends with us, whatever becomes of the test. */
static pid_t fork_child(void)
{
    pid_t child = fork();

    if (child == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    return child;
}

/* A child that has made the terminal raw, and then comes to its end by `how`; its wait status. */
static int status_of(void (*how)(int number), int number)
{
    pid_t child = fork_child();
    int status;

    if (child == 0) {
        signal(number, SIG_DFL); /* cmocka has some */
        need(vm_terminal_raw(terminal) == 0);
        need(is_raw());
        how(number);
        _exit(98);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void raise_it(int number)
{
    (void)kill(getpid(), number);
}

static void call_abort(int number)
{
    (void)number;
    abort();
}

static void call_exit(int number)
{
    exit(number);
}

static void test_it_is_raw_until_it_is_restored(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(vm_terminal_raw(terminal), 0);
        assert_true(is_raw());
        assert_int_equal(vm_terminal_raw(terminal), -EBUSY);
        assert_true(is_raw());
        vm_terminal_restore();
        assert_true(is_restored());
        vm_terminal_restore();
    }
}

static void test_what_is_no_terminal_is_refused(void **state)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct sigaction action;

    (void)state;
    assert_int_equal(vm_terminal_raw(null), -ENOTTY);
    assert_int_equal(vm_terminal_raw(-1), -EBADF);
    close(null);
    assert_int_equal(sigaction(SIGTERM, NULL, &action), 0);
    assert_ptr_equal(action.sa_handler, SIG_DFL);
}

static void test_a_signal_that_ends_the_process_restores_it(void **state)
{
    static const int numbers[] = {SIGTERM, SIGINT, SIGHUP,  SIGQUIT, SIGUSR1,
                                  SIGPIPE, SIGSYS, SIGXCPU, SIGALRM, SIGPWR};
    int status;

    (void)state;
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        status = status_of(raise_it, numbers[i]);
        assert_true(WIFSIGNALED(status));
        assert_int_equal(WTERMSIG(status), numbers[i]);
        assert_true(is_restored());
    }
    status = status_of(call_abort, 0);
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_true(is_restored());
}

static void test_exit_restores_it(void **state)
{
    int status = status_of(call_exit, 7);

    (void)state;
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 7);
    assert_true(is_restored());
}

/* ---- what the program does with signals is its own affair ---- */

static volatile sig_atomic_t seen;

static void note(int number)
{
    seen = number;
}

static void test_signals_of_the_program_stay_its_own(void **state)
{
    struct sigaction action = {.sa_handler = note}, now;

    (void)state;
    assert_int_equal(sigaction(SIGTERM, &action, NULL), 0);
    signal(SIGHUP, SIG_IGN);
    assert_int_equal(vm_terminal_raw(terminal), 0);
    raise(SIGTERM);
    raise(SIGHUP);
    assert_int_equal(seen, SIGTERM);
    assert_true(is_raw());
    signal(SIGINT, SIG_IGN); /* changed meanwhile */
    vm_terminal_restore();
    assert_int_equal(sigaction(SIGTERM, NULL, &now), 0);
    assert_ptr_equal(now.sa_handler, note);
    assert_int_equal(sigaction(SIGINT, NULL, &now), 0);
    assert_ptr_equal(now.sa_handler, SIG_IGN);
    assert_int_equal(sigaction(SIGUSR1, NULL, &now), 0);
    assert_ptr_equal(now.sa_handler, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    signal(SIGHUP, SIG_DFL);
    signal(SIGINT, SIG_DFL);
}

/* ---- jobs ---- */

static void test_a_stopped_process_leaves_it_to_others(void **state)
{
    pid_t child = fork_child();
    int status;

    (void)state;
    if (child == 0) {
        need(vm_terminal_raw(terminal) == 0);
        (void)kill(getpid(), SIGTSTP);
        need(is_raw()); /* continued */
        vm_terminal_restore();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, WUNTRACED), child);
    assert_true(WIFSTOPPED(status));
    assert_true(is_restored());
    kill(child, SIGCONT);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_true(is_restored());
}

/* A job that has come to the foreground, says so, and waits for its end. */
static void be_a_job(int ready)
{
    need(setpgid(0, 0) == 0 && tcsetpgrp(terminal, getpid()) == 0);
    signal(SIGTTOU, SIG_DFL);
    need(vm_terminal_raw(terminal) == 0 && is_raw());
    need(write(ready, "x", 1) == 1);
    for (;;)
        pause();
}

/* A shell: takes the terminal from the job, for a mode of its own, and ends the job. */
static void be_a_shell(void)
{
    int ready[2], status;
    struct termios mode = before;
    pid_t job;
    char byte;

    signal(SIGTTOU, SIG_IGN);
    need(setsid() > 0 && ioctl(terminal, TIOCSCTTY, 0) == 0 && pipe(ready) == 0);
    job = fork_child();
    if (job == 0)
        be_a_job(ready[1]);
    close(ready[1]);
    need(read(ready[0], &byte, 1) == 1 && tcsetpgrp(terminal, getpid()) == 0);
    mode.c_cc[VERASE] = 'e';
    need(tcsetattr(terminal, TCSANOW, &mode) == 0 && kill(job, SIGTERM) == 0);
    need(waitpid(job, &status, WUNTRACED) == job);
    need(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM); /* and was not stopped */
    need(tcgetattr(terminal, &mode) == 0 && mode.c_cc[VERASE] == 'e');
    _exit(0);
}

static void test_the_terminal_of_another_job_is_left_alone(void **state)
{
    pid_t child = fork_child();
    int status;

    (void)state;
    if (child == 0)
        be_a_shell();
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_it_is_raw_until_it_is_restored),
        TEST(test_what_is_no_terminal_is_refused),
        TEST(test_a_signal_that_ends_the_process_restores_it),
        TEST(test_exit_restores_it),
        TEST(test_signals_of_the_program_stay_its_own),
        TEST(test_a_stopped_process_leaves_it_to_others),
        TEST(test_the_terminal_of_another_job_is_left_alone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
