/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The front end of vhost-user says what the protocol wants, and believes nothing of what a back end
 * answers: every answer is spoiled in every way, once, and the call that asked says so in time.
 */
#include "vhost_front.h"
#include "vhost_kit.h"
#include "vm_backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define SECOND      INT64_C(1000000000)
#define BIT(number) (UINT64_C(1) << (number))
#define QUEUES      2u

static char directory[64], path[80];
static struct backend backend;
static struct vhost_front front;
static struct vhost_front_inflight inflight;
static struct vm_memory memory;
static struct vdisk_error error;
static int kick, call, err;

/* What the back end says from now on. */
#define SAYS(change)                                                                               \
    do {                                                                                           \
        backend_lock(&backend);                                                                    \
        change;                                                                                    \
        backend_unlock(&backend);                                                                  \
    } while (0)

static void spoils(enum backend_fault fault, unsigned at)
{
    SAYS(backend.fault = fault; backend.fault_at = at);
}

/* ---- a whole conversation ---- */

static const struct virtio_queue_settings settings[QUEUES] = {
    {.ready = true, .size = 64, .desc = 0x1000, .avail = 0x2000, .used = 0x3000},
    {.ready = true, .size = 128, .desc = 0x4000, .avail = 0x5000, .used = 0x6000},
};

static int set_up_queues(void)
{
    int result = 0;

    for (unsigned i = 0; i < QUEUES && result == 0; i++) {
        struct vhost_front_queue queue = {.index = i,
                                          .settings = &settings[i],
                                          .base = 7 + i,
                                          .kick = kick,
                                          .call = call,
                                          .err = err};

        result = vhost_front_set_queue(&front, &queue, &error);
    }
    for (unsigned i = 0; i < QUEUES && result == 0; i++)
        result = vhost_front_enable_queue(&front, i, &error);
    return result;
}

static int set_up(void)
{
    struct virtio_blk_config config;
    int result = vhost_front_connect(&front, path, &error);

    if (result == 0)
        result = vhost_front_get_config(&front, &config, 60, &error);
    if (result == 0)
        result = vhost_front_set_features(&front, BIT(VIRTIO_F_VERSION_1), &error);
    if (result == 0)
        result = vhost_front_share_memory(&front, &memory, &error);
    if (result == 0)
        result = vhost_front_share_inflight(&front, &inflight, QUEUES, 128, &error);
    return result ? result : set_up_queues();
}

static int take_down(void)
{
    uint32_t base;
    int result = 0;

    for (unsigned i = 0; i < QUEUES && result == 0; i++)
        result = vhost_front_stop_queue(&front, i, &base, &error);
    if (result == 0)
        result = vhost_front_set_config(&front, 32, "\0", 1, &error);
    return result ? result : vhost_front_reset(&front, &error);
}

static int converse(int64_t patience)
{
    memset(&error, 0, sizeof(error));
    vhost_front_patience(&front, patience);
    int result = set_up();

    return result ? result : take_down();
}

static void hang_up(void)
{
    vhost_front_close(&front);
    vhost_front_forget_inflight(&inflight);
}

/* ---- what a good one sees ---- */

static void test_a_back_end_is_told_all_that_it_needs(void **state)
{
    (void)state;
    vhost_front_patience(&front, 10 * SECOND);
    assert_int_equal(set_up(), 0);
    assert_int_equal(front.queues, BACKEND_QUEUES);
    backend_lock(&backend);
    const struct backend_seen *seen = &backend.seen;

    assert_int_equal(seen->features, BIT(VIRTIO_F_VERSION_1) | BIT(VHOST_F_PROTOCOL));
    assert_int_equal(seen->table.count, 2);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(seen->table.region[i].guest, memory.region[i].guest);
        assert_int_equal(seen->table.region[i].user, memory.region[i].guest);
        assert_int_equal(seen->table.region[i].size, memory.region[i].size);
        assert_int_equal(seen->table.region[i].offset, memory.region[i].offset);
    }
    assert_int_equal(seen->inflight.queues, QUEUES);
    assert_int_equal(seen->inflight.queue_size, 128);
    assert_int_equal(seen->inflight.size, backend.inflight_bytes);
    for (unsigned i = 0; i < QUEUES; i++) {
        const struct backend_queue *queue = &seen->queue[i];

        assert_true(queue->enabled);
        assert_int_equal(queue->size, settings[i].size);
        assert_int_equal(queue->base, 7 + i);
        assert_int_equal(queue->address.desc, settings[i].desc);
        assert_int_equal(queue->address.avail, settings[i].avail);
        assert_int_equal(queue->address.used, settings[i].used);
        assert_int_equal(eventfd_write(queue->kick, 1), 0);
        assert_int_equal(eventfd_write(queue->call, 10), 0);
        assert_int_equal(eventfd_write(queue->err, 100), 0);
    }
    assert_false(seen->queue[QUEUES].enabled);
    backend_unlock(&backend);
    eventfd_t count;

    assert_int_equal(eventfd_read(kick, &count), 0);
    assert_int_equal(count, QUEUES);
    assert_int_equal(eventfd_read(call, &count), 0);
    assert_int_equal(count, 10 * QUEUES);
    assert_int_equal(eventfd_read(err, &count), 0);
    assert_int_equal(count, 100 * QUEUES);
}

static void test_queues_are_stopped_where_the_back_end_says(void **state)
{
    uint32_t base = 0;

    (void)state;
    vhost_front_patience(&front, 10 * SECOND);
    assert_int_equal(set_up(), 0);
    SAYS(backend.base = 0x80078007);
    assert_int_equal(vhost_front_stop_queue(&front, 1, &base, &error), 0);
    assert_int_equal(base, 0x80078007);
    assert_int_equal(take_down(), 0);
    backend_lock(&backend);
    assert_false(backend.seen.queue[0].enabled || backend.seen.queue[1].enabled);
    assert_int_equal(backend.seen.resets, 1);
    assert_int_equal(backend.seen.written_at, 32);
    assert_int_equal(backend.seen.written_bytes, 1);
    backend_unlock(&backend);
}

static void test_in_flight_memory_is_made_once_and_given_to_each(void **state)
{
    (void)state;
    vhost_front_patience(&front, 10 * SECOND);
    assert_int_equal(set_up(), 0);
    int fd = inflight.fd;

    vhost_front_close(&front);
    SAYS(backend.inflight_without_fd = true); /* a second question would fail */
    assert_int_equal(set_up(), 0);
    assert_int_equal(inflight.fd, fd);
    backend_lock(&backend);
    assert_int_equal(backend.seen.inflight.size, backend.inflight_bytes);
    backend_unlock(&backend);
}

/* ---- faults ---- */

static unsigned messages_of_a_conversation(void)
{
    assert_int_equal(converse(10 * SECOND), 0);
    backend_lock(&backend);
    unsigned count = backend.seen.messages;

    backend_unlock(&backend);
    hang_up();
    return count;
}

/* Each message's answer in turn. */
static void spoil_each(enum backend_fault fault, int expected, int64_t patience)
{
    unsigned count = messages_of_a_conversation();

    assert_true(count > 20);
    for (unsigned at = 1; at <= count; at++) {
        struct kit_held before = kit_held();

        spoils(fault, at);
        int result = converse(patience);

        if (result != expected)
            print_message("message %u: %d %s\n", at, result, error.text);
        assert_int_equal(result, expected);
        assert_int_equal(error.code, expected);
        assert_true(strlen(error.text) > 0);
        hang_up();
        assert_true(kit_let_go(before));
    }
    spoils(BACKEND_FINE, 0);
}

static void test_the_end_of_the_connection_is_seen_at_each_message(void **state)
{
    (void)state;
    spoil_each(BACKEND_END, -EPIPE, 10 * SECOND);
    spoil_each(BACKEND_HALF, -EPIPE, 10 * SECOND);
}

static void test_silence_ends_at_the_deadline(void **state)
{
    (void)state;
    spoil_each(BACKEND_SILENT, -ETIMEDOUT, SECOND / 50);
}

static void test_an_answer_to_something_else_is_refused(void **state)
{
    (void)state;
    spoil_each(BACKEND_WRONG_REQUEST, VDISK_E_MALFORMED, 10 * SECOND);
    spoil_each(BACKEND_WRONG_FLAGS, VDISK_E_MALFORMED, 10 * SECOND);
    spoil_each(BACKEND_WRONG_VERSION, VDISK_E_MALFORMED, 10 * SECOND);
}

static void test_an_answer_of_another_length_is_refused(void **state)
{
    (void)state;
    spoil_each(BACKEND_SHORT, VDISK_E_MALFORMED, 10 * SECOND);
    spoil_each(BACKEND_LONG, VDISK_E_MALFORMED, 10 * SECOND);
    spoil_each(BACKEND_HUGE, VDISK_E_MALFORMED, 10 * SECOND);
}

static void test_a_descriptor_that_was_not_asked_for_is_refused_and_closed(void **state)
{
    (void)state;
    spoil_each(BACKEND_DESCRIPTOR, VDISK_E_MALFORMED, 10 * SECOND);
}

static void refuse(uint32_t request)
{
    SAYS(backend.fault = BACKEND_REFUSE; backend.fault_request = request);
    assert_int_equal(converse(10 * SECOND), -EREMOTEIO);
    assert_non_null(strstr(error.text, "refuses"));
    hang_up();
}

static void test_a_refusal_is_told_from_the_end(void **state)
{
    static const uint32_t requests[] = {
        VHOST_SET_OWNER,      VHOST_SET_BACKEND_REQ_FD, VHOST_SET_FEATURES,
        VHOST_SET_MEM_TABLE,  VHOST_SET_INFLIGHT_FD,    VHOST_SET_VRING_NUM,
        VHOST_SET_VRING_BASE, VHOST_SET_VRING_ADDR,     VHOST_SET_VRING_ERR,
        VHOST_SET_VRING_CALL, VHOST_SET_VRING_KICK,     VHOST_SET_VRING_ENABLE,
        VHOST_SET_CONFIG,     VHOST_RESET_DEVICE};

    (void)state;
    for (unsigned i = 0; i < sizeof(requests) / sizeof(*requests); i++)
        refuse(requests[i]);
    spoils(BACKEND_FINE, 0);
    SAYS(backend.config_refused = true);
    assert_int_equal(converse(10 * SECOND), -EREMOTEIO);
}

static void test_what_does_not_fit_the_question_is_refused(void **state)
{
    (void)state;
    SAYS(backend.base_of_another = true);
    assert_int_equal(converse(10 * SECOND), VDISK_E_MALFORMED);
    hang_up();
    SAYS(backend.base_of_another = false);
    SAYS(backend.inflight_queues_more = 1);
    assert_int_equal(converse(10 * SECOND), VDISK_E_MALFORMED);
    hang_up();
    SAYS(backend.inflight_queues_more = 0);
    SAYS(backend.inflight_bytes = 0);
    assert_int_equal(converse(10 * SECOND), VDISK_E_MALFORMED);
    hang_up();
    SAYS(backend.inflight_bytes = UINT64_C(1) << 40);
    assert_int_equal(converse(10 * SECOND), VDISK_E_MALFORMED);
    hang_up();
    SAYS(backend.inflight_bytes = 8192);
    SAYS(backend.inflight_without_fd = true);
    assert_int_equal(converse(10 * SECOND), VDISK_E_MALFORMED);
    hang_up();
    SAYS(backend.queues = 0);
    assert_int_equal(converse(10 * SECOND), VDISK_E_MALFORMED);
    hang_up();
    SAYS(backend.queues = UINT64_C(1) << 32);
    assert_int_equal(converse(10 * SECOND), VDISK_E_MALFORMED);
}

static void test_a_back_end_that_lacks_what_a_drive_needs_is_refused(void **state)
{
    static const enum vhost_protocol needed[] = {VHOST_P_REPLY_ACK, VHOST_P_CONFIG};
    uint64_t whole = backend.protocol;

    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        SAYS(backend.protocol = whole & ~BIT(needed[i]));
        assert_int_equal(converse(10 * SECOND), -ENOTSUP);
        assert_int_equal(front.fd, -1);
    }
    SAYS(backend.protocol = whole);
    SAYS(backend.features &= ~BIT(VHOST_F_PROTOCOL));
    assert_int_equal(converse(10 * SECOND), -ENOTSUP);
}

static void test_a_back_end_with_no_more_than_that_will_do(void **state)
{
    (void)state;
    SAYS(backend.protocol =
             BIT(VHOST_P_REPLY_ACK) | BIT(VHOST_P_CONFIG) | BIT(40) /* never heard of */);
    assert_int_equal(converse(10 * SECOND), 0);
    assert_int_equal(front.queues, 1);
    assert_int_equal(front.backend, -1);
    assert_int_equal(inflight.fd, -1);
    backend_lock(&backend);
    assert_int_equal(backend.seen.protocol, backend.protocol & ~BIT(40));
    assert_int_equal(backend.seen.resets, 0);
    backend_unlock(&backend);
}

static void test_a_socket_that_is_not_there_is_an_error(void **state)
{
    char longer[200];

    (void)state;
    vhost_front_patience(&front, 10 * SECOND);
    assert_int_equal(vhost_front_connect(&front, "/nowhere/at/all", &error), -ENOENT);
    assert_non_null(strstr(error.text, "No such file"));
    assert_int_equal(vhost_front_connect(&front, "", &error), -EINVAL);
    memset(longer, 'a', sizeof(longer));
    longer[sizeof(longer) - 1] = 0;
    assert_int_equal(vhost_front_connect(&front, longer, &error), -EINVAL);
    assert_int_equal(front.fd, -1);
}

static void test_waiting_can_be_ended_from_outside(void **state)
{
    (void)state;
    spoils(BACKEND_SILENT, 5);
    front.interrupt = eventfd(1, EFD_CLOEXEC);
    assert_int_equal(converse(100 * SECOND), -ECANCELED);
    close(front.interrupt);
}

/* ---- news ---- */

static int take_news(bool *changed)
{
    *changed = false;
    return vhost_front_take_news(&front, changed, &error);
}

static void test_a_change_of_the_configuration_is_heard(void **state)
{
    const uint32_t change[3] = {2, VHOST_FLAG_VERSION, 0};
    const uint32_t other[5] = {5, VHOST_FLAG_VERSION, 8, 1, 2};
    bool changed;

    (void)state;
    vhost_front_patience(&front, 10 * SECOND);
    assert_int_equal(set_up(), 0);
    assert_int_equal(backend_say(&backend, change, sizeof(change)), 0);
    assert_int_equal(take_news(&changed), 0);
    assert_true(changed);
    assert_int_equal(backend_say(&backend, other, sizeof(other)), 0);
    assert_int_equal(take_news(&changed), 0);
    assert_false(changed);
}

static void test_news_are_answered_when_an_answer_is_wanted(void **state)
{
    const uint32_t change[3] = {2, VHOST_FLAG_VERSION | VHOST_FLAG_NEED_REPLY, 0};
    const uint32_t other[3] = {3, VHOST_FLAG_VERSION | VHOST_FLAG_NEED_REPLY, 0};
    uint32_t answer[5];
    bool changed;

    (void)state;
    vhost_front_patience(&front, 10 * SECOND);
    assert_int_equal(set_up(), 0);
    assert_int_equal(backend_say(&backend, change, sizeof(change)), 0);
    assert_int_equal(backend_say(&backend, other, sizeof(other)), 0);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(take_news(&changed), 0);
        SAYS(assert_int_equal(recv(backend.channel, answer, sizeof(answer), 0), sizeof(answer)));
        assert_int_equal(answer[0], i ? 3 : 2);
        assert_int_equal(answer[1], VHOST_FLAG_VERSION | VHOST_FLAG_REPLY);
        assert_int_equal(answer[2], 8);
        assert_int_equal(answer[3], i); /* 0: done */
    }
}

static void test_news_that_are_nonsense_are_refused(void **state)
{
    static const uint32_t nonsense[][3] = {
        {2, 0, 0},
        {2, VHOST_FLAG_VERSION | VHOST_FLAG_REPLY, 0},
        {2, VHOST_FLAG_VERSION, 100000},
    };
    bool changed;

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        vhost_front_patience(&front, 10 * SECOND);
        assert_int_equal(set_up(), 0);
        assert_int_equal(backend_say(&backend, nonsense[i], sizeof(nonsense[i])), 0);
        assert_int_equal(take_news(&changed), VDISK_E_MALFORMED);
        hang_up();
    }
    vhost_front_patience(&front, 10 * SECOND);
    assert_int_equal(set_up(), 0);
    assert_int_equal(backend_say(&backend, nonsense[0], 5), 0);
    vhost_front_patience(&front, SECOND / 50);
    assert_int_equal(take_news(&changed), -ETIMEDOUT);
    backend_drop(&backend);
    vhost_front_patience(&front, 10 * SECOND);
    assert_int_equal(take_news(&changed), -EPIPE);
}

/* ---- all of them ---- */

static int begin(void **state)
{
    const char *tmp = getenv("TMPDIR");

    (void)state;
    snprintf(directory, sizeof(directory), "%s/vdisk-front-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof(path), "%s/s", directory);
    memory = (struct vm_memory){
        .fd = memfd_create("guest", MFD_CLOEXEC),
        .count = 2,
        .region = {{.guest = 0, .size = 8192}, {.guest = 0x100000, .size = 4096, .offset = 8192}},
    };
    kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    vhost_front_init(&front);
    inflight.fd = -1;
    backend_init(&backend);
    return backend_start(&backend, path);
}

static int end(void **state)
{
    (void)state;
    hang_up();
    backend_stop(&backend);
    close(kick);
    close(call);
    close(err);
    close(memory.fd);
    unlink(path);
    return rmdir(directory);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_back_end_is_told_all_that_it_needs),
        TEST(test_queues_are_stopped_where_the_back_end_says),
        TEST(test_in_flight_memory_is_made_once_and_given_to_each),
        TEST(test_the_end_of_the_connection_is_seen_at_each_message),
        TEST(test_silence_ends_at_the_deadline),
        TEST(test_an_answer_to_something_else_is_refused),
        TEST(test_an_answer_of_another_length_is_refused),
        TEST(test_a_descriptor_that_was_not_asked_for_is_refused_and_closed),
        TEST(test_a_refusal_is_told_from_the_end),
        TEST(test_what_does_not_fit_the_question_is_refused),
        TEST(test_a_back_end_that_lacks_what_a_drive_needs_is_refused),
        TEST(test_a_back_end_with_no_more_than_that_will_do),
        TEST(test_a_socket_that_is_not_there_is_an_error),
        TEST(test_waiting_can_be_ended_from_outside),
        TEST(test_a_change_of_the_configuration_is_heard),
        TEST(test_news_are_answered_when_an_answer_is_wanted),
        TEST(test_news_that_are_nonsense_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
