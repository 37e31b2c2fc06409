/* SPDX-License-Identifier: Apache-2.0 */
/* See load_kit.h. */
#include "load_kit.h"

#include "task.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static const uint8_t key_bytes[32] = "any 32 bytes are as good as this";
static const struct vdisk_key key = {
    .kind = VDISK_KEY_FILE, .bytes = key_bytes, .length = sizeof(key_bytes)};

static char directory[96]; /* with a socket's name, no longer than an address may be */
static struct sockaddr_un address = {.sun_family = AF_UNIX};

/* --- the server's process ------------------------------------------------------------------- */

struct order {
    enum {
        ORDER_LIMITS,
        ORDER_LIMITS_OF_GROUP,
        ORDER_TELL
    } what;
    struct limit_settings limits;
};

struct serving {
    const struct load_server *server;
    struct exports *exports;
    int orders, ready;
    int result;
    bool ended;
};

static void image_path(char *out, size_t room, unsigned i)
{
    snprintf(out, room, "%s/%u.vdk", directory, i);
}

static int add(struct serving *serving, unsigned i)
{
    char name[16], path[PATH_MAX];
    struct export_options options = {.name = name,
                                     .path = path,
                                     .group = serving->server->in_group ? "group" : NULL,
                                     .when_failing =
                                         serving->server->waits ? EXPORT_WAIT : EXPORT_REPORT};
    struct vdisk_unlocked *unlocked;
    struct vdisk_error error;
    int result;

    snprintf(name, sizeof(name), "e%u", i);
    image_path(path, sizeof(path), i);
    result = vdisk_unlock(path, &key, &unlocked, &error);
    if (result)
        return result;
    options.unlocked = unlocked;
    result = export_add(serving->exports, &options, &error);
    vdisk_unlocked_free(unlocked);
    return result;
}

static void tell(struct serving *serving)
{
    for (unsigned i = 0; i < serving->server->exports; i++) {
        char name[16];
        struct export *export;
        struct stats *stats;
        const struct stats_counter *writes;

        snprintf(name, sizeof(name), "e%u", i);
        export = export_get(serving->exports, name);
        stats = export_stats(export);
        writes = &stats->op[STATS_WRITE];
        (void)fprintf(stderr,
                      "server: %s, by %s: %llu requests in flight, %llu wait for the disk; %llu "
                      "writes in %.3f s, %llu failed; opened anew %llu times\n",
                      name, reactor_backend(export_reactor(export)),
                      (unsigned long long)stats->in_flight, (unsigned long long)stats->delayed,
                      (unsigned long long)writes->count, (double)writes->nanoseconds / 1e9,
                      (unsigned long long)writes->errors, (unsigned long long)stats->reopened);
        export_put(export);
    }
}

static void set_limits(struct serving *serving, const struct order *order)
{
    struct export *export = export_get(serving->exports, "e0");

    limit_group_set(order->what == ORDER_LIMITS_OF_GROUP ? exports_group(serving->exports, "group")
                                                         : export_limits(export),
                    &order->limits);
    export_put(export);
}

static void follow_orders(struct serving *serving)
{
    struct order order;

    for (;;) {
        if (task_poll(serving->orders, POLLIN, TASK_FOREVER) < 0 ||
            read(serving->orders, &order, sizeof(order)) != sizeof(order))
            return;
        if (order.what == ORDER_TELL)
            tell(serving);
        else
            set_limits(serving, &order);
        if (write(serving->ready, "o", 1) != 1)
            return;
    }
}

static void serve(void *arg)
{
    struct serving *serving = arg;
    char at[sizeof(address.sun_path) + 8];
    const char *const addresses[] = {at};
    struct nbd_options options = {.addresses = addresses,
                                  .address_count = 1,
                                  .connections_max = serving->server->connections_max};
    struct nbd_server *server = NULL;
    struct vdisk_error error;

    snprintf(at, sizeof(at), "unix:%s", address.sun_path);
    for (unsigned i = 0; i < serving->server->exports && serving->result == 0; i++)
        serving->result = add(serving, i);
    if (serving->result == 0)
        serving->result = nbd_server_start(task_reactor(task_current()), serving->exports, &options,
                                           &server, &error);
    if (serving->result == 0 && write(serving->ready, "r", 1) == 1)
        follow_orders(serving);
    if (server)
        nbd_server_stop(server);
    for (unsigned i = 0; i < serving->server->exports; i++) {
        char name[16];
        int result;

        snprintf(name, sizeof(name), "e%u", i);
        result = export_remove(serving->exports, name, &error);
        serving->result = serving->result ? serving->result : result;
    }
    serving->ended = true;
}

static int serve_in_a_process(struct serving *serving)
{
    struct exports_options options = {.reactors =
                                          serving->server->reactors ? serving->server->reactors : 2,
                                      .workers = 1,
                                      .memory_bytes = serving->server->memory_bytes,
                                      .no_uring = serving->server->no_uring};

    if (exports_new(&options, &serving->exports, NULL) ||
        task_spawn(exports_main(serving->exports), serve, serving))
        return 2;
    while (!serving->ended)
        reactor_step(exports_main(serving->exports), true);
    exports_free(serving->exports);
    return serving->result != 0;
}

/* A byte comes when the server is ready, and for each order. */
static void wait_for(const struct load_server *server)
{
    char byte;

    assert_int_equal(read(server->answers, &byte, 1), 1);
}

void load_start(struct load_server *server)
{
    struct serving serving = {.server = server};
    int orders[2], ready[2];

    assert_int_equal(pipe(orders), 0);
    assert_int_equal(pipe(ready), 0);
    server->pid = fork();
    assert_true(server->pid >= 0);
    if (server->pid == 0) {
        close(orders[1]);
        close(ready[0]);
        serving.orders = orders[0];
        serving.ready = ready[1];
        _exit(serve_in_a_process(&serving));
    }
    close(orders[0]);
    close(ready[1]);
    server->orders = orders[1];
    server->answers = ready[0];
    wait_for(server);
}

void load_stop(struct load_server *server)
{
    int status;

    close(server->orders);
    assert_int_equal(waitpid(server->pid, &status, 0), server->pid);
    assert_int_equal(status, 0);
    close(server->answers);
}

void load_set_limits(struct load_server *server, bool for_group,
                     const struct limit_settings *limits)
{
    struct order order = {for_group ? ORDER_LIMITS_OF_GROUP : ORDER_LIMITS, *limits};

    assert_int_equal(write(server->orders, &order, sizeof(order)), sizeof(order));
    wait_for(server);
}

void load_tell(struct load_server *server)
{
    struct order order = {.what = ORDER_TELL};

    assert_int_equal(write(server->orders, &order, sizeof(order)), sizeof(order));
    wait_for(server);
}

/* --- clients -------------------------------------------------------------------------------- */

static pid_t tester;

/* In a process of a test's a failure ends it: it must not go on with the next test. */
static void must(bool holds, const char *what)
{
    int code = errno;

    if (holds)
        return;
    if (getpid() == tester)
        fail_msg("%s (errno: %s)", what, strerror(code));
    (void)fprintf(stderr, "client %d: %s (errno: %s)\n", (int)getpid(), what, strerror(code));
    _exit(LOAD_CLIENT_FAILED);
}

void load_send(int fd, const void *data, size_t length)
{
    const uint8_t *at = data;

    while (length > 0) {
        ssize_t sent = send(fd, at, length, MSG_NOSIGNAL);

        must(sent > 0, "the server takes no more");
        at += sent;
        length -= (size_t)sent;
    }
}

static void receive_all(int fd, void *data, size_t length)
{
    uint8_t *at = data;

    while (length > 0) {
        ssize_t got = recv(fd, at, length, 0);

        must(got > 0, got ? "no answer" : "the server has hung up");
        at += got;
        length -= (size_t)got;
    }
}

int load_dial(void)
{
    const struct timeval patience = {.tv_sec = 60};
    uint8_t greeting[NBD_GREETING_BYTES];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    (void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    receive_all(fd, greeting, sizeof(greeting));
    return fd;
}

int load_attach(unsigned export)
{
    uint8_t words[4 + NBD_OPTION_BYTES + 16], answer[10];
    int fd = load_dial(), length;

    length = snprintf((char *)words + 4 + NBD_OPTION_BYTES, 16, "e%u", export);
    nbd_put32(words, NBD_HANDSHAKE_FIXED | NBD_HANDSHAKE_NO_ZEROES);
    nbd_put64(words + 4, NBD_OPT_MAGIC);
    nbd_put32(words + 12, NBD_OPT_EXPORT_NAME);
    nbd_put32(words + 16, (uint32_t)length);
    load_send(fd, words, 4 + NBD_OPTION_BYTES + (size_t)length);
    receive_all(fd, answer, sizeof(answer));
    assert_int_equal(nbd_get64(answer), LOAD_DRIVE);
    return fd;
}

void load_put_request(uint8_t out[static NBD_REQUEST_BYTES], unsigned command, uint64_t offset,
                      size_t length)
{
    memset(out, 0, NBD_REQUEST_BYTES);
    nbd_put32(out, NBD_REQUEST_MAGIC);
    nbd_put16(out + 6, (uint16_t)command);
    nbd_put64(out + 8, offset); /* the cookie */
    nbd_put64(out + 16, offset);
    nbd_put32(out + 24, (uint32_t)length);
}

void load_ask(int fd, unsigned command, uint64_t offset, const void *data, size_t length)
{
    uint8_t header[NBD_REQUEST_BYTES];

    load_put_request(header, command, offset, length);
    load_send(fd, header, sizeof(header));
    if (data)
        load_send(fd, data, length);
}

uint64_t load_reply(int fd, void *data, size_t length)
{
    uint8_t header[NBD_SIMPLE_REPLY_BYTES];

    receive_all(fd, header, sizeof(header));
    must(nbd_get32(header) == NBD_SIMPLE_REPLY_MAGIC, "no reply, but something else");
    errno = (int)nbd_get32(header + 4); /* most are the same */
    must(errno == 0, "a request failed");
    receive_all(fd, data, length);
    return nbd_get64(header + 8);
}

/* --- the images ----------------------------------------------------------------------------- */

int load_set_up(void **state)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = LOAD_DRIVE};
    const char *base = getenv("TMPDIR");
    struct vdisk_image *image;

    (void)state;
    tester = getpid();
    snprintf(directory, sizeof(directory), "%s/vdisk-load-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(directory))
        return -1;
    snprintf(address.sun_path, sizeof(address.sun_path), "%s/s", directory);
    for (unsigned i = 0; i < LOAD_EXPORTS; i++) {
        char path[PATH_MAX];

        image_path(path, sizeof(path), i);
        if (vdisk_create(path, &create, &key, &image, NULL) || vdisk_close(image, NULL))
            return -1;
    }
    return 0;
}

int load_tear_down(void **state)
{
    char command[sizeof(directory) + 16];

    (void)state;
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}
