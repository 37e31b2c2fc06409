/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest as a stream of bytes (vmm/vm_state.c, vm_stream.c): what is written goes on exactly in
 * new parts; what was altered, cut short, or is of another guest is refused in words.
 */
#include "virtio_net.h"
#include "vm_machine_kit.h"
#include "vm_state.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#define MIB      (UINT64_C(1) << 20)
#define PAGE     4096u
#define REPORTS  4096u
#define PATIENCE 60 /* seconds; of a machine that is slow, and busy with other things */
#define HEAD     16u
#define RECORD   16u

static bool usable;

/* ---- a guest's parts ---- */

struct report {
    struct reactor_message message; /* first */
    struct place *place;
    uint32_t value;
};

struct place {
    struct vm_config config;
    struct vm_memory memory;
    struct reactor *reactor;
    struct vm_devices devices;
    struct vm_machine *machine;
    struct vm_firmware firmware;
    struct vm_fw_cfg *fw_cfg;
    unsigned made; /* by the vCPU */
    unsigned count;
    struct report report[REPORTS];
};

static struct place *place;

/* By the vCPU's thread. What comes when there is no room is lost: nobody looks so far. */
static void take_report(struct reactor_message *message)
{
    ((struct report *)message)->place->count++;
}

static void write_port(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct place *to = opaque;
    struct report *report = &to->report[to->made];

    (void)offset;
    if (to->made == REPORTS || size != sizeof(report->value))
        return;
    to->made++;
    report->message.run = take_report;
    report->place = to;
    memcpy(&report->value, data, size);
    reactor_post(to->reactor, &report->message);
}

static void read_port(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    (void)opaque;
    (void)offset;
    memset(data, 0, size);
}

static void on_event(void *opaque, enum vm_event event, const char *why)
{
    (void)opaque;
    (void)event;
    print_message("%s\n", why);
}

static void on_nothing(void *opaque)
{
    (void)opaque;
}

static void on_reset(void *opaque, const char *how)
{
    (void)opaque;
    (void)how;
}

static void on_level(void *opaque, bool high)
{
    (void)opaque;
    (void)high;
}

static void make_machine(struct place *made)
{
    struct vm_machine_options options = {.memory = &made->memory,
                                         .ports = &made->devices.ports,
                                         .mmio = &made->devices.mmio,
                                         .cpus = made->config.cpus,
                                         .event = on_event};
    struct vdisk_error error = {0};

    if (vm_machine_new(&options, &made->machine, &error))
        fail_msg("%s", error.text);
    made->devices.machine = made->machine;
    if (vm_devices_wire(&made->devices, &error))
        fail_msg("%s", error.text);
}

static const struct vm_config plain = {.memory = 16 * MIB, .cpus = 1};

static struct place *new_place(const struct vm_config *config)
{
    static const struct vm_bus_ops ops = {.read = read_port, .write = write_port};
    static const struct vm_power_events power = {on_level, on_nothing, on_reset, NULL};
    const struct reactor_options options = {.poll = 0};
    struct place *made = calloc(1, sizeof(*made));
    struct vdisk_error error = {0};

    if (!usable) {
        (void)vm_kit_usable();
        skip();
    }
    assert_non_null(made);
    made->config = *config;
    assert_int_equal(reactor_new(&options, &made->reactor), 0);
    assert_int_equal(vm_memory_new(&made->memory, config->memory, &error), 0);
    made->devices.config = &made->config;
    made->devices.memory = &made->memory;
    made->devices.reactor = made->reactor;
    if (vm_devices_begin(&made->devices, &power, &error))
        fail_msg("%s", error.text);
    assert_int_equal(vm_bus_add(&made->devices.ports, VM_KIT_PORT, 4, &ops, made), 0);
    make_machine(made);
    return made;
}

static void free_place(struct place *old)
{
    if (!old)
        return;
    vm_machine_stop(old->machine);
    while (old->count < old->made)
        reactor_step(old->reactor, true);
    vm_devices_free(&old->devices);
    vm_machine_free(old->machine);
    vm_fw_cfg_free(old->fw_cfg);
    vm_firmware_free(&old->firmware);
    vm_memory_free(&old->memory);
    reactor_free(old->reactor);
    free(old);
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
    free_place(place);
    place = NULL;
    alarm(0);
    return 0;
}

static void run(const struct vm_guest *guest)
{
    const struct vm_entry entry = vm_kit_place(&place->memory, guest);

    assert_int_equal(vm_machine_prepare(place->machine, &entry, NULL), 0);
    assert_int_equal(vm_machine_start(place->machine), 0);
}

static void wait_reports(unsigned count)
{
    while (place->count < count)
        reactor_step(place->reactor, true);
}

/* ---- streams ---- */

struct bytes {
    uint8_t *at;
    size_t size;
};

static struct vm_state_parts parts_of(struct place *of)
{
    return (struct vm_state_parts){.memory = &of->memory,
                                   .machine = of->machine,
                                   .devices = &of->devices,
                                   .firmware = &of->firmware,
                                   .fw_cfg = of->fw_cfg};
}

static void stop(void)
{
    vm_machine_stop(place->machine);
    vm_devices_pause(&place->devices);
}

static void start(void)
{
    vm_devices_resume(&place->devices);
    assert_int_equal(vm_machine_start(place->machine), 0);
}

/* Of the place, which is stopped. */
static struct bytes save(void)
{
    const struct vm_state_parts parts = parts_of(place);
    const struct vm_stream stream = {.fd = memfd_create("stream", MFD_CLOEXEC), .cancel = -1};
    struct vdisk_error error = {0};
    struct bytes out;

    assert_true(stream.fd >= 0);
    if (vm_state_write(&parts, &stream, &error))
        fail_msg("%s", error.text);
    out.size = (size_t)lseek(stream.fd, 0, SEEK_END);
    out.at = malloc(out.size);
    assert_non_null(out.at);
    assert_int_equal(pread(stream.fd, out.at, out.size, 0), out.size);
    close(stream.fd);
    return out;
}

static int stream_of(const struct bytes *bytes)
{
    int fd = memfd_create("stream", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, bytes->at, bytes->size), bytes->size);
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

/* Into a new place like that, which is the place then if it succeeds. */
static int load(const struct bytes *bytes, const struct vm_config *config,
                struct vdisk_error *error)
{
    struct place *next = new_place(config);
    const struct vm_state_parts parts = parts_of(next);
    const struct vm_stream stream = {.fd = stream_of(bytes), .cancel = -1};
    int rc = vm_state_read(&parts, &stream, error);

    close(stream.fd);
    if (rc == 0) {
        free_place(place);
        place = next;
    } else {
        free_place(next);
    }
    return rc;
}

static void move(void)
{
    struct bytes bytes = save();
    struct vdisk_error error = {0};

    if (load(&bytes, &place->config, &error))
        fail_msg("%s", error.text);
    free(bytes.at);
}

/* ---- going on ---- */

static void test_a_guest_and_its_device_go_on_exactly_where_they_were(void **state)
{
    uint32_t next = 1, same = 0, before = 0;

    (void)state;
    place = new_place(&plain);
    run(&vm_guest_draws);
    for (unsigned round = 0; round < 5; round++) {
        wait_reports(3 * (4 + round));
        stop();
        while (place->count < place->made)
            reactor_step(place->reactor, true);
        /* The end of a round's reports may be in the next life. */
        for (unsigned i = 0; i < place->count; i++, next++) {
            uint32_t value = place->report[i].value, draw = (next + 2) / 3;

            if (next % 3 != 0) {
                assert_int_equal(value, draw);
                continue;
            }
            same += value == before;
            before = value;
        }
        move();
        start();
    }
    assert_in_range(same, 0, 1); /* by chance */
}

static void test_a_pending_interrupt_and_input_are_kept(void **state)
{
    static const uint8_t typed[] = "typed";
    uint8_t got = 0;

    (void)state;
    place = new_place(&plain);
    assert_int_equal(vm_serial_input(place->devices.serial, typed, 5), 5);
    vm_power_button(place->devices.power);
    move();
    vm_bus_read(&place->devices.ports, VM_PORT_SERIAL, &got, 1);
    assert_int_equal(got, 't');
    vm_bus_read(&place->devices.ports, VM_PORT_PM1_EVENT + 1, &got, 1);
    assert_int_equal(got, 1); /* PWRBTN_STS */
}

static void test_a_firmware_is_kept_with_what_it_was_reading(void **state)
{
    struct bytes bytes;
    struct vdisk_error error = {0};

    (void)state;
    for (unsigned round = 0; round < 2; round++) {
        struct place *next = new_place(&plain);

        next->firmware.size = VM_FIRMWARE_MIN;
        next->firmware.rom =
            mmap(NULL, VM_FIRMWARE_MIN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        assert_ptr_not_equal(next->firmware.rom, MAP_FAILED);
        memset(next->firmware.rom, round ? 0 : 0x5a, VM_FIRMWARE_MIN);
        next->fw_cfg = vm_fw_cfg_new(&next->memory);
        assert_int_equal(vm_fw_cfg_attach(next->fw_cfg, &next->devices.ports), 0);
        if (round == 0) {
            const uint8_t signature[2] = {VM_FW_CFG_SIGNATURE, 0};
            uint8_t got;

            place = next;
            vm_bus_write(&place->devices.ports, VM_PORT_FW_CFG, signature, 2);
            vm_bus_read(&place->devices.ports, VM_PORT_FW_CFG + 1, &got, 1);
            assert_int_equal(got, 'Q');
            bytes = save();
        } else {
            const struct vm_state_parts parts = parts_of(next);
            const struct vm_stream stream = {.fd = stream_of(&bytes), .cancel = -1};
            uint8_t got;

            if (vm_state_read(&parts, &stream, &error))
                fail_msg("%s", error.text);
            close(stream.fd);
            vm_bus_read(&next->devices.ports, VM_PORT_FW_CFG + 1, &got, 1);
            assert_int_equal(got, 'E');
            assert_int_equal(next->firmware.rom[VM_FIRMWARE_MIN - 1], 0x5a);
            free_place(next);
        }
    }
    assert_int_equal(load(&bytes, &plain, &error), -EINVAL);
    assert_non_null(strstr(error.text, "by firmware"));
    free(bytes.at);
}

/* ---- memory ---- */

static void fill(const struct vm_memory *memory, uint64_t guest, uint64_t length, uint8_t byte)
{
    memset(vm_memory_at(memory, guest, length), byte, length);
}

/* The records of RAM alone. */
static struct bytes save_memory(const struct vm_memory *memory)
{
    const struct vm_stream stream = {.fd = memfd_create("stream", MFD_CLOEXEC), .cancel = -1};
    struct bytes out;

    assert_int_equal(vm_stream_write_memory(&stream, memory, NULL), 0);
    out.size = (size_t)lseek(stream.fd, 0, SEEK_END);
    out.at = malloc(out.size);
    assert_int_equal(pread(stream.fd, out.at, out.size, 0), out.size);
    close(stream.fd);
    return out;
}

static int load_memory(const struct bytes *bytes, const struct vm_memory *memory,
                       struct vdisk_error *error)
{
    const struct vm_stream stream = {.fd = stream_of(bytes), .cancel = -1};
    int rc = vm_stream_read_memory(&stream, memory, error);

    close(stream.fd);
    return rc;
}

static void test_memory_without_its_zeros_is_the_same_memory(void **state)
{
    static const struct {
        uint64_t guest, length;
    } filled[] = {
        {0, PAGE},
        {5 * PAGE, 2 * PAGE},
        {MIB, 3 * MIB + PAGE},
        {VM_GAP_BEGIN - PAGE, PAGE},
        {VM_GAP_END, PAGE},
        {VM_GAP_END + 70 * MIB - PAGE, PAGE},
    };
    const uint64_t size = VM_GAP_BEGIN + 70 * MIB;
    struct vm_memory memory, other;
    uint64_t sum = 0;
    struct bytes bytes;

    (void)state;
    assert_int_equal(vm_memory_new(&memory, size, NULL), 0);
    assert_int_equal(vm_memory_new(&other, size, NULL), 0);
    for (unsigned i = 0; i < sizeof(filled) / sizeof(*filled); i++) {
        fill(&memory, filled[i].guest, filled[i].length, (uint8_t)(i + 1));
        sum += filled[i].length;
    }
    fill(&memory, 100 * MIB, MIB, 0); /* written to, and zeros */
    *(uint8_t *)vm_memory_at(&memory, 200 * MIB + PAGE - 1, 1) = 7;
    sum += PAGE;
    bytes = save_memory(&memory);
    assert_in_range(bytes.size, sum, sum + 16 * RECORD);
    assert_int_equal(load_memory(&bytes, &other, NULL), 0);
    for (unsigned i = 0; i < sizeof(filled) / sizeof(*filled); i++)
        assert_memory_equal(vm_memory_at(&memory, filled[i].guest, filled[i].length),
                            vm_memory_at(&other, filled[i].guest, filled[i].length),
                            filled[i].length);
    assert_int_equal(*(uint8_t *)vm_memory_at(&other, 200 * MIB + PAGE - 1, 1), 7);
    free(bytes.at);
    bytes = save_memory(&other);
    assert_in_range(bytes.size, sum, sum + 16 * RECORD);
    free(bytes.at);
    vm_memory_free(&memory);
    vm_memory_free(&other);
}

static void put_record(struct bytes *bytes, uint64_t offset, uint32_t length, uint32_t zero,
                       uint32_t data)
{
    uint8_t *record = bytes->at + bytes->size;

    offset = htole64(offset);
    length = htole32(length);
    zero = htole32(zero);
    memcpy(record, &offset, 8);
    memcpy(record + 8, &length, 4);
    memcpy(record + 12, &zero, 4);
    memset(record + RECORD, 1, data);
    bytes->size += RECORD + data;
}

static void test_records_that_make_no_sense_are_refused(void **state)
{
    static const struct {
        uint64_t offset;
        uint32_t length, zero, data;
        uint64_t sum;
        bool good;
    } second[] = {
        {2 * PAGE, PAGE, 0, PAGE, 2 * PAGE, true},
        {16 * MIB - PAGE, PAGE, 0, PAGE, 2 * PAGE, true},
        {2 * PAGE, PAGE, 0, PAGE, PAGE, false},     /* less than was written */
        {2 * PAGE, PAGE, 1, PAGE, 2 * PAGE, false}, /* of a later version */
        {PAGE / 2, PAGE, 0, PAGE, 2 * PAGE, false}, /* not a page */
        {2 * PAGE, PAGE / 2, 0, PAGE / 2, 3 * PAGE / 2, false},
        {0, PAGE, 0, PAGE, 2 * PAGE, false},        /* backwards */
        {16 * MIB, PAGE, 0, PAGE, 2 * PAGE, false}, /* past the end */
        {16 * MIB - PAGE, 2 * PAGE, 0, 2 * PAGE, 3 * PAGE, false},
        {UINT64_MAX - PAGE + 1, PAGE, 0, PAGE, 2 * PAGE, false},
        {2 * PAGE, 0x80000000, 0, PAGE, 2 * PAGE, false}, /* more than a piece */
        {2 * PAGE, PAGE, 0, 0, 2 * PAGE, false},          /* the data are missing */
    };

    (void)state;
    for (unsigned i = 0; i < sizeof(second) / sizeof(*second); i++) {
        struct bytes bytes = {.at = malloc(16 * PAGE)};
        struct vdisk_error error = {0};
        struct vm_memory memory;

        assert_int_equal(vm_memory_new(&memory, 16 * MIB, NULL), 0);
        put_record(&bytes, 0, PAGE, 0, PAGE);
        put_record(&bytes, second[i].offset, second[i].length, second[i].zero, second[i].data);
        if (second[i].data > 0)
            put_record(&bytes, second[i].sum, 0, 0, 0);
        assert_int_equal(load_memory(&bytes, &memory, &error),
                         second[i].good ? 0 : VDISK_E_MALFORMED);
        assert_int_equal(second[i].good, error.text[0] == 0);
        vm_memory_free(&memory);
        free(bytes.at);
    }
}

/* ---- refusing ---- */

static void refuses(const struct bytes *bytes, const struct vm_config *config, int code,
                    const char *words)
{
    struct vdisk_error error = {0};
    int rc = load(bytes, config, &error);

    if (rc != code || !strstr(error.text, words))
        fail_msg("%d, not %d; `%s`, without `%s`", rc, code, error.text, words);
}

static void test_another_guest_is_refused_in_words(void **state)
{
    struct vm_config config = plain;
    struct bytes bytes;

    (void)state;
    config.nets = 1;
    config.net[0].socket = "/nowhere/socket";
    place = new_place(&config);
    bytes = save();
    config.memory *= 2;
    refuses(&bytes, &config, -EINVAL, "had 16 MiB of memory, and is given 32 MiB");
    config.memory /= 2;
    config.cpus = 2;
    refuses(&bytes, &config, -EINVAL, "had 1 processors, and is given 2");
    config.cpus = 1;
    config.nets = 2;
    config.net[1].socket = "/nowhere/socket";
    refuses(&bytes, &config, -EINVAL, "had 3 devices, and is given 4");
    config.nets = 0;
    config.vsock = getenv("TMPDIR");
    config.vsock_cid = 3;
    refuses(&bytes, &config, -EINVAL, "device 0 was a network");
    config.vsock = NULL;
    config.nets = 1;
    config.net[0].has_mac = true;
    memcpy(config.net[0].mac, (uint8_t[6]){2, 0, 0, 0, 0, 1}, 6);
    refuses(&bytes, &config, -EINVAL, "another address than mac=");
    free(bytes.at);
}

static void test_a_random_address_is_kept(void **state)
{
    struct vm_config config = plain;
    uint8_t was[6], is[6];

    (void)state;
    config.nets = 1;
    config.net[0].socket = "/nowhere/socket";
    place = new_place(&config);
    virtio_net_mac(place->devices.net[0], was);
    move();
    virtio_net_mac(place->devices.net[0], is);
    assert_memory_equal(was, is, sizeof(is));
}

static void test_what_ends_early_is_refused(void **state)
{
    struct bytes bytes;
    size_t size;

    (void)state;
    place = new_place(&plain);
    fill(&place->memory, 0, 4 * PAGE, 1);
    bytes = save();
    size = bytes.size;
    for (bytes.size = 0; bytes.size < size; bytes.size += size / 11)
        refuses(&bytes, &plain, VDISK_E_MALFORMED, "ends early");
    bytes.size = size - 1;
    refuses(&bytes, &plain, VDISK_E_MALFORMED, "ends early");
    free(bytes.at);
}

static void test_what_is_no_stream_of_this_version_is_refused(void **state)
{
    struct bytes bytes;

    (void)state;
    place = new_place(&plain);
    bytes = save();
    bytes.at[0] ^= 1;
    refuses(&bytes, &plain, VDISK_E_MALFORMED, "not the state of a guest");
    bytes.at[0] ^= 1;
    bytes.at[8]++;
    refuses(&bytes, &plain, VDISK_E_UNSUPPORTED, "of another version (2)");
    bytes.at[8]--;
    bytes.at[15] = 0xff;
    refuses(&bytes, &plain, VDISK_E_MALFORMED, "the length of its text");
    bytes.at[15] = 0;
    bytes.at[HEAD] = '[';
    refuses(&bytes, &plain, VDISK_E_MALFORMED, "its text");
    free(bytes.at);
}

/* What is in the text may be any value of its kind: then there is a guest, of whatever kind. */
static void test_an_altered_text_does_no_harm(void **state)
{
    struct bytes bytes;
    uint32_t length;
    unsigned refused = 0;

    (void)state;
    place = new_place(&plain);
    run(&vm_guest_draws);
    wait_reports(3);
    stop();
    bytes = save();
    memcpy(&length, bytes.at + 12, sizeof(length));
    for (uint32_t i = 0; i < 40; i++) {
        uint32_t at = HEAD + (uint32_t)((uint64_t)le32toh(length) * (2 * i + 1) / 80);
        uint8_t was = bytes.at[at];
        struct vdisk_error error = {0};

        bytes.at[at] = i % 2 ? '0' : '"';
        if (load(&bytes, &plain, &error)) {
            assert_true(error.text[0]);
            refused++;
        }
        bytes.at[at] = was;
    }
    assert_true(refused > 10);
    free(bytes.at);
}

/* ---- waiting ---- */

static void test_whoever_does_not_read_is_not_waited_for(void **state)
{
    struct vm_stream stream;
    struct vm_memory memory;
    struct vdisk_error error;
    int ends[2];

    (void)state;
    assert_int_equal(vm_memory_new(&memory, 16 * MIB, NULL), 0);
    fill(&memory, 0, 16 * MIB, 1);
    assert_int_equal(pipe2(ends, O_NONBLOCK), 0);
    stream = (struct vm_stream){.fd = ends[1], .cancel = eventfd(1, 0)};
    assert_int_equal(vm_stream_write_memory(&stream, &memory, &error), -ECANCELED);
    close(stream.cancel);
    stream.cancel = -1;
    close(ends[0]);
    assert_int_equal(vm_stream_write_memory(&stream, &memory, &error), -EPIPE);
    assert_non_null(strstr(error.text, "nobody reads"));
    close(ends[1]);
    vm_memory_free(&memory);
}

static void test_whoever_does_not_write_is_not_waited_for(void **state)
{
    struct vm_stream stream;
    struct vdisk_error error;
    json_t *root;
    int ends[2];

    (void)state;
    assert_int_equal(pipe(ends), 0);
    stream = (struct vm_stream){.fd = ends[0], .cancel = eventfd(1, 0)};
    assert_int_equal(vm_stream_read_head(&stream, &root, &error), -ECANCELED);
    close(stream.cancel);
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
        TEST(test_a_guest_and_its_device_go_on_exactly_where_they_were),
        TEST(test_a_pending_interrupt_and_input_are_kept),
        TEST(test_a_firmware_is_kept_with_what_it_was_reading),
        TEST(test_memory_without_its_zeros_is_the_same_memory),
        TEST(test_records_that_make_no_sense_are_refused),
        TEST(test_another_guest_is_refused_in_words),
        TEST(test_a_random_address_is_kept),
        TEST(test_what_ends_early_is_refused),
        TEST(test_what_is_no_stream_of_this_version_is_refused),
        TEST(test_an_altered_text_does_no_harm),
        TEST(test_whoever_does_not_read_is_not_waited_for),
        TEST(test_whoever_does_not_write_is_not_waited_for),
    };

    signal(SIGPIPE, SIG_IGN);
    usable = vm_kit_usable();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
