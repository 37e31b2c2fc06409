/* SPDX-License-Identifier: Apache-2.0 */
/* An NBD server in a process of its own, with exports e0, e1, ... of small drives, and the words of
 * a simple client. */
#ifndef LOAD_KIT_H
#define LOAD_KIT_H

#include "nbd_proto.h"
#include "nbd_server.h"

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define KIB                1024u
#define MIB                (UINT64_C(1) << 20)
#define SECOND             INT64_C(1000000000)
#define LOAD_DRIVE         (16 * MIB)
#define LOAD_EXPORTS       64u
/* The exit status of a process of a test's in which a request failed; why is on standard error. */
#define LOAD_CLIENT_FAILED 4

struct load_server {
    unsigned exports, connections_max;
    unsigned reactors;              /* 0: two */
    size_t memory_bytes;            /* 0: the default */
    bool no_uring, in_group, waits; /* waits: when the disk fails, so changes are kept */
    pid_t pid;
    int orders, answers;
};

/* The images, for all tests of a program. */
int load_set_up(void **state);
int load_tear_down(void **state);

void load_start(struct load_server *server);
/* Its end must be a clean one. */
void load_stop(struct load_server *server);
/* Of e0, or of the group that all are in; they count when this returns. */
void load_set_limits(struct load_server *server, bool for_group,
                     const struct limit_settings *limits);

/* On standard error, what the server has done: for when a test has failed. */
void load_tell(struct load_server *server);

/* Connects, and takes the greeting. */
int load_dial(void);
/* Connects to an export: simple replies. */
int load_attach(unsigned export);
void load_send(int fd, const void *data, size_t length);
void load_put_request(uint8_t out[static NBD_REQUEST_BYTES], unsigned command, uint64_t offset,
                      size_t length);
/* The offset is the request's cookie. */
void load_ask(int fd, unsigned command, uint64_t offset, const void *data, size_t length);
/* The cookie of the next reply, with `length` bytes of data. */
uint64_t load_reply(int fd, void *data, size_t length);

#endif
