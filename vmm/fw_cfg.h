/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How a firmware asks for what it has to know: QEMU's fw_cfg device, read-only, by its ports and by
 * DMA (docs/specs/fw_cfg.rst of QEMU). Items have a key; files are items with a name, listed in a
 * directory.
 *
 * Items are added before the guest runs; afterwards any vCPU's thread may access the ports.
 */
#ifndef VMM_FW_CFG_H
#define VMM_FW_CFG_H

#include "bus.h"
#include "memory.h"

#include "vdisk/error.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

#define VM_FW_CFG_ITEMS      32u
#define VM_FW_CFG_NAME_BYTES 56u /* with its NUL */
#define VM_FW_CFG_FILE_MAX   (1u << 20)
/* The most that one DMA transfers. */
#define VM_FW_CFG_DMA_MAX    (16u << 20)

enum vm_fw_cfg_key {
    VM_FW_CFG_SIGNATURE = 0x00,
    VM_FW_CFG_ID = 0x01,
    VM_FW_CFG_CPUS = 0x05,
    VM_FW_CFG_CPUS_MAX = 0x0f,
    VM_FW_CFG_DIRECTORY = 0x19,
    VM_FW_CFG_FILES = 0x20, /* the first, and so on */
};

struct vm_fw_cfg;

/* With signature, id, and an empty directory. NULL without memory. */
struct vm_fw_cfg *vm_fw_cfg_new(const struct vm_memory *memory);
void vm_fw_cfg_free(struct vm_fw_cfg *cfg); /* NULL is allowed */

/* The bytes are copied. -EEXIST; -ENOSPC: VM_FW_CFG_ITEMS; -EFBIG; -ENAMETOOLONG; -ENOMEM. */
int vm_fw_cfg_add(struct vm_fw_cfg *cfg, uint16_t key, const void *data, size_t size);
int vm_fw_cfg_add_file(struct vm_fw_cfg *cfg, const char *name, const void *data, size_t size);

/* At VM_PORT_FW_CFG. -errno as vm_bus_add(). */
int vm_fw_cfg_attach(struct vm_fw_cfg *cfg, struct vm_bus *ports);

/* What a firmware was about to read; a new reference; NULL without memory. */
json_t *vm_fw_cfg_save(struct vm_fw_cfg *cfg);
/* -EINVAL: not such a state; all is as it was. */
int vm_fw_cfg_load(struct vm_fw_cfg *cfg, const json_t *from, struct vdisk_error *error);

#endif
