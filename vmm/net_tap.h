/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A tap as the link of a network device. When the tap is removed the link is down for good; while
 * it is only set down, what is sent is lost.
 */
#ifndef VMM_NET_TAP_H
#define VMM_NET_TAP_H

#include "net_link.h"

#include "vdisk/error.h"

/*
 * Opens a tap that is there, or makes one, which then lives as long as the link, and sets it up.
 * -EINVAL: no name of a tap, or an interface of another kind; -EPERM, -EBUSY, -errno.
 */
int net_tap_open(const char *name, struct reactor *reactor, struct net_link **out,
                 struct vdisk_error *error);

#endif
