/* SPDX-License-Identifier: Apache-2.0 */
/* What a guest is to be: from the command line of vdisk-vmm. */
#ifndef VMM_CONFIG_H
#define VMM_CONFIG_H

#include "console.h"
#include "limit.h"
#include "options.h"

#include <stdbool.h>
#include <stdint.h>

#define VM_DRIVES_MAX 12u
#define VM_NETS_MAX   8u

struct vm_config_drive {
    const char *socket;
    bool read_only;
    unsigned queues; /* 0: one for each processor, as far as the back end has them */
};

struct vm_config_net {
    const char *tap, *socket; /* one of them */
    bool has_mac;
    uint8_t mac[6];
    unsigned vlan;                /* 0: none */
    struct limit_setting in, out; /* bytes a second, seen from the guest */
};

struct vm_config {
    const char *name;
    const char *kernel, *initrd, *command; /* kernel NULL: firmware */
    const char *firmware;
    uint64_t memory; /* bytes */
    unsigned cpus;
    unsigned drives, nets;
    struct vm_config_drive drive[VM_DRIVES_MAX];
    struct vm_config_net net[VM_NETS_MAX];
    enum vm_console_kind console;
    const char *console_path;
    const char *control; /* NULL: no socket */
    struct option_list operators, viewers;
    const char *audit_log; /* of management; NULL: none */
    const char *user;      /* whom root becomes; NULL: nobody else */
    const char *vsock;     /* folder of sockets; NULL: no such device */
    unsigned vsock_cid;
    int restore; /* a descriptor to read a suspended guest from (vm_stream.h); 0: it boots */
    bool probe;  /* only: is /dev/kvm of use? */
    bool quiet;
};

/* Of the whole command line. OPTIONS_GO_ON, or an exit status after --help or a complaint. What
 * `config` points to lies in argv, which is changed. */
int vm_config_parse(struct vm_config *config, int argc, char **argv);

#endif
