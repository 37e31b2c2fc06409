/* SPDX-License-Identifier: Apache-2.0 */
/* A server from inside: its threads (server.c) and the requests that they answer (operations.c). */
#ifndef FUSE_SERVER_IMPL_H
#define FUSE_SERVER_IMPL_H

#include "contents.h"
#include "server.h"
#include "tree.h"

#define FUSE_USE_VERSION 35
#include <fuse_lowlevel.h>

#include <pthread.h>
#include <stdatomic.h>

#define SERVER_THREADS_MAX 32u
#define SERVER_READ_MAX    (1u << 20)

struct server_thread {
    struct server *server;
    pthread_t thread;
    struct access *access; /* NULL: not asked for yet */
    void *buffer;          /* SERVER_READ_MAX, for what is read */
};

struct server {
    struct backing *backing;
    struct contents *contents; /* NULL: files are not shown */
    struct tree *tree;
    struct fuse_session *session;
    void (*up)(void *opaque);
    void *opaque;
    pthread_t main;
    atomic_bool ended;
    /* The last failure that was logged, so that it is logged once. */
    pthread_mutex_t mutex;
    uint64_t failed_inode, failed_offset;
    unsigned threads;
    struct server_thread thread[SERVER_THREADS_MAX];
};

extern const struct fuse_lowlevel_ops operations;

/* The thread that calls, and its access: NULL when there is none to be had, which is logged. */
struct server_thread *server_current(void);
struct access *server_access(void);

/* Whether a failure is another one than the last. */
bool server_is_new(struct server *server, uint64_t inode, uint64_t offset);

/* ---- of inodes that contents_has() (file_operations.c) ---- */

void files_lookup(fuse_req_t request, fuse_ino_t parent, const char *name);
void files_entry(fuse_req_t request, fuse_ino_t inode); /* as a lookup of it would */
void files_getattr(fuse_req_t request, fuse_ino_t inode);
void files_readlink(fuse_req_t request, fuse_ino_t inode);
void files_opendir(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file);
void files_releasedir(fuse_req_t request, struct fuse_file_info *file);
/* `plus`: with attributes. */
void files_readdir(fuse_req_t request, fuse_ino_t folder, size_t size, off_t offset,
                   struct fuse_file_info *file, bool plus);
void files_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file);
void files_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset);
void files_lseek(fuse_req_t request, fuse_ino_t inode, off_t offset, int whence);

#endif
