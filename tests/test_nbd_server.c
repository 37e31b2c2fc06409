/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The NBD server, by clients in a process of their own (tests/nbd_clients.py), on a Unix socket.
 */
#include "nbd_server.h"
#include "task.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB        (UINT64_C(1) << 20)
#define PATIENCE   INT64_C(60000000000)
#define STEP       INT64_C(5000000)
#define PYTHON     "/usr/bin/python3" /* of the distribution, which has libnbd's module */
#define NO_CLIENTS 77

static const uint8_t key_bytes[32] = "any 32 bytes are as good as this";
static const struct vdisk_key key = {
    .kind = VDISK_KEY_FILE, .bytes = key_bytes, .length = sizeof(key_bytes)};

static char directory[PATH_MAX / 2], path[PATH_MAX], socket_path[PATH_MAX], address[PATH_MAX + 8];
static struct exports *exports;
static struct vdisk_unlocked *unlocked;
static bool has_clients;

struct run {
    const char *name;
    const struct tls_settings *tls;
    bool tls_is_optional;
    unsigned events[NBD_EVENT_CLOSED + 1];
    char subject[256];
    int status;
    bool ended;
};

static void on_event(void *opaque, const struct nbd_event *event)
{
    struct run *run = opaque;

    __atomic_fetch_add(&run->events[event->kind], 1, __ATOMIC_SEQ_CST);
    if (event->kind == NBD_EVENT_OPENED)
        snprintf(run->subject, sizeof(run->subject), "%s", event->subject);
}

static int client(const char *name, bool with_folder)
{
    const char *source = getenv("VDISK_SRC");
    char script[PATH_MAX];
    int64_t end = reactor_now() + PATIENCE;
    int status = -1;
    pid_t pid;

    snprintf(script, sizeof(script), "%s/tests/nbd_clients.py", source ? source : ".");
    pid = fork();
    if (pid == 0) {
        unsetenv("LD_PRELOAD");
        execl(PYTHON, PYTHON, script, name, socket_path, with_folder ? directory : (char *)NULL,
              (char *)NULL);
        _exit(NO_CLIENTS);
    }
    while (waitpid(pid, &status, WNOHANG) == 0) {
        if (reactor_now() > end)
            (void)kill(pid, SIGKILL);
        if (task_current())
            task_sleep(STEP);
        else
            usleep(5000);
    }
    return status;
}

static void body(void *arg)
{
    const char *const addresses[] = {address};
    struct run *run = arg;
    struct export_options options = {.name = "", .path = path, .unlocked = unlocked};
    struct nbd_options server_options = {.addresses = addresses,
                                         .address_count = 1,
                                         .connections_max = 4,
                                         .tls = run->tls,
                                         .tls_required = run->tls && !run->tls_is_optional,
                                         .event = on_event,
                                         .opaque = run};
    struct nbd_server *server = NULL;
    struct vdisk_error error = {0};

    run->status = export_add(exports, &options, &error);
    if (run->status == 0)
        run->status = nbd_server_start(task_reactor(task_current()), exports, &server_options,
                                       &server, &error);
    if (run->status)
        print_message("%s\n", error.text);
    if (run->status == 0)
        run->status = client(run->name, run->tls);
    if (server)
        nbd_server_stop(server);
    (void)export_remove(exports, "", &error);
    run->ended = true;
}

static void run_case(struct run *run)
{
    if (!has_clients)
        skip();
    assert_int_equal(task_spawn(exports_main(exports), body, run), 0);
    while (!run->ended)
        reactor_step(exports_main(exports), true);
    assert_int_equal(run->status, 0);
    assert_int_equal(run->events[NBD_EVENT_OPENED], run->events[NBD_EVENT_CLOSED]);
    assert_int_not_equal(access(socket_path, F_OK), 0);
}

#define CASE(what)                                                                                 \
    static void test_##what(void **state)                                                          \
    {                                                                                              \
        struct run run = {.name = #what};                                                          \
                                                                                                   \
        (void)state;                                                                               \
        run_case(&run);                                                                            \
    }

CASE(reads_what_was_written)
CASE(many_requests_are_in_flight)
CASE(bounds_have_their_errors)
CASE(contexts_and_snapshots)
CASE(a_failed_set_clears_the_contexts)
CASE(extended_headers)
CASE(long_lengths_and_wrong_requests)
CASE(who_does_not_read_stops_only_themselves)

static void test_clients_over_the_cap_are_sent_away(void **state)
{
    struct run run = {.name = "clients_over_the_cap_are_sent_away"};

    (void)state;
    run_case(&run);
    assert_int_equal(run.events[NBD_EVENT_DENIED], 1);
}

static const struct tls_settings by_keys = {.kind = TLS_PSK, .folder = directory};
static const struct tls_settings by_certificates = {.kind = TLS_X509, .folder = directory};
static const struct tls_settings any_client = {
    .kind = TLS_X509, .folder = directory, .any_client = true};

static void test_tls_is_optional(void **state)
{
    struct run run = {.name = "tls_is_optional", .tls = &by_keys, .tls_is_optional = true};

    (void)state;
    run_case(&run);
    assert_int_equal(run.events[NBD_EVENT_AUTH_FAILED], 3);
}

static void run_certificates(struct run *run, unsigned refused)
{
    if (!has_clients)
        skip();
    if (client("make_certificates", true) != 0) {
        print_message("skipped: there is no openssl to make certificates\n");
        skip();
    }
    run_case(run);
    assert_int_equal(run->events[NBD_EVENT_AUTH_FAILED], refused);
}

static void test_certificates_are_asked_for(void **state)
{
    struct run run = {.name = "certificates_are_asked_for", .tls = &by_certificates};

    (void)state;
    run_certificates(&run, 3);
    assert_string_equal(run.subject, "CN=alice");
}

static void test_any_client_is_let_in(void **state)
{
    struct run run = {.name = "any_client_is_let_in", .tls = &any_client};

    (void)state;
    run_certificates(&run, 0);
}

static void test_tls_is_required(void **state)
{
    struct run run = {.name = "tls_is_required", .tls = &by_keys};

    (void)state;
    run_case(&run);
    assert_int_equal(run.events[NBD_EVENT_AUTH_FAILED], 1);
    assert_string_equal(run.subject, "alice");
}

static int make_image(void)
{
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = 64 * MIB};
    struct vdisk_image *image;
    uint8_t *data = malloc(8 * MIB);
    int result;

    if (!data || vdisk_create(path, &create, &key, &image, NULL))
        return -1;
    memset(data, 'a', 8 * MIB);
    result = vdisk_write(image, 0, data, 8 * MIB);
    memset(data, 'b', MIB);
    result = result ? result : vdisk_snapshot_create(image, "one");
    result = result ? result : vdisk_write(image, 4 * MIB, data, MIB);
    free(data);
    return vdisk_close(image, NULL) || result ? -1 : 0;
}

static int set_up(void **state)
{
    const char *tmp = getenv("TMPDIR");
    struct exports_options options = {.reactors = 2, .workers = 1};
    FILE *file;

    (void)state;
    snprintf(directory, sizeof(directory), "%s/vdisk-nbd-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof(path), "%s/a.vdk", directory);
    snprintf(socket_path, sizeof(socket_path), "%s/s", directory);
    snprintf(address, sizeof(address), "unix:%s", socket_path);
    snprintf(path, sizeof(path), "%s/keys.psk", directory);
    file = fopen(path, "w");
    if (!file)
        return -1;
    fprintf(file, "bob:00\nalice:%064d\n", 1234567);
    fclose(file);
    snprintf(path, sizeof(path), "%s/a.vdk", directory);
    has_clients = client("has_libnbd", false) == 0;
    if (make_image() || vdisk_unlock(path, &key, &unlocked, NULL))
        return -1;
    return exports_new(&options, &exports, NULL);
}

static int tear_down(void **state)
{
    char command[PATH_MAX + 16];

    (void)state;
    exports_free(exports);
    vdisk_unlocked_free(unlocked);
    snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return system(command);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(reads_what_was_written),
        TEST(many_requests_are_in_flight),
        TEST(bounds_have_their_errors),
        TEST(contexts_and_snapshots),
        TEST(a_failed_set_clears_the_contexts),
        TEST(extended_headers),
        TEST(long_lengths_and_wrong_requests),
        TEST(tls_is_required),
        TEST(tls_is_optional),
        TEST(certificates_are_asked_for),
        TEST(any_client_is_let_in),
        TEST(clients_over_the_cap_are_sent_away),
        TEST(who_does_not_read_stops_only_themselves),
    };

    if (vdisk_init())
        return 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
