/* SPDX-License-Identifier: Apache-2.0 */
/* A machine for tests; see vm_machine_kit.h. */
#include "vm_machine_kit.h"
#include "kvm.h"
#include "layout.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define RAM_BYTES (UINT64_C(16) << 20)
#define PATIENCE  20 /* seconds; of a machine that is slow, and busy with other things */

bool vm_kit_usable(void)
{
    struct vdisk_error error;
    struct vm_kvm kvm;

    if (vm_kvm_open(&kvm, VM_KVM_PATH, &error) == 0) {
        vm_kvm_close(&kvm);
        return true;
    }
    print_message("%s\n", error.text);
    return false;
}

/* ---- the device ---- */

static void keep(struct vm_kit *kit, bool read, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct vm_kit_report report = {.read = read, .offset = offset, .size = size};

    memcpy(&report.value, data, size);
    pthread_mutex_lock(&kit->lock);
    if (kit->count < VM_KIT_REPORTS)
        kit->report[kit->count++] = report;
    pthread_cond_broadcast(&kit->changed);
    pthread_mutex_unlock(&kit->lock);
}

static void write_port(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    keep(opaque, false, offset, data, size);
}

static void write_memory(void *opaque, uint64_t offset, const uint8_t *data, unsigned size)
{
    keep(opaque, false, VM_KIT_MEMORY + offset, data, size);
}

/* 0x01, 0x02, ...: a byte for each that was read. */
static void read_any(void *opaque, uint64_t offset, uint8_t *data, unsigned size)
{
    struct vm_kit *kit = opaque;

    (void)offset;
    pthread_mutex_lock(&kit->lock);
    if (kit->dwell) {
        kit->dwelling++;
        pthread_cond_broadcast(&kit->changed);
        pthread_mutex_unlock(&kit->lock);
        (void)poll(NULL, 0, PATIENCE * 1000); /* a signal ends it */
        pthread_mutex_lock(&kit->lock);
    }
    for (unsigned i = 0; i < size; i++)
        data[i] = (uint8_t)++kit->reads;
    pthread_mutex_unlock(&kit->lock);
}

static const struct vm_bus_ops port_ops = {.read = read_any, .write = write_port};
static const struct vm_bus_ops memory_ops = {.read = read_any, .write = write_memory};

static void on_event(void *opaque, enum vm_event event, const char *why)
{
    struct vm_kit *kit = opaque;

    pthread_mutex_lock(&kit->lock);
    kit->events++;
    kit->event = event;
    snprintf(kit->why, sizeof(kit->why), "%s", why);
    pthread_cond_broadcast(&kit->changed);
    pthread_mutex_unlock(&kit->lock);
}

/* ---- the machine ---- */

struct vm_kit *vm_kit_new(unsigned cpus)
{
    struct vm_kit *kit = calloc(1, sizeof(*kit));
    struct vm_machine_options options = {.cpus = cpus, .event = on_event, .opaque = kit};
    struct vdisk_error error = {0};

    assert_non_null(kit);
    pthread_mutex_init(&kit->lock, NULL);
    pthread_cond_init(&kit->changed, NULL);
    assert_int_equal(vm_memory_new(&kit->memory, RAM_BYTES, NULL), 0);
    assert_int_equal(vm_bus_add(&kit->ports, VM_KIT_PORT, 4, &port_ops, kit), 0);
    assert_int_equal(vm_bus_add(&kit->mmio, VM_KIT_MMIO, 0x1000, &memory_ops, kit), 0);
    options.memory = &kit->memory;
    options.ports = &kit->ports;
    options.mmio = &kit->mmio;
    if (vm_machine_new(&options, &kit->machine, &error))
        fail_msg("%s", error.text);
    return kit;
}

void vm_kit_free(struct vm_kit *kit)
{
    if (!kit)
        return;
    vm_machine_free(kit->machine);
    vm_memory_free(&kit->memory);
    pthread_cond_destroy(&kit->changed);
    pthread_mutex_destroy(&kit->lock);
    free(kit);
}

static void put(const struct vm_memory *memory, uint64_t at, uint64_t value)
{
    memcpy(vm_memory_at(memory, at, sizeof(value)), &value, sizeof(value));
}

/* All addresses below 4 GiB as they are, in large pages. */
static void make_tables(const struct vm_memory *memory)
{
    uint64_t top = VM_BOOT_TABLES, middle = top + 0x1000, low = top + 0x2000;

    put(memory, top, middle | 3);
    for (unsigned i = 0; i < 4; i++)
        put(memory, middle + i * 8, (low + i * UINT64_C(0x1000)) | 3);
    for (uint64_t i = 0; i < 4 * UINT64_C(512); i++)
        put(memory, low + i * 8, i << 21 | 0x83);
}

struct vm_entry vm_kit_place(const struct vm_memory *memory, const struct vm_guest *guest)
{
    size_t size = (size_t)(guest->end - guest->begin);
    const uint64_t gdt = VM_KIT_GDT;

    assert_true(size <= VM_KIT_CODE_MAX);
    memcpy(vm_memory_at(memory, VM_KIT_CODE, size), guest->begin, size);
    make_tables(memory);
    put(memory, gdt + 0x10,
        guest->kind == VM_ENTRY_LONG ? UINT64_C(0x00af9b000000ffff) : UINT64_C(0x00cf9b000000ffff));
    put(memory, gdt + 0x18, UINT64_C(0x00cf93000000ffff));
    return (struct vm_entry){
        .kind = guest->kind,
        .address = VM_KIT_CODE,
        .argument = VM_KIT_ARGUMENT,
        .tables = VM_BOOT_TABLES,
        .gdt = gdt,
    };
}

void vm_kit_load(struct vm_kit *kit, const struct vm_guest *guest)
{
    const struct vm_entry entry = vm_kit_place(&kit->memory, guest);
    struct vdisk_error error = {0};

    if (vm_machine_prepare(kit->machine, &entry, &error))
        fail_msg("%s", error.text);
}

void vm_kit_run(struct vm_kit *kit, const struct vm_guest *guest)
{
    vm_kit_load(kit, guest);
    assert_int_equal(vm_machine_start(kit->machine), 0);
}

/* ---- waiting ---- */

static void wait_for(struct vm_kit *kit, unsigned reports, unsigned events)
{
    struct timespec until;
    unsigned seen;
    int rc = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE;
    pthread_mutex_lock(&kit->lock);
    while (kit->count < reports && kit->events < events && rc == 0)
        rc = pthread_cond_timedwait(&kit->changed, &kit->lock, &until);
    seen = kit->count;
    pthread_mutex_unlock(&kit->lock);
    if (rc)
        fail_msg("nothing after %d seconds; %u reports", PATIENCE, seen);
}

void vm_kit_wait(struct vm_kit *kit, unsigned reports)
{
    wait_for(kit, reports, 1);
    if (vm_kit_count(kit) < reports)
        fail_msg("event instead of a report: %s", kit->why);
}

void vm_kit_wait_event(struct vm_kit *kit)
{
    wait_for(kit, UINT32_MAX, 1);
}

void vm_kit_wait_reports(struct vm_kit *kit, unsigned reports)
{
    wait_for(kit, reports, UINT32_MAX);
}

void vm_kit_stop_in_read(struct vm_kit *kit)
{
    pthread_mutex_lock(&kit->lock);
    kit->dwell = true;
    kit->dwelling = 0;
    pthread_mutex_unlock(&kit->lock);
    assert_int_equal(vm_machine_start(kit->machine), 0);
    pthread_mutex_lock(&kit->lock);
    while (kit->dwelling == 0)
        pthread_cond_wait(&kit->changed, &kit->lock);
    kit->dwell = false;
    pthread_mutex_unlock(&kit->lock);
    vm_machine_stop(kit->machine);
}

unsigned vm_kit_count(struct vm_kit *kit)
{
    unsigned count;

    pthread_mutex_lock(&kit->lock);
    count = kit->count;
    pthread_mutex_unlock(&kit->lock);
    return count;
}

uint64_t vm_kit_value(struct vm_kit *kit, unsigned n)
{
    uint64_t value;

    pthread_mutex_lock(&kit->lock);
    assert_true(n < kit->count);
    value = kit->report[n].value;
    pthread_mutex_unlock(&kit->lock);
    return value;
}

void vm_kit_forget(struct vm_kit *kit)
{
    pthread_mutex_lock(&kit->lock);
    kit->count = kit->reads = kit->events = 0;
    pthread_mutex_unlock(&kit->lock);
}
