/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The formats of other programs: their names, and recognising them.
 */
#ifndef TOOLS_FORMATS_H
#define TOOLS_FORMATS_H

#include "vdisk/error.h"

#include <stdbool.h>

#define FORMATS_WORDS "raw, qcow2, vmdk, vpc (VHD), vhdx, vdi"

/* The name as qemu has it ("vhd" is "vpc"); NULL for one we do not know. Static storage. */
const char *formats_find(const char *name);

bool formats_is_raw(const char *format);

/*
 * What the file at `path` is, by its first and last bytes and by qemu-img where there is one.
 * The bytes of a raw drive are its guest's: one that looks like an image which refers to other
 * files must not make us read those. So such an image is refused here (-EINVAL) and needs
 * --format. Other errors: what qemu-img says, and -EINVAL for a format that is not ours.
 */
int formats_detect(const char *path, const char **format, struct vdisk_error *error);

#endif
