/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Suspending a guest, and going on with one that was (vm.h). The state is written by a thread of
 * its own, while the machine and its devices stand still and the reactor serves who looks on.
 */
#include "apart.h"
#include "generation.h"
#include "report.h"
#include "task.h"
#include "vm_impl.h"
#include "vm_state.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct vm_suspension {
    struct vm_state_parts parts;
    struct vm_stream stream;
    struct vdisk_error *error;
};

static struct vm_state_parts parts_of(const struct vm *vm)
{
    return (struct vm_state_parts){
        .memory = &vm->memory,
        .machine = vm->machine,
        .devices = &vm->devices,
        .firmware = &vm->firmware,
        .fw_cfg = vm->fw_cfg,
    };
}

/* ---- out ---- */

/* What vCPUs had found before they stopped is done first: it is in no state. */
static int settle(struct vm *vm, struct vdisk_error *error)
{
    while (!vm->is_ending && (vm->wants_reset || atomic_load(&vm->reset.is_posted)))
        task_pause();
    if (vm->is_ending || atomic_load(&vm->off.is_posted) || atomic_load(&vm->failed.is_posted))
        return error_set(error, -ECANCELED, "the guest ends, and is not suspended any more");
    return 0;
}

static int write_state(void *arg)
{
    const struct vm_suspension *suspension = arg;

    return vm_state_write(&suspension->parts, &suspension->stream, suspension->error);
}

int vm_suspend(struct vm *vm, int fd, struct vdisk_error *error)
{
    struct vm_suspension suspension = {.stream = {.fd = fd}, .error = error};
    int rc;

    if (vm->suspension)
        return error_set(error, -EBUSY, "the guest is being suspended already");
    /* Where the other end does not read, whoever ends the guest is not to wait for it. */
    if (fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        return error_set(error, -errno, "the descriptor: %s", vdisk_strerror(-errno));
    suspension.stream.cancel = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (suspension.stream.cancel < 0)
        return error_set(error, -errno, "%s", vdisk_strerror(-errno));
    suspension.parts = parts_of(vm);
    vm->is_suspended = false;
    vm->suspension = &suspension;
    vm_pause(vm);
    rc = settle(vm, error);
    if (rc == 0)
        rc = apart_call(write_state, &suspension);
    vm->suspension = NULL;
    vm->is_suspended = rc == 0;
    close(suspension.stream.cancel);
    return rc;
}

bool vm_is_suspending(const struct vm *vm)
{
    return vm->suspension;
}

void vm_suspend_cancel(struct vm *vm)
{
    if (vm->suspension)
        (void)eventfd_write(vm->suspension->stream.cancel, 1);
}

/* ---- and in ---- */

int vm_restore(struct vm *vm, struct vdisk_error *error)
{
    const struct vm_state_parts parts = parts_of(vm);
    const struct vm_stream stream = {.fd = vm->config->restore, .cancel = vm->signal_fd};
    int rc = vm_state_read(&parts, &stream, error);

    close(stream.fd);
    if (rc == 0)
        rc = vm_generation_set(&vm->memory);
    vm->is_paused = vm->is_restored = rc == 0;
    return rc;
}

int vm_go_on(struct vm *vm)
{
    int rc = vm_resume(vm);

    /* It may go on elsewhere as well, with the same random numbers. */
    if (rc == 0)
        vm_line_pulse(&vm->notice);
    return rc;
}
