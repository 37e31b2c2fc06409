/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's accesses to the small devices, of any port, size and value, between input, a peer that
 * is full and is not, time that passes, the power button, and suspending: what is read is defined,
 * levels change only when they change, no input is lost or made up, and each state that is saved
 * is loaded by another machine, and saved the same.
 *
 * The input: steps of an operation (1 byte) and what belongs to it: an index of a port and a
 * size (1 byte each; and its value), or a count.
 */
#include "layout.h"
#include "ports.h"
#include "power.h"
#include "require.h"
#include "rtc.h"
#include "serial.h"

#define STEPS  4096u
#define SECOND INT64_C(1000000000)

enum operation {
    READ,
    WRITE,
    INPUT,
    FULL,
    READY,
    TIME,
    BUTTON,
    SUSPEND,
    RESET,
    OPERATIONS,
};

/* All that the devices have, and some that nobody has. */
static const uint16_t numbers[] = {
    0x3f8, 0x3f9, 0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x3fe, 0x3ff, 0x60,  0x61,   0x64,
    0x70,  0x71,  0x80,  0x92,  0x600, 0x601, 0x602, 0x603, 0x604, 0x605,  0x608,
    0x609, 0x60a, 0x60b, 0xcf9, 0x3f7, 0x65,  0x72,  0x60c, 0x5ff, 0xffff,
};

#define NUMBERS (sizeof(numbers) / sizeof(numbers[0]))

struct machine {
    struct vm_bus bus;
    struct vm_serial *serial;
    struct vm_rtc *rtc;
    struct vm_power *power;
    struct vm_ports *ports;
    bool irq, clock_irq, sci, full;
};

static int64_t now;
static struct machine *running;

struct input {
    const uint8_t *data;
    size_t size;
};

/* ---- what the devices see of the world ---- */

static void set_irq(void *opaque, bool high)
{
    struct machine *machine = opaque;

    require(machine->irq != high);
    machine->irq = high;
}

static void set_clock_irq(void *opaque, bool high)
{
    struct machine *machine = opaque;

    require(machine->clock_irq != high);
    machine->clock_irq = high;
}

static void set_sci(void *opaque, bool high)
{
    struct machine *machine = opaque;

    require(machine->sci != high);
    machine->sci = high;
}

static void asked(void *opaque)
{
    require(opaque == running);
}

static void asked_reset(void *opaque, const char *how)
{
    (void)how;
    asked(opaque);
}

static bool take_output(void *opaque, const uint8_t *bytes, size_t count)
{
    struct machine *machine = opaque;

    require(count == 1 && bytes != NULL);
    return !machine->full;
}

static void has_room(void *opaque)
{
    require(opaque == running);
}

static uint64_t monotonic(void)
{
    return (uint64_t)now;
}

static void real_time(struct timespec *time)
{
    *time = (struct timespec){1700000000 + now / SECOND, now % SECOND};
}

/* ---- machines ---- */

static struct machine *make(void)
{
    struct machine *machine = calloc(1, sizeof(*machine));

    require(machine != NULL);
    const struct vm_power_events events = {set_sci, asked, asked_reset, machine};
    const struct vm_serial_peer peer = {take_output, has_room, machine};

    const struct vm_rtc_options clock = {.now = real_time, .irq = set_clock_irq, .opaque = machine};

    machine->serial = vm_serial_new(set_irq, machine);
    machine->rtc = vm_rtc_new(&clock);
    machine->power = vm_power_new(&events, monotonic);
    machine->ports = vm_ports_new(asked_reset, machine);
    require(machine->serial && machine->rtc && machine->power && machine->ports);
    require(vm_serial_add(machine->serial, &machine->bus, VM_PORT_SERIAL) == 0);
    require(vm_rtc_add(machine->rtc, &machine->bus, VM_PORT_RTC) == 0);
    require(vm_power_add(machine->power, &machine->bus) == 0);
    require(vm_ports_add(machine->ports, &machine->bus) == 0);
    vm_serial_connect(machine->serial, &peer);
    return machine;
}

static void scrap(struct machine *machine)
{
    vm_serial_free(machine->serial);
    vm_rtc_free(machine->rtc);
    vm_power_free(machine->power);
    vm_ports_free(machine->ports);
    free(machine);
}

static json_t *save(struct machine *machine)
{
    json_t *state = json_pack("[o, o, o]", vm_serial_save(machine->serial),
                              vm_rtc_save(machine->rtc), vm_power_save(machine->power));

    require(state != NULL);
    return state;
}

/* What was saved goes on elsewhere, and is the same there. */
static void suspend(void)
{
    struct machine *old = running;
    json_t *state = save(old), *again;
    struct vdisk_error error;

    running = make();
    require(vm_serial_load(running->serial, json_array_get(state, 0), &error) == 0);
    require(vm_rtc_load(running->rtc, json_array_get(state, 1), &error) == 0);
    require(vm_power_load(running->power, json_array_get(state, 2), &error) == 0);
    again = save(running);
    require(json_equal(state, again));
    require(running->sci == old->sci);
    require(running->irq == old->irq || old->full); /* full: what was held is sent */
    json_decref(state);
    json_decref(again);
    scrap(old);
}

/* ---- steps ---- */

static uint8_t take(struct input *input)
{
    if (input->size == 0)
        return 0;
    input->size--;
    return *input->data++;
}

static void access_port(struct input *input, bool is_write)
{
    uint16_t port = numbers[take(input) % NUMBERS];
    unsigned size = 1u << (take(input) & 3);
    uint8_t data[8];

    if (is_write) {
        for (unsigned i = 0; i < size; i++)
            data[i] = take(input);
        vm_bus_write(&running->bus, port, data, size);
        return;
    }
    memset(data, 0xa5, sizeof(data));
    vm_bus_read(&running->bus, port, data, size);
    for (unsigned i = size; i < sizeof(data); i++)
        require(data[i] == 0xa5);
}

static void give_input(struct input *input)
{
    static const uint8_t bytes[VM_SERIAL_QUEUE + 1];
    size_t count = take(input) * (size_t)17, room = vm_serial_room(running->serial);
    size_t taken;

    count = count < sizeof(bytes) ? count : sizeof(bytes);
    require(room <= VM_SERIAL_QUEUE);
    taken = vm_serial_input(running->serial, bytes, count);
    require(taken <= count && taken >= (count < room ? count : room));
}

static void step(struct input *input)
{
    switch (take(input) % OPERATIONS) {
    case READ:
        access_port(input, false);
        break;
    case WRITE:
        access_port(input, true);
        break;
    case INPUT:
        give_input(input);
        break;
    case FULL:
        running->full = true;
        break;
    case READY:
        running->full = false;
        vm_serial_ready(running->serial);
        break;
    case TIME:
        now += take(input) * (SECOND / 7);
        break;
    case BUTTON:
        vm_power_button(running->power);
        break;
    case SUSPEND:
        suspend();
        break;
    case RESET:
        vm_serial_reset(running->serial);
        vm_power_reset(running->power);
        require(!running->irq && !running->sci);
        break;
    default:
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};

    now = 5 * SECOND;
    running = make();
    for (unsigned i = 0; i < STEPS && input.size > 0; i++)
        step(&input);
    scrap(running);
    return 0;
}
