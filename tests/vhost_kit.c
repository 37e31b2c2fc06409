/* SPDX-License-Identifier: Apache-2.0 */
/* A vhost-user-blk back end for tests; see vhost_kit.h. */
#include "vhost_kit.h"
#include "task.h"

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#define EXPORT_NAME "drive"
#define STEP_US     2000u
#define STEPS       30000u

struct kit kit;

static const uint8_t key_bytes[32] = "any 32 bytes are as good as this";
static const struct vdisk_key key = {
    .kind = VDISK_KEY_FILE, .bytes = key_bytes, .length = sizeof(key_bytes)};

int kit_make_image(void)
{
    const char *tmp = getenv("TMPDIR");
    struct vdisk_create_options create = {.struct_bytes = sizeof(create), .size = KIT_SIZE};
    struct vdisk_image *image;

    memset(&kit, 0, sizeof(kit));
    snprintf(kit.directory, sizeof(kit.directory), "%s/vdisk-vhost-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(kit.directory))
        return -1;
    snprintf(kit.image, sizeof(kit.image), "%s/a.vdk", kit.directory);
    snprintf(kit.socket, sizeof(kit.socket), "%s/s", kit.directory);
    snprintf(kit.witness, sizeof(kit.witness), "%s/w", kit.directory);
    if (vdisk_create(kit.image, &create, &key, &image, NULL) || vdisk_close(image, NULL))
        return -1;
    return vdisk_unlock(kit.image, &key, &kit.unlocked, NULL);
}

int kit_remove_image(void)
{
    char command[PATH_MAX + 16];

    vdisk_unlocked_free(kit.unlocked);
    snprintf(command, sizeof(command), "rm -rf '%s'", kit.directory);
    return system(command);
}

/* ---- tasks of the main reactor ---- */

struct errand {
    struct reactor_message message;
    void (*fn)(void);
    sem_t done;
};

static void errand_task(void *arg)
{
    struct errand *errand = arg;

    errand->fn();
    sem_post(&errand->done);
}

static void errand_arrives(struct reactor_message *message)
{
    struct errand *errand = (struct errand *)message;

    if (task_spawn(exports_main(kit.exports), errand_task, errand))
        abort();
}

void kit_run(void (*fn)(void))
{
    struct errand errand = {.message = {.run = errand_arrives}, .fn = fn};

    sem_init(&errand.done, 0, 0);
    reactor_post(exports_main(kit.exports), &errand.message);
    while (sem_wait(&errand.done))
        ;
    sem_destroy(&errand.done);
}

/* ---- serving ---- */

static struct vhost_options server_options;
static int served;

/* Of the threads that serve. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static unsigned events[VHOST_EVENT_CLOSED + 1];
static char reason[sizeof(((struct vhost_event *)0)->reason)];

static void on_event(void *opaque, const struct vhost_event *event)
{
    (void)opaque;
    pthread_mutex_lock(&mutex);
    if (event->reason[0])
        memcpy(reason, event->reason, sizeof(reason));
    events[event->kind]++;
    pthread_mutex_unlock(&mutex);
}

unsigned kit_events(enum vhost_event_kind kind)
{
    pthread_mutex_lock(&mutex);
    unsigned count = events[kind];

    pthread_mutex_unlock(&mutex);
    return count;
}

const char *kit_reason(void)
{
    static char copy[sizeof(reason)];

    pthread_mutex_lock(&mutex);
    memcpy(copy, reason, sizeof(copy));
    pthread_mutex_unlock(&mutex);
    return copy;
}

bool kit_event(enum vhost_event_kind kind, unsigned count)
{
    for (unsigned i = 0; i < STEPS; i++) {
        if (kit_events(kind) >= count)
            return true;
        usleep(STEP_US);
    }
    return false;
}

static int until_free(const struct export_options *image, const struct vhost_options *options,
                      struct vhost_server **server, struct vdisk_error *error)
{
    int result = 0;

    for (unsigned i = 0; i < STEPS; i++) {
        result = image ? export_add(kit.exports, image, error)
                       : vhost_server_start(kit.exports, options, server, error);
        if (result != VDISK_E_IN_USE && result != -EADDRINUSE)
            break;
        task_sleep(STEP_US * INT64_C(1000));
    }
    return result;
}

static void serve(void)
{
    struct export_options options = {
        .name = EXPORT_NAME, .path = kit.image, .unlocked = kit.unlocked};
    struct vhost_options witness = {.address = kit.witness, .export_name = EXPORT_NAME};
    struct vdisk_error error = {.code = 0};

    server_options.address = kit.socket;
    server_options.export_name = EXPORT_NAME;
    server_options.event = on_event;
    /* The kernel may hold what a process that was killed had, for a moment. */
    served = until_free(&options, NULL, NULL, &error);
    if (served == 0)
        served = until_free(NULL, &server_options, &kit.server, &error);
    if (served == 0)
        served = until_free(NULL, &witness, &kit.second, &error);
    if (served)
        fprintf(stderr, "%s\n", error.text);
    kit.export = export_get(kit.exports, EXPORT_NAME);
}

static void stop_serving(void)
{
    struct vdisk_error error;

    if (kit.export)
        export_put(kit.export);
    kit.export = NULL;
    vhost_server_stop(kit.server);
    vhost_server_stop(kit.second);
    kit.server = kit.second = NULL;
    (void)export_remove(kit.exports, EXPORT_NAME, &error); /* a test may have done so */
}

static void *run_reactor(void *arg)
{
    (void)arg;
    reactor_run(exports_main(kit.exports));
    exports_free(kit.exports); /* a ring belongs to the thread that used it */
    return NULL;
}

int kit_start(bool no_uring, const struct vhost_options *options)
{
    struct exports_options exports = {
        .reactors = 2, .workers = 1, .no_uring = no_uring, .poll = 50000};

    if (options)
        server_options = *options;
    else
        memset(&server_options, 0, sizeof(server_options));
    memset(events, 0, sizeof(events));
    if (exports_new(&exports, &kit.exports, NULL))
        return -1;
    if (pthread_create(&kit.thread, NULL, run_reactor, NULL))
        return -1;
    kit_run(serve);
    return served;
}

int kit_stop(void)
{
    kit_run(stop_serving);
    reactor_stop(exports_main(kit.exports));
    pthread_join(kit.thread, NULL);
    kit.exports = NULL;
    return 0;
}

struct kit_held kit_held(void)
{
    struct kit_held held = {0};
    DIR *folder = opendir("/proc/self/fd");
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[PATH_MAX + 128];

    while (folder && readdir(folder))
        held.descriptors++;
    while (maps && fgets(line, sizeof(line), maps))
        held.mappings += strstr(line, "/memfd:") != NULL;
    if (folder)
        closedir(folder);
    if (maps)
        fclose(maps);
    return held;
}

bool kit_let_go(struct kit_held before)
{
    for (unsigned i = 0; i < STEPS; i++) {
        struct kit_held now = kit_held();

        if (now.descriptors <= before.descriptors && now.mappings <= before.mappings)
            return true;
        usleep(STEP_US);
    }
    return false;
}

pid_t kit_fork(bool no_uring)
{
    pid_t pid = fork();

    if (pid)
        return pid;
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (kit_start(no_uring, NULL))
        _exit(1);
    for (;;)
        pause();
}
