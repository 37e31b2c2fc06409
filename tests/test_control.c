/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The management socket (vdiskd/control*.c): what is let in, and what it does to a served image.
 */
#include "audit.h"
#include "control.h"
#include "export.h"
#include "task.h"

#include "vdisk/vdisk.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define VIEWER   54321u /* users that need not exist */
#define STRANGER 54322u

static char folder[128], socket_path[160], image_path[160], log_path[160];
static char image_id[64]; /* as export-list has it */
static const char key_bytes[] = "a key file of more than 32 bytes, always the same";

static int set_up(void **state)
{
    const char *parent = getenv("TMPDIR");

    (void)state;
    snprintf(folder, sizeof(folder), "%.80s/control-XXXXXX", parent ? parent : "/tmp");
    if (!mkdtemp(folder))
        return -1;
    snprintf(socket_path, sizeof(socket_path), "%s/run/s", folder);
    snprintf(image_path, sizeof(image_path), "%s/a.vdk", folder);
    snprintf(log_path, sizeof(log_path), "%s/log", folder);
    return vdisk_init();
}

static int tear_down(void **state)
{
    static const char *const names[] = {"run/s", "run", "a.vdk", "log", "log.key"};
    char path[200];

    (void)state;
    for (unsigned i = 0; i < 5; i++) {
        snprintf(path, sizeof(path), "%s/%s", folder, names[i]);
        remove(path);
    }
    return rmdir(folder);
}

static int listen_at(const char *path, struct vdisk_error *error)
{
    return control_listen(path, geteuid(), getegid(), error);
}

/* ---- requests ---- */

static int parse(const char *text, struct control_request *request)
{
    struct vdisk_error error = {0};
    size_t length = strlen(text);
    char *copy = malloc(length); /* so that a sanitizer sees its end */

    assert_non_null(copy);
    memcpy(copy, text, length);
    int rc = control_parse(copy, length, request, &error);
    free(copy);
    assert_true(rc == 0 || (error.code == rc && error.text[0]));
    return rc;
}

static void test_requests_are_read_into_bounds(void **state)
{
    struct control_request request;

    (void)state;
    assert_int_equal(
        parse("{\"command\":\"export-add\",\"export\":\"a\",\"image\":\"/a.vdk\",\"key_file\":"
              "\"/k\",\"key_kind\":\"passphrase\",\"read_only\":true,\"limits\":{\"read_ops\":"
              "{\"rate\":100,\"burst\":7},\"write_bytes\":{\"rate\":9223372036854775807}}}",
              &request),
        0);
    assert_int_equal(request.command->verb, CONTROL_EXPORT_ADD);
    assert_string_equal(request.export, "a");
    assert_string_equal(request.image, "/a.vdk");
    assert_string_equal(request.key_file, "/k");
    assert_int_equal(request.key_kind, VDISK_KEY_PASSPHRASE);
    assert_true(request.read_only);
    assert_int_equal(request.limits.kind[LIMIT_READ_OPS].rate, 100);
    assert_int_equal(request.limits.kind[LIMIT_READ_OPS].burst, 7);
    assert_true(request.limits.kind[LIMIT_WRITE_BYTES].rate == INT64_MAX);
    assert_int_equal(request.limits.kind[LIMIT_WRITE_OPS].rate, 0);
    assert_int_equal(
        parse("{\"command\":\"export-add\",\"export\":\"a\",\"image\":\"/a.vdk\",\"key_file\":"
              "\"/k\",\"key_kind\":\"key-file\",\"vhost_user\":\"/run/a\","
              "\"vhost_snapshot\":\"monday\"}",
              &request),
        0);
    assert_string_equal(request.vhost_user, "/run/a");
    assert_string_equal(request.vhost_snapshot, "monday");
    assert_int_equal(parse("{\"command\":\"resize\",\"export\":\"\",\"size\":4096}", &request), 0);
    assert_int_equal(request.size, 4096);
}

static void test_requests_that_make_no_sense_are_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "null",
        "\"shutdown\"",
        "{}",
        "{\"command\":1}",
        "{\"command\":\"key-add\",\"export\":\"a\",\"key_file\":\"/k\"}",
        "{\"command\":null}",
        "{\"command\":\"export-remove\",\"export\":null}",
        "{\"command\":\"format\"}",
        ("{\"command\":\"export-add\",\"export\":\"a\",\"image\":\"/a\",\"key_file\":\"/k\","
         "\"key_kind\":\"key-file\",\"vhost_user\":\"run/a\"}"),
        ("{\"command\":\"export-add\",\"export\":\"a\",\"image\":\"/a\",\"key_file\":\"/k\","
         "\"key_kind\":\"key-file\",\"vhost_snapshot\":\"monday\"}"),
        "{\"command\":\"shutdown\",\"command\":\"shutdown\"}",
        "{\"command\":\"shutdown\"} x",
        "{\"command\":\"shutdown\",\"export\":\"a\"}",
        "{\"command\":\"export-remove\"}",
        "{\"command\":\"export-remove\",\"export\":7}",
        "{\"command\":\"export-remove\",\"export\":\"a\\nb\"}",
        "{\"command\":\"export-remove\",\"export\":\"a\\u0000b\"}",
        "{\"command\":\"export-remove\",\"export\":\"a\xff\"}",
        "{\"command\":\"resize\",\"export\":\"a\",\"size\":-1}",
        "{\"command\":\"resize\",\"export\":\"a\",\"size\":1.5}",
        "{\"command\":\"resize\",\"export\":\"a\",\"size\":\"1\"}",
        "{\"command\":\"resize\",\"export\":\"a\",\"size\":72057594037927937}",
        "{\"command\":\"resize\",\"export\":\"a\",\"size\":99999999999999999999999}",
        "{\"command\":\"key-remove\",\"export\":\"a\",\"slot\":16}",
        "{\"command\":\"key-add\",\"export\":\"a\",\"key_file\":\"/k\",\"key\":\"secret\"}",
        "{\"command\":\"key-add\",\"export\":\"a\",\"key_kind\":\"password\"}",
        "{\"command\":\"key-add\",\"export\":\"a\",\"key_file\":\"relative\"}",
        "{\"command\":\"limits-set\",\"export\":\"a\",\"limits\":{\"reads\":{\"rate\":1}}}",
        "{\"command\":\"limits-set\",\"export\":\"a\",\"limits\":{\"read_ops\":{\"burst\":1}}}",
        ("{\"command\":\"limits-set\",\"export\":\"a\","
         "\"limits\":{\"read_ops\":{\"rate\":1,\"x\":1}}}"),
        "{\"command\":\"limits-set\",\"export\":\"a\",\"limits\":[]}",
        "{\"command\":\"snapshot-create\",\"export\":\"a\",\"snapshot\":\"\"}",
    };
    struct control_request request;
    static char deep[60000];

    (void)state;
    for (unsigned i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        if (parse(bad[i], &request) != -EINVAL)
            print_message("taken: %s\n", bad[i]);
        assert_int_equal(parse(bad[i], &request), -EINVAL);
    }
    memset(deep, '[', sizeof(deep) - 1);
    assert_int_equal(parse(deep, &request), -EINVAL);
    memset(deep, 'x', sizeof(deep) - 1);
    memcpy(deep, "{\"command\":\"export-remove\",\"export\":\"", 37);
    memcpy(deep + sizeof(deep) - 3, "\"}", 2);
    assert_int_equal(parse(deep, &request), -EINVAL);
}

/* ---- access ---- */

static enum control_role role_of(const struct control_peers *peers, uid_t uid, const gid_t *groups,
                                 size_t count)
{
    return control_role_of(peers, 500, uid, groups, count);
}

static void test_only_who_is_listed_is_let_in(void **state)
{
    struct control_peers peers = {0};

    (void)state;
    assert_int_equal(role_of(&peers, 0, (const gid_t[]){0}, 1), CONTROL_OPERATOR);
    assert_int_equal(role_of(&peers, 500, (const gid_t[]){0}, 1), CONTROL_OPERATOR);
    assert_int_equal(role_of(&peers, 1000, (const gid_t[]){0}, 1), CONTROL_NOBODY);
    assert_int_equal(control_add_peer(&peers, CONTROL_VIEWER, "1000"), 0);
    assert_int_equal(control_add_peer(&peers, CONTROL_OPERATOR, "@77"), 0);
    assert_int_equal(control_add_peer(&peers, CONTROL_OPERATOR, "root"), 0);
    assert_int_equal(role_of(&peers, 1000, (const gid_t[]){5}, 1), CONTROL_VIEWER);
    assert_int_equal(role_of(&peers, 1000, (const gid_t[]){77}, 1), CONTROL_OPERATOR);
    assert_int_equal(role_of(&peers, 1000, (const gid_t[]){5, 77}, 2), CONTROL_OPERATOR);
    assert_int_equal(role_of(&peers, 1001, (const gid_t[]){5, 1000}, 2), CONTROL_NOBODY);
    assert_int_equal(role_of(&peers, 77, (const gid_t[]){1000}, 1), CONTROL_NOBODY);
    assert_int_equal(control_add_peer(&peers, CONTROL_VIEWER, "no-such-user"), VDISK_E_NOT_FOUND);
    assert_int_equal(control_add_peer(&peers, CONTROL_VIEWER, "4294967295"), VDISK_E_NOT_FOUND);
    while (peers.count < CONTROL_PEERS_MAX)
        assert_int_equal(control_add_peer(&peers, CONTROL_VIEWER, "5"), 0);
    assert_int_equal(control_add_peer(&peers, CONTROL_VIEWER, "5"), VDISK_E_LIMIT);
}

/* In a process of its own, which has these groups and ends. */
static void role_of_member(void)
{
    const gid_t groups[] = {2001, 2002};
    const struct ucred peer = {.uid = 1001, .gid = 1001};
    enum control_role role[3] = {CONTROL_NOBODY};
    const char *names[] = {"@2002", "@1001", "@2003"};
    int fds[2];
    bool ok = setgroups(2, groups) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0;

    for (unsigned i = 0; i < 3; i++) {
        struct control_peers peers = {0};

        ok = ok && control_add_peer(&peers, CONTROL_VIEWER, names[i]) == 0 &&
             control_role_at(&peers, fds[0], &peer, &role[i]) == 0;
    }
    ok = ok && role[0] == CONTROL_VIEWER && role[1] == CONTROL_VIEWER && role[2] == CONTROL_NOBODY;
    _exit(ok ? 0 : 1);
}

static void test_all_groups_of_a_peer_count(void **state)
{
    int status = -1;
    pid_t child;

    (void)state;
    if (geteuid() != 0) {
        print_message("only root can take groups\n");
        skip();
    }
    child = fork();
    if (child == 0)
        role_of_member();
    assert_true(child > 0 && waitpid(child, &status, 0) == child);
    assert_int_equal(status, 0);
}

static void test_the_socket_lies_in_a_folder_that_is_ours(void **state)
{
    struct vdisk_error error;
    struct stat status;
    char run[160];

    (void)state;
    snprintf(run, sizeof(run), "%s/run", folder);
    int fd = listen_at(socket_path, &error);
    assert_true(fd >= 0);
    assert_int_equal(stat(run, &status), 0);
    assert_int_equal(status.st_mode & 027, 0);
    assert_int_equal(listen_at(socket_path, &error), VDISK_E_IN_USE);
    close(fd);
    fd = listen_at(socket_path, &error); /* what a dead daemon left */
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(chmod(run, 0770), 0);
    assert_int_equal(listen_at(socket_path, &error), -EPERM);
    assert_int_equal(chmod(run, 0702), 0);
    assert_int_equal(listen_at(socket_path, &error), -EPERM);
    assert_int_equal(chmod(run, 0700), 0);
    assert_int_equal(listen_at("relative", &error), -EINVAL);
    unlink(socket_path);
    fd = open(socket_path, O_CREAT | O_WRONLY, 0600);
    close(fd);
    assert_int_equal(listen_at(socket_path, &error), VDISK_E_EXISTS);
}

/* ---- a daemon ---- */

static struct {
    struct exports *exports;
    struct control *control;
    pthread_t client;
    unsigned failures;
} daemon_;

static void stop_task(void *arg)
{
    struct vdisk_error error;

    (void)arg;
    control_stop(daemon_.control);
    (void)export_remove(daemon_.exports, "a", &error);
    reactor_stop(exports_main(daemon_.exports));
}

static void shut_down(void *opaque)
{
    (void)opaque;
    if (task_spawn(exports_main(daemon_.exports), stop_task, NULL))
        abort();
}

static int connect_client(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct timeval limit = {.tv_sec = 20};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    memcpy(address.sun_path, socket_path, strlen(socket_path) + 1);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    return connect(fd, (struct sockaddr *)&address, sizeof(address)) ? -1 : fd;
}

/* As another user, which this thread becomes meanwhile; root's folders stay open to it. */
static int connect_as(uid_t uid)
{
    if (syscall(SYS_setresuid, -1, uid, -1))
        return -1;
    (void)setfsuid(0);
    int fd = connect_client();
    if (syscall(SYS_setresuid, -1, 0, -1))
        abort();
    return fd;
}

/* Sends a request, with a descriptor unless it is -1; the reply, or NULL. */
static json_t *ask(int fd, const char *text, int with)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec vector = {(void *)(uintptr_t)text, strlen(text)};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    static char line[100000];
    size_t have = 0;

    if (with >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        struct cmsghdr *part = CMSG_FIRSTHDR(&message);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(part), &with, sizeof(int));
    }
    if (text[0] && sendmsg(fd, &message, MSG_NOSIGNAL) < 0)
        return NULL;
    for (;;) {
        ssize_t got = recv(fd, line + have, sizeof(line) - have, 0);

        if (got <= 0)
            return NULL;
        have += (size_t)got;
        if (line[have - 1] == '\n')
            return json_loadb(line, have, 0, NULL);
    }
}

/* The reply has that code; NULL: it is done. */
static void expect_with(int fd, const char *text, int with, const char *code)
{
    json_t *root = ask(fd, text, with);
    const char *said = json_string_value(json_object_get(root, "code"));
    bool holds = root && (code ? said && strcmp(said, code) == 0
                               : json_is_true(json_object_get(root, "ok")));

    if (!holds) {
        print_message("%s replied: %s\n", text, root ? json_dumps(root, 0) : "nothing");
        daemon_.failures++;
    }
    json_decref(root);
}

static void expect(int fd, const char *text, const char *code)
{
    expect_with(fd, text, -1, code);
}

/* The reply's result, in JSON, has the text in it. */
static void expect_result(int fd, const char *text, const char *needle)
{
    json_t *root = ask(fd, text, -1);
    char *result = json_dumps(json_object_get(root, "result"), JSON_COMPACT | JSON_ENCODE_ANY);

    if (!result || !strstr(result, needle)) {
        print_message("%s resulted in: %s\n", text, result ? result : "nothing");
        daemon_.failures++;
    }
    free(result);
    json_decref(root);
}

static int key_descriptor(const char *bytes)
{
    int fd = memfd_create("key", MFD_CLOEXEC);

    if (fd >= 0 && write(fd, bytes, strlen(bytes)) < 0)
        return -1;
    return fd;
}

/* Needs root, who may become others; each request makes a line in the audit log. */
static void look_only(void)
{
    int viewer = connect_as(VIEWER), stranger = connect_as(STRANGER);

    expect_result(viewer, "{\"command\":\"export-list\"}\n", "\"size_bytes\":2097152");
    expect(viewer, "{\"command\":\"snapshot-create\",\"export\":\"a\",\"snapshot\":\"two\"}\n",
           "not-permitted");
    expect(viewer, "{\"command\":\"shutdown\"}\n", "not-permitted");
    expect_result(viewer, "{\"command\":\"snapshot-list\",\"export\":\"a\"}\n", "[]");
    expect(stranger, "", "not-permitted"); /* unasked */
    close(viewer);
    close(stranger);
}

static void *run_client(void *arg)
{
    int fd = connect_client(), idle = connect_client(), pipes[2];
    int key = key_descriptor(key_bytes), wrong = key_descriptor("another key of at least 32 bytes");
    char add[400];

    (void)arg;
    snprintf(add, sizeof(add),
             "{\"command\":\"export-add\",\"export\":\"a\",\"image\":\"%s\",\"key_kind\":"
             "\"key-file\"}\n",
             image_path);
    expect(fd, "{\"command\":\"format\"}\n", "invalid");
    expect(fd, add, "invalid"); /* no key */
    expect_with(fd, add, wrong, "wrong-key");
    if (pipe(pipes) == 0)
        expect_with(fd, add, pipes[0], "invalid"); /* nobody waits for it */
    expect_with(fd, add, key, NULL);
    expect_with(fd, add, key, "exists");
    expect_result(fd, "{\"command\":\"export-list\"}\n", "\"size_bytes\":1048576");
    expect_result(fd, "{\"command\":\"export-list\"}\n", image_id);
    expect(fd, "{\"command\":\"snapshot-create\",\"export\":\"a\",\"snapshot\":\"one\"}\n", NULL);
    expect(fd, "{\"command\":\"snapshot-create\",\"export\":\"a\",\"snapshot\":\"one\"}\n",
           "exists");
    expect_result(fd, "{\"command\":\"snapshot-list\",\"export\":\"a\"}\n", "\"name\":\"one\"");
    expect(fd, "{\"command\":\"snapshot-delete\",\"export\":\"a\",\"snapshot\":\"one\"}\n", NULL);
    expect(fd, "{\"command\":\"snapshot-delete\",\"export\":\"a\",\"snapshot\":\"one\"}\n",
           "not-found");
    expect(fd, "{\"command\":\"resize\",\"export\":\"a\",\"size\":2097152}\n", NULL);
    expect_result(fd, "{\"command\":\"export-list\"}\n", "\"size_bytes\":2097152");
    expect(fd, "{\"command\":\"checkpoint\",\"export\":\"a\"}\n", NULL);
    expect_result(fd, "{\"command\":\"compact\",\"export\":\"a\"}\n", "freed_bytes");
    expect(
        fd,
        "{\"command\":\"limits-set\",\"export\":\"a\",\"limits\":{\"read_ops\":{\"rate\":55}}}\n",
        NULL);
    expect_result(fd, "{\"command\":\"limits-get\",\"export\":\"a\"}\n", "\"rate\":55");
    expect_result(fd, "{\"command\":\"stats\",\"export\":\"a\"}\n", "\"in_flight\":");
    expect_with(fd, "{\"command\":\"key-add\",\"export\":\"a\",\"key_kind\":\"key-file\"}\n", wrong,
                NULL);
    expect_result(fd, "{\"command\":\"key-list\",\"export\":\"a\"}\n", "\"slot\":1");
    expect(fd, "{\"command\":\"key-remove\",\"export\":\"a\",\"slot\":1}\n", NULL);
    expect(fd, "{\"command\":\"stats\",\"export\":\"b\"}\n", "not-found");
    expect(fd, "{\"command\":\"reload\"}\n", "unsupported");
    if (geteuid() == 0)
        look_only();
    expect(fd, "{\"command\":\"shutdown\"}\n", NULL);
    close(fd);
    close(idle);
    return NULL;
}

static void note_id(struct vdisk_image *image)
{
    struct vdisk_info info;
    int length = snprintf(image_id, sizeof(image_id), "\"image_id\":\"");

    vdisk_get_info(image, &info);
    for (unsigned i = 0; i < VDISK_ID_BYTES; i++)
        length += snprintf(image_id + length, sizeof(image_id) - (size_t)length, "%02x",
                           info.image_id[i]);
}

static void test_a_daemon_is_managed_and_every_request_audited(void **state)
{
    const struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = 1 << 20};
    const struct vdisk_key key = {VDISK_KEY_FILE, key_bytes, sizeof(key_bytes) - 1, 0, 0};
    const struct exports_options serve = {.reactors = 1, .workers = 1};
    struct vdisk_image *image;
    struct vdisk_error error;
    struct audit *audit;
    char line[4096];
    unsigned lines = 0, leaks = 0;

    (void)state;
    assert_int_equal(vdisk_create(image_path, &create, &key, &image, &error), 0);
    note_id(image);
    assert_int_equal(vdisk_close(image, &error), 0);
    assert_int_equal(audit_open(log_path, NULL, &audit, &error), 0);
    assert_int_equal(exports_new(&serve, &daemon_.exports, &error), 0);
    struct control_options options = {.reactor = exports_main(daemon_.exports),
                                      .exports = daemon_.exports,
                                      .audit = audit,
                                      .shut_down = shut_down};
    assert_int_equal(control_add_peer(&options.peers, CONTROL_VIEWER, "54321"), 0);
    int listener = listen_at(socket_path, &error);
    assert_true(listener >= 0);
    assert_int_equal(control_start(&options, listener, &daemon_.control), 0);
    assert_int_equal(pthread_create(&daemon_.client, NULL, run_client, NULL), 0);
    reactor_run(exports_main(daemon_.exports));
    pthread_join(daemon_.client, NULL);
    exports_free(daemon_.exports);
    audit_close(audit);
    assert_int_equal(daemon_.failures, 0);
    FILE *log = fopen(log_path, "r");
    while (fgets(line, sizeof(line), log)) {
        lines++;
        leaks += strstr(line, "a key file") != NULL;
    }
    fclose(log);
    assert_int_equal(lines, geteuid() == 0 ? 31 : 26);
    assert_int_equal(leaks, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests_are_read_into_bounds),
        cmocka_unit_test(test_requests_that_make_no_sense_are_refused),
        cmocka_unit_test(test_only_who_is_listed_is_let_in),
        cmocka_unit_test(test_all_groups_of_a_peer_count),
        cmocka_unit_test_setup_teardown(test_the_socket_lies_in_a_folder_that_is_ours, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_a_daemon_is_managed_and_every_request_audited, set_up,
                                        tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
