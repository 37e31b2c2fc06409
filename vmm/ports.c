/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See ports.h. The speaker's port is all that has a state, which nothing depends on: a machine that
 * was suspended begins with that anew.
 */
#include "ports.h"

#include "layout.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#define KEYBOARD_DATA    VM_PORT_KEYBOARD
#define SPEAKER          0x61u
#define KEYBOARD_COMMAND (VM_PORT_KEYBOARD + 4)
#define POST             0x80u
#define SYSTEM_CONTROL   0x92u

#define PULSE_MASK       0xf1u /* commands that pulse lines of the controller, ... */
#define PULSE_RESET      0xf0u /* ... that of the reset among them (its bit is 0) */

#define SPEAKER_KEPT     0x03u /* gate of the timer, speaker */
#define SPEAKER_REFRESH  0x10u /* goes up and down as memory is refreshed */
#define SPEAKER_TIMER    0x20u /* the timer's output */

#define CONTROL_RESET    0x01u
#define CONTROL_A20      0x02u

struct port {
    struct vm_ports *ports;
    unsigned number;
};

static const uint8_t numbers[] = {KEYBOARD_DATA, SPEAKER, KEYBOARD_COMMAND, POST, SYSTEM_CONTROL};

#define PORTS (sizeof(numbers) / sizeof(numbers[0]))

struct vm_ports {
    pthread_mutex_t lock;
    void (*reset)(void *opaque, const char *how);
    void *opaque;
    uint8_t speaker;
    struct port port[PORTS];
};

static uint8_t read_speaker(struct vm_ports *ports)
{
    uint8_t value;

    pthread_mutex_lock(&ports->lock);
    ports->speaker ^= SPEAKER_REFRESH;
    value = ports->speaker;
    pthread_mutex_unlock(&ports->lock);
    return value | SPEAKER_TIMER;
}

static void write_speaker(struct vm_ports *ports, uint8_t value)
{
    pthread_mutex_lock(&ports->lock);
    ports->speaker = (ports->speaker & SPEAKER_REFRESH) | (value & SPEAKER_KEPT);
    pthread_mutex_unlock(&ports->lock);
}

/* Each range has one port, so `size` is 1. */
static void port_read(void *device, uint64_t offset, uint8_t *data, unsigned size)
{
    struct port *port = device;

    (void)offset;
    (void)size;
    switch (port->number) {
    case SPEAKER:
        data[0] = read_speaker(port->ports);
        break;
    case POST:
        data[0] = 0xff;
        break;
    case SYSTEM_CONTROL:
        data[0] = CONTROL_A20;
        break;
    default:
        data[0] = 0; /* neither a key nor a command under way */
    }
}

static void port_write(void *device, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct port *port = device;
    struct vm_ports *ports = port->ports;
    const char *how = NULL;

    (void)offset;
    (void)size;
    if (port->number == KEYBOARD_COMMAND && (data[0] & PULSE_MASK) == PULSE_RESET)
        how = "the keyboard's controller";
    else if (port->number == SYSTEM_CONTROL && data[0] & CONTROL_RESET)
        how = "the system control port";
    else if (port->number == SPEAKER)
        write_speaker(ports, data[0]);
    if (how)
        ports->reset(ports->opaque, how);
}

struct vm_ports *vm_ports_new(void (*reset)(void *opaque, const char *how), void *opaque)
{
    struct vm_ports *ports = calloc(1, sizeof(*ports));

    if (!ports)
        return NULL;
    pthread_mutex_init(&ports->lock, NULL);
    ports->reset = reset;
    ports->opaque = opaque;
    for (unsigned i = 0; i < PORTS; i++)
        ports->port[i] = (struct port){ports, numbers[i]};
    return ports;
}

void vm_ports_free(struct vm_ports *ports)
{
    if (!ports)
        return;
    pthread_mutex_destroy(&ports->lock);
    free(ports);
}

int vm_ports_add(struct vm_ports *ports, struct vm_bus *bus)
{
    static const struct vm_bus_ops ops = {.read = port_read, .write = port_write};
    int result = 0;

    for (unsigned i = 0; i < PORTS && result == 0; i++)
        result = vm_bus_add(bus, numbers[i], 1, &ops, &ports->port[i]);
    return result;
}
