/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stream of a suspended guest (vm_stream.h), and what its text says of devices: it is refused
 * with a sentence, or loaded within bounds; then it can be written and read again, and the devices
 * go on. Without a machine, of which KVM checks what is loaded.
 */
#include "require.h"

#include "vm_devices.h"
#include "vm_stream.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define MEMORY (UINT64_C(16) << 20)

static const struct vm_config config = {.memory = MEMORY, .cpus = 1};

static struct vm_memory memory, other;
static struct reactor *reactor;
static int file = -1;

static void nothing(void *opaque)
{
    (void)opaque;
}

static void no_reset(void *opaque, const char *how)
{
    (void)opaque;
    (void)how;
}

static void no_level(void *opaque, bool high)
{
    (void)opaque;
    (void)high;
}

static void set_up(void)
{
    const struct reactor_options options = {.no_uring = true};

    file = memfd_create("stream", MFD_CLOEXEC);
    require(file >= 0 && reactor_new(&options, &reactor) == 0);
    require(vm_memory_new(&memory, MEMORY, NULL) == 0 && vm_memory_new(&other, MEMORY, NULL) == 0);
}

static void forget(const struct vm_memory *used)
{
    require(fallocate(used->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)MEMORY) == 0);
}

static void rewind_file(size_t size)
{
    require(ftruncate(file, (off_t)size) == 0 && lseek(file, 0, SEEK_SET) == 0);
}

/* Writes it into the file, which is to be read from its beginning; what it has, to be freed. */
static uint8_t *write_again(const json_t *state, const struct vm_memory *of, size_t *size)
{
    const struct vm_stream stream = {.fd = file, .cancel = -1};
    uint8_t *bytes;

    rewind_file(0);
    require(vm_stream_write_head(&stream, state, NULL) == 0);
    require(vm_stream_write_memory(&stream, of, NULL) == 0);
    *size = (size_t)lseek(file, 0, SEEK_CUR);
    bytes = malloc(*size);
    require(bytes && pread(file, bytes, *size, 0) == (ssize_t)*size);
    require(lseek(file, 0, SEEK_SET) == 0);
    return bytes;
}

/* What was read is what is written, and read again. */
static void compare(const json_t *state)
{
    const struct vm_stream stream = {.fd = file, .cancel = -1};
    size_t size, size_again;
    uint8_t *bytes = write_again(state, &memory, &size), *bytes_again;
    json_t *again;

    require(vm_stream_read_head(&stream, &again, NULL) == 0 && json_equal(state, again));
    require(vm_stream_read_memory(&stream, &other, NULL) == 0);
    bytes_again = write_again(again, &other, &size_again);
    require(size == size_again && memcmp(bytes, bytes_again, size) == 0);
    free(bytes_again);
    free(bytes);
    json_decref(again);
    forget(&other);
}

/* With the memory that was read. */
static void load_devices(const json_t *state)
{
    static const struct vm_power_events power = {no_level, nothing, no_reset, NULL};
    struct vm_devices devices = {.config = &config, .memory = &memory, .reactor = reactor};
    const json_t *list = json_object_get(state, "virtio");

    require(vm_devices_begin(&devices, &power, NULL) == 0);
    (void)vm_serial_load(devices.serial, json_object_get(state, "serial"), NULL);
    (void)vm_power_load(devices.power, json_object_get(state, "power"), NULL);
    (void)vm_rtc_load(devices.rtc, json_object_get(state, "rtc"), NULL);
    for (unsigned i = 0; i < devices.slots; i++) {
        if (virtio_load(devices.virtio[i], json_array_get(list, i), NULL) == 0)
            virtio_resume(devices.virtio[i]);
    }
    for (unsigned i = 0; i < 4; i++)
        reactor_step(reactor, false);
    vm_devices_free(&devices);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vm_stream in = {.cancel = -1};
    struct vdisk_error error = {.code = 0};
    json_t *state;

    if (file < 0)
        set_up();
    in.fd = file;
    rewind_file(0);
    require(write(file, data, size) == (ssize_t)size && lseek(file, 0, SEEK_SET) == 0);
    if (vm_stream_read_head(&in, &state, &error)) {
        require(error.text[0]);
        return 0;
    }
    if (vm_stream_read_memory(&in, &memory, &error) == 0)
        compare(state);
    else
        require(error.text[0]);
    load_devices(state);
    json_decref(state);
    forget(&memory);
    return 0;
}
