/* SPDX-License-Identifier: Apache-2.0 */
/* A backup as a source; see backup_source.h. */
#include "backup_source.h"

#include "reader.h"
#include "report.h"

#include <errno.h>
#include <stdlib.h>

static int open_with(const struct settings_export *export, const struct vdisk_key *key,
                     struct vdisk_source **out, struct vdisk_error *error)
{
    struct vb_source_options options = {.key = key};
    struct vb_source *source;
    char *repository;
    int result;

    if (!vb_source_split(export->source, &repository, &options.backup))
        return error_set(error, -EINVAL, "a source is REPOSITORY::BACKUP");
    options.path = repository;
    result = vb_source_open(&options, &source, error);
    free(repository);
    if (result == 0)
        *out = &source->source;
    return result;
}

int source_open(const struct settings_export *export, struct vdisk_source **out,
                struct vdisk_error *error)
{
    struct key_held held;
    int result;

    *out = NULL;
    if (!export->source)
        return 0;
    result = key_load(&export->source_key, &held, error);
    if (result == 0)
        result = open_with(export, &held.key, out, error);
    key_release(&held);
    return result;
}

void source_release(struct vdisk_source *source)
{
    vb_source_close((struct vb_source *)source);
}
