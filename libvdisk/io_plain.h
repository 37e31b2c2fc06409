/* SPDX-License-Identifier: Apache-2.0 */
/* What tests may do to the plain backend. */
#ifndef VD_IO_PLAIN_H
#define VD_IO_PLAIN_H

#include "files.h"

/* The files under it. */
struct vdisk_files *vd_io_plain_files(struct vdisk_io *io);

#endif
