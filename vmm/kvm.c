/* SPDX-License-Identifier: Apache-2.0 */
/* See kvm.h and the kernel's Documentation/virt/kvm/api.rst. */
#include "kvm.h"
#include "layout.h"
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define API_VERSION 12
#define LIST_MAX    4096u /* entries of a list; the longest known has some hundred */

static const struct {
    unsigned number;
    const char *name;
} needed[] = {
    {KVM_CAP_IRQCHIP, "IRQCHIP"},
    {KVM_CAP_USER_MEMORY, "USER_MEMORY"},
    {KVM_CAP_SET_TSS_ADDR, "SET_TSS_ADDR"},
    {KVM_CAP_SET_IDENTITY_MAP_ADDR, "SET_IDENTITY_MAP_ADDR"},
    {KVM_CAP_PIT2, "PIT2"},
    {KVM_CAP_PIT_STATE2, "PIT_STATE2"},
    {KVM_CAP_IRQFD, "IRQFD"},
    {KVM_CAP_IOEVENTFD, "IOEVENTFD"},
    {KVM_CAP_READONLY_MEM, "READONLY_MEM"},
    {KVM_CAP_IMMEDIATE_EXIT, "IMMEDIATE_EXIT"},
    {KVM_CAP_EXT_CPUID, "EXT_CPUID"},
    {KVM_CAP_MP_STATE, "MP_STATE"},
    {KVM_CAP_XSAVE, "XSAVE"},
    {KVM_CAP_XCRS, "XCRS"},
    {KVM_CAP_DEBUGREGS, "DEBUGREGS"},
    {KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS"},
    {KVM_CAP_ADJUST_CLOCK, "ADJUST_CLOCK"},
    {KVM_CAP_GET_TSC_KHZ, "GET_TSC_KHZ"},
};

static int cannot_open(const char *path, int rc, struct vdisk_error *error)
{
    switch (rc) {
    case -ENOENT:
    case -ENODEV:
    case -ENXIO:
        return error_set(error, rc,
                         "%s is not there: the kernel's module kvm-intel or kvm-amd is not "
                         "loaded, or virtualization is switched off in this machine's firmware",
                         path);
    case -EACCES:
    case -EPERM:
        return error_set(error, rc,
                         "%s may not be opened by this user: join its group, usually kvm", path);
    default:
        return error_set(error, rc, "%s cannot be opened: %s", path, vdisk_strerror(rc));
    }
}

static int open_device(struct vm_kvm *kvm, const char *path, struct vdisk_error *error)
{
    int version;

    kvm->fd = open(path, O_RDWR | O_CLOEXEC);
    if (kvm->fd < 0)
        return cannot_open(path, -errno, error);
    version = ioctl(kvm->fd, KVM_GET_API_VERSION, 0);
    if (version < 0)
        return error_set(error, -ENOTTY, "%s is not KVM", path);
    if (version != API_VERSION)
        return error_set(error, -ENOTSUP, "%s has version %d of KVM, not %d", path, version,
                         API_VERSION);
    for (unsigned i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
        if (ioctl(kvm->fd, KVM_CHECK_EXTENSION, needed[i].number) <= 0)
            return error_set(error, -ENOTSUP, "this kernel's KVM lacks KVM_CAP_%s: it is too old",
                             needed[i].name);
    return 0;
}

static int make_vm(struct vm_kvm *kvm, struct vdisk_error *error)
{
    int rc;

    do {
        kvm->vm = ioctl(kvm->fd, KVM_CREATE_VM, 0);
    } while (kvm->vm < 0 && errno == EINTR);
    if (kvm->vm >= 0)
        return 0;
    rc = -errno;
    if (rc == -EBUSY)
        return error_set(error, rc,
                         "KVM cannot be used: another hypervisor has taken the processor's "
                         "virtualization");
    return error_set(error, rc, "KVM makes no virtual machine: %s", vdisk_strerror(rc));
}

/* A triple fault may be pending when a processor is stopped: it is then part of the state, and does
 * not outlive a reset. Kernels before 6.1 cannot tell. */
static void show_triple_faults(const struct vm_kvm *kvm)
{
    const struct kvm_enable_cap cap = {.cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT, .args = {1}};

    (void)ioctl(kvm->vm, KVM_ENABLE_CAP, &cap);
}

static int make_platform(struct vm_kvm *kvm, struct vdisk_error *error)
{
    const uint64_t identity = VM_IDENTITY_MAP;
    /* With it port 0x61 is answered by the kernel as well. */
    const struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    const char *what = "place for its task state";
    int rc = ioctl(kvm->vm, KVM_SET_TSS_ADDR, VM_TSS);

    if (rc == 0) {
        what = "identity map";
        rc = ioctl(kvm->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity);
    }
    if (rc == 0) {
        what = "interrupt controllers";
        rc = ioctl(kvm->vm, KVM_CREATE_IRQCHIP, 0);
    }
    if (rc == 0) {
        what = "timer";
        rc = ioctl(kvm->vm, KVM_CREATE_PIT2, &pit);
    }
    if (rc == 0)
        return 0;
    rc = -errno;
    return error_set(error, rc, "KVM gives the virtual machine no %s: %s", what,
                     vdisk_strerror(rc));
}

static int ask_sizes(struct vm_kvm *kvm, struct vdisk_error *error)
{
    int run = ioctl(kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    int xsave = ioctl(kvm->vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
    int cpus = ioctl(kvm->fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);

    if (run < (int)sizeof(struct kvm_run))
        return error_set(error, -EIO, "KVM does not say how large a virtual processor is");
    kvm->run_bytes = (size_t)run;
    kvm->xsave_bytes = sizeof(struct kvm_xsave);
    if (xsave > (int)kvm->xsave_bytes)
        kvm->xsave_bytes = ((size_t)xsave + 7) / 8 * 8;
    kvm->cpus_max = cpus > 0 ? (unsigned)cpus : 4; /* as the kernel's documentation has it */
    return 0;
}

int vm_kvm_open(struct vm_kvm *kvm, const char *path, struct vdisk_error *error)
{
    int rc;

    *kvm = (struct vm_kvm){.fd = -1, .vm = -1};
    rc = open_device(kvm, path, error);
    if (rc == 0)
        rc = make_vm(kvm, error);
    if (rc == 0)
        rc = make_platform(kvm, error);
    if (rc == 0)
        rc = ask_sizes(kvm, error);
    if (rc == 0)
        show_triple_faults(kvm);
    if (rc)
        vm_kvm_close(kvm);
    return rc;
}

void vm_kvm_close(struct vm_kvm *kvm)
{
    if (kvm->vm >= 0)
        close(kvm->vm);
    if (kvm->fd >= 0)
        close(kvm->fd);
    kvm->vm = kvm->fd = -1;
}

int vm_kvm_map(struct vm_kvm *kvm, uint64_t guest, void *host, uint64_t size, bool read_only)
{
    struct kvm_userspace_memory_region region = {
        .slot = kvm->slots,
        .flags = read_only ? KVM_MEM_READONLY : 0,
        .guest_phys_addr = guest,
        .memory_size = size,
        .userspace_addr = (uintptr_t)host,
    };

    if (ioctl(kvm->vm, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return -errno;
    kvm->slots++;
    return 0;
}

int vm_kvm_irqfd(const struct vm_kvm *kvm, unsigned pin, int fd)
{
    struct kvm_irqfd irqfd = {.fd = (uint32_t)fd, .gsi = pin};

    return ioctl(kvm->vm, KVM_IRQFD, &irqfd) < 0 ? -errno : 0;
}

int vm_kvm_ioeventfd(const struct vm_kvm *kvm, uint64_t address, uint32_t value, int fd, bool on)
{
    struct kvm_ioeventfd ioeventfd = {
        .datamatch = value,
        .addr = address,
        .len = sizeof(value),
        .fd = fd,
        .flags = KVM_IOEVENTFD_FLAG_DATAMATCH | (on ? 0u : KVM_IOEVENTFD_FLAG_DEASSIGN),
    };

    return ioctl(kvm->vm, KVM_IOEVENTFD, &ioeventfd) < 0 ? -errno : 0;
}

void vm_kvm_set_irq(const struct vm_kvm *kvm, unsigned pin, bool high)
{
    struct kvm_irq_level level = {.irq = pin, .level = high};

    (void)ioctl(kvm->vm, KVM_IRQ_LINE, &level); /* fails only for a pin that is none */
}

struct kvm_cpuid2 *vm_kvm_cpuid(const struct vm_kvm *kvm)
{
    for (uint32_t count = 256; count <= LIST_MAX; count *= 2) {
        struct kvm_cpuid2 *list = calloc(1, sizeof(*list) + count * sizeof(list->entries[0]));
        int number;

        if (!list)
            return NULL;
        list->nent = count;
        if (ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, list) == 0)
            return list;
        number = errno;
        free(list);
        errno = number;
        if (number != E2BIG)
            return NULL;
    }
    return NULL;
}

struct kvm_msr_list *vm_kvm_msrs(const struct vm_kvm *kvm)
{
    struct kvm_msr_list *list, ask = {.nmsrs = 0};
    int number;

    /* With too little room it says how much it wants. */
    if (ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, &ask) < 0 && errno != E2BIG)
        return NULL;
    if (ask.nmsrs > LIST_MAX) {
        errno = E2BIG;
        return NULL;
    }
    list = calloc(1, sizeof(*list) + ask.nmsrs * sizeof(list->indices[0]));
    if (!list)
        return NULL;
    list->nmsrs = ask.nmsrs;
    if (ioctl(kvm->fd, KVM_GET_MSR_INDEX_LIST, list) == 0)
        return list;
    number = errno;
    free(list);
    errno = number;
    return NULL;
}
