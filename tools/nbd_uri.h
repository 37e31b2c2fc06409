/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NBD URIs: nbd://HOST[:PORT][/NAME] and nbd+unix:///[NAME]?socket=PATH (the NBD project's
 * doc/uri.md), without TLS.
 */
#ifndef TOOLS_NBD_URI_H
#define TOOLS_NBD_URI_H

#include <stdbool.h>
#include <sys/un.h>

#define NBD_NAME_MAX 4096u
#define NBD_HOST_MAX 255u
#define NBD_PORT_MAX 15u

/* Where a drive is served. A socket path counts before a host. */
struct nbd_address {
    char socket[sizeof(((struct sockaddr_un *)0)->sun_path)];
    char host[NBD_HOST_MAX + 1], port[NBD_PORT_MAX + 1];
    char name[NBD_NAME_MAX + 1]; /* of the export */
};

/* Whether the text begins like one. */
bool nbd_uri_is(const char *text);

/* NULL, or what is wrong with it. */
const char *nbd_uri_parse(const char *text, struct nbd_address *address);

#endif
