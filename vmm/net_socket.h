/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A Unix stream socket as the link of a network device, as passt and QEMU's stream back end speak:
 * each frame after its length, 32 bits, big-endian.
 *
 * The device connects. When nobody listens, or the connection ends, or what comes is no frame, the
 * link is down, and it connects again every 100 ms.
 */
#ifndef VMM_NET_SOCKET_H
#define VMM_NET_SOCKET_H

#include "net_link.h"

#include "vdisk/error.h"

/* The first attempt is made at once, and need not succeed. -EINVAL: no path of a socket; -ENOMEM.
 */
int net_socket_open(const char *path, struct reactor *reactor, struct net_link **out,
                    struct vdisk_error *error);

#endif
