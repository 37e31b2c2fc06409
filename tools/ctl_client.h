/* SPDX-License-Identifier: Apache-2.0 */
/* The client's side of a management socket (docs/control.md, docs/vmm-control.md). */
#ifndef TOOLS_CTL_CLIENT_H
#define TOOLS_CTL_CLIENT_H

#include "vdisk/error.h"

#include <jansson.h>

#define CTL_DEFAULT_SOCKET "/run/vdiskd/control/socket"

/* Connects, and sends a request, with a descriptor (-1: none) that stays the caller's. The
 * connection; -ENAMETOOLONG, -EINVAL: the request is no JSON; -errno. */
int ctl_send(const char *path, const json_t *request, int with, struct vdisk_error *error);
/* The reply, a new reference, or NULL: the connection has ended. */
json_t *ctl_receive(int fd);
/* Whether the reply says that it is done: 0, with *result (NULL: nobody wants it) a new reference,
 * or NULL where there is none; else an error, with the reply's sentence. */
int ctl_conclude(const json_t *reply, json_t **result, struct vdisk_error *error);
/* All of these, without a descriptor; takes the request's reference. */
int ctl_ask(const char *path, json_t *request, json_t **result, struct vdisk_error *error);

#endif
