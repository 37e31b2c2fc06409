/* SPDX-License-Identifier: Apache-2.0 */
/* See vm_confine.h. */
#include "vm_confine.h"

#include "confine.h"
#include "log.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#define PATHS_MAX 8u

/* What vCPUs, interrupts, and saving and loading of a machine ask for; TCSETSF sets a terminal
 * back. */
static const unsigned long ioctls[] = {
    KVM_RUN,
    KVM_IRQ_LINE,
    KVM_IRQFD,
    KVM_IOEVENTFD,
    KVM_CHECK_EXTENSION,
    KVM_GET_SUPPORTED_CPUID,
    KVM_SET_CPUID2,
    KVM_GET_CPUID2,
    KVM_GET_MP_STATE,
    KVM_SET_MP_STATE,
    KVM_GET_REGS,
    KVM_SET_REGS,
    KVM_GET_SREGS,
    KVM_SET_SREGS,
    KVM_GET_XSAVE,
    KVM_GET_XSAVE2,
    KVM_SET_XSAVE,
    KVM_GET_XCRS,
    KVM_SET_XCRS,
    KVM_GET_FPU,
    KVM_SET_FPU,
    KVM_GET_DEBUGREGS,
    KVM_SET_DEBUGREGS,
    KVM_GET_LAPIC,
    KVM_SET_LAPIC,
    KVM_GET_MSRS,
    KVM_SET_MSRS,
    KVM_GET_VCPU_EVENTS,
    KVM_SET_VCPU_EVENTS,
    KVM_GET_TSC_KHZ,
    KVM_SET_TSC_KHZ,
    KVM_KVMCLOCK_CTRL,
    KVM_GET_CLOCK,
    KVM_SET_CLOCK,
    KVM_GET_PIT2,
    KVM_SET_PIT2,
    KVM_GET_IRQCHIP,
    KVM_SET_IRQCHIP,
    KVM_SET_SIGNAL_MASK,
    TUNSETOFFLOAD,
    TUNSETVNETHDRSZ,
    TCGETS,
    TCSETS,
    TCSETSW,
    TCSETSF,
};

int vm_confine_user(const struct vm_config *config, uid_t *uid, gid_t *gid,
                    struct vdisk_error *error)
{
    *uid = geteuid();
    *gid = getegid();
    if (!config->user || *uid != 0)
        return 0;
    return confine_find_user(config->user, uid, gid, error);
}

/*
 * No network, no other processes' System V objects, no host name. Sockets at paths are reached all
 * the same. Whoever is not root would need a user namespace for it, in which the peers of the
 * control socket are not known any more; the network is closed by the system calls then.
 */
static void leave_namespaces(void)
{
    if (geteuid() == 0 && unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS))
        log_event(LOG_WARNING, "no-namespaces", "note",
                  "this system does not give the process namespaces of its own", NULL);
}

struct paths {
    struct confine_path path[PATHS_MAX];
    char *text[PATHS_MAX];
    unsigned count;
};

/* The folder of a file that is removed at the end. */
static int add_folder(struct paths *paths, const char *file, struct confine_path rights)
{
    char *folder;

    if (!file)
        return 0;
    folder = confine_folder(file);
    if (!folder)
        return -ENOMEM;
    rights.path = folder;
    paths->text[paths->count] = folder;
    paths->path[paths->count++] = rights;
    return 0;
}

static int confine_folders(const struct vm_config *config, struct vdisk_error *error)
{
    struct paths paths = {.count = 0};
    const struct confine_path removes = {.only_remove = true};
    int rc = add_folder(&paths, config->control, removes);

    if (rc == 0 && config->console == VM_CONSOLE_SOCKET)
        rc = add_folder(&paths, config->console_path, removes);
    if (rc == 0)
        rc = add_folder(&paths, config->audit_log, (struct confine_path){.only_logs = true});
    if (rc == 0 && config->vsock)
        paths.path[paths.count++] =
            (struct confine_path){.path = config->vsock, .only_socket = true};
    if (rc == 0)
        rc = confine_files(paths.path, paths.count, error);
    if (rc > 0)
        log_event(LOG_WARNING, "no-landlock", "note",
                  "this kernel cannot confine the process to its folders", NULL);
    for (unsigned i = 0; i < paths.count; i++)
        free(paths.text[i]);
    return rc < 0 ? rc : 0;
}

int vm_confine(const struct vm_config *config, struct vdisk_error *error)
{
    const struct confine_calls calls = {
        .only_local = true,
        .ioctls = ioctls,
        .ioctl_count = sizeof(ioctls) / sizeof(*ioctls),
    };
    int rc = confine_dumps(error);

    if (rc == 0)
        leave_namespaces();
    if (rc == 0)
        rc = confine_user(config->user, error);
    if (rc == 0)
        rc = confine_privileges(error);
    if (rc == 0)
        rc = confine_folders(config, error);
    if (rc == 0)
        rc = confine_syscalls(&calls, error);
    return rc;
}
