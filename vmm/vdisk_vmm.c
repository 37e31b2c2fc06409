/* SPDX-License-Identifier: Apache-2.0 */
/* `vdisk-vmm`: main. A guest's life is in vm.h, what it can be told in config.h. */
#include "config.h"
#include "descriptors.h"
#include "log.h"
#include "probe.h"
#include "report.h"
#include "vm.h"

#include "vdisk/vdisk.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define FAST_ENOUGH_NS INT64_C(100000000) /* for 1,000,000 instructions; hardware takes 1 ms */
#define STATUS_SLOW    3

static int probe(void)
{
    struct vdisk_error error = {.code = 0};
    int64_t took;
    int rc = vm_probe(&took, &error);

    if (rc && rc != -ETIMEDOUT)
        return report(NULL, rc, &error);
    if (rc == 0)
        printf("%u instructions in %.1f ms\n", VM_PROBE_INSTRUCTIONS, (double)took / 1e6);
    if (rc == 0 && took < FAST_ENOUGH_NS)
        return STATUS_DONE;
    report_note(NULL, "/dev/kvm is too slow here for an operating system");
    return STATUS_SLOW;
}

static int run(const struct vm_config *config)
{
    struct vdisk_error error = {.code = 0};
    struct vm *vm;
    int rc = vm_new(config, &vm, &error);

    if (rc)
        return report(config->name, rc, &error);
    rc = vm_run(vm, &error);
    vm_free(vm);
    return rc ? report(config->name, rc, &error) : STATUS_DONE;
}

int main(int argc, char **argv)
{
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    struct vm_config config = {.name = NULL};
    int status;

    if (!descriptors_open_standard())
        return STATUS_FAILED;
    report_set_program(slash ? slash + 1 : argc > 0 ? argv[0] : "vdisk-vmm");
    if (vdisk_init() < 0)
        return report_text(NULL, -EIO, "the cryptographic libraries do not start");
    status = vm_config_parse(&config, argc, argv);
    if (status != OPTIONS_GO_ON)
        return status;
    log_open(config.quiet);
    return config.probe ? probe() : run(&config);
}
