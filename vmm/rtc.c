/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An MC146818; see rtc.h. The data sheet is Motorola's.
 *
 * While it runs, the time is `offset` from that of the host, and what `cmos` has in the place of
 * the time's registers means nothing. It is stopped while register B has SET, or the divider of
 * register A is held in reset: then those bytes hold the time, as it was or as the guest wrote
 * them, and become the time when it runs again.
 *
 * An update, at which an alarm may come, is each second's begin. Those up to `seen` were noticed:
 * what came since is found out when the guest looks at register C, and by a timer while there are
 * interrupts for it.
 */
#include "rtc.h"

#include "bytes_json.h"
#include "report.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define CMOS_BYTES 128u

enum { /* registers */
    SECONDS,
    SECONDS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    HOURS,
    HOURS_ALARM,
    DAY_OF_WEEK,
    DAY,
    MONTH,
    YEAR,
    A,
    B,
    C,
    D,
    CENTURY = VM_RTC_CENTURY,
};

#define A_UPDATING  0x80u
#define A_RESET     0x60u /* of the divider's bits: held in reset when both are set */
#define A_FIRST     0x26u /* 32,768 Hz; a rate of 1,024 Hz */
#define B_SET       0x80u
#define ALARM       0x20u /* of B: it interrupts; of C: it came */
#define UPDATED     0x10u /* likewise */
#define INTERRUPTS  (ALARM | UPDATED)
#define B_BINARY    0x04u
#define B_24_HOURS  0x02u
#define C_IRQ       0x80u
#define D_VALID     0x80u /* the battery is good */
#define ANY         0xc0u /* an alarm's register from there on: at each */
#define HOURS_PM    0x80u /* of 12 */

#define SECOND_NS   1000000000
#define UPDATE_NS   244000    /* how long before it A_UPDATING tells of an update */
#define FIRST_NS    500000000 /* of the second, when the divider begins to run */
#define OFFSET_MAX  INT64_C(1000000000000)
#define DAY_SECONDS 86400

struct clock_state {
    uint8_t index;
    uint8_t cmos[CMOS_BYTES];
    int64_t offset;    /* seconds */
    int32_t offset_ns; /* and nanoseconds, 0 to SECOND_NS - 1 */
};

struct vm_rtc {
    pthread_mutex_t lock;
    struct vm_rtc_options options;
    struct clock_state state;
    int64_t seen; /* seconds */
    bool high;    /* the interrupt */
    /* The timer: its sleep is in flight, a message that has it begin is on its way, the end. */
    bool sleeping, posted, ending;
    struct reactor_op sleep;
    struct reactor_message begin;
};

/* ---- time and bytes ---- */

static bool is_time(unsigned index)
{
    return index == SECONDS || index == MINUTES || index == HOURS ||
           (index >= DAY_OF_WEEK && index <= YEAR) || index == CENTURY;
}

static uint8_t encode(const struct clock_state *state, int value)
{
    value = (value % 100 + 100) % 100; /* a guest may have made it a year before Christ */
    return (uint8_t)(state->cmos[B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static int decode(const struct clock_state *state, unsigned byte)
{
    return (int)(state->cmos[B] & B_BINARY ? byte : (byte >> 4) * 10 + (byte & 15));
}

static uint8_t encode_hours(const struct clock_state *state, int hours)
{
    if (state->cmos[B] & B_24_HOURS)
        return encode(state, hours);
    return (uint8_t)(encode(state, (hours + 11) % 12 + 1) | (hours >= 12 ? HOURS_PM : 0));
}

static int decode_hours(const struct clock_state *state, unsigned byte)
{
    if (state->cmos[B] & B_24_HOURS)
        return decode(state, byte);
    return decode(state, byte & ~HOURS_PM) % 12 + (byte & HOURS_PM ? 12 : 0);
}

/* Into the registers. */
static void show(struct clock_state *state, int64_t seconds)
{
    time_t time = seconds;
    struct tm tm = {0};

    gmtime_r(&time, &tm);
    state->cmos[SECONDS] = encode(state, tm.tm_sec);
    state->cmos[MINUTES] = encode(state, tm.tm_min);
    state->cmos[HOURS] = encode_hours(state, tm.tm_hour);
    state->cmos[DAY_OF_WEEK] = encode(state, tm.tm_wday + 1);
    state->cmos[DAY] = encode(state, tm.tm_mday);
    state->cmos[MONTH] = encode(state, tm.tm_mon + 1);
    state->cmos[YEAR] = encode(state, (tm.tm_year + 1900) % 100);
    state->cmos[CENTURY] = encode(state, (tm.tm_year + 1900) / 100);
}

/* From the registers. The day of the week follows from the date; what is none (the 31st of April)
 * is the day that so many days later is. */
static int64_t shown(const struct clock_state *state)
{
    const uint8_t *cmos = state->cmos;
    struct tm tm = {
        .tm_sec = decode(state, cmos[SECONDS]),
        .tm_min = decode(state, cmos[MINUTES]),
        .tm_hour = decode_hours(state, cmos[HOURS]),
        .tm_mday = decode(state, cmos[DAY]),
        .tm_mon = decode(state, cmos[MONTH]) - 1,
        .tm_year = decode(state, cmos[CENTURY]) * 100 + decode(state, cmos[YEAR]) - 1900,
    };

    return timegm(&tm);
}

/* ---- running and stopped ---- */

static bool is_reset(const struct clock_state *state)
{
    return (state->cmos[A] & A_RESET) == A_RESET;
}

static bool is_stopped(const struct clock_state *state)
{
    return state->cmos[B] & B_SET || is_reset(state);
}

static struct timespec guest_time(const struct vm_rtc *rtc)
{
    struct timespec time;

    rtc->options.now(&time);
    time.tv_sec += rtc->state.offset;
    time.tv_nsec += rtc->state.offset_ns;
    if (time.tv_nsec >= SECOND_NS) {
        time.tv_nsec -= SECOND_NS;
        time.tv_sec++;
    }
    return time;
}

/* It is so many seconds now, and with `ns` that part of one; negative: as before. */
static void set_time(struct vm_rtc *rtc, int64_t seconds, int32_t ns)
{
    struct timespec time = guest_time(rtc);

    rtc->seen = seconds;
    rtc->state.offset += seconds - time.tv_sec;
    if (ns < 0)
        return;
    rtc->state.offset_ns += ns - (int32_t)time.tv_nsec;
    if (rtc->state.offset_ns < 0) {
        rtc->state.offset_ns += SECOND_NS;
        rtc->state.offset--;
    } else if (rtc->state.offset_ns >= SECOND_NS) {
        rtc->state.offset_ns -= SECOND_NS;
        rtc->state.offset++;
    }
}

/* ---- alarms and updates ---- */

static bool is_due(unsigned byte, int value, int is)
{
    return byte >= ANY || value == is;
}

/* Whether the alarm comes at that second. */
static bool is_alarm(const struct clock_state *state, int64_t seconds)
{
    const uint8_t *cmos = state->cmos;
    int of_day = (int)((seconds % DAY_SECONDS + DAY_SECONDS) % DAY_SECONDS);
    uint8_t second = cmos[SECONDS_ALARM], minute = cmos[MINUTES_ALARM], hour = cmos[HOURS_ALARM];

    return is_due(second, decode(state, second), of_day % 60) &&
           is_due(minute, decode(state, minute), of_day / 60 % 60) &&
           is_due(hour, decode_hours(state, hour), of_day / 3600);
}

static void update_irq(struct vm_rtc *rtc)
{
    uint8_t *cmos = rtc->state.cmos;
    bool high = cmos[B] & cmos[C] & INTERRUPTS;

    cmos[C] = (uint8_t)((cmos[C] & INTERRUPTS) | (high ? C_IRQ : 0));
    if (high == rtc->high)
        return;
    rtc->high = high;
    if (rtc->options.irq)
        rtc->options.irq(rtc->options.opaque, high);
}

/* Notices what has come. A clock that was set back is looked at anew. */
static void look(struct vm_rtc *rtc)
{
    struct clock_state *state = &rtc->state;
    int64_t now = guest_time(rtc).tv_sec, from = rtc->seen;

    if (is_stopped(state) || now == from)
        return;
    rtc->seen = now;
    state->cmos[C] |= UPDATED;
    if (now < from || now - from > DAY_SECONDS)
        from = now - (now < from ? 1 : DAY_SECONDS);
    while (from < now && !(state->cmos[C] & ALARM))
        if (is_alarm(state, ++from))
            state->cmos[C] |= ALARM;
    update_irq(rtc);
}

/* ---- the timer: by the reactor's thread ---- */

static bool is_ticking(const struct vm_rtc *rtc)
{
    return rtc->options.reactor && !rtc->ending && rtc->state.cmos[B] & INTERRUPTS &&
           !is_stopped(&rtc->state);
}

static void tick(struct reactor_op *op);

static void sleep_on(struct vm_rtc *rtc)
{
    if (rtc->sleeping || !is_ticking(rtc))
        return;
    rtc->sleep = (struct reactor_op){
        .kind = REACTOR_SLEEP,
        .deadline = reactor_now() + SECOND_NS - guest_time(rtc).tv_nsec,
        .done = tick,
        .owner = rtc,
    };
    rtc->sleeping = true;
    reactor_submit(rtc->options.reactor, &rtc->sleep);
}

static void tick(struct reactor_op *op)
{
    struct vm_rtc *rtc = op->owner;

    pthread_mutex_lock(&rtc->lock);
    rtc->sleeping = false;
    look(rtc);
    sleep_on(rtc);
    pthread_mutex_unlock(&rtc->lock);
}

static void begin_ticking(struct reactor_message *message)
{
    struct vm_rtc *rtc = (struct vm_rtc *)((char *)message - offsetof(struct vm_rtc, begin));

    pthread_mutex_lock(&rtc->lock);
    rtc->posted = false;
    sleep_on(rtc);
    pthread_mutex_unlock(&rtc->lock);
}

/* By any thread. */
static void want_ticks(struct vm_rtc *rtc)
{
    if (rtc->sleeping || rtc->posted || !is_ticking(rtc))
        return;
    rtc->posted = true;
    rtc->begin.run = begin_ticking;
    reactor_post(rtc->options.reactor, &rtc->begin);
}

/* ---- registers ---- */

/* Register A or B. A divider that is let go takes half a second to the first update. */
static void write_control(struct vm_rtc *rtc, unsigned index, uint8_t value)
{
    struct clock_state *state = &rtc->state;
    bool was_stopped = is_stopped(state), was_reset = is_reset(state);

    look(rtc);
    if (!was_stopped)
        show(state, guest_time(rtc).tv_sec);
    if (index == B && value & B_SET)
        value &= (uint8_t)~UPDATED;
    state->cmos[index] = value;
    if (was_stopped && !is_stopped(state))
        set_time(rtc, shown(state), was_reset ? FIRST_NS : -1);
    update_irq(rtc);
    want_ticks(rtc);
}

static uint8_t take_flags(struct vm_rtc *rtc)
{
    uint8_t flags;

    look(rtc);
    flags = rtc->state.cmos[C];
    rtc->state.cmos[C] = 0;
    update_irq(rtc);
    return flags;
}

static uint8_t read_register(struct vm_rtc *rtc)
{
    struct clock_state *state = &rtc->state;
    bool runs = !is_stopped(state);
    struct timespec time;

    switch (state->index) {
    case A:
        time = guest_time(rtc);
        return (uint8_t)(state->cmos[A] |
                         (runs && time.tv_nsec >= SECOND_NS - UPDATE_NS ? A_UPDATING : 0));
    case C:
        return take_flags(rtc);
    case D:
        return D_VALID;
    default:
        if (runs && is_time(state->index))
            show(state, guest_time(rtc).tv_sec);
        return state->cmos[state->index];
    }
}

static void write_register(struct vm_rtc *rtc, uint8_t value)
{
    struct clock_state *state = &rtc->state;
    bool sets_time = is_time(state->index) && !is_stopped(state);

    switch (state->index) {
    case A:
        write_control(rtc, A, value & (uint8_t)~A_UPDATING);
        break;
    case B:
        write_control(rtc, B, value);
        break;
    case C:
    case D:
        break;
    default:
        look(rtc); /* with the alarm as it was */
        if (sets_time)
            show(state, guest_time(rtc).tv_sec);
        state->cmos[state->index] = value;
        if (sets_time)
            set_time(rtc, shown(state), -1);
    }
}

/* ---- the bus: the index and the data; the index cannot be read ---- */

static void rtc_read(void *device, uint64_t offset, uint8_t *data, unsigned size)
{
    struct vm_rtc *rtc = device;

    pthread_mutex_lock(&rtc->lock);
    for (unsigned i = 0; i < size; i++)
        data[i] = offset + i == 1 ? read_register(rtc) : 0xff;
    pthread_mutex_unlock(&rtc->lock);
}

/* The index's upper bit masks the NMI, which nobody raises. */
static void rtc_write(void *device, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct vm_rtc *rtc = device;

    pthread_mutex_lock(&rtc->lock);
    for (unsigned i = 0; i < size; i++) {
        if (offset + i == 0)
            rtc->state.index = data[i] % CMOS_BYTES;
        else
            write_register(rtc, data[i]);
    }
    pthread_mutex_unlock(&rtc->lock);
}

int vm_rtc_add(struct vm_rtc *rtc, struct vm_bus *ports, uint64_t base)
{
    static const struct vm_bus_ops ops = {.read = rtc_read, .write = rtc_write};

    return vm_bus_add(ports, base, VM_RTC_PORTS, &ops, rtc);
}

/* ---- life ---- */

static void real_time(struct timespec *time)
{
    clock_gettime(CLOCK_REALTIME, time);
}

struct vm_rtc *vm_rtc_new(const struct vm_rtc_options *options)
{
    struct vm_rtc *rtc = calloc(1, sizeof(*rtc));

    if (!rtc)
        return NULL;
    pthread_mutex_init(&rtc->lock, NULL);
    rtc->options = *options;
    if (!options->now)
        rtc->options.now = real_time;
    rtc->state.cmos[A] = A_FIRST;
    rtc->state.cmos[B] = B_24_HOURS;
    rtc->seen = guest_time(rtc).tv_sec;
    return rtc;
}

void vm_rtc_free(struct vm_rtc *rtc)
{
    if (!rtc)
        return;
    rtc->ending = true;
    if (rtc->sleeping)
        reactor_cancel(rtc->options.reactor, &rtc->sleep);
    while (rtc->sleeping || rtc->posted)
        reactor_step(rtc->options.reactor, true);
    pthread_mutex_destroy(&rtc->lock);
    free(rtc);
}

void vm_rtc_reset(struct vm_rtc *rtc)
{
    pthread_mutex_lock(&rtc->lock);
    rtc->state.cmos[B] &= (uint8_t)~INTERRUPTS;
    rtc->state.cmos[C] = 0;
    rtc->seen = guest_time(rtc).tv_sec;
    update_irq(rtc);
    pthread_mutex_unlock(&rtc->lock);
}

/* ---- suspending ---- */

json_t *vm_rtc_save(struct vm_rtc *rtc)
{
    struct clock_state state;

    pthread_mutex_lock(&rtc->lock);
    state = rtc->state;
    pthread_mutex_unlock(&rtc->lock);
    return json_pack("{s:i, s:o, s:I, s:i}", "index", (int)state.index, "cmos",
                     bytes_to_json(state.cmos, CMOS_BYTES), "offset", (json_int_t)state.offset,
                     "offset_ns", (int)state.offset_ns);
}

int vm_rtc_load(struct vm_rtc *rtc, const json_t *from, struct vdisk_error *error)
{
    struct clock_state state;
    const json_t *cmos;
    json_int_t offset;
    int index, ns;

    if (json_unpack((json_t *)(uintptr_t)from, "{s:i, s:o, s:I, s:i}", "index", &index, "cmos",
                    &cmos, "offset", &offset, "offset_ns", &ns) ||
        index < 0 || index >= (int)CMOS_BYTES || offset < -OFFSET_MAX || offset > OFFSET_MAX ||
        ns < 0 || ns >= SECOND_NS || bytes_from_json(cmos, state.cmos, CMOS_BYTES) != CMOS_BYTES)
        return error_set(error, -EINVAL, "this is not the state of a clock");
    state.index = (uint8_t)index;
    state.offset = offset;
    state.offset_ns = ns;
    state.cmos[A] &= (uint8_t)~A_UPDATING;
    pthread_mutex_lock(&rtc->lock);
    rtc->state = state;
    rtc->seen = guest_time(rtc).tv_sec;
    update_irq(rtc);
    want_ticks(rtc);
    pthread_mutex_unlock(&rtc->lock);
    return 0;
}
