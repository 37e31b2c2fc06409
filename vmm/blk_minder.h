/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread that owns a drive's connection. vCPUs' threads change what they wish for
 * (virtio_blk.c); the minder brings the back end there, and back there when it was away.
 *
 * Invariants:
 * - `lock` is taken after the device's own, and never held while something is waited for. The
 * minder takes the device's only if it is free, since its holder may be waiting for the minder.
 * - `rings` belongs to the minder while the wish is to run, or a stop is not granted yet; else to
 *   who holds the device's lock. It changes hands with `lock`.
 * - When a stop is granted, nothing of the device is touched until the next start: the back end is
 *   done with its queues, or the connection is closed. Who did not answer in time and lives after
 *   all may still end a request, in memory that a driver has given to something else by then:
 *   memory that was shared cannot be taken back, and a driver does not wait for a reset.
 */
#ifndef VMM_BLK_MINDER_H
#define VMM_BLK_MINDER_H

#include "vhost_front.h"
#include "vring.h"

#include <linux/virtio_blk.h>
#include <stddef.h>

/* Back ends know no more of the configuration. */
#define BLK_CONFIG_BYTES ((uint32_t)offsetof(struct virtio_blk_config, max_secure_erase_sectors))

#define BLK_SENTENCE     1024u /* bytes of what is told */

struct blk_wish {
    uint64_t number; /* how many there were */
    bool running;
    bool keep; /* stopped, but to go on later */
    bool ending;
};

struct blk_rings {
    uint64_t features; /* accepted */
    struct virtio_queue_settings settings[VIRTIO_QUEUES_MAX];
    struct virtqueue ring[VIRTIO_QUEUES_MAX]; /* resolved, to look at */
    uint32_t base[VIRTIO_QUEUES_MAX];         /* where it begins, or goes on */
    bool goes_on;  /* it ran since it was reset: `base` is what a back end said, or began with */
    bool orphaned; /* a back end was lost with requests; the in-flight memory, if any, knows them */
    struct vhost_front_inflight inflight;
};

struct virtio_blk {
    struct virtio_device device; /* first */
    char *name, *socket;
    int64_t patience;
    void (*told)(void *opaque, const char *what);
    void *opaque;
    uint8_t first_wce; /* the mode of its cache after a reset */
    int wake, err;     /* eventfds: a wish; a queue that the back end gave up */
    pthread_t thread;

    pthread_mutex_t lock;
    pthread_cond_t on_grant;
    struct blk_wish wish;
    uint64_t granted;                /* the number of a wish */
    struct virtio_blk_config config; /* as the guest sees it */
    bool changed, failed;            /* what the device is still to be told */
    struct blk_rings rings;

    /* The minder's alone. */
    struct vhost_front front;
    struct virtio_blk_config theirs; /* of the back end */
    int wce;                         /* set there; -1: nothing was */
    bool shared;                     /* it has the memory */
    bool runs;                       /* it has queues, or some of them, */
    bool used;                       /* or had them since it was reset */
    bool broken;                     /* not to be started until the guest has reset the device */
    bool missed;                     /* it was said that it is gone */
    int64_t next_try;
    char said[BLK_SENTENCE]; /* last, of why the drive is broken */
    int64_t said_at;
};

/* The features that a driver can have of what is connected. */
uint64_t blk_minder_features(const struct virtio_blk *blk);
/* Connects, and reads the configuration into blk->theirs. Before there is a minder; -errno. */
int blk_minder_connect(struct virtio_blk *blk, struct vdisk_error *error);
/* The thread; -errno. */
int blk_minder_start(struct virtio_blk *blk);
/* Ends it, and the connection. */
void blk_minder_end(struct virtio_blk *blk);

/* With blk->lock held: what was changed in blk->wish or blk->config is to be done. */
void blk_minder_wish(struct virtio_blk *blk);
/* Waits until it is done. */
void blk_minder_wait(struct virtio_blk *blk);
/* With the device's lock held: tells it what it is still to be told. */
void blk_minder_deliver(struct virtio_blk *blk);

#endif
