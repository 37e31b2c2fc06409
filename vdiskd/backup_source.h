/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an export's image is filled from: a backup in a repository (backup/reader.h).
 */
#ifndef VDISKD_BACKUP_SOURCE_H
#define VDISKD_BACKUP_SOURCE_H

#include "settings.h"

/* Opens what export->source names, with its key. Blocks. NULL without a source. Errors of
 * vb_source_open(), key_load(). */
int source_open(const struct settings_export *export, struct vdisk_source **out,
                struct vdisk_error *error);
/* For export_options.release_source. */
void source_release(struct vdisk_source *source);

#endif
