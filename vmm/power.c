/* SPDX-License-Identifier: Apache-2.0 */
/* See power.h; ACPI 6.4, section 4.8.3. */
#include "power.h"

#include "layout.h"
#include "report.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define PM1_EVENT_PORTS 4u
#define PM1_CTRL_PORTS  2u
#define PM_TIMER_PORTS  4u

#define BUTTON          0x0100u /* in PM1 status and enable */
#define ENABLE_KEPT     0x0721u /* timer, global lock, power and sleep button, clock */

#define SCI_EN          0x0001u
#define CTRL_KEPT       0x1c02u /* SLP_TYP, BM_RLD */
#define SLP_TYP_SHIFT   10u
#define SLP_EN          0x2000u

#define RESET_NOW       0x04u /* VM_RESET_VALUE has it, and 0x02: of all, not the processor alone */
#define RESET_KEPT      0x0au

#define TIMER_HZ        3579545u
#define TIMER_BITS      0x00ffffffu
#define NANOSECONDS     1000000000u

struct vm_power {
    pthread_mutex_t lock;
    struct vm_power_events events;
    uint64_t (*now)(void);
    bool high; /* the SCI */
    uint16_t status, enable, control;
    uint8_t reset;
    uint64_t began; /* nanoseconds, when the timer was `ticks` */
    uint32_t ticks;
};

static void update_sci(struct vm_power *power)
{
    bool high = power->status & power->enable;

    if (high == power->high)
        return;
    power->high = high;
    power->events.sci(power->events.opaque, high);
}

static uint32_t timer(const struct vm_power *power)
{
    uint64_t passed = power->now() - power->began;
    uint64_t ticks = passed / NANOSECONDS * TIMER_HZ;

    ticks += passed % NANOSECONDS * TIMER_HZ / NANOSECONDS;
    return (uint32_t)(ticks + power->ticks) & TIMER_BITS;
}

/* ---- PM1 status and enable: a status bit is cleared by writing 1 ---- */

static void event_read(void *device, uint64_t offset, uint8_t *data, unsigned size)
{
    struct vm_power *power = device;
    uint32_t both;

    pthread_mutex_lock(&power->lock);
    both = power->status | (uint32_t)power->enable << 16;
    pthread_mutex_unlock(&power->lock);
    for (unsigned i = 0; i < size; i++)
        data[i] = (uint8_t)(both >> 8 * (offset + i));
}

static void event_write(void *device, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct vm_power *power = device;
    uint32_t both = 0, mask = 0;

    for (unsigned i = 0; i < size; i++) {
        both |= (uint32_t)data[i] << 8 * (offset + i);
        mask |= (uint32_t)0xff << 8 * (offset + i);
    }
    pthread_mutex_lock(&power->lock);
    power->status &= (uint16_t)~both;
    power->enable &= (uint16_t) ~(mask >> 16);
    power->enable |= both >> 16 & ENABLE_KEPT;
    update_sci(power);
    pthread_mutex_unlock(&power->lock);
}

/* ---- PM1 control ---- */

static void control_read(void *device, uint64_t offset, uint8_t *data, unsigned size)
{
    struct vm_power *power = device;
    unsigned control;

    pthread_mutex_lock(&power->lock);
    control = power->control | SCI_EN;
    pthread_mutex_unlock(&power->lock);
    for (unsigned i = 0; i < size; i++)
        data[i] = (uint8_t)(control >> 8 * (offset + i));
}

static void control_write(void *device, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct vm_power *power = device;
    unsigned value = 0, mask = 0;
    bool off;

    for (unsigned i = 0; i < size; i++) {
        value |= (unsigned)data[i] << 8 * (offset + i);
        mask |= 0xffu << 8 * (offset + i);
    }
    pthread_mutex_lock(&power->lock);
    power->control = (uint16_t)((power->control & ~mask) | (value & CTRL_KEPT));
    off = value & SLP_EN && (value & CTRL_KEPT) >> SLP_TYP_SHIFT == VM_SLEEP_OFF;
    pthread_mutex_unlock(&power->lock);
    if (off)
        power->events.off(power->events.opaque);
}

/* ---- the timer ---- */

static void timer_read(void *device, uint64_t offset, uint8_t *data, unsigned size)
{
    struct vm_power *power = device;
    uint32_t value;

    pthread_mutex_lock(&power->lock);
    value = timer(power);
    pthread_mutex_unlock(&power->lock);
    for (unsigned i = 0; i < size; i++)
        data[i] = (uint8_t)(value >> 8 * (offset + i));
}

static void timer_write(void *device, uint64_t offset, const uint8_t *data, unsigned size)
{
    (void)device;
    (void)offset;
    (void)data;
    (void)size;
}

/* ---- the reset register ---- */

static void reset_read(void *device, uint64_t offset, uint8_t *data, unsigned size)
{
    struct vm_power *power = device;

    (void)offset;
    (void)size; /* 1, as the range is */
    pthread_mutex_lock(&power->lock);
    data[0] = power->reset;
    pthread_mutex_unlock(&power->lock);
}

static void reset_write(void *device, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct vm_power *power = device;

    (void)offset;
    (void)size;
    pthread_mutex_lock(&power->lock);
    power->reset = data[0] & RESET_KEPT;
    pthread_mutex_unlock(&power->lock);
    if (data[0] & RESET_NOW)
        power->events.reset(power->events.opaque, "the reset register");
}

int vm_power_add(struct vm_power *power, struct vm_bus *ports)
{
    static const struct vm_bus_ops event = {.read = event_read, .write = event_write};
    static const struct vm_bus_ops control = {.read = control_read, .write = control_write};
    static const struct vm_bus_ops pm_timer = {.read = timer_read, .write = timer_write};
    static const struct vm_bus_ops reset = {.read = reset_read, .write = reset_write};
    int result = vm_bus_add(ports, VM_PORT_PM1_EVENT, PM1_EVENT_PORTS, &event, power);

    if (result == 0)
        result = vm_bus_add(ports, VM_PORT_PM1_CTRL, PM1_CTRL_PORTS, &control, power);
    if (result == 0)
        result = vm_bus_add(ports, VM_PORT_PM_TIMER, PM_TIMER_PORTS, &pm_timer, power);
    if (result == 0)
        result = vm_bus_add(ports, VM_PORT_RESET, 1, &reset, power);
    return result;
}

/* ---- life ---- */

void vm_power_button(struct vm_power *power)
{
    pthread_mutex_lock(&power->lock);
    power->status |= BUTTON;
    update_sci(power);
    pthread_mutex_unlock(&power->lock);
}

void vm_power_reset(struct vm_power *power)
{
    pthread_mutex_lock(&power->lock);
    power->status = power->enable = power->control = 0;
    power->reset = 0;
    update_sci(power);
    pthread_mutex_unlock(&power->lock);
}

static uint64_t monotonic(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NANOSECONDS + (uint64_t)now.tv_nsec;
}

struct vm_power *vm_power_new(const struct vm_power_events *events, uint64_t (*now)(void))
{
    struct vm_power *power = calloc(1, sizeof(*power));

    if (!power)
        return NULL;
    pthread_mutex_init(&power->lock, NULL);
    power->events = *events;
    power->now = now ? now : monotonic;
    power->began = power->now();
    return power;
}

void vm_power_free(struct vm_power *power)
{
    if (!power)
        return;
    pthread_mutex_destroy(&power->lock);
    free(power);
}

/* ---- suspending ---- */

json_t *vm_power_save(struct vm_power *power)
{
    json_t *root;

    pthread_mutex_lock(&power->lock);
    root = json_pack("{s:i, s:i, s:i, s:i, s:I}", "status", (int)power->status, "enable",
                     (int)power->enable, "control", (int)power->control, "reset", (int)power->reset,
                     "timer", (json_int_t)timer(power));
    pthread_mutex_unlock(&power->lock);
    return root;
}

int vm_power_load(struct vm_power *power, const json_t *from, struct vdisk_error *error)
{
    int status, enable, control, reset, ticks;

    if (json_unpack((json_t *)(uintptr_t)from, "{s:i, s:i, s:i, s:i, s:i}", "status", &status,
                    "enable", &enable, "control", &control, "reset", &reset, "timer", &ticks) ||
        status & ~(int)BUTTON || enable & ~(int)ENABLE_KEPT || control & ~(int)CTRL_KEPT ||
        reset & ~(int)RESET_KEPT || ticks < 0 || (uint32_t)ticks > TIMER_BITS)
        return error_set(error, -EINVAL, "this is not the state of ACPI's registers");
    pthread_mutex_lock(&power->lock);
    power->status = (uint16_t)status;
    power->enable = (uint16_t)enable;
    power->control = (uint16_t)control;
    power->reset = (uint8_t)reset;
    power->began = power->now();
    power->ticks = (uint32_t)ticks;
    update_sci(power);
    pthread_mutex_unlock(&power->lock);
    return 0;
}
