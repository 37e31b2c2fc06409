/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NBD server with many clients at once, and with clients that mean no good, by either back end.
 */
#include "load_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- many at once --------------------------------------------------------------------------- */

#define CONNECTIONS 256u
#define OF_EACH     (CONNECTIONS / LOAD_EXPORTS)
#define REGION      ((size_t)(MIB / OF_EACH))
#define PIECE       ((size_t)64 * KIB)

/* Differs in every byte from what is anywhere near, in this export or another. */
static void fill(uint8_t *out, unsigned export, uint64_t offset)
{
    for (size_t i = 0; i < PIECE; i++) {
        uint64_t word = (offset + i) * UINT64_C(0x9e3779b97f4a7c15) + export * 0x10001u;

        out[i] = (uint8_t)(word >> 29);
    }
}

static void read_back(int *fds, unsigned by)
{
    static uint8_t have[PIECE], want[PIECE];

    for (unsigned i = 0; i < CONNECTIONS; i++) {
        uint64_t region = (i + by) % OF_EACH * REGION;

        for (size_t at = 0; at < REGION; at += PIECE)
            load_ask(fds[i], NBD_CMD_READ, region + at, NULL, PIECE);
    }
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        for (size_t at = 0; at < REGION; at += PIECE) {
            uint64_t offset = load_reply(fds[i], have, PIECE);

            fill(want, i / OF_EACH, offset);
            assert_memory_equal(have, want, PIECE);
        }
    }
}

static void many_at_once(bool no_uring)
{
    struct load_server server = {
        .exports = LOAD_EXPORTS, .connections_max = CONNECTIONS, .no_uring = no_uring};
    static uint8_t data[PIECE];
    int fds[CONNECTIONS];

    load_start(&server);
    for (unsigned i = 0; i < CONNECTIONS; i++)
        fds[i] = load_attach(i / OF_EACH);
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        for (size_t at = 0; at < REGION; at += PIECE) {
            uint64_t offset = i % OF_EACH * REGION + at;

            fill(data, i / OF_EACH, offset);
            load_ask(fds[i], NBD_CMD_WRITE, offset, data, PIECE);
        }
    }
    for (unsigned i = 0; i < CONNECTIONS; i++) {
        for (size_t at = 0; at < REGION; at += PIECE)
            (void)load_reply(fds[i], NULL, 0);
    }
    read_back(fds, 0);
    read_back(fds, 1); /* what another connection wrote */
    for (unsigned i = 0; i < CONNECTIONS; i++)
        close(fds[i]);
    load_stop(&server);
}

static void test_64_exports_and_256_connections_by_io_uring(void **state)
{
    (void)state;
    many_at_once(false);
}

static void test_64_exports_and_256_connections_by_threads(void **state)
{
    (void)state;
    many_at_once(true);
}

/* --- clients that mean no good -------------------------------------------------------------- */

#define SILENT   12u
#define HALF     4u
#define CLAIMING 12u
#define FLOODING 3u
#define BAD      (SILENT + HALF + CLAIMING + FLOODING)

static uint64_t resident_kib(pid_t pid)
{
    char path[64], line[256];
    unsigned long long kib = 0;
    FILE *file;

    snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
    file = fopen(path, "r");
    assert_non_null(file);
    while (fgets(line, sizeof(line), file) && sscanf(line, "VmRSS: %llu", &kib) != 1)
        ;
    fclose(file);
    return kib;
}

static void flood(int fd)
{
    uint8_t header[NBD_REQUEST_BYTES];

    load_put_request(header, NBD_CMD_READ, 0, MIB);
    for (unsigned i = 0; i < 200; i++) {
        if (send(fd, header, sizeof(header), MSG_DONTWAIT | MSG_NOSIGNAL) != sizeof(header))
            usleep(2000); /* as much as it takes */
    }
}

/* Nanoseconds for each of some writes and reads of one block, on average. */
static int64_t service(int fd)
{
    static uint8_t data[4096], back[4096];
    int64_t began = reactor_now();

    for (unsigned i = 0; i < 200; i++) {
        memset(data, (int)i, sizeof(data));
        load_ask(fd, NBD_CMD_WRITE, i * 4096, data, sizeof(data));
        (void)load_reply(fd, NULL, 0);
        load_ask(fd, NBD_CMD_READ, i * 4096, NULL, sizeof(back));
        (void)load_reply(fd, back, sizeof(back));
        assert_memory_equal(data, back, sizeof(back));
    }
    return (reactor_now() - began) / 400;
}

static bool has_hung_up(int fd)
{
    char byte;

    return recv(fd, &byte, 1, 0) == 0;
}

static bool is_sanitized(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return true;
#else
    return false;
#endif
}

static void bad_clients(bool no_uring)
{
    struct load_server server = {.exports = 2, .connections_max = BAD + 2, .no_uring = no_uring};
    uint8_t claim[NBD_REQUEST_BYTES + 1] = {0};
    int bad[BAD], good, late;
    unsigned n = 0;
    uint64_t before, grown;
    int64_t began;

    load_start(&server);
    good = load_attach(0);
    (void)service(good);
    before = resident_kib(server.pid);
    began = reactor_now();
    while (n < SILENT)
        bad[n++] = load_dial();
    while (n < SILENT + HALF) {
        bad[n] = load_dial();
        load_send(bad[n++], "\0\0\0\3IHAVEO", 10);
    }
    load_put_request(claim, NBD_CMD_WRITE, 0, NBD_PAYLOAD_MAX);
    nbd_put64(claim + 16, 0);
    nbd_put32(claim + 24, (uint32_t)MIB);
    while (n < SILENT + HALF + CLAIMING) {
        bad[n] = load_attach(n % 2);
        load_send(bad[n++], claim, sizeof(claim));
    }
    while (n < BAD) {
        bad[n] = load_attach(n % 2);
        flood(bad[n++]);
    }
    assert_true(service(good) < SECOND / 5);
    /* 64 MiB for each that floods, and what is claimed and not sent takes none. */
    grown = resident_kib(server.pid) - before;
    print_message("the server has grown by %llu KiB\n", (unsigned long long)grown);
    if (!is_sanitized())
        assert_true(grown < FLOODING * 70 * KIB + 16 * KIB);
    for (unsigned i = 0; i < SILENT + HALF; i++)
        assert_true(has_hung_up(bad[i]));
    assert_true(reactor_now() - began >= 9 * SECOND);
    (void)service(good);
    /* Their places are free again. */
    late = load_attach(1);
    (void)service(late);
    close(late);
    for (unsigned i = 0; i < BAD; i++)
        close(bad[i]);
    (void)service(good);
    close(good);
    load_stop(&server);
}

static void test_bad_clients_stop_nobody_else_by_io_uring(void **state)
{
    (void)state;
    bad_clients(false);
}

static void test_bad_clients_stop_nobody_else_by_threads(void **state)
{
    (void)state;
    bad_clients(true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_64_exports_and_256_connections_by_io_uring),
        cmocka_unit_test(test_64_exports_and_256_connections_by_threads),
        cmocka_unit_test(test_bad_clients_stop_nobody_else_by_io_uring),
        cmocka_unit_test(test_bad_clients_stop_nobody_else_by_threads),
    };

    if (vdisk_init())
        return 1;
    return cmocka_run_group_tests(tests, load_set_up, load_tear_down);
}
