/* SPDX-License-Identifier: Apache-2.0 */
/*
 * `suspend` of vdisk-vmm's management socket, and --restore, with the real program: a guest that
 * spells the alphabet goes on with the next letter; while it is written it is left alone, and can
 * be ended; whoever goes away leaves a guest that can go on.
 *
 * With an argument it only writes a guest into a folder, for scenarios: the kernel `writes`.
 */
#include "vm_boot_kit.h"
#include "vm_machine_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE   120 /* seconds; of a machine that is slow, and busy with other things */
#define STREAM_MAX (8u << 20)
#define MEMORY     (16u << 20)
#define ALPHABET   26u

static bool usable;
static char program[PATH_MAX], address[PATH_MAX];
static char spells[PATH_MAX], resets[PATH_MAX], insists[PATH_MAX], faults[PATH_MAX]; /* kernels */

/* ---- the program ---- */

static struct {
    pid_t pid; /* 0: none */
    int letters, complaints;
    char next; /* letter that it says; 0: the first decides */
} vm;

struct start {
    const char *memory; /* NULL: 16M */
    const char *kernel; /* NULL: none */
    int restore;        /* 0: it boots; -1: it is told to restore 0 */
};

static void become(const struct start *start, const int out[2], const int err[2])
{
    const char *words[16] = {"vdisk-vmm", "--console", "stdio",    "--quiet",
                             "--control", address,     "--memory", start->memory};
    unsigned count = 8;
    char text[32];

    if (!start->memory)
        words[7] = "16M";
    if (start->kernel) {
        words[count++] = "--kernel";
        words[count++] = start->kernel;
    }
    if (start->restore) {
        words[count++] = "--restore";
        words[count++] = text;
    }
    snprintf(text, sizeof(text), "%d", start->restore > 0 ? start->restore : 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setenv("ASAN_OPTIONS", "detect_leaks=0", 1); /* it may not look for them at its end */
    if (dup2(open("/dev/null", O_RDONLY), STDIN_FILENO) == STDIN_FILENO &&
        dup2(out[1], STDOUT_FILENO) == STDOUT_FILENO &&
        dup2(err[1], STDERR_FILENO) == STDERR_FILENO)
        execv(program, (char *const *)(uintptr_t)words);
    _exit(127);
}

static void begin(struct start start)
{
    int out[2], err[2];

    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    assert_int_equal(pipe2(err, O_CLOEXEC), 0);
    vm.pid = fork();
    if (vm.pid == 0)
        become(&start, out, err);
    assert_true(vm.pid > 0);
    close(out[1]);
    close(err[1]);
    vm.letters = out[0];
    vm.complaints = err[0];
}

/* What it has said of its end. */
static const char *complaint(void)
{
    static char text[1024];
    ssize_t length = read(vm.complaints, text, sizeof(text) - 1);

    text[length > 0 ? length : 0] = 0;
    close(vm.complaints);
    return text;
}

/* It says so many letters, each the one after the last. */
static void hear(unsigned count)
{
    while (count > 0) {
        char text[64];
        ssize_t got = read(vm.letters, text, count < sizeof(text) ? count : sizeof(text));

        if (got <= 0)
            fail_msg("it has ended: %s", complaint());
        for (ssize_t i = 0; i < got; i++) {
            if (vm.next)
                assert_int_equal(text[i], vm.next);
            vm.next = (char)('a' + (text[i] - 'a' + 1) % (int)ALPHABET);
        }
        count -= (unsigned)got;
    }
}

/* What it said until its end, which comes by itself; its exit status. */
static int finish(void)
{
    int status;

    for (char letter; read(vm.letters, &letter, 1) == 1;) {
        assert_int_equal(letter, vm.next);
        vm.next = (char)('a' + (letter - 'a' + 1) % (int)ALPHABET);
    }
    assert_int_equal(waitpid(vm.pid, &status, 0), vm.pid);
    vm.pid = 0;
    close(vm.letters);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void complained(const char *words)
{
    const char *text = complaint();

    if (!strstr(text, words))
        fail_msg("`%s`, without `%s`", text, words);
}

/* ---- its socket ---- */

static int dial(void)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0 && strlen(address) < sizeof(to.sun_path));
    memcpy(to.sun_path, address, strlen(address));
    if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
        return fd;
    close(fd);
    return -1;
}

/* For a guest that says nothing. */
static void wait_for_socket(void)
{
    int fd;

    while ((fd = dial()) < 0)
        usleep(10000); /* set_up's alarm ends it */
    close(fd);
}

static int call(const char *text, int with)
{
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec vector = {(char *)(uintptr_t)text, strlen(text)};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
    int fd = dial();

    if (fd < 0)
        fail_msg("%s: %s", address, strerror(errno));
    if (with >= 0) {
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        struct cmsghdr *part = CMSG_FIRSTHDR(&message);
        part->cmsg_level = SOL_SOCKET;
        part->cmsg_type = SCM_RIGHTS;
        part->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(part), &with, sizeof(int));
    }
    assert_int_equal(sendmsg(fd, &message, MSG_NOSIGNAL), vector.iov_len);
    return fd;
}

static json_t *answer(int fd)
{
    static char line[65536];
    size_t have = 0;
    json_t *root;

    while (have == 0 || line[have - 1] != '\n') {
        ssize_t got = recv(fd, line + have, sizeof(line) - have, 0);

        if (got <= 0)
            fail_msg("no reply");
        have += (size_t)got;
    }
    close(fd);
    root = json_loadb(line, have, 0, NULL);
    assert_non_null(root);
    return root;
}

/* The answer says that it is done; or, with words, why not. */
static void expect(json_t *reply, const char *words)
{
    const char *error = json_string_value(json_object_get(reply, "error"));

    if (words ? !error || !strstr(error, words) : !json_is_true(json_object_get(reply, "ok")))
        fail_msg("`%s`, where `%s` was expected", error ? error : "done", words ? words : "done");
    json_decref(reply);
}

static void ask(const char *command, const char *words)
{
    char text[256];

    snprintf(text, sizeof(text), "{\"command\":\"%s\"%s}\n", command,
             strcmp(command, "balloon") == 0 ? ",\"size\":16777216" : "");
    expect(answer(call(text, -1)), words);
}

static bool is_in_state(const char *state)
{
    json_t *reply = answer(call("{\"command\":\"info\"}\n", -1));
    const char *is = json_string_value(json_object_get(json_object_get(reply, "result"), "state"));
    bool holds = is && strcmp(is, state) == 0;

    json_decref(reply);
    return holds;
}

/* ---- suspending ---- */

struct bytes {
    uint8_t *at;
    size_t size;
};

static const char suspend[] = "{\"command\":\"suspend\"}\n";

/* To the end. */
static struct bytes read_all(int fd)
{
    struct bytes out = {.at = malloc(STREAM_MAX)};
    ssize_t got;

    assert_non_null(out.at);
    while ((got = read(fd, out.at + out.size, STREAM_MAX - out.size)) > 0)
        out.size += (size_t)got;
    assert_int_equal(got, 0);
    close(fd);
    return out;
}

static struct bytes suspended(void)
{
    struct bytes out;
    int ends[2], fd;

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    fd = call(suspend, ends[1]);
    close(ends[1]);
    out = read_all(ends[0]);
    expect(answer(fd), NULL);
    assert_true(is_in_state("suspended"));
    return out;
}

static int file_of(const struct bytes *bytes)
{
    int fd = memfd_create("stream", 0); /* it is inherited */

    assert_int_equal(write(fd, bytes->at, bytes->size), bytes->size);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

static void restore(const struct bytes *bytes)
{
    int fd = file_of(bytes);

    begin((struct start){.kernel = spells, .restore = fd});
    close(fd);
}

/* One that nobody reads is under way; its connection. */
static int suspend_unread(int ends[2])
{
    int fd;

    assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
    assert_true(fcntl(ends[1], F_SETPIPE_SZ, 4096) > 0);
    fd = call(suspend, ends[1]);
    close(ends[1]);
    while (!is_in_state("suspending")) {
    }
    return fd;
}

static int set_up(void **state)
{
    (void)state;
    alarm(PATIENCE);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (vm.pid) {
        kill(vm.pid, SIGKILL);
        waitpid(vm.pid, NULL, 0);
        /* The kernel may end its ring, and with that who listens, only after it. */
        unlink(address);
    }
    memset(&vm, 0, sizeof(vm));
    alarm(0);
    return 0;
}

static void boot_from(const char *kernel)
{
    if (!usable) {
        print_message("there is no KVM, or no vdisk-vmm beside $VDISK\n");
        skip();
    }
    begin((struct start){.kernel = kernel});
}

static void boot(void)
{
    boot_from(spells);
    hear(5);
}

/* ---- tests ---- */

static void test_a_guest_goes_on_in_another_process(void **state)
{
    (void)state;
    boot();
    for (unsigned round = 0; round < 3; round++) {
        struct bytes bytes = suspended();

        ask("stop", NULL);
        assert_int_equal(finish(), 0);
        restore(&bytes);
        hear(ALPHABET + round);
        assert_true(is_in_state("running"));
        free(bytes.at);
    }
}

static void test_a_guest_goes_on_in_the_same_process(void **state)
{
    (void)state;
    boot();
    for (unsigned round = 0; round < 3; round++) {
        free(suspended().at);
        ask("resume", NULL);
        hear(ALPHABET);
    }
}

/* The 16 bytes at the beginning of the last page. */
static const uint8_t *generation(const struct bytes *bytes)
{
    uint32_t length;
    size_t at;

    memcpy(&length, bytes->at + 12, sizeof(length));
    at = 16 + le32toh(length);
    for (;;) {
        uint64_t offset;

        memcpy(&offset, bytes->at + at, 8);
        memcpy(&length, bytes->at + at + 8, 4);
        offset = le64toh(offset);
        length = le32toh(length);
        assert_true(length > 0);
        if (MEMORY - 4096 - offset < length)
            return bytes->at + at + 16 + (MEMORY - 4096 - offset);
        at += 16 + length;
    }
}

static void test_its_generation_is_another_where_it_was_restored(void **state)
{
    struct bytes first, same, other;

    (void)state;
    boot();
    first = suspended();
    ask("resume", NULL);
    hear(1);
    same = suspended();
    ask("stop", NULL);
    assert_int_equal(finish(), 0);
    restore(&first);
    vm.next = 0;
    hear(1);
    other = suspended();
    assert_memory_equal(generation(&first), generation(&same), 16);
    assert_memory_not_equal(generation(&first), generation(&other), 16);
    free(first.at);
    free(same.at);
    free(other.at);
}

static void test_while_it_is_suspended_nothing_disturbs(void **state)
{
    int ends[2], fd;

    (void)state;
    boot();
    fd = suspend_unread(ends);
    ask("resume", "is being suspended");
    ask("power-button", "is being suspended");
    ask("balloon", "is being suspended");
    ask("suspend", "is being suspended");
    ask("pause", NULL);
    ask("metrics", NULL);
    free(read_all(ends[0]).at);
    expect(answer(fd), NULL);
    ask("resume", NULL);
    hear(ALPHABET);
}

static void test_whoever_goes_away_leaves_a_guest_that_can_go_on(void **state)
{
    int ends[2], fd;

    (void)state;
    boot();
    fd = suspend_unread(ends);
    close(ends[0]);
    expect(answer(fd), "nobody reads");
    assert_true(is_in_state("paused"));
    ask("resume", NULL);
    hear(ALPHABET);
    /* The connection as well. */
    close(suspend_unread(ends));
    close(ends[0]);
    while (is_in_state("suspending")) {
    }
    ask("resume", NULL);
    hear(ALPHABET);
}

static void test_it_can_be_ended_while_nobody_reads(void **state)
{
    int ends[2], fd;

    (void)state;
    boot();
    fd = suspend_unread(ends);
    ask("stop", NULL);
    assert_int_equal(finish(), 0);
    expect(answer(fd), "ends");
    close(ends[0]);
}

static void test_a_descriptor_is_needed_that_can_be_written(void **state)
{
    int fd;

    (void)state;
    boot();
    ask("suspend", "needs a descriptor");
    assert_true(is_in_state("running"));
    fd = open("/dev/null", O_RDONLY);
    expect(answer(call(suspend, fd)), "cannot be written");
    close(fd);
    ask("resume", NULL);
    hear(ALPHABET);
}

static void test_what_is_of_another_guest_is_refused(void **state)
{
    struct bytes bytes;
    int fd;

    (void)state;
    boot();
    bytes = suspended();
    ask("stop", NULL);
    assert_int_equal(finish(), 0);
    fd = file_of(&bytes);
    begin((struct start){.kernel = spells, .restore = fd, .memory = "32M"});
    close(fd);
    assert_int_equal(finish(), 1);
    complained("had 16 MiB of memory, and is given 32 MiB");
    bytes.size -= 100;
    restore(&bytes);
    assert_int_equal(finish(), 1);
    complained("ends early");
    free(bytes.at);
}

static void test_it_can_be_ended_before_it_goes_on(void **state)
{
    struct bytes bytes;
    int ends[2];

    (void)state;
    boot();
    bytes = suspended();
    ask("stop", NULL);
    assert_int_equal(finish(), 0);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(fcntl(ends[1], F_SETFD, FD_CLOEXEC), 0);
    begin((struct start){.kernel = spells, .restore = ends[0]});
    close(ends[0]);
    /* Once it has read that, it waits for more. */
    assert_true(bytes.size > 65536);
    assert_int_equal(write(ends[1], bytes.at, 65536), 65536);
    assert_int_equal(write(ends[1], bytes.at + 65536, 1), 1);
    kill(vm.pid, SIGTERM);
    assert_int_equal(finish(), 1);
    complained("interrupted");
    close(ends[1]);
    free(bytes.at);
}

static void hear_resets(unsigned count)
{
    for (char letter; count > 0; count--) {
        assert_int_equal(read(vm.letters, &letter, 1), 1);
        assert_int_equal(letter, 'r');
    }
}

static void end_resetting(void)
{
    char letter;
    int status;

    ask("stop", NULL);
    while (read(vm.letters, &letter, 1) == 1)
        assert_int_equal(letter, 'r');
    assert_int_equal(waitpid(vm.pid, &status, 0), vm.pid);
    vm.pid = 0;
    assert_int_equal(status, 0);
}

static void test_a_reset_that_is_due_is_not_lost(void **state)
{
    (void)state;
    boot_from(resets);
    hear_resets(3);
    for (unsigned round = 0; round < 6; round++) {
        struct bytes bytes = suspended();
        int fd = file_of(&bytes);

        end_resetting();
        begin((struct start){.kernel = resets, .restore = fd});
        hear_resets(3);
        close(fd);
        free(bytes.at);
    }
}

/* As Linux does, whose reset takes a while on a busy host. */
static void test_a_reset_that_is_asked_for_twice_is_one(void **state)
{
    (void)state;
    boot_from(insists);
    for (unsigned i = 0; i < 40; i++) {
        char letter;

        assert_int_equal(read(vm.letters, &letter, 1), 1);
        assert_int_equal(letter, i % 2 ? 'e' : 'b');
    }
}

static void says_that_it_was_reset_by(const char *how)
{
    for (unsigned try = 0; try < 500; try++) {
        json_t *reply = answer(call("{\"command\":\"info\"}\n", -1));
        json_t *result = json_object_get(reply, "result");
        bool was = json_integer_value(json_object_get(result, "resets")) > 0;
        const char *said = json_string_value(json_object_get(result, "last_reset"));

        if (was)
            assert_string_equal(said, how);
        else
            assert_null(said);
        json_decref(reply);
        if (was)
            return;
        usleep(20000);
    }
    fail_msg("it was not reset");
}

static void test_it_says_by_what_it_was_reset(void **state)
{
    (void)state;
    boot_from(resets);
    wait_for_socket();
    says_that_it_was_reset_by("the reset register");
    end_resetting();
    boot_from(faults);
    wait_for_socket();
    says_that_it_was_reset_by("a triple fault");
    end_resetting();
}

static void test_without_a_kernel_it_goes_on_until_a_reset(void **state)
{
    struct bytes bytes;
    int fd, status;

    (void)state;
    boot_from(resets);
    hear_resets(1);
    bytes = suspended();
    end_resetting();
    fd = file_of(&bytes);
    begin((struct start){.restore = fd});
    close(fd);
    assert_int_equal(waitpid(vm.pid, &status, 0), vm.pid);
    vm.pid = 0;
    assert_int_equal(WEXITSTATUS(status), 1);
    complained("was restored without a kernel");
    free(bytes.at);
}

static void test_only_a_descriptor_that_is_open_will_do(void **state)
{
    (void)state;
    if (!usable)
        skip();
    begin((struct start){.kernel = spells, .restore = -1});
    assert_int_equal(finish(), 2);
    complained("--restore is the number of an open descriptor");
    begin((struct start){.kernel = spells, .restore = 1000});
    assert_int_equal(finish(), 2);
    complained("--restore is the number of an open descriptor");
}

/* ---- all ---- */

static bool write_file(const char *folder, const char *name, const void *bytes, size_t size)
{
    char path[PATH_MAX];
    int fd;
    bool done;

    snprintf(path, sizeof(path), "%s/%s", folder, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    done = fd >= 0 && write(fd, bytes, size) == (ssize_t)size;
    close(fd);
    return done;
}

static bool write_kernel(const char *folder, const char *name, const struct vm_guest *guest)
{
    static uint8_t image[VM_KIT_KERNEL_MAX];
    size_t size = vm_kit_linux(image, guest->begin, (size_t)(guest->end - guest->begin));

    return write_file(folder, name, image, size);
}

static void prepare(void)
{
    const char *vdisk = getenv("VDISK"), *folder = getenv("TMPDIR");
    char copy[PATH_MAX];

    snprintf(copy, sizeof(copy), "%s", vdisk ? vdisk : "build/bin/vdisk");
    snprintf(program, sizeof(program), "%s/vdisk-vmm", dirname(copy));
    folder = folder ? folder : "/tmp";
    snprintf(spells, sizeof(spells), "%s/spells", folder);
    snprintf(resets, sizeof(resets), "%s/resets", folder);
    snprintf(insists, sizeof(insists), "%s/insists", folder);
    snprintf(faults, sizeof(faults), "%s/faults", folder);
    snprintf(address, sizeof(address), "%s/vmm/socket", folder);
    usable = vm_kit_usable() && access(program, X_OK) == 0 &&
             write_kernel(folder, "spells", &vm_guest_spells) &&
             write_kernel(folder, "resets", &vm_guest_resets) &&
             write_kernel(folder, "insists", &vm_guest_insists) &&
             write_kernel(folder, "faults", &vm_guest_triple_fault);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_a_guest_goes_on_in_another_process),
        TEST(test_a_guest_goes_on_in_the_same_process),
        TEST(test_its_generation_is_another_where_it_was_restored),
        TEST(test_while_it_is_suspended_nothing_disturbs),
        TEST(test_whoever_goes_away_leaves_a_guest_that_can_go_on),
        TEST(test_it_can_be_ended_while_nobody_reads),
        TEST(test_a_descriptor_is_needed_that_can_be_written),
        TEST(test_what_is_of_another_guest_is_refused),
        TEST(test_it_can_be_ended_before_it_goes_on),
        TEST(test_a_reset_that_is_due_is_not_lost),
        TEST(test_a_reset_that_is_asked_for_twice_is_one),
        TEST(test_it_says_by_what_it_was_reset),
        TEST(test_without_a_kernel_it_goes_on_until_a_reset),
        TEST(test_only_a_descriptor_that_is_open_will_do),
    };

    if (argc == 2)
        return write_kernel(argv[1], "writes", &vm_guest_writes) ? 0 : 1;
    signal(SIGPIPE, SIG_IGN);
    prepare();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
