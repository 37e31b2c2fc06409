/* SPDX-License-Identifier: Apache-2.0 */
/* The fw_cfg device; see fw_cfg.h. */
#include "fw_cfg.h"
#include "layout.h"
#include "report.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Registers, from VM_PORT_FW_CFG on: a selector of 2 bytes, the data, and at 4 an address of 8. */
#define SELECTOR   0u
#define DATA       1u
#define DMA        4u
#define DMA_LOW    8u /* writing it starts the transfer */
#define PORTS      12u

#define ID_PORTS   1u
#define ID_DMA     2u

#define DMA_ERROR  0x01u
#define DMA_READ   0x02u
#define DMA_SKIP   0x04u
#define DMA_SELECT 0x08u
#define DMA_WRITE  0x10u

#define WRITE_MODE 0x4000u /* of a key; nothing can be written here */
#define NOTHING    0xffffu

struct item {
    uint16_t key;
    size_t size;
    uint8_t *data;
};

/* As the guest reads them, big-endian. */
struct file_entry {
    uint32_t size;
    uint16_t key, reserved;
    char name[VM_FW_CFG_NAME_BYTES];
};

struct directory {
    uint32_t count;
    struct file_entry file[VM_FW_CFG_ITEMS];
};

struct dma_access {
    uint32_t control, length;
    uint64_t address;
};

struct vm_fw_cfg {
    const struct vm_memory *memory;
    unsigned items, files;
    struct item item[VM_FW_CFG_ITEMS];
    struct directory directory;

    pthread_mutex_t lock;
    uint16_t key;
    size_t offset;      /* in the item, at most its size */
    uint32_t dma_above; /* the upper half of an address, as it was written */
};

/* ---- items ---- */

struct vm_fw_cfg *vm_fw_cfg_new(const struct vm_memory *memory)
{
    const uint32_t id = htole32(ID_PORTS | ID_DMA);
    struct vm_fw_cfg *cfg = calloc(1, sizeof(*cfg));

    if (!cfg)
        return NULL;
    cfg->memory = memory;
    cfg->key = NOTHING;
    pthread_mutex_init(&cfg->lock, NULL);
    if (vm_fw_cfg_add(cfg, VM_FW_CFG_SIGNATURE, "QEMU", 4) ||
        vm_fw_cfg_add(cfg, VM_FW_CFG_ID, &id, sizeof(id))) {
        vm_fw_cfg_free(cfg);
        return NULL;
    }
    return cfg;
}

void vm_fw_cfg_free(struct vm_fw_cfg *cfg)
{
    if (!cfg)
        return;
    for (unsigned i = 0; i < cfg->items; i++)
        free(cfg->item[i].data);
    pthread_mutex_destroy(&cfg->lock);
    free(cfg);
}

/* The bytes of a key; NULL: there is no such item. */
static const uint8_t *find(const struct vm_fw_cfg *cfg, uint16_t key, size_t *size)
{
    if (key == VM_FW_CFG_DIRECTORY) {
        *size = offsetof(struct directory, file) + cfg->files * sizeof(struct file_entry);
        return (const uint8_t *)&cfg->directory;
    }
    for (unsigned i = 0; i < cfg->items; i++) {
        if (cfg->item[i].key == key) {
            *size = cfg->item[i].size;
            return cfg->item[i].data;
        }
    }
    *size = 0;
    return NULL;
}

int vm_fw_cfg_add(struct vm_fw_cfg *cfg, uint16_t key, const void *data, size_t size)
{
    struct item item = {.key = key, .size = size};
    size_t old;

    if (find(cfg, key, &old))
        return -EEXIST;
    if (cfg->items == VM_FW_CFG_ITEMS)
        return -ENOSPC;
    if (size > VM_FW_CFG_FILE_MAX)
        return -EFBIG;
    item.data = malloc(size ? size : 1);
    if (!item.data)
        return -ENOMEM;
    if (size)
        memcpy(item.data, data, size);
    cfg->item[cfg->items++] = item;
    return 0;
}

int vm_fw_cfg_add_file(struct vm_fw_cfg *cfg, const char *name, const void *data, size_t size)
{
    uint16_t key = (uint16_t)(VM_FW_CFG_FILES + cfg->files);
    struct file_entry *entry = &cfg->directory.file[cfg->files];
    int rc;

    if (strlen(name) >= VM_FW_CFG_NAME_BYTES)
        return -ENAMETOOLONG;
    for (unsigned i = 0; i < cfg->files; i++)
        if (strcmp(cfg->directory.file[i].name, name) == 0)
            return -EEXIST;
    rc = vm_fw_cfg_add(cfg, key, data, size);
    if (rc)
        return rc;
    *entry = (struct file_entry){.size = htobe32((uint32_t)size), .key = htobe16(key)};
    memcpy(entry->name, name, strlen(name));
    cfg->directory.count = htobe32(++cfg->files);
    return 0;
}

/* ---- what the guest does ---- */

static void choose(struct vm_fw_cfg *cfg, uint16_t key)
{
    cfg->key = key & (uint16_t)~WRITE_MODE;
    cfg->offset = 0;
}

/* The next bytes of the chosen item, and zeros after its end. `to` may be NULL, to skip them. */
static void take(struct vm_fw_cfg *cfg, uint8_t *to, size_t length)
{
    size_t size, have;
    const uint8_t *data = find(cfg, cfg->key, &size);

    have = size - cfg->offset < length ? size - cfg->offset : length;
    if (to && have)
        memcpy(to, data + cfg->offset, have);
    if (to)
        memset(to + have, 0, length - have);
    cfg->offset += have;
}

/* What was asked for, of which the guest is told the result: 0 or DMA_ERROR. */
static uint32_t transfer(struct vm_fw_cfg *cfg, const struct dma_access *access)
{
    uint32_t control = be32toh(access->control), length = be32toh(access->length);
    uint8_t *to;

    if (control & DMA_SELECT)
        choose(cfg, (uint16_t)(control >> 16));
    if (control & DMA_READ) {
        if (length == 0)
            return 0;
        to = length <= VM_FW_CFG_DMA_MAX
                 ? vm_memory_at(cfg->memory, be64toh(access->address), length)
                 : NULL;
        if (!to)
            return DMA_ERROR;
        take(cfg, to, length);
    } else if (control & DMA_WRITE) {
        return DMA_ERROR;
    } else if (control & DMA_SKIP) {
        take(cfg, NULL, length);
    }
    return 0;
}

static void start_dma(struct vm_fw_cfg *cfg, uint32_t above, uint32_t below)
{
    uint64_t address = (uint64_t)above << 32 | below;
    uint8_t *at = vm_memory_at(cfg->memory, address, sizeof(struct dma_access));
    struct dma_access access;
    uint32_t result;

    cfg->dma_above = 0;
    if (!at)
        return; /* and nowhere to say so */
    memcpy(&access, at, sizeof(access));
    result = htobe32(transfer(cfg, &access));
    memcpy(at + offsetof(struct dma_access, control), &result, sizeof(result));
}

static void port_read(void *device, uint64_t offset, uint8_t *data, unsigned size)
{
    static const char signature[] = "QEMU CFG";
    struct vm_fw_cfg *cfg = device;

    memset(data, 0, size);
    if (offset >= DMA) {
        memcpy(data, signature + (offset - DMA), size);
    } else if (offset == DATA) {
        pthread_mutex_lock(&cfg->lock);
        take(cfg, data, size);
        pthread_mutex_unlock(&cfg->lock);
    }
}

static void port_write(void *device, uint64_t offset, const uint8_t *data, unsigned size)
{
    struct vm_fw_cfg *cfg = device;
    uint32_t word[2] = {0};
    uint16_t key;

    memcpy(word, data, size);
    memcpy(&key, data, size < 2 ? 1 : 2);
    pthread_mutex_lock(&cfg->lock);
    if (offset == SELECTOR && size == 2)
        choose(cfg, le16toh(key));
    else if (offset == DMA && size == 4)
        cfg->dma_above = be32toh(word[0]);
    else if (offset == DMA && size == 8)
        start_dma(cfg, be32toh(word[0]), be32toh(word[1]));
    else if (offset == DMA_LOW && size == 4)
        start_dma(cfg, cfg->dma_above, be32toh(word[0]));
    pthread_mutex_unlock(&cfg->lock);
}

int vm_fw_cfg_attach(struct vm_fw_cfg *cfg, struct vm_bus *ports)
{
    static const struct vm_bus_ops ops = {.read = port_read, .write = port_write};

    return vm_bus_add(ports, VM_PORT_FW_CFG, PORTS, &ops, cfg);
}

/* ---- suspending ---- */

json_t *vm_fw_cfg_save(struct vm_fw_cfg *cfg)
{
    json_t *root;

    pthread_mutex_lock(&cfg->lock);
    root = json_pack("{s:i, s:I, s:I}", "key", (int)cfg->key, "offset", (json_int_t)cfg->offset,
                     "dma", (json_int_t)cfg->dma_above);
    pthread_mutex_unlock(&cfg->lock);
    return root;
}

int vm_fw_cfg_load(struct vm_fw_cfg *cfg, const json_t *from, struct vdisk_error *error)
{
    json_int_t key, offset, above;
    size_t size;

    if (json_unpack((json_t *)(uintptr_t)from, "{s:I, s:I, s:I}", "key", &key, "offset", &offset,
                    "dma", &above) ||
        key < 0 || key > UINT16_MAX || above < 0 || above > UINT32_MAX || offset < 0)
        return error_set(error, -EINVAL, "this is not the state of the firmware's configuration");
    (void)find(cfg, (uint16_t)key, &size);
    if ((uint64_t)offset > size)
        return error_set(error, -EINVAL, "this is the state of another firmware's configuration");
    pthread_mutex_lock(&cfg->lock);
    cfg->key = (uint16_t)key;
    cfg->offset = (size_t)offset;
    cfg->dma_above = (uint32_t)above;
    pthread_mutex_unlock(&cfg->lock);
    return 0;
}
