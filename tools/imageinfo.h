/* SPDX-License-Identifier: Apache-2.0 */
/* What is known of an image, as JSON: `vdisk info --json`, and info.json of a mount. */
#ifndef TOOLS_IMAGEINFO_H
#define TOOLS_IMAGEINFO_H

#include "vdisk/vdisk.h"

#include <stdio.h>

/* One object and a newline. `info` NULL: only what is public. What cannot be written is seen by
 * ferror(). */
void imageinfo_json(FILE *out, const char *path, const struct vdisk_public_info *public_info,
                    const struct vdisk_info *info);

#endif
