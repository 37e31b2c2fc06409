/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The service manager's protocols (vdiskd/notify.c).
 */
#include "notify.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static int listen_at(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(name);
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

    assert_true(fd >= 0);
    memcpy(address.sun_path, name, length);
    if (name[0] == '@')
        address.sun_path[0] = 0;
    assert_int_equal(bind(fd, (struct sockaddr *)&address,
                          (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length)),
                     0);
    return fd;
}

static void test_the_manager_is_told(void **state)
{
    const char *folder = getenv("TMPDIR");
    char names[2][100], text[64];

    (void)state;
    snprintf(names[0], sizeof(names[0]), "@vdisk-notify-%d", getpid());
    snprintf(names[1], sizeof(names[1]), "%s/notify-%d", folder ? folder : "/tmp", getpid());
    for (unsigned i = 0; i < 2; i++) {
        int fd = listen_at(names[i]);

        setenv("NOTIFY_SOCKET", names[i], 1);
        assert_int_equal(notify_open(), 0);
        notify_send("READY=1");
        ssize_t got = recv(fd, text, sizeof(text), MSG_DONTWAIT);
        assert_int_equal(got, 7);
        assert_memory_equal(text, "READY=1", 7);
        close(fd);
        notify_send("STOPPING=1"); /* nobody listens: no signal, no error */
        notify_close();
    }
    unlink(names[1]);
    setenv("NOTIFY_SOCKET", "relative", 1);
    assert_int_equal(notify_open(), -EINVAL);
    unsetenv("NOTIFY_SOCKET");
    assert_int_equal(notify_open(), 0);
    notify_send("READY=1");
}

/* Runs in a child, whose descriptors from 3 on are `sockets` sockets and then a file. */
static int take_in_child(unsigned sockets, const char *count, const char *names, long pid,
                         int (*look)(int rc, const struct notify_sockets *taken))
{
    pid_t child = fork();
    int status;

    assert_true(child >= 0);
    if (child == 0) {
        static struct notify_sockets taken;
        char text[32];

        for (unsigned i = 0; i < sockets; i++) {
            int fd = socket(AF_UNIX, SOCK_STREAM, 0);

            if (fd != 3 + (int)i)
                dup2(fd, 3 + (int)i);
        }
        int file = open("/dev/null", O_RDONLY);
        dup2(file, 3 + (int)sockets);
        snprintf(text, sizeof(text), "%ld", pid ? pid : (long)getpid());
        setenv("LISTEN_PID", text, 1);
        setenv("LISTEN_FDS", count, 1);
        if (names)
            setenv("LISTEN_FDNAMES", names, 1);
        int rc = notify_take_sockets(&taken);
        _exit(getenv("LISTEN_FDS") ? 99 : look(rc, &taken));
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int look_at_three(int rc, const struct notify_sockets *taken)
{
    if (rc || taken->count != 3)
        return 1;
    if (strcmp(taken->name[0], "nbd") != 0 || strcmp(taken->name[1], "unknown") != 0 ||
        strcmp(taken->name[2], "unknown") != 0)
        return 2;
    for (int i = 0; i < 3; i++) {
        if (taken->fd[i] != 3 + i || fcntl(3 + i, F_GETFD) != FD_CLOEXEC ||
            !(fcntl(3 + i, F_GETFL) & O_NONBLOCK))
            return 3;
    }
    return 0;
}

static int look_for_none(int rc, const struct notify_sockets *taken)
{
    return rc || taken->count;
}

static int look_for_refusal(int rc, const struct notify_sockets *taken)
{
    return rc != -EINVAL || taken->count;
}

static int look_for_too_many(int rc, const struct notify_sockets *taken)
{
    return rc != -E2BIG || taken->count;
}

static void test_sockets_that_are_handed_over_are_taken_once(void **state)
{
    struct notify_sockets none;

    (void)state;
    assert_int_equal(take_in_child(3, "3", "nbd", 0, look_at_three), 0);
    assert_int_equal(take_in_child(3, "3", "nbd::", 0, look_at_three), 0);
    assert_int_equal(take_in_child(3, "3", NULL, 1, look_for_none), 0);
    assert_int_equal(take_in_child(3, "0", NULL, 0, look_for_none), 0);
    assert_int_equal(take_in_child(1, "2", NULL, 0, look_for_refusal), 0); /* one is a file */
    assert_int_equal(take_in_child(1, "-1", NULL, 0, look_for_refusal), 0);
    assert_int_equal(take_in_child(1, "x", NULL, 0, look_for_refusal), 0);
    assert_int_equal(take_in_child(1, "99999999999999999999", NULL, 0, look_for_refusal), 0);
    assert_int_equal(take_in_child(1, "33", NULL, 0, look_for_too_many), 0);
    assert_int_equal(notify_take_sockets(&none), 0);
    assert_int_equal(none.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_manager_is_told),
        cmocka_unit_test(test_sockets_that_are_handed_over_are_taken_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
