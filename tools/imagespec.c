/* SPDX-License-Identifier: Apache-2.0 */
/*
 * IMAGE[@SNAPSHOT]; see imagespec.h.
 */
#include "imagespec.h"

#include "report.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>

int imagespec_parse(const char *command, const char *text, struct imagespec *spec)
{
    size_t length = strlen(text);
    const char *slash = strrchr(text, '/');
    const char *at = strrchr(slash ? slash : text, '@');
    struct stat status;

    spec->text = text;
    spec->snapshot[0] = '\0';
    if (length >= sizeof(spec->path))
        return report_text(text, -ENAMETOOLONG, "the name is too long");
    memcpy(spec->path, text, length + 1);
    if (!at || at == text || stat(text, &status) == 0)
        return STATUS_DONE;
    if (!at[1])
        return report_usage(command, "%s: there is no snapshot name behind the @", text);
    if (strlen(at + 1) > VDISK_NAME_MAX)
        return report_text(text, -ENAMETOOLONG, "a snapshot's name has at most %u bytes",
                           VDISK_NAME_MAX);
    memcpy(spec->snapshot, at + 1, strlen(at + 1) + 1);
    spec->path[at - text] = '\0';
    return STATUS_DONE;
}
