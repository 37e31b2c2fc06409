/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IMAGE[@SNAPSHOT] on a command line.
 *
 * The longest existing file wins: if there is a file of the whole name, that is the image, else
 * the name is split at the last `@` behind the last `/`.
 */
#ifndef TOOLS_IMAGESPEC_H
#define TOOLS_IMAGESPEC_H

#include "vdisk/vdisk.h"

struct imagespec {
    const char *text; /* as given, for messages */
    char path[VDISK_PATH_MAX * 4 + 1];
    char snapshot[VDISK_NAME_MAX + 1]; /* "": the live state */
};

/* Returns an exit status, having reported. `text` must outlive the spec. */
int imagespec_parse(const char *command, const char *text, struct imagespec *spec);

#endif
