/* SPDX-License-Identifier: Apache-2.0 */
/* See probe.h. Some hosts run a guest's kernel in an emulator, at a thousandth of the speed. */
#include "probe.h"

#include "machine.h"
#include "reactor.h"
#include "report.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define CODE_AT     0x1000u
#define PORT        0x80u
#define PATIENCE_MS 20000

/* Half as many turns: mov $TURNS, %ecx; 1: dec %ecx; jnz 1b; out %al, $PORT; 2: hlt; jmp 2b */
#define TURNS       (VM_PROBE_INSTRUCTIONS / 2)
static const uint8_t code[] = {
    0x66, 0xb9, TURNS & 0xff, TURNS >> 8 & 0xff, TURNS >> 16, 0, 0x66, 0x49, 0x75, 0xfc, 0xe6, PORT,
    0xf4, 0xeb, 0xfd};

static void on_read(void *device, uint64_t offset, uint8_t *data, unsigned size)
{
    (void)device;
    (void)offset;
    memset(data, 0, size);
}

static void on_write(void *device, uint64_t offset, const uint8_t *data, unsigned size)
{
    const uint64_t one = 1;
    ssize_t written = write(*(const int *)device, &one, sizeof(one));

    (void)offset;
    (void)data;
    (void)size;
    (void)written;
}

/* A guest that fails is one that does not get to its end. */
static void on_event(void *opaque, enum vm_event event, const char *why)
{
    (void)opaque;
    (void)event;
    (void)why;
}

static int run(struct vm_machine *machine, int done, int64_t *nanoseconds,
               struct vdisk_error *error)
{
    const struct vm_entry entry = {.kind = VM_ENTRY_REAL, .address = CODE_AT};
    struct pollfd wait = {.fd = done, .events = POLLIN};
    int rc = vm_machine_prepare(machine, &entry, error);
    int64_t begin = reactor_now();

    if (rc == 0)
        rc = vm_machine_start(machine);
    if (rc == 0 && poll(&wait, 1, PATIENCE_MS) != 1)
        rc = error_set(error, -ETIMEDOUT, "a guest of %u instructions does not end",
                       VM_PROBE_INSTRUCTIONS);
    *nanoseconds = reactor_now() - begin;
    vm_machine_stop(machine);
    return rc;
}

int vm_probe(int64_t *nanoseconds, struct vdisk_error *error)
{
    static const struct vm_bus_ops ops = {.read = on_read, .write = on_write};
    struct vm_bus ports = {.count = 0}, mmio = {.count = 0};
    struct vm_memory memory = {.fd = -1};
    struct vm_machine *machine = NULL;
    const struct vm_machine_options options = {
        .memory = &memory, .ports = &ports, .mmio = &mmio, .cpus = 1, .event = on_event};
    int done = eventfd(0, EFD_CLOEXEC);
    int rc = done < 0 ? -errno : vm_memory_new(&memory, VM_MEMORY_MIN, error);

    if (rc == 0)
        rc = vm_bus_add(&ports, PORT, 1, &ops, &done);
    if (rc == 0)
        rc = vm_machine_new(&options, &machine, error);
    if (rc == 0) {
        memcpy(vm_memory_at(&memory, CODE_AT, sizeof(code)), code, sizeof(code));
        rc = run(machine, done, nanoseconds, error);
    }
    vm_machine_free(machine);
    vm_memory_free(&memory);
    if (done >= 0)
        close(done);
    return rc;
}
