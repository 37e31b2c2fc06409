/* SPDX-License-Identifier: Apache-2.0 */
/* The thread that owns a drive's connection; see blk_minder.h. */
#include "blk_minder.h"

#include "report.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define BIT(number) (UINT64_C(1) << (number))
#define RETRY       INT64_C(100000000)   /* nanoseconds between two tries to connect */
#define LOCKED      INT64_C(1000000)     /* and to get the device's lock */
#define QUIET       INT64_C(60000000000) /* and between two sentences that are the same */
#define STEP        INT64_C(1000000)     /* and between two looks at a ring */

/* What makes a difference only between driver and back end. */
#define OF_DRIVE                                                                                   \
    (BIT(VIRTIO_BLK_F_SIZE_MAX) | BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_GEOMETRY) |         \
     BIT(VIRTIO_BLK_F_RO) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_FLUSH) |                 \
     BIT(VIRTIO_BLK_F_TOPOLOGY) | BIT(VIRTIO_BLK_F_CONFIG_WCE) | BIT(VIRTIO_BLK_F_MQ) |            \
     BIT(VIRTIO_BLK_F_DISCARD) | BIT(VIRTIO_BLK_F_WRITE_ZEROES))
#define OF_RINGS                                                                                   \
    (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_RING_F_INDIRECT_DESC) |      \
     BIT(VIRTIO_RING_F_EVENT_IDX))

uint64_t blk_minder_features(const struct virtio_blk *blk)
{
    uint64_t features = blk->front.offered & (OF_DRIVE | OF_RINGS);

    /* Where a lost back end was in a packed ring, nothing but the in-flight memory says. */
    if (!vhost_front_has(&blk->front, VHOST_P_INFLIGHT))
        features &= ~BIT(VIRTIO_F_RING_PACKED);
    return features;
}

/* ---- what it says ---- */

static void __attribute__((format(printf, 2, 3)))
say(const struct virtio_blk *blk, const char *format, ...)
{
    char text[BLK_SENTENCE];
    va_list arguments;
    int length = snprintf(text, sizeof(text), "%s: ", blk->name);

    if (!blk->told || length < 0 || (size_t)length >= sizeof(text))
        return;
    va_start(arguments, format);
    vsnprintf(text + length, sizeof(text) - (size_t)length, format, arguments);
    va_end(arguments);
    blk->told(blk->opaque, text);
}

void blk_minder_deliver(struct virtio_blk *blk)
{
    bool changed, failed;

    pthread_mutex_lock(&blk->lock);
    changed = blk->changed;
    failed = blk->failed;
    blk->changed = blk->failed = false;
    pthread_mutex_unlock(&blk->lock);
    if (changed)
        virtio_config_changed(&blk->device);
    if (failed)
        virtio_fail(&blk->device);
}

/* A guest that does so again and again is not to fill a log. */
static bool was_said(struct virtio_blk *blk, const char *why)
{
    int64_t now = reactor_now();
    bool is_old = strcmp(why, blk->said) == 0 && now - blk->said_at < QUIET;

    if (is_old)
        return true;
    snprintf(blk->said, sizeof(blk->said), "%s", why);
    blk->said_at = now;
    return false;
}

static void break_down(struct virtio_blk *blk, const char *why)
{
    blk->broken = true;
    pthread_mutex_lock(&blk->lock);
    blk->failed = true;
    pthread_mutex_unlock(&blk->lock);
    if (!was_said(blk, why))
        say(blk, "%s; the guest has to reset the drive", why);
}

/* ---- the connection ---- */

static bool is_connected(const struct virtio_blk *blk)
{
    return blk->front.fd >= 0;
}

/* All that the driver has asked for is answered, as far as a split ring says. */
static bool is_idle(const struct virtio_blk *blk)
{
    for (unsigned i = 0; i < blk->device.queues; i++) {
        const struct virtqueue *ring = &blk->rings.ring[i];

        if (blk->rings.settings[i].ready &&
            __atomic_load_n(&ring->avail[1], __ATOMIC_ACQUIRE) != vring_used_index(ring))
            return false;
    }
    return true;
}

/* Its queues, if it had any, are the next one's. */
static void disown(struct virtio_blk *blk)
{
    struct blk_rings *rings = &blk->rings;

    rings->orphaned = rings->inflight.fd >= 0 || !is_idle(blk);
    for (unsigned i = 0; i < blk->device.queues && !rings->orphaned; i++)
        if (rings->settings[i].ready)
            rings->base[i] = vring_used_index(&rings->ring[i]);
}

static void disconnect(struct virtio_blk *blk)
{
    vhost_front_close(&blk->front);
    blk->shared = blk->used = false;
    if (blk->runs)
        disown(blk);
    blk->runs = false;
    blk->wce = -1;
    blk->next_try = reactor_now() + RETRY;
}

static void lose(struct virtio_blk *blk, const char *why)
{
    disconnect(blk);
    if (!blk->missed)
        say(blk, "the connection to %s is lost (%s); what the guest asks for waits", blk->socket,
            why);
    blk->missed = true;
}

int blk_minder_connect(struct virtio_blk *blk, struct vdisk_error *error)
{
    int rc;

    vhost_front_patience(&blk->front, blk->patience);
    rc = vhost_front_connect(&blk->front, blk->socket, error);
    if (rc == 0)
        rc = vhost_front_get_config(&blk->front, &blk->theirs, BLK_CONFIG_BYTES, error);
    if (rc)
        vhost_front_close(&blk->front);
    return rc;
}

/* Whether there is a connection now. A wish ends waiting for answers: it is done first. */
static bool reconnect(struct virtio_blk *blk)
{
    int rc;

    blk->front.interrupt = blk->wake;
    rc = blk_minder_connect(blk, NULL);
    blk->front.interrupt = -1;
    blk->next_try = rc == -ECANCELED ? 0 : reactor_now() + RETRY;
    return rc == 0;
}

/* ---- the configuration ---- */

/* The guest sees that of the back end from now on, but for what is our own. */
static void adopt(struct virtio_blk *blk)
{
    struct virtio_blk_config config = blk->theirs;

    pthread_mutex_lock(&blk->lock);
    config.wce = blk->config.wce;
    config.num_queues = blk->config.num_queues;
    if (memcmp(&config, &blk->config, sizeof(config)) != 0) {
        blk->config = config;
        blk->changed = true;
    }
    pthread_mutex_unlock(&blk->lock);
}

/* Why what is there is not the drive that the guest has begun with; NULL: it is. */
static const char *difference(struct virtio_blk *blk)
{
    const struct virtio_blk_config *theirs = &blk->theirs;
    const uint64_t features = blk->rings.features, has = blk_minder_features(blk);
    struct virtio_blk_config ours;

    pthread_mutex_lock(&blk->lock);
    ours = blk->config;
    pthread_mutex_unlock(&blk->lock);
    if ((has ^ blk->device.offered) & BIT(VIRTIO_BLK_F_RO))
        return has & BIT(VIRTIO_BLK_F_RO) ? "it is read-only now" : "it is not read-only any more";
    if (features & ~has)
        return "it lacks features that the guest uses";
    if (blk->rings.orphaned &&
        (!vhost_front_has(&blk->front, VHOST_P_INFLIGHT) || blk->rings.inflight.fd < 0))
        return "it cannot know which requests were in flight";
    if (blk->front.queues < blk->device.queues)
        return "it has fewer queues";
    if (theirs->capacity < ours.capacity)
        return "it is smaller";
    if (features & BIT(VIRTIO_BLK_F_BLK_SIZE) && theirs->blk_size != ours.blk_size)
        return "it has blocks of another size";
    if ((features & BIT(VIRTIO_BLK_F_SEG_MAX) && theirs->seg_max < ours.seg_max) ||
        (features & BIT(VIRTIO_BLK_F_SIZE_MAX) && theirs->size_max < ours.size_max))
        return "it takes smaller requests only";
    return NULL;
}

static uint8_t wished_wce(struct virtio_blk *blk)
{
    pthread_mutex_lock(&blk->lock);
    uint8_t wce = blk->config.wce;

    pthread_mutex_unlock(&blk->lock);
    return wce;
}

static int set_cache(struct virtio_blk *blk, struct vdisk_error *error)
{
    uint8_t wce = wished_wce(blk);
    int rc;

    if (!(blk->rings.features & BIT(VIRTIO_BLK_F_CONFIG_WCE)) || blk->wce == wce)
        return 0;
    rc = vhost_front_set_config(&blk->front, offsetof(struct virtio_blk_config, wce), &wce,
                                sizeof(wce), error);
    if (rc == 0)
        blk->wce = wce;
    return rc;
}

/* ---- start ---- */

/* After the loss of a back end: with its requests in flight, what is used is where they begin. A
 * packed ring's in-flight memory knows. */
static uint32_t base_of(const struct blk_rings *rings, unsigned queue)
{
    bool is_packed = rings->features & BIT(VIRTIO_F_RING_PACKED);

    return rings->orphaned && !is_packed ? vring_used_index(&rings->ring[queue])
                                         : rings->base[queue];
}

static int start_queues(struct virtio_blk *blk, struct vdisk_error *error)
{
    const struct blk_rings *rings = &blk->rings;
    struct vhost_front *front = &blk->front;
    int rc = 0;

    for (unsigned i = 0; i < blk->device.queues && rc == 0; i++) {
        const struct vhost_front_queue queue = {.index = i,
                                                .settings = &rings->settings[i],
                                                .base = base_of(rings, i),
                                                .kick = blk->device.kick[i],
                                                .call = blk->device.line.fd,
                                                .err = blk->err};

        if (rings->settings[i].ready)
            rc = vhost_front_set_queue(front, &queue, error);
    }
    for (unsigned i = 0; i < blk->device.queues && rc == 0; i++)
        if (rings->settings[i].ready)
            rc = vhost_front_enable_queue(front, i, error);
    return rc;
}

/* Kicks that the one before had taken, and interrupts that it had not given: a few too many do no
 * harm. */
static void repeat_signals(const struct virtio_blk *blk)
{
    for (unsigned i = 0; i < blk->device.queues; i++)
        if (blk->rings.settings[i].ready)
            virtio_kick(&blk->device, i);
    vm_line_pulse(&blk->device.line);
}

static int begin(struct virtio_blk *blk, struct vdisk_error *error)
{
    struct vhost_front *front = &blk->front;
    struct blk_rings *rings = &blk->rings;
    int rc;

    vhost_front_patience(front, blk->patience);
    rc = vhost_front_set_features(front, rings->features, error);
    if (rc == 0 && !blk->shared)
        rc = vhost_front_share_memory(front, blk->device.memory, error);
    if (rc)
        return rc;
    blk->shared = true;
    rc = set_cache(blk, error);
    if (rc == 0)
        rc = vhost_front_share_inflight(front, &rings->inflight, blk->device.queues,
                                        blk->device.queue_max, error);
    if (rc)
        return rc;
    blk->runs = blk->used = true;
    rc = start_queues(blk, error);
    if (rc)
        return rc;
    if (rings->goes_on || rings->orphaned)
        repeat_signals(blk);
    rings->goes_on = true;
    rings->orphaned = false;
    return 0;
}

static void start(struct virtio_blk *blk)
{
    const char *differs = difference(blk);
    struct vdisk_error error = {.code = 0};
    char why[BLK_SENTENCE];
    int rc;

    if (differs) {
        snprintf(why, sizeof(why), "what %s serves is not the drive that was there: %s",
                 blk->socket, differs);
        break_down(blk, why);
        return;
    }
    adopt(blk);
    rc = begin(blk, &error);
    if (rc == -EREMOTEIO) {
        /* It is there, and does not take what the driver wants. */
        disconnect(blk);
        break_down(blk, error.text);
    } else if (rc) {
        lose(blk, error.text);
    }
}

/* ---- stop ---- */

/* Back ends that keep no account of what is in flight have been seen to let go of a queue, when
 * told to stop it, with requests that they still write to: these must have ended before. */
static int settle(const struct virtio_blk *blk, struct vdisk_error *error)
{
    static const struct timespec step = {.tv_nsec = STEP};

    while (!vhost_front_has(&blk->front, VHOST_P_INFLIGHT) && !is_idle(blk)) {
        struct pollfd on = {.fd = blk->front.fd, .events = POLLIN};

        if (reactor_now() >= blk->front.deadline)
            return error_set(error, -ETIMEDOUT, "the back end does not answer requests");
        if (ppoll(&on, 1, &step, NULL) > 0)
            return error_set(error, -EPIPE, "the back end ended it");
    }
    return 0;
}

static int drain(struct virtio_blk *blk, struct vdisk_error *error)
{
    struct blk_rings *rings = &blk->rings;
    int rc;

    vhost_front_patience(&blk->front, blk->patience);
    rc = settle(blk, error);
    for (unsigned i = 0; i < blk->device.queues && rc == 0; i++)
        if (rings->settings[i].ready)
            rc = vhost_front_stop_queue(&blk->front, i, &rings->base[i], error);
    return rc;
}

static void stop(struct virtio_blk *blk)
{
    struct vdisk_error error = {.code = 0};

    if (drain(blk, &error)) {
        lose(blk, error.text);
        return;
    }
    blk->runs = false;
    vhost_front_forget_inflight(&blk->rings.inflight);
}

/* The driver begins anew: so does the back end, and the drive is taken as it is. */
static void reset(struct virtio_blk *blk)
{
    struct vdisk_error error = {.code = 0};

    if (blk->used) {
        vhost_front_patience(&blk->front, blk->patience);
        if (vhost_front_reset(&blk->front, &error)) {
            lose(blk, error.text);
            return;
        }
        blk->used = false;
    }
    adopt(blk);
}

/* ---- what comes by itself ---- */

static void take_news(struct virtio_blk *blk)
{
    struct vdisk_error error = {.code = 0};
    bool changed = false;
    int rc;

    vhost_front_patience(&blk->front, blk->patience);
    rc = vhost_front_take_news(&blk->front, &changed, &error);
    if (rc == -EPIPE) { /* there will be no more of them */
        close(blk->front.backend);
        blk->front.backend = -1;
        return;
    }
    if (rc == 0 && changed)
        rc = vhost_front_get_config(&blk->front, &blk->theirs, BLK_CONFIG_BYTES, &error);
    if (rc)
        lose(blk, error.text);
    else if (changed && blk->runs)
        adopt(blk);
}

/* Until a wish, something of the back end, or `timeout` nanoseconds. */
static void listen_to(struct virtio_blk *blk, int64_t timeout)
{
    struct pollfd on[] = {{.fd = blk->wake, .events = POLLIN},
                          {.fd = blk->front.fd, .events = POLLIN},
                          {.fd = blk->front.backend, .events = POLLIN},
                          {.fd = blk->err, .events = POLLIN}};
    const struct timespec until = {timeout / 1000000000, timeout % 1000000000};
    eventfd_t ignored;

    if (ppoll(on, sizeof(on) / sizeof(*on), timeout < 0 ? NULL : &until, NULL) <= 0)
        return;
    if (on[0].revents)
        (void)eventfd_read(blk->wake, &ignored);
    if (on[3].revents) {
        (void)eventfd_read(blk->err, &ignored);
        if (blk->runs && !blk->broken)
            break_down(blk, "the guest broke the rules of its queues");
    }
    /* Between questions there is nothing to be said. */
    if (on[1].revents)
        lose(blk, "the back end ended it");
    else if (on[2].revents)
        take_news(blk);
}

/* ---- the thread ---- */

void blk_minder_wish(struct virtio_blk *blk)
{
    blk->wish.number++;
    (void)eventfd_write(blk->wake, 1);
}

void blk_minder_wait(struct virtio_blk *blk)
{
    pthread_mutex_lock(&blk->lock);
    while (blk->granted < blk->wish.number)
        pthread_cond_wait(&blk->on_grant, &blk->lock);
    pthread_mutex_unlock(&blk->lock);
}

static struct blk_wish look(struct virtio_blk *blk)
{
    pthread_mutex_lock(&blk->lock);
    struct blk_wish wish = blk->wish;

    pthread_mutex_unlock(&blk->lock);
    return wish;
}

static void grant(struct virtio_blk *blk, const struct blk_wish *wish)
{
    pthread_mutex_lock(&blk->lock);
    blk->granted = wish->number;
    pthread_cond_broadcast(&blk->on_grant);
    pthread_mutex_unlock(&blk->lock);
}

static void comply(struct virtio_blk *blk, const struct blk_wish *wish)
{
    struct vdisk_error error = {.code = 0};

    if (!wish->running)
        blk->broken = false;
    if (blk->runs && !wish->running) {
        stop(blk);
    } else if (blk->runs) {
        vhost_front_patience(&blk->front, blk->patience);
        if (set_cache(blk, &error))
            lose(blk, error.text);
    } else if (is_connected(blk) && wish->running && !blk->broken) {
        start(blk);
    }
    if (is_connected(blk) && !wish->running && !wish->keep)
        reset(blk);
    if (is_connected(blk) && blk->missed) {
        blk->missed = false;
        if (!blk->broken)
            say(blk, "%s is back", blk->socket);
    }
}

/* Whether the device knows all that it is to be told. */
static bool deliver(struct virtio_blk *blk)
{
    pthread_mutex_lock(&blk->lock);
    bool is_due = blk->changed || blk->failed;

    pthread_mutex_unlock(&blk->lock);
    if (!is_due)
        return true;
    if (pthread_mutex_trylock(&blk->device.lock))
        return false;
    blk_minder_deliver(blk);
    pthread_mutex_unlock(&blk->device.lock);
    return true;
}

static void *mind(void *arg)
{
    struct virtio_blk *blk = arg;

    for (;;) {
        struct blk_wish wish = look(blk);
        int64_t now = reactor_now(), timeout = -1;

        if (wish.ending)
            return NULL;
        comply(blk, &wish);
        grant(blk, &wish);
        if (!is_connected(blk) && now >= blk->next_try && reconnect(blk))
            continue;
        if (!is_connected(blk))
            timeout = blk->next_try > now ? blk->next_try - now : 0;
        if (wish.running && !deliver(blk) && (timeout < 0 || timeout > LOCKED))
            timeout = LOCKED;
        listen_to(blk, timeout);
    }
}

int blk_minder_start(struct virtio_blk *blk)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int rc = -pthread_create(&blk->thread, NULL, mind, blk);

    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

void blk_minder_end(struct virtio_blk *blk)
{
    pthread_mutex_lock(&blk->lock);
    blk->wish.ending = true;
    blk_minder_wish(blk);
    pthread_mutex_unlock(&blk->lock);
    pthread_join(blk->thread, NULL);
    vhost_front_close(&blk->front);
}
