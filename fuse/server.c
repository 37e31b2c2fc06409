/* SPDX-License-Identifier: Apache-2.0 */
/* The threads of a server; see server.h. */
#include "server_impl.h"

#include "interrupt.h"
#include "log.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define PAGE          4096u
#define WAKE          SIGUSR1 /* a thread that waits for the kernel */
#define ENDED         SIGUSR2 /* the main thread */
#define WAKE_AGAIN_NS 10000000

static __thread struct server_thread *current;

struct server_thread *server_current(void)
{
    return current;
}

struct access *server_access(void)
{
    struct server_thread *thread = current;
    struct backing *backing = thread->server->backing;
    struct vdisk_error error = {.code = 0};

    if (!thread->access && backing->ops->open(backing, &thread->access, &error)) {
        thread->access = NULL;
        log_event(LOG_ERROR, "open-failed", "drive", backing->name, "reason", error.text, NULL);
    }
    return thread->access;
}

bool server_is_new(struct server *server, uint64_t inode, uint64_t offset)
{
    bool is_new;

    pthread_mutex_lock(&server->mutex);
    is_new = server->failed_inode != inode || server->failed_offset != offset;
    server->failed_inode = inode;
    server->failed_offset = offset;
    pthread_mutex_unlock(&server->mutex);
    return is_new;
}

static void *serve(void *arg)
{
    struct server_thread *thread = arg;
    struct server *server = thread->server;
    struct fuse_buf buffer = {.mem = NULL};

    current = thread;
    while (!fuse_session_exited(server->session)) {
        int got = fuse_session_receive_buf(server->session, &buffer);

        if (got == -EINTR || got == -EAGAIN)
            continue;
        if (got <= 0)
            break;
        fuse_session_process_buf(server->session, &buffer);
    }
    free(buffer.mem);
    fuse_session_exit(server->session);
    atomic_store(&server->ended, true);
    pthread_kill(server->main, ENDED);
    if (thread->access)
        thread->access->ops->close(thread->access);
    thread->access = NULL;
    return NULL;
}

static void wake(int number)
{
    (void)number;
}

static int start(struct server *server)
{
    struct sigaction action = {.sa_handler = wake};
    unsigned wanted = server->backing->threads;
    sigset_t all, before;

    sigemptyset(&action.sa_mask);
    sigaction(WAKE, &action, NULL);
    sigfillset(&all);
    sigdelset(&all, WAKE);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    wanted = wanted < SERVER_THREADS_MAX ? wanted : SERVER_THREADS_MAX;
    while (server->threads < wanted) {
        struct server_thread *thread = &server->thread[server->threads];

        thread->server = server;
        thread->buffer = aligned_alloc(PAGE, SERVER_READ_MAX);
        if (!thread->buffer || pthread_create(&thread->thread, NULL, serve, thread))
            break;
        server->threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return server->threads ? 0 : -EAGAIN;
}

/* A signal may come just before a thread begins to wait: so again and again. */
static void stop(struct server *server)
{
    fuse_session_exit(server->session);
    interrupt_request(); /* for who waits for a daemon */
    for (unsigned i = 0; i < server->threads; i++) {
        const struct timespec step = {.tv_nsec = WAKE_AGAIN_NS};

        while (pthread_tryjoin_np(server->thread[i].thread, NULL) == EBUSY) {
            pthread_kill(server->thread[i].thread, WAKE);
            nanosleep(&step, NULL);
        }
    }
    server->threads = 0;
}

int server_run(struct server *server)
{
    sigset_t wanted, before;
    int number, rc;

    sigemptyset(&wanted);
    sigaddset(&wanted, SIGTERM);
    sigaddset(&wanted, SIGINT);
    sigaddset(&wanted, SIGHUP);
    sigaddset(&wanted, ENDED);
    pthread_sigmask(SIG_BLOCK, &wanted, &before);
    server->main = pthread_self();
    rc = start(server);
    if (rc == 0) {
        while (!interrupt_pending() && sigwait(&wanted, &number) == 0 && number == ENDED &&
               !atomic_load(&server->ended))
            ;
        stop(server);
    }
    (void)signal(ENDED, SIG_IGN); /* each thread has told */
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

int server_new(const struct server_options *options, struct server **out)
{
    char program[] = "vdisk-fuse", device[32];
    char *words[] = {program, NULL};
    struct fuse_args arguments = FUSE_ARGS_INIT(1, words);
    struct server *server = calloc(1, sizeof(*server));

    if (!server) {
        close(options->device);
        return -ENOMEM;
    }
    server->backing = options->backing;
    server->up = options->up;
    server->opaque = options->opaque;
    server->failed_offset = UINT64_MAX;
    pthread_mutex_init(&server->mutex, NULL);
    server->contents = options->files ? contents_new(options->backing) : NULL;
    if (server->contents || !options->files)
        server->tree = tree_new(options->backing, server->contents);
    server->session = fuse_session_new(&arguments, &operations, sizeof(operations), server);
    (void)snprintf(device, sizeof(device), "/dev/fd/%d", options->device);
    if (!server->tree || !server->session || fuse_session_mount(server->session, device)) {
        close(options->device);
        server_free(server);
        return -ENOMEM;
    }
    *out = server;
    return 0;
}

void server_free(struct server *server)
{
    if (!server)
        return;
    if (server->session)
        fuse_session_destroy(server->session); /* closes the device */
    for (unsigned i = 0; i < SERVER_THREADS_MAX; i++)
        free(server->thread[i].buffer);
    tree_free(server->tree);
    contents_free(server->contents);
    pthread_mutex_destroy(&server->mutex);
    free(server);
}
