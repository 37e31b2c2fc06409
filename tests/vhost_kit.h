/* SPDX-License-Identifier: Apache-2.0 */
/* A vhost-user-blk back end for tests: an image, its export, and the threads that serve it. */
#ifndef VDISK_TESTS_VHOST_KIT_H
#define VDISK_TESTS_VHOST_KIT_H

#include "vhost_client.h"
#include "vhost_server.h"

#include <limits.h>
#include <pthread.h>
#include <sys/types.h>

#define KIT_SIZE (UINT64_C(32) << 20) /* of the drive */

struct kit {
    char directory[PATH_MAX / 2], image[PATH_MAX], socket[PATH_MAX];
    char witness[PATH_MAX]; /* a second socket, for whom the first is of no concern */
    struct vdisk_unlocked *unlocked;
    struct exports *exports;
    struct export *export;
    struct vhost_server *server, *second;
    pthread_t thread;
};
extern struct kit kit;

/* A folder with a new image. */
int kit_make_image(void);
int kit_remove_image(void);
/* Runs the reactors in threads of this process, and serves the image at kit.socket. */
int kit_start(bool no_uring, const struct vhost_options *options);
int kit_stop(void);
/* The same in a process of its own, which ends when it is killed. */
pid_t kit_fork(bool no_uring);
/* How many events of that kind there were. */
unsigned kit_events(enum vhost_event_kind kind);
/* Of the last event that had a reason. */
const char *kit_reason(void);
/* Waits for so many events of that kind. */
bool kit_event(enum vhost_event_kind kind, unsigned count);
/* Of this process: descriptors, and mappings of memory that a front end shared. */
struct kit_held {
    unsigned descriptors, mappings;
};
struct kit_held kit_held(void);
/* Waits until no more is held than that. */
bool kit_let_go(struct kit_held before);
/* Runs fn() in a task of the main reactor, and waits. */
void kit_run(void (*fn)(void));

#endif
