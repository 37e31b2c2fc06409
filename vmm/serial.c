/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A 16550A; see serial.h. The data sheet is National Semiconductor's of the PC16550D.
 *
 * Input waits in `queue` and moves into the receiver's FIFO as soon as that has room, so the queue
 * is empty or the FIFO full; but in loopback mode the line is cut, and the queue waits. The
 * interrupt for characters that are too few for the trigger level, which the chip raises after
 * some time without more, comes at once.
 *
 * The interrupt of the transmitter is a state of its own (thre_pending): it begins when the
 * transmitter becomes empty, or is empty when the interrupt is enabled; it ends when it was told of
 * in IIR, or when a byte is written.
 */
#include "serial.h"

#include "bytes_json.h"
#include "report.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define FIFO_BYTES 16u

enum { /* offsets */
    DATA,
    IER,
    IIR,
    FCR = IIR,
    LCR,
    MCR,
    LSR,
    MSR,
    SCRATCH,
};

#define IER_RECEIVED    0x01u
#define IER_TRANSMITTED 0x02u
#define IER_LINE        0x04u
#define IER_MODEM       0x08u
#define IER_BITS        0x0fu

#define IIR_MODEM       0x00u
#define IIR_NONE        0x01u
#define IIR_TRANSMITTED 0x02u
#define IIR_RECEIVED    0x04u
#define IIR_LINE        0x06u
#define IIR_TIMEOUT     0x0cu
#define IIR_FIFO        0xc0u

#define FCR_ENABLE      0x01u
#define FCR_CLEAR_INPUT 0x02u
#define FCR_KEPT        0xc9u /* with the trigger level in the upper two bits */

#define LCR_DLAB        0x80u

#define MCR_DTR         0x01u
#define MCR_RTS         0x02u
#define MCR_OUT1        0x04u
#define MCR_OUT2        0x08u
#define MCR_LOOP        0x10u
#define MCR_BITS        0x1fu

#define LSR_READY       0x01u
#define LSR_OVERRUN     0x02u
#define LSR_EMPTY       0x60u /* the holding register, and the shift register */

#define MSR_CTS         0x10u
#define MSR_DSR         0x20u
#define MSR_RI          0x40u
#define MSR_DCD         0x80u
#define MSR_LINES       0xf0u

struct chip {
    uint8_t ier, fcr, lcr, mcr, scratch, dll, dlm;
    uint8_t msr; /* with its changes in the lower half */
    bool overrun, thre, thre_pending;
    unsigned fifo_count;
    uint8_t fifo[FIFO_BYTES];
    unsigned queue_at, queue_count; /* a ring */
    uint8_t queue[VM_SERIAL_QUEUE];
};

struct vm_serial {
    pthread_mutex_t lock;
    void (*irq)(void *opaque, bool high);
    void *opaque;
    bool high;
    struct vm_serial_peer peer;
    bool wants_room; /* the peer does */
    struct chip chip;
};

/* ---- the interrupt ---- */

static unsigned trigger_level(const struct chip *chip)
{
    static const uint8_t levels[] = {1, 4, 8, 14};

    return chip->fcr & FCR_ENABLE ? levels[chip->fcr >> 6] : 1;
}

/* The reason that comes first, as IIR tells it. */
static uint8_t reason(const struct chip *chip)
{
    if ((chip->ier & IER_LINE) && chip->overrun)
        return IIR_LINE;
    if ((chip->ier & IER_RECEIVED) && chip->fifo_count > 0)
        return chip->fifo_count >= trigger_level(chip) ? IIR_RECEIVED : IIR_TIMEOUT;
    if ((chip->ier & IER_TRANSMITTED) && chip->thre_pending)
        return IIR_TRANSMITTED;
    if ((chip->ier & IER_MODEM) && (chip->msr & ~MSR_LINES))
        return IIR_MODEM;
    return IIR_NONE;
}

/* In loopback mode the chip's outputs are off, OUT2 among them. */
static void update_irq(struct vm_serial *serial)
{
    struct chip *chip = &serial->chip;
    bool high = (chip->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2 && reason(chip) != IIR_NONE;

    if (high == serial->high)
        return;
    serial->high = high;
    serial->irq(serial->opaque, high);
}

/* ---- receiving ---- */

static unsigned fifo_size(const struct chip *chip)
{
    return chip->fcr & FCR_ENABLE ? FIFO_BYTES : 1;
}

static void fill_fifo(struct vm_serial *serial)
{
    struct chip *chip = &serial->chip;

    while (chip->queue_count > 0 && chip->fifo_count < fifo_size(chip) && !(chip->mcr & MCR_LOOP)) {
        chip->fifo[chip->fifo_count++] = chip->queue[chip->queue_at];
        chip->queue_at = (chip->queue_at + 1) % VM_SERIAL_QUEUE;
        chip->queue_count--;
    }
    if (serial->wants_room && chip->queue_count <= VM_SERIAL_QUEUE / 2) {
        serial->wants_room = false;
        if (serial->peer.room)
            serial->peer.room(serial->peer.opaque);
    }
}

static uint8_t receive(struct vm_serial *serial)
{
    struct chip *chip = &serial->chip;
    uint8_t byte = chip->fifo[0];

    if (chip->fifo_count == 0)
        return 0;
    chip->fifo_count--;
    memmove(chip->fifo, chip->fifo + 1, chip->fifo_count);
    fill_fifo(serial);
    return byte;
}

/* In loopback mode. Too many: a full FIFO keeps what it has, the single register the last. */
static void receive_own(struct chip *chip, uint8_t byte)
{
    chip->overrun = chip->overrun || chip->fifo_count == fifo_size(chip);
    if (chip->fifo_count < fifo_size(chip))
        chip->fifo[chip->fifo_count++] = byte;
    else if (!(chip->fcr & FCR_ENABLE))
        chip->fifo[0] = byte;
}

/* ---- sending ---- */

static void become_empty(struct vm_serial *serial)
{
    struct chip *chip = &serial->chip;

    chip->thre = true;
    chip->thre_pending = true;
    update_irq(serial);
}

static void transmit(struct vm_serial *serial, uint8_t byte)
{
    struct chip *chip = &serial->chip;
    bool more = true;

    chip->thre = false;
    chip->thre_pending = false;
    update_irq(serial); /* down, so that becoming empty is an edge */
    if (chip->mcr & MCR_LOOP)
        receive_own(chip, byte);
    else if (serial->peer.output)
        more = serial->peer.output(serial->peer.opaque, &byte, 1);
    if (more)
        become_empty(serial);
}

/* ---- registers ---- */

/* The lines of a modem that is there, or of our own outputs. */
static void update_modem(struct chip *chip)
{
    uint8_t mcr = chip->mcr, before = chip->msr & MSR_LINES;
    unsigned lines = MSR_CTS | MSR_DSR | MSR_DCD, changed;

    if (mcr & MCR_LOOP)
        lines = (mcr & MCR_RTS ? MSR_CTS : 0) | (mcr & MCR_DTR ? MSR_DSR : 0) |
                (mcr & MCR_OUT1 ? MSR_RI : 0) | (mcr & MCR_OUT2 ? MSR_DCD : 0);
    changed = lines ^ before;
    changed &= ~(lines & MSR_RI); /* only the end of a ring is told of */
    chip->msr = (uint8_t)(lines | (chip->msr & ~MSR_LINES) | changed >> 4);
}

static void write_ier(struct chip *chip, uint8_t value)
{
    uint8_t changed = chip->ier ^ (value & IER_BITS);

    chip->ier = value & IER_BITS;
    if (changed & IER_TRANSMITTED)
        chip->thre_pending = (value & IER_TRANSMITTED) && chip->thre;
}

static void write_fcr(struct vm_serial *serial, uint8_t value)
{
    struct chip *chip = &serial->chip;
    bool changed = (chip->fcr ^ value) & FCR_ENABLE;

    if (changed || (value & FCR_CLEAR_INPUT && value & FCR_ENABLE))
        chip->fifo_count = 0;
    chip->fcr = value & FCR_ENABLE ? value & FCR_KEPT : 0;
    fill_fifo(serial);
}

static void write_register(struct vm_serial *serial, unsigned offset, uint8_t value)
{
    struct chip *chip = &serial->chip;
    bool dlab = chip->lcr & LCR_DLAB;

    switch (offset) {
    case DATA:
        if (dlab)
            chip->dll = value;
        else
            transmit(serial, value);
        break;
    case IER:
        if (dlab)
            chip->dlm = value;
        else
            write_ier(chip, value);
        break;
    case FCR:
        write_fcr(serial, value);
        break;
    case LCR:
        chip->lcr = value;
        break;
    case MCR:
        chip->mcr = value & MCR_BITS;
        update_modem(chip);
        fill_fifo(serial);
        break;
    case SCRATCH:
        chip->scratch = value;
        break;
    default:
        break; /* LSR and MSR tell, and are not told */
    }
}

static uint8_t read_iir(struct chip *chip)
{
    uint8_t first = reason(chip);

    if (first == IIR_TRANSMITTED)
        chip->thre_pending = false;
    return (uint8_t)(first | (chip->fcr & FCR_ENABLE ? IIR_FIFO : 0));
}

static uint8_t read_lsr(struct chip *chip)
{
    unsigned value = (chip->fifo_count > 0 ? LSR_READY : 0) | (chip->overrun ? LSR_OVERRUN : 0) |
                     (chip->thre ? LSR_EMPTY : 0);

    chip->overrun = false;
    return (uint8_t)value;
}

static uint8_t read_msr(struct chip *chip)
{
    uint8_t value = chip->msr;

    chip->msr &= MSR_LINES;
    return value;
}

static uint8_t read_register(struct vm_serial *serial, unsigned offset)
{
    struct chip *chip = &serial->chip;
    bool dlab = chip->lcr & LCR_DLAB;

    switch (offset) {
    case DATA:
        return dlab ? chip->dll : receive(serial);
    case IER:
        return dlab ? chip->dlm : chip->ier;
    case IIR:
        return read_iir(chip);
    case LCR:
        return chip->lcr;
    case MCR:
        return chip->mcr;
    case LSR:
        return read_lsr(chip);
    case MSR:
        return read_msr(chip);
    default:
        return chip->scratch;
    }
}

/* ---- the bus: a device of 8 bits, to which wider accesses are several ---- */

static void serial_read(void *device, uint64_t offset, uint8_t *data, unsigned size)
{
    struct vm_serial *serial = device;

    pthread_mutex_lock(&serial->lock);
    for (unsigned i = 0; i < size; i++) {
        data[i] = read_register(serial, (unsigned)offset + i);
        update_irq(serial);
    }
    pthread_mutex_unlock(&serial->lock);
}

static void serial_write(void *device, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct vm_serial *serial = device;

    pthread_mutex_lock(&serial->lock);
    for (unsigned i = 0; i < size; i++) {
        write_register(serial, (unsigned)offset + i, data[i]);
        update_irq(serial);
    }
    pthread_mutex_unlock(&serial->lock);
}

int vm_serial_add(struct vm_serial *serial, struct vm_bus *ports, uint64_t base)
{
    static const struct vm_bus_ops ops = {.read = serial_read, .write = serial_write};

    return vm_bus_add(ports, base, VM_SERIAL_PORTS, &ops, serial);
}

/* ---- the other end ---- */

void vm_serial_connect(struct vm_serial *serial, const struct vm_serial_peer *peer)
{
    pthread_mutex_lock(&serial->lock);
    serial->peer = peer ? *peer : (struct vm_serial_peer){0};
    serial->wants_room = false;
    if (!serial->chip.thre) /* the former one said so */
        become_empty(serial);
    pthread_mutex_unlock(&serial->lock);
}

size_t vm_serial_room(struct vm_serial *serial)
{
    size_t room;

    pthread_mutex_lock(&serial->lock);
    room = VM_SERIAL_QUEUE - serial->chip.queue_count;
    serial->wants_room = serial->wants_room || room == 0;
    pthread_mutex_unlock(&serial->lock);
    return room;
}

size_t vm_serial_input(struct vm_serial *serial, const uint8_t *bytes, size_t count)
{
    struct chip *chip = &serial->chip;
    size_t taken = 0;

    pthread_mutex_lock(&serial->lock);
    while (taken < count && chip->queue_count < VM_SERIAL_QUEUE) {
        chip->queue[(chip->queue_at + chip->queue_count++) % VM_SERIAL_QUEUE] = bytes[taken++];
    }
    fill_fifo(serial);
    serial->wants_room = serial->wants_room || taken < count;
    update_irq(serial);
    pthread_mutex_unlock(&serial->lock);
    return taken;
}

void vm_serial_ready(struct vm_serial *serial)
{
    pthread_mutex_lock(&serial->lock);
    if (!serial->chip.thre)
        become_empty(serial);
    pthread_mutex_unlock(&serial->lock);
}

/* ---- life ---- */

static void reset(struct vm_serial *serial)
{
    struct chip *chip = &serial->chip;

    chip->ier = chip->fcr = chip->lcr = chip->mcr = chip->scratch = 0;
    chip->dll = 12; /* 9600 baud */
    chip->dlm = 0;
    chip->msr = MSR_CTS | MSR_DSR | MSR_DCD;
    chip->overrun = chip->thre_pending = false;
    chip->thre = true;
    chip->fifo_count = 0;
    fill_fifo(serial);
    update_irq(serial);
}

void vm_serial_reset(struct vm_serial *serial)
{
    pthread_mutex_lock(&serial->lock);
    reset(serial);
    pthread_mutex_unlock(&serial->lock);
}

struct vm_serial *vm_serial_new(void (*irq)(void *opaque, bool high), void *opaque)
{
    struct vm_serial *serial = calloc(1, sizeof(*serial));

    if (!serial)
        return NULL;
    pthread_mutex_init(&serial->lock, NULL);
    serial->irq = irq;
    serial->opaque = opaque;
    reset(serial);
    return serial;
}

void vm_serial_free(struct vm_serial *serial)
{
    if (!serial)
        return;
    pthread_mutex_destroy(&serial->lock);
    free(serial);
}

/* ---- suspending ---- */

static const struct {
    const char *name;
    size_t at; /* of a byte in struct chip */
} registers[] = {
    {"ier", offsetof(struct chip, ier)}, {"fcr", offsetof(struct chip, fcr)},
    {"lcr", offsetof(struct chip, lcr)}, {"mcr", offsetof(struct chip, mcr)},
    {"msr", offsetof(struct chip, msr)}, {"scratch", offsetof(struct chip, scratch)},
    {"dll", offsetof(struct chip, dll)}, {"dlm", offsetof(struct chip, dlm)},
};

#define REGISTERS (sizeof(registers) / sizeof(registers[0]))

json_t *vm_serial_save(struct vm_serial *serial)
{
    struct chip *chip = &serial->chip;
    uint8_t queue[VM_SERIAL_QUEUE];
    json_t *root = json_object();
    int result = 0;

    pthread_mutex_lock(&serial->lock);
    for (unsigned i = 0; i < REGISTERS; i++)
        result |= json_object_set_new(root, registers[i].name,
                                      json_integer(((uint8_t *)chip)[registers[i].at]));
    for (unsigned i = 0; i < chip->queue_count; i++)
        queue[i] = chip->queue[(chip->queue_at + i) % VM_SERIAL_QUEUE];
    result |= json_object_set_new(root, "overrun", json_boolean(chip->overrun));
    /* What was full is empty when it goes on, with another peer. */
    result |= json_object_set_new(root, "sent", json_boolean(chip->thre_pending || !chip->thre));
    result |= json_object_set_new(root, "fifo", bytes_to_json(chip->fifo, chip->fifo_count));
    result |= json_object_set_new(root, "queue", bytes_to_json(queue, chip->queue_count));
    pthread_mutex_unlock(&serial->lock);
    if (result) {
        json_decref(root);
        return NULL;
    }
    return root;
}

static bool take_state(struct chip *chip, const json_t *from)
{
    const json_t *overrun = json_object_get(from, "overrun"), *sent = json_object_get(from, "sent");
    ssize_t fifo = bytes_from_json(json_object_get(from, "fifo"), chip->fifo, FIFO_BYTES);
    ssize_t queue = bytes_from_json(json_object_get(from, "queue"), chip->queue, VM_SERIAL_QUEUE);

    for (unsigned i = 0; i < REGISTERS; i++) {
        const json_t *value = json_object_get(from, registers[i].name);

        if (!json_is_integer(value) || json_integer_value(value) < 0 ||
            json_integer_value(value) > UINT8_MAX)
            return false;
        ((uint8_t *)chip)[registers[i].at] = (uint8_t)json_integer_value(value);
    }
    if (!json_is_boolean(overrun) || !json_is_boolean(sent) || fifo < 0 || queue < 0)
        return false;
    chip->overrun = json_is_true(overrun);
    chip->thre_pending = json_is_true(sent);
    chip->fifo_count = (unsigned)fifo;
    chip->queue_count = (unsigned)queue;
    return chip->ier <= IER_BITS && chip->mcr <= MCR_BITS && !(chip->fcr & ~FCR_KEPT) &&
           (chip->fcr & FCR_ENABLE || !chip->fcr) && chip->fifo_count <= fifo_size(chip);
}

int vm_serial_load(struct vm_serial *serial, const json_t *from, struct vdisk_error *error)
{
    struct chip chip = {.thre = true};

    if (!take_state(&chip, from))
        return error_set(error, -EINVAL, "this is not the state of a serial port");
    pthread_mutex_lock(&serial->lock);
    serial->chip = chip;
    fill_fifo(serial);
    update_irq(serial);
    pthread_mutex_unlock(&serial->lock);
    return 0;
}
