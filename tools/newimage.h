/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making an image, for `create` and `import`: the options they share, and an image that is removed
 * again unless it is finished.
 */
#ifndef TOOLS_NEWIMAGE_H
#define TOOLS_NEWIMAGE_H

#include "keyopt.h"

#include "vdisk/vdisk.h"

struct newimage_options {
    struct keyopt key;
    struct option_size cluster, split;
    const char *compress; /* NULL: zstd */
};

#define NEWIMAGE_OPTIONS(options)                                                                  \
    KEYOPT_MAKE_OPTIONS(&(options)->key, ""),                                                      \
        {"compress", OPTION_TEXT, &(options)->compress, "HOW",                                     \
         "zstd (default, level 4), zstd:LEVEL (-7 to 19) or none"},                                \
        {"cluster-size", OPTION_SIZE, &(options)->cluster, "SIZE",                                 \
         "unit of compression, 16K to 1M (128K)"},                                                 \
        {"cluster", OPTION_SIZE, &(options)->cluster, "SIZE", NULL},                               \
    {                                                                                              \
        "split", OPTION_SIZE, &(options)->split, "SIZE", "in files of this size"                   \
    }

struct newimage {
    const char *path;
    struct vdisk_image *image;
};

/* Whether the options make sense: STATUS_DONE or STATUS_USAGE, reported. */
int newimage_check(const struct newimage_options *options, const char *command);
/* The same for the size of a drive; `what` names it. */
int newimage_check_size(const char *command, const char *what, uint64_t size);

/*
 * Makes and opens it. `create` has the members that are not in `options`; the others are filled in
 * here. Returns an exit status, having reported. Then newimage_finish() or newimage_discard().
 */
int newimage_make(struct newimage *image, const char *path, const struct newimage_options *options,
                  const struct vdisk_key *key, struct vdisk_create_options create);

/* Closes it, durable; where that fails it is removed. Returns an exit status. */
int newimage_finish(struct newimage *image);

/* Removes every file of it. */
void newimage_discard(struct newimage *image);

#endif
