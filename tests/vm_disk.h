/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest with drives: the registers by vm_driver.h, and for the queues the rings of vhost_client.h
 * (split and packed), laid into the guest's memory; and a vdiskd in a process of its own, to be
 * killed.
 */
#ifndef VM_DISK_H
#define VM_DISK_H

#include "vhost_client.h"
#include "virtio_blk.h"
#include "vm_driver.h"

#include <sys/types.h>

#define DISK_MEMORY     (CLIENT_GUEST + (UINT64_C(64) << 20)) /* of a rig with drives */
#define DISK_RING       32u
#define DISK_DATA       65536u /* bytes of a request, at most */
#define DISK_TOLD_BYTES 4096u

struct disk {
    struct vm_rig *rig;
    struct virtio_device *device;
    struct vm_driver driver;
    struct client *client;
    uint64_t at; /* where its rings are, from CLIENT_GUEST on */
    /* What it has told, a line each. */
    pthread_mutex_t lock;
    char told[DISK_TOLD_BYTES];
    unsigned lines;
};

/* Options of a drive at a socket, which tells the disk. */
struct virtio_blk_options disk_options(struct disk *disk, const char *socket);
/* Makes the device, once its server listens; the disk is not begun. The `number` of a drive is its
 * place in memory. */
void disk_open(struct disk *disk, struct vm_rig *rig, unsigned number,
               const struct virtio_blk_options *options);
void disk_close(struct disk *disk);
/* The driver's steps, with all queues; without these features. The rings are new. */
void disk_begin(struct disk *disk, uint64_t without);
/* The same up to DRIVER_OK. */
void disk_prepare(struct disk *disk, uint64_t without);
void disk_reset(struct disk *disk);
/* One request from beginning to end: its status. */
int disk_do(struct disk *disk, unsigned queue, uint32_t type, uint64_t offset, void *data,
            uint32_t length);
uint64_t disk_capacity(const struct disk *disk); /* bytes, as its configuration says */
bool disk_needs_reset(const struct disk *disk);
bool disk_has_told(struct disk *disk, const char *what);
unsigned disk_lines(struct disk *disk);
/* Waits. */
bool disk_wait_told(struct disk *disk, const char *what);
void disk_wait_lines(struct disk *disk, unsigned count); /* that many */
bool disk_wait_needs_reset(const struct disk *disk);

/* ---- a back end to be killed, that serves kit.image at kit.socket ---- */

/* While this process has one thread. */
void server_prepare(void);
void server_begin(void);
/* The process is gone then. */
void server_kill(void);
/* Stops it, so that it neither answers nor ends; and lets it go on. */
void server_freeze(bool frozen);
void server_finish(void);

#endif
