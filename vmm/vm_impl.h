/* SPDX-License-Identifier: Apache-2.0 */
/* Inside a guest (vm.h): vm.c is its life, vm_suspend.c how it is suspended and goes on. */
#ifndef VMM_VM_IMPL_H
#define VMM_VM_IMPL_H

#include "firmware.h"
#include "vm.h"
#include "vm_devices.h"

#include <stdatomic.h>
#include <stdbool.h>

/* What a vCPU has found: posted once, until the life of the guest has taken it. */
struct vm_posted {
    struct reactor_message message;
    struct vm *vm;
    atomic_bool is_posted;
    atomic_uint life; /* of the guest, counted by resets, in which it was found last */
};

struct vm {
    const struct vm_config *config;
    struct vm_memory memory;
    struct reactor *reactor;
    struct vm_machine *machine;
    struct vm_devices devices;
    struct vm_firmware firmware; /* without a kernel */
    struct vm_fw_cfg *fw_cfg;
    struct vm_console *console;
    struct audit *audit;
    struct vm_control *control;
    struct vm_line notice; /* that the generation is another */
    int kernel_fd, initrd_fd, signal_fd, control_fd;
    struct vm_posted reset, off, failed;
    _Atomic(const char *) how; /* the reset that was asked for last */
    char failure[160];         /* why, when `failed` is posted */

    /* Of the task that is the guest's life. */
    struct task *life;
    bool wants_reset, has_failed, is_ending, is_paused, is_pressed;
    bool is_suspended;                /* paused, and its state is written */
    bool is_restored;                 /* paused, to go on with the first start */
    struct vm_suspension *suspension; /* under way */
    bool watches_signals;             /* a task reads them */
    unsigned resets;
    const char *last_reset;                      /* how it was asked for; NULL: there was none */
    struct limit_setting limits[VM_NETS_MAX][2]; /* of networks, as they are now: in, out */
};

/* ---- vm_suspend.c ---- */

/* One that is under way fails soon. */
void vm_suspend_cancel(struct vm *vm);
/* In place of a boot: all that config->restore has, which is closed. -errno. */
int vm_restore(struct vm *vm, struct vdisk_error *error);
/* The first start after that. -errno. */
int vm_go_on(struct vm *vm);

#endif
