/* SPDX-License-Identifier: Apache-2.0 */
/* See vm.h. */
#include "vm_impl.h"

#include "acpi.h"
#include "audit.h"
#include "boot.h"
#include "console.h"
#include "generation.h"
#include "log.h"
#include "report.h"
#include "task.h"
#include "virtio_balloon.h"
#include "virtio_net.h"
#include "vm_confine.h"
#include "vm_control.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define POLL_NS        INT64_C(50000) /* the reactor is not where a guest's data go */
#define SIGNAL_LOOK_NS INT64_C(250000000)
#define LIFELINE_NS    INT64_C(90000000000) /* as a service manager has patience */

/* ---- what vCPUs find ---- */

/* By a vCPU's thread, so that `resets` stays as it is meanwhile. */
static void post(struct vm_posted *posted)
{
    atomic_store(&posted->life, posted->vm->resets);
    if (!atomic_exchange(&posted->is_posted, true))
        reactor_post(posted->vm->reactor, &posted->message);
}

static struct vm *taken(struct reactor_message *message)
{
    struct vm_posted *posted = (struct vm_posted *)message;

    atomic_store(&posted->is_posted, false);
    return posted->vm;
}

static void take_reset(struct reactor_message *message)
{
    struct vm *vm = taken(message);

    /* A guest whose reset takes a while tries another way: that is no reset of its next life. */
    if (atomic_load(&vm->reset.life) != vm->resets)
        return;
    vm->wants_reset = true;
    task_wake(&vm->life);
}

static void take_off(struct reactor_message *message)
{
    vm_end(taken(message));
}

static void take_failed(struct reactor_message *message)
{
    struct vm *vm = taken(message);

    vm->has_failed = true;
    vm_end(vm);
}

static void on_reset(void *opaque, const char *how)
{
    struct vm *vm = opaque;

    atomic_store(&vm->how, how);
    post(&vm->reset);
}

static void on_event(void *opaque, enum vm_event event, const char *why)
{
    struct vm *vm = opaque;

    if (event == VM_EVENT_RESET) {
        on_reset(vm, why);
    } else if (!atomic_load(&vm->failed.is_posted)) {
        (void)snprintf(vm->failure, sizeof(vm->failure), "%s", why);
        post(&vm->failed);
    }
}

static void on_sci(void *opaque, bool high)
{
    const struct vm *vm = opaque;

    if (vm->machine)
        vm_machine_set_irq(vm->machine, VM_IRQ_SCI, high);
}

static void on_off(void *opaque)
{
    struct vm *vm = opaque;

    post(&vm->off);
}

/* ---- begin ---- */

static int open_file(const char *path, int *fd, struct vdisk_error *error)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    return *fd < 0 ? error_set(error, -errno, "%s: %s", path, vdisk_strerror(-errno)) : 0;
}

static int read_firmware(struct vm *vm, struct vdisk_error *error)
{
    int fd, rc = open_file(vm->config->firmware, &fd, error);

    if (rc)
        return rc;
    rc = vm_firmware_load(fd, &vm->firmware, error);
    close(fd);
    return rc;
}

static int open_files(struct vm *vm, struct vdisk_error *error)
{
    const struct vm_config *config = vm->config;
    int rc = config->kernel ? open_file(config->kernel, &vm->kernel_fd, error) : 0;

    if (rc == 0 && config->initrd)
        rc = open_file(config->initrd, &vm->initrd_fd, error);
    if (rc == 0 && config->firmware)
        rc = read_firmware(vm, error);
    if (rc == 0 && config->audit_log)
        rc = audit_open(config->audit_log, NULL, &vm->audit, error);
    return rc;
}

/* Blocked in all threads, and read by the reactor. */
static int take_signals(struct vm *vm, struct vdisk_error *error)
{
    sigset_t wanted;

    sigemptyset(&wanted);
    sigaddset(&wanted, SIGTERM);
    sigaddset(&wanted, SIGINT);
    sigaddset(&wanted, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &wanted, NULL);
    signal(SIGPIPE, SIG_IGN);
    vm->signal_fd = signalfd(-1, &wanted, SFD_NONBLOCK | SFD_CLOEXEC);
    return vm->signal_fd < 0 ? error_set(error, -errno, "%s", vdisk_strerror(-errno)) : 0;
}

static int open_control(struct vm *vm, struct vdisk_error *error)
{
    uid_t uid;
    gid_t gid;
    int rc = vm_confine_user(vm->config, &uid, &gid, error);

    if (rc || !vm->config->control)
        return rc;
    vm->control_fd = vm_control_listen(vm->config, uid, gid, error);
    if (vm->control_fd < 0)
        return vm->control_fd;
    if (uid != geteuid() && lchown(vm->config->control, uid, gid))
        return error_set(error, -errno, "%s: %s", vm->config->control, vdisk_strerror(-errno));
    return 0;
}

static void on_escape(void *opaque)
{
    vm_end(opaque);
}

static int open_console(struct vm *vm, struct vdisk_error *error)
{
    const struct vm_console_options options = {
        .kind = vm->config->console,
        .path = vm->config->console_path,
        .input = STDIN_FILENO,
        .output = STDOUT_FILENO,
        .end = on_escape,
        .opaque = vm,
    };
    int rc = vm_console_new(&options, vm->reactor, &vm->console, error);

    if (rc == 0)
        vm_console_connect(vm->console, vm->devices.serial);
    if (rc == 0 && options.kind == VM_CONSOLE_PTY)
        report_note(vm->config->name, "the console is %s", vm_console_path(vm->console));
    return rc;
}

static struct vm_acpi_config acpi_config(const struct vm *vm)
{
    return (struct vm_acpi_config){
        .cpus = vm->config->cpus,
        .virtio_slots = (1u << vm->devices.slots) - 1,
        .serial = true,
        .rtc = true,
        .generation = vm_generation_at(&vm->memory),
    };
}

static int describe_to_firmware(struct vm *vm)
{
    const struct vm_firmware_machine machine = {
        .memory = &vm->memory,
        .acpi = acpi_config(vm),
        .boot_slot = vm->config->drives > 0 ? 0 : -1,
    };
    int rc;

    vm->fw_cfg = vm_fw_cfg_new(&vm->memory);
    if (!vm->fw_cfg)
        return -ENOMEM;
    rc = vm_firmware_describe(&machine, vm->fw_cfg);
    return rc ? rc : vm_fw_cfg_attach(vm->fw_cfg, &vm->devices.ports);
}

/* What needs rights, and no thread but ours. */
static int prepare(struct vm *vm, struct vdisk_error *error)
{
    const struct vm_power_events power = {
        .sci = on_sci, .off = on_off, .reset = on_reset, .opaque = vm};
    const struct reactor_options options = {.poll = POLL_NS, .no_memory = true};
    int rc = take_signals(vm, error);

    if (rc == 0)
        rc = open_files(vm, error);
    if (rc == 0)
        rc = reactor_new(&options, &vm->reactor);
    if (rc == 0)
        rc = vm_memory_new(&vm->memory, vm->config->memory, error);
    if (rc)
        return rc;
    vm->devices =
        (struct vm_devices){.config = vm->config, .memory = &vm->memory, .reactor = vm->reactor};
    rc = vm_devices_begin(&vm->devices, &power, error);
    if (rc == 0)
        rc = vm_line_new(&vm->notice);
    if (rc == 0 && vm->config->firmware)
        rc = describe_to_firmware(vm);
    if (rc == 0)
        rc = open_console(vm, error);
    return rc ? rc : open_control(vm, error);
}

static int make_machine(struct vm *vm, struct vdisk_error *error)
{
    const struct vm_machine_options options = {
        .memory = &vm->memory,
        .ports = &vm->devices.ports,
        .mmio = &vm->devices.mmio,
        .cpus = vm->config->cpus,
        .event = on_event,
        .opaque = vm,
    };
    int rc = vm_machine_new(&options, &vm->machine, error);

    if (rc == 0 && vm->fw_cfg)
        rc = vm_machine_add_rom(vm->machine, vm_firmware_at(&vm->firmware), vm->firmware.rom,
                                vm->firmware.size);
    return rc ? rc : vm_machine_irqfd(vm->machine, VM_IRQ_GENERATION, vm->notice.fd);
}

/* Memory and processors as after power on. */
static int load_guest(struct vm *vm, struct vdisk_error *error)
{
    const struct vm_acpi_config acpi = acpi_config(vm);
    const struct vm_boot_options boot = {
        .kernel_fd = vm->kernel_fd,
        .initrd_fd = vm->initrd_fd,
        .command = vm->config->command,
        .rsdp = VM_ACPI_AT,
    };
    struct vm_entry entry;
    int rc = vm_generation_set(&vm->memory);

    if (!vm->fw_cfg && vm->kernel_fd < 0)
        return error_set(error, -ENOENT,
                         "the guest begins anew, and was restored without a kernel");
    if (vm->fw_cfg) {
        vm_firmware_place(&vm->firmware, &vm->memory, &entry);
    } else {
        if (rc == 0)
            rc = vm_acpi_build(&acpi, vm_memory_at(&vm->memory, VM_ACPI_AT, VM_ACPI_MAX));
        if (rc == 0)
            rc = vm_boot_load(&boot, &vm->memory, &entry, error);
    }
    return rc ? rc : vm_machine_prepare(vm->machine, &entry, error);
}

int vm_new(const struct vm_config *config, struct vm **out, struct vdisk_error *error)
{
    struct vm *vm = calloc(1, sizeof(*vm));
    int rc;

    if (!vm)
        return -ENOMEM;
    *vm = (struct vm){
        .config = config,
        .memory = {.fd = -1},
        .notice = {.fd = -1},
        .kernel_fd = -1,
        .initrd_fd = -1,
        .signal_fd = -1,
        .control_fd = -1,
        .reset = {.message = {.run = take_reset}, .vm = vm},
        .off = {.message = {.run = take_off}, .vm = vm},
        .failed = {.message = {.run = take_failed}, .vm = vm},
    };
    for (unsigned i = 0; i < config->nets; i++) {
        vm->limits[i][0] = config->net[i].in;
        vm->limits[i][1] = config->net[i].out;
    }
    rc = prepare(vm, error);
    if (rc == 0)
        rc = make_machine(vm, error);
    if (rc == 0)
        rc = vm_confine(config, error);
    if (rc == 0)
        rc = vm_devices_add_drives(&vm->devices, error);
    if (rc == 0) {
        vm->devices.machine = vm->machine;
        rc = vm_devices_wire(&vm->devices, error);
    }
    if (rc == 0)
        rc = config->restore ? vm_restore(vm, error) : load_guest(vm, error);
    if (rc) {
        vm_free(vm);
        return rc;
    }
    *out = vm;
    return 0;
}

static void close_fd(int fd)
{
    if (fd >= 0)
        close(fd);
}

void vm_free(struct vm *vm)
{
    if (!vm)
        return;
    if (vm->machine)
        vm_machine_stop(vm->machine);
    vm_console_free(vm->console);
    vm_devices_free(&vm->devices);
    vm_machine_free(vm->machine);
    vm_line_free(&vm->notice);
    vm_fw_cfg_free(vm->fw_cfg);
    vm_firmware_free(&vm->firmware);
    vm_memory_free(&vm->memory);
    reactor_free(vm->reactor);
    audit_close(vm->audit);
    close_fd(vm->kernel_fd);
    close_fd(vm->initrd_fd);
    close_fd(vm->signal_fd);
    close_fd(vm->control_fd);
    if (vm->control_fd >= 0 || vm->control)
        (void)unlink(vm->config->control);
    free(vm);
}

/* ---- life ---- */

/* All begins anew, but for the network's other end and what is on drives. */
static int restart(struct vm *vm, struct vdisk_error *error)
{
    int rc;

    vm_machine_stop(vm->machine);
    vm->wants_reset = false;
    vm->resets++;
    vm->last_reset = atomic_load(&vm->how);
    if (vm->is_paused)
        vm_devices_resume(&vm->devices); /* the machine is not */
    vm_devices_reset(&vm->devices);
    if (vm->is_paused)
        vm_devices_pause(&vm->devices);
    rc = load_guest(vm, error);
    if (rc == 0 && !vm->is_paused)
        rc = vm_machine_start(vm->machine);
    return rc;
}

/* The first asks the guest to shut down, the second ends it. If it is that of a lifeline
 * (lifeline.h) there will be no second one: then so does time. */
static void read_signals(void *arg)
{
    struct vm *vm = arg;
    struct signalfd_siginfo info;
    int64_t end = INT64_MAX;

    while (!vm->is_ending) {
        ssize_t got = read(vm->signal_fd, &info, sizeof(info));
        bool is_signal = got == (ssize_t)sizeof(info), is_lifeline;

        is_lifeline = is_signal && info.ssi_signo == SIGTERM && info.ssi_code == POLL_IN;
        if (is_lifeline)
            end = reactor_now() + LIFELINE_NS;
        if (reactor_now() >= end || (is_signal && !is_lifeline && vm->is_pressed))
            vm_end(vm);
        else if (is_signal)
            vm_press_button(vm);
        else
            (void)task_poll(vm->signal_fd, POLLIN, reactor_now() + SIGNAL_LOOK_NS);
    }
    vm->watches_signals = false;
    task_wake(&vm->life);
}

struct life {
    struct vm *vm;
    struct vdisk_error *error;
    int result;
};

static void close_down(struct vm *vm)
{
    vm_machine_stop(vm->machine);
    vm_control_stop(vm->control);
    while (vm->watches_signals)
        task_park(&vm->life);
}

static void live(void *arg)
{
    struct life *life = arg;
    struct vm *vm = life->vm;

    /* A guest may have reset itself before this task runs first: nobody woke it then. */
    while (!vm->is_ending && life->result == 0) {
        if (vm->wants_reset)
            life->result = restart(vm, life->error);
        else
            task_park(&vm->life);
    }
    vm->is_ending = true;
    close_down(vm);
    if (life->result == 0 && vm->has_failed)
        life->result = error_set(life->error, -EIO, "%s", vm->failure);
    reactor_stop(vm->reactor);
}

int vm_run(struct vm *vm, struct vdisk_error *error)
{
    struct life life = {.vm = vm, .error = error};
    int listener = vm->control_fd;
    int rc = task_spawn(vm->reactor, live, &life);

    if (rc)
        return rc;
    vm->watches_signals = task_spawn(vm->reactor, read_signals, vm) == 0;
    vm->control_fd = -1;
    if (listener >= 0)
        life.result =
            vm_control_start(vm, vm->reactor, vm->config, vm->audit, listener, &vm->control, error);
    if (life.result == 0)
        life.result = vm->is_restored ? vm_go_on(vm) : vm_machine_start(vm->machine);
    reactor_run(vm->reactor);
    return life.result;
}

/* ---- control ---- */

void vm_pause(struct vm *vm)
{
    if (vm->is_paused)
        return;
    vm->is_paused = true;
    vm_machine_stop(vm->machine);
    vm_devices_pause(&vm->devices);
}

int vm_resume(struct vm *vm)
{
    if (vm->suspension)
        return -EBUSY;
    if (!vm->is_paused)
        return 0;
    vm->is_paused = vm->is_suspended = false;
    vm_devices_resume(&vm->devices);
    return vm_machine_start(vm->machine);
}

void vm_press_button(struct vm *vm)
{
    vm->is_pressed = true;
    vm_power_button(vm->devices.power);
}

void vm_end(struct vm *vm)
{
    vm->is_ending = true;
    vm_suspend_cancel(vm);
    task_wake(&vm->life);
}

int vm_set_balloon(struct vm *vm, uint64_t bytes, struct vdisk_error *error)
{
    uint64_t all = vm->memory.size;

    if (bytes > all || bytes % 4096)
        return error_set(error, -EINVAL, "the guest has %llu bytes of memory, in pages of 4096",
                         (unsigned long long)all);
    return virtio_balloon_set(vm->devices.balloon, all - bytes);
}

int vm_set_net_limits(struct vm *vm, unsigned index, const struct limit_setting *in,
                      const struct limit_setting *out, struct vdisk_error *error)
{
    if (index >= vm->config->nets)
        return error_set(error, VDISK_E_NOT_FOUND, "there is no network %u", index);
    virtio_net_limits(vm->devices.net[index], in, out);
    vm->limits[index][0] = *in;
    vm->limits[index][1] = *out;
    return 0;
}

/* ---- what there is to tell ---- */

static json_t *drives_info(const struct vm *vm)
{
    json_t *drives = json_array();

    for (unsigned i = 0; i < vm->config->drives; i++)
        json_array_append_new(drives, json_pack("{s:s, s:b}", "socket", vm->config->drive[i].socket,
                                                "read_only", vm->config->drive[i].read_only));
    return drives;
}

static json_t *limit_info(const struct limit_setting *limit)
{
    return json_pack("{s:I, s:I}", "rate", (json_int_t)limit->rate, "burst",
                     (json_int_t)limit->burst);
}

static json_t *nets_info(const struct vm *vm)
{
    json_t *nets = json_array();

    for (unsigned i = 0; i < vm->config->nets; i++) {
        const struct vm_config_net *net = &vm->config->net[i];
        uint8_t mac[6];
        char text[18];

        virtio_net_mac(vm->devices.net[i], mac);
        (void)snprintf(text, sizeof(text), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2],
                       mac[3], mac[4], mac[5]);
        json_array_append_new(
            nets, json_pack("{s:s, s:s, s:I, s:o, s:o}", "mac", text, net->tap ? "tap" : "socket",
                            net->tap ? net->tap : net->socket, "vlan", (json_int_t)net->vlan, "in",
                            limit_info(&vm->limits[i][0]), "out", limit_info(&vm->limits[i][1])));
    }
    return nets;
}

static const char *state_of(const struct vm *vm)
{
    return vm->suspension     ? "suspending"
           : vm->is_suspended ? "suspended"
           : vm->is_paused    ? "paused"
                              : "running";
}

static void add_text(json_t *info, const char *name, const char *text)
{
    if (text)
        json_object_set_new(info, name, json_string(text));
}

json_t *vm_info(const struct vm *vm)
{
    const struct vm_config *config = vm->config;
    json_t *info = json_pack(
        "{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:o, s:o}", "name", vm->config->name, "state",
        state_of(vm), "pid", (json_int_t)getpid(), "cpus", (json_int_t)vm->config->cpus,
        "memory_bytes", (json_int_t)vm->memory.size, "given_back_bytes",
        (json_int_t)virtio_balloon_actual(vm->devices.balloon), "resets", (json_int_t)vm->resets,
        "drives", drives_info(vm), "networks", nets_info(vm));

    add_text(info, "console", vm_console_path(vm->console));
    add_text(info, "last_reset", vm->last_reset);
    add_text(info, "kernel", config->kernel);
    add_text(info, "initrd", config->initrd);
    add_text(info, "command", config->command);
    add_text(info, "firmware", config->firmware);
    if (config->vsock)
        json_object_set_new(
            info, "vsock",
            json_pack("{s:I, s:s}", "cid", (json_int_t)config->vsock_cid, "folder", config->vsock));
    return info;
}

static json_t *direction_metrics(const struct virtio_net_direction *direction)
{
    return json_pack("{s:I, s:I, s:I}", "frames", (json_int_t)direction->frames, "bytes",
                     (json_int_t)direction->bytes, "drops", (json_int_t)direction->drops);
}

json_t *vm_metrics(const struct vm *vm)
{
    json_t *cpus = json_array(), *nets = json_array();

    for (unsigned i = 0; i < vm->config->cpus; i++)
        json_array_append_new(cpus, json_integer((json_int_t)vm_machine_cpu_time(vm->machine, i)));
    for (unsigned i = 0; i < vm->config->nets; i++) {
        struct virtio_net_counts counts;

        virtio_net_counts(vm->devices.net[i], &counts);
        json_array_append_new(nets, json_pack("{s:b, s:o, s:o}", "up", counts.is_up, "in",
                                              direction_metrics(&counts.in), "out",
                                              direction_metrics(&counts.out)));
    }
    return json_pack("{s:o, s:o, s:I}", "cpu_microseconds", cpus, "networks", nets, "resets",
                     (json_int_t)vm->resets);
}
