/* SPDX-License-Identifier: Apache-2.0 */
/* Images out of backups; see backup_image.h. */
#include "backup_image.h"

#include "backup_drive.h"
#include "launch.h"
#include "reader.h"
#include "report.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int backup_image_make(struct newimage *image, const char *path, const struct vb_manifest *manifest,
                      const struct vdisk_key *key, struct vdisk_create_options create)
{
    struct newimage_options options = {.compress = NULL};
    char compress[32];

    create.size = vb_image_size(manifest->size);
    if (manifest->source == VB_FROM_IMAGE) {
        options.cluster.value = manifest->cluster_bytes;
        snprintf(compress, sizeof(compress), "zstd:%d", manifest->compress_level);
        options.compress = !manifest->compress        ? "none"
                           : manifest->compress_level ? compress
                                                      : NULL;
    }
    return newimage_make(image, path, &options, key, create);
}

struct vdisk_key backup_image_key(const struct vdisk_key *key,
                                  uint8_t public_key[VDISK_PUBLIC_KEY_BYTES])
{
    if (key->kind != VDISK_KEY_IDENTITY)
        return *key;
    crypto_scalarmult_base(public_key, key->bytes);
    return (struct vdisk_key){
        .kind = VDISK_KEY_RECIPIENT, .bytes = public_key, .length = VDISK_PUBLIC_KEY_BYTES};
}

/* ---- an image that is filled ------------------------------------------------------------- */

const struct vdisk_key *backup_filling_key(const struct backup_filling *filling)
{
    return filling->own_key.key.bytes ? &filling->own_key.key : &filling->repo_key.key;
}

/* Nothing is read of it until vdiskd opens the backup itself. */
static void describe(const struct backup_filling *filling, const struct vb_backup *backup,
                     struct vdisk_source *source)
{
    *source = (struct vdisk_source){
        .size = backup->manifest.size, .piece_bytes = VB_CHUNK_BYTES, .name = filling->source};
    memcpy(source->id, backup->name.b, sizeof(source->id));
}

static int make(struct backup_filling *filling, const struct vb_backup *backup)
{
    struct vdisk_source source;
    uint8_t public_key[VDISK_PUBLIC_KEY_BYTES];
    struct vdisk_key key = backup_image_key(backup_filling_key(filling), public_key);
    struct newimage image;
    int status;

    describe(filling, backup, &source);
    status = backup_image_make(&image, filling->path, &backup->manifest, &key,
                               (struct vdisk_create_options){.source = &source});
    return status == STATUS_DONE ? newimage_finish(&image) : status;
}

/* One that is there: of this backup, whether all of it has come or not, since nobody can tell then.
 */
static int look(const struct backup_filling *filling, const struct vb_backup *backup)
{
    const struct vdisk_open_options options = {
        .struct_bytes = sizeof(options), .read_only = true, .without_source = true};
    struct vdisk_error error = {0};
    struct vdisk_image *image;
    struct vdisk_info info;
    int result = vdisk_open(filling->path, &options, backup_filling_key(filling), &image, &error);

    if (result)
        return report(filling->path, result, &error);
    vdisk_get_info(image, &info);
    (void)vdisk_close(image, NULL);
    if (!info.has_source)
        return report_text(
            filling->path, VDISK_E_EXISTS,
            "is an image of its own: `vdisk serve` and `vdisk run` take it as it is");
    if (memcmp(info.source_id, backup->name.b, sizeof(info.source_id)) != 0)
        return report_text(filling->path, VDISK_E_EXISTS, "is being filled from another backup, %s",
                           info.source_name);
    return STATUS_DONE;
}

/* DRIVE.vdk in this folder, of what can stand in a file's name. */
static char *name_after(const struct vb_backup *backup)
{
    char *name = NULL;

    if (asprintf(&name, "%s.vdk",
                 backup->manifest.drive_name[0] ? backup->manifest.drive_name : "drive") < 0)
        return NULL;
    for (char *at = name; *at; at++)
        *at = *at == '/' || *at == '@' || *at == ':' ? '-' : *at;
    if (name[0] == '.')
        name[0] = '-';
    return name;
}

static int settle(struct backup_filling *filling, struct backup_session *session)
{
    const struct vb_backup *backup;
    struct vdisk_error error = {0};
    int status = STATUS_DONE, result = vb_backups_pick(&session->backups, filling->backup,
                                                       filling->drive, &backup, &error);

    if (result)
        return report(filling->repo, result, &error);
    if (session->repo->keys->role != VB_ROLE_READ)
        return report_text(
            filling->repo, VDISK_E_WRONG_KEY,
            "this key has the role %s and cannot read data: it takes one of role read",
            vb_role_name(session->repo->keys->role));
    filling->source = vb_source_name(filling->repo, &backup->name);
    filling->path = filling->to ? strdup(filling->to) : name_after(backup);
    if (!filling->source || !filling->path)
        return report(filling->repo, -ENOMEM, NULL);
    if (filling->image_key && keyopt_is_given(filling->image_key, KEYOPT_OPEN_NAMED))
        status = keyopt_load(filling->image_key, KEYOPT_OPEN_NAMED, filling->command, filling->path,
                             &filling->own_key);
    if (status != STATUS_DONE)
        return status;
    return access(filling->path, F_OK) == 0 ? look(filling, backup) : make(filling, backup);
}

int backup_filling_begin(struct backup_filling *filling)
{
    struct backup_session session;
    int status = backup_open(&session, filling->command, filling->repo, &filling->options);

    if (status != STATUS_DONE)
        return status;
    filling->repo_key = session.key; /* ours from now on */
    session.key = (struct held_key){.prompted = false};
    status = settle(filling, &session);
    backup_close(&session);
    return status;
}

void backup_filling_release(struct backup_filling *filling)
{
    keyopt_release(&filling->repo_key);
    keyopt_release(&filling->own_key);
    free(filling->path);
    free(filling->source);
    filling->path = filling->source = NULL;
}

char *backup_filling_words(const struct backup_filling *filling, int *fd)
{
    const struct vdisk_key *key = &filling->repo_key.key;
    char *source = launch_quoted(filling->source), *words = NULL;
    int rc = launch_key_pipe(key, fd);

    if (rc) {
        report_text(filling->repo, rc, "the key cannot be handed over: %s", vdisk_strerror(rc));
    } else if (!source || asprintf(&words, ",source=%s,source-key-fd=%d,source-key-kind=%s", source,
                                   *fd, launch_key_kind(key->kind)) < 0) {
        words = NULL;
        close(*fd);
        report(filling->repo, -ENOMEM, NULL);
    }
    free(source);
    return words;
}
