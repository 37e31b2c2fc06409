/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Messages of vhost-user (vdiskd/vhost_message.c): what has not the size or the descriptors of its
 * request is refused, and no descriptor is left open.
 */
#include "vhost_message.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static struct vhost_message message;

static int header(uint32_t request, uint32_t flags, uint32_t size)
{
    uint32_t words[3] = {request, flags, size};
    uint8_t bytes[VHOST_HEADER_BYTES];

    memcpy(bytes, words, sizeof(bytes));
    return vhost_message_header(&message, bytes, NULL);
}

static void add_fd(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    message.fd[message.fd_count++] = fd;
}

static int check(uint32_t request, uint32_t size, unsigned fds)
{
    assert_int_equal(header(request, VHOST_FLAG_VERSION, size), 0);
    for (unsigned i = 0; i < fds; i++)
        add_fd();
    int rc = vhost_message_check(&message, NULL);

    vhost_message_close(&message);
    return rc;
}

static void headers_are_of_version_one_and_bounded(void **state)
{
    (void)state;
    assert_int_equal(header(1, VHOST_FLAG_VERSION, 0), 0);
    assert_int_equal(header(1, VHOST_FLAG_VERSION | VHOST_FLAG_NEED_REPLY, 0), 0);
    assert_int_equal(header(1, 0, 0), VDISK_E_MALFORMED);
    assert_int_equal(header(1, 2, 0), VDISK_E_MALFORMED);
    assert_int_equal(header(1, VHOST_FLAG_VERSION | VHOST_FLAG_REPLY, 0), VDISK_E_MALFORMED);
    assert_int_equal(header(1, VHOST_FLAG_VERSION, VHOST_PAYLOAD_MAX), 0);
    assert_int_equal(header(1, VHOST_FLAG_VERSION, VHOST_PAYLOAD_MAX + 1), VDISK_E_MALFORMED);
    assert_int_equal(header(1, VHOST_FLAG_VERSION, UINT32_MAX), VDISK_E_MALFORMED);
}

static void each_request_has_its_size_and_descriptors(void **state)
{
    static const struct {
        uint32_t request, size;
        unsigned fds;
        int rc;
    } cases[] = {
        {VHOST_GET_FEATURES, 0, 0, 0},
        {VHOST_GET_FEATURES, 8, 0, VDISK_E_MALFORMED},
        {VHOST_SET_FEATURES, 8, 0, 0},
        {VHOST_SET_FEATURES, 4, 0, VDISK_E_MALFORMED},
        {VHOST_SET_VRING_ADDR, 40, 0, 0},
        {VHOST_SET_VRING_ADDR, 39, 0, VDISK_E_MALFORMED},
        {VHOST_SET_VRING_KICK, 8, 1, 0},
        {VHOST_SET_VRING_KICK, 8, 0, VDISK_E_MALFORMED},
        {VHOST_SET_LOG_BASE, 16, 1, 0},
        {VHOST_SET_LOG_BASE, 16, 0, VDISK_E_MALFORMED},
        {VHOST_SET_INFLIGHT_FD, 20, 1, 0},
        {VHOST_SET_INFLIGHT_FD, 24, 1, 0},
        {VHOST_SET_INFLIGHT_FD, 24, 0, VDISK_E_MALFORMED},
        {VHOST_ADD_MEM_REG, 40, 1, 0},
        {VHOST_ADD_MEM_REG, 40, 0, VDISK_E_MALFORMED},
        {VHOST_REM_MEM_REG, 40, 0, 0},
        {VHOST_REM_MEM_REG, 40, 1, 0},
        {VHOST_GET_CONFIG, 12, 0, 0},
        {VHOST_GET_CONFIG, 13, 0, VDISK_E_MALFORMED},
        {0, 0, 0, VDISK_E_UNSUPPORTED},
        {19, 8, 0, VDISK_E_UNSUPPORTED},
        {41, 0, 0, VDISK_E_UNSUPPORTED},
        {UINT32_MAX, 0, 0, VDISK_E_UNSUPPORTED},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++)
        assert_int_equal(check(cases[i].request, cases[i].size, cases[i].fds), cases[i].rc);
}

static void lengths_within_a_message_agree_with_it(void **state)
{
    (void)state;
    for (uint32_t count = 0; count < 12; count++) {
        assert_int_equal(header(VHOST_SET_MEM_TABLE, VHOST_FLAG_VERSION, 8 + 3 * 32), 0);
        message.table.count = count == 11 ? UINT32_MAX : count;
        for (unsigned i = 0; i < 3; i++)
            add_fd();
        assert_int_equal(vhost_message_check(&message, NULL), count <= 3 ? 0 : VDISK_E_MALFORMED);
        vhost_message_close(&message);
    }
    assert_int_equal(header(VHOST_SET_CONFIG, VHOST_FLAG_VERSION, 13), 0);
    message.config.offset = VHOST_CONFIG_MAX - 1;
    message.config.size = 1;
    assert_int_equal(vhost_message_check(&message, NULL), 0);
    message.config.offset = VHOST_CONFIG_MAX;
    assert_int_equal(vhost_message_check(&message, NULL), VDISK_E_MALFORMED);
    message.config.offset = UINT32_MAX;
    assert_int_equal(vhost_message_check(&message, NULL), VDISK_E_MALFORMED);
    message.config.offset = 0;
    message.config.size = 2;
    assert_int_equal(vhost_message_check(&message, NULL), VDISK_E_MALFORMED);
}

static void descriptors_that_are_too_many_are_closed(void **state)
{
    int first, second;

    (void)state;
    assert_int_equal(header(VHOST_SET_VRING_CALL, VHOST_FLAG_VERSION, 8), 0);
    message.number = 3;
    add_fd();
    add_fd();
    first = message.fd[0];
    second = message.fd[1];
    assert_int_equal(vhost_message_check(&message, NULL), 0);
    assert_int_equal(fcntl(second, F_GETFD), -1);
    assert_int_equal(vhost_message_take_fd(&message, 0), first);
    assert_int_equal(vhost_message_take_fd(&message, 0), -1);
    assert_int_equal(vhost_message_take_fd(&message, 1), -1);
    vhost_message_close(&message);
    assert_true(fcntl(first, F_GETFD) >= 0);
    close(first);
    /* With the flag that says that there is none, none is kept. */
    assert_int_equal(header(VHOST_SET_VRING_CALL, VHOST_FLAG_VERSION, 8), 0);
    message.number = 0x103;
    add_fd();
    first = message.fd[0];
    bool has_fd;

    assert_int_equal(vhost_message_queue(&message, &has_fd), 3);
    assert_false(has_fd);
    assert_int_equal(vhost_message_check(&message, NULL), 0);
    assert_int_equal(message.fd_count, 0);
    assert_int_equal(fcntl(first, F_GETFD), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(headers_are_of_version_one_and_bounded),
        cmocka_unit_test(each_request_has_its_size_and_descriptors),
        cmocka_unit_test(lengths_within_a_message_agree_with_it),
        cmocka_unit_test(descriptors_that_are_too_many_are_closed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
