/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What this host has seen (SPEC.md B15); see pins.h.
 *
 * The file:   vdisk-backup-pins 1
 *             repository ID ROOT-KEY
 *             drive ID SEQUENCE NAME        for each drive
 */
#include "pins.h"

#include "outfile.h"
#include "report.h"
#include "sizes.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/sha.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_LINE "vdisk-backup-pins 1\n"
#define DRIVES_MAX 65536u

/* --- where -------------------------------------------------------------------------------- */

static void make_directories(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    mkdir(path, 0700);
}

static char *default_directory(void)
{
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    char *path = NULL;
    int length = -1;

    if (state && state[0] == '/')
        length = asprintf(&path, "%s/vdisk", state);
    else if (home && home[0] == '/')
        length = asprintf(&path, "%s/.local/state/vdisk", home);
    return length < 0 ? NULL : path;
}

/* The file of a place; NULL: there is none, or no memory. */
static char *file_of(const char *directory, const char *place)
{
    char *folder = directory ? strdup(directory) : default_directory();
    char *real = realpath(place, NULL), *path = NULL;
    uint8_t hash[SHA256_DIGEST_LENGTH];
    char text[33];

    if (folder) {
        const char *name = real ? real : place;

        make_directories(folder);
        SHA256((const uint8_t *)name, strlen(name), hash);
        sodium_bin2hex(text, sizeof(text), hash, 16);
        if (asprintf(&path, "%s/backup-%s", folder, text) < 0)
            path = NULL;
    }
    free(folder);
    free(real);
    return path;
}

/* --- reading ------------------------------------------------------------------------------ */

static bool parse_hex(const char *text, uint8_t *bytes, size_t length)
{
    size_t got;

    return sodium_hex2bin(bytes, length, text, strlen(text), NULL, &got, NULL) == 0 &&
           got == length;
}

static bool parse_drive(const char *line, struct vb_pin *pin)
{
    char drive[2 * VB_DRIVE_ID_BYTES + 1], sequence[21], name[VB_NAME_TEXT_BYTES];

    return sscanf(line, "drive %32[0-9a-f] %20[0-9] %64[0-9a-f]", drive, sequence, name) == 3 &&
           parse_hex(drive, pin->drive, sizeof(pin->drive)) && vb_id_parse(name, &pin->name) &&
           sizes_parse_number(sequence, &pin->sequence);
}

static bool parse(FILE *file, struct vb_pins *pins)
{
    char line[256], id[2 * VB_REPO_ID_BYTES + 1], root[VB_NAME_TEXT_BYTES];

    if (!fgets(line, sizeof(line), file) || strcmp(line, FIRST_LINE) != 0 ||
        !fgets(line, sizeof(line), file) ||
        sscanf(line, "repository %32[0-9a-f] %64[0-9a-f]", id, root) != 2 ||
        !parse_hex(id, pins->repo_id, sizeof(pins->repo_id)) ||
        !vb_id_parse(root, &pins->root_public))
        return false;
    while (fgets(line, sizeof(line), file)) {
        struct vb_pin pin, *bigger;

        if (pins->count >= DRIVES_MAX || !parse_drive(line, &pin))
            return false;
        bigger = reallocarray(pins->pin, pins->count + 1, sizeof(*bigger));
        if (!bigger)
            return false;
        pins->pin = bigger;
        pins->pin[pins->count++] = pin;
    }
    return !ferror(file);
}

int vb_pins_load(const char *directory, const char *place, struct vb_pins *pins,
                 struct vdisk_error *error)
{
    FILE *file;
    bool right;
    int result = 0;

    memset(pins, 0, sizeof(*pins));
    pins->path = file_of(directory, place);
    if (!pins->path)
        return 0;
    file = fopen(pins->path, "re");
    if (!file && errno == ENOENT)
        return 0;
    if (!file)
        return error_set(error, -errno, "%s, which remembers what was seen of it: %s", pins->path,
                         vdisk_strerror(-errno));
    right = parse(file, pins);
    fclose(file);
    if (!right)
        result = error_set(error, VDISK_E_MALFORMED,
                           "%s, which remembers what was seen of it, is damaged", pins->path);
    pins->known = right;
    return result;
}

void vb_pins_release(struct vb_pins *pins)
{
    free(pins->path);
    free(pins->pin);
    memset(pins, 0, sizeof(*pins));
}

/* --- comparing ---------------------------------------------------------------------------- */

int vb_pins_check_repo(const struct vb_pins *pins, const struct vb_repo *repo,
                       struct vdisk_error *error)
{
    if (pins->known && (memcmp(pins->repo_id, repo->config.repo_id, VB_REPO_ID_BYTES) != 0 ||
                        !vb_id_equal(&pins->root_public, &repo->config.root_public)))
        return error_set(error, VDISK_E_NOT_AUTHENTIC,
                         "is another repository than the one seen here before; if that is right, "
                         "remove %s",
                         pins->path);
    return 0;
}

int vb_pins_check_backups(const struct vb_pins *pins, const struct vb_backups *backups,
                          struct vdisk_error *error)
{
    char text[VB_NAME_TEXT_BYTES];

    for (size_t i = 0; i < pins->count; i++) {
        const struct vb_pin *pin = &pins->pin[i];

        if (!vb_backups_find(backups, &pin->name) && !vb_backups_is_pruned(backups, &pin->name))
            return error_set(error, VDISK_E_NOT_AUTHENTIC,
                             "backup %.16s, seen before, is gone without a record: an older state "
                             "was put back, or it was deleted; --accept-rollback goes on",
                             vb_id_text(text, &pin->name));
    }
    return 0;
}

/* --- writing ------------------------------------------------------------------------------ */

/* The newest of each drive; they are in that order. */
static bool print(FILE *file, const struct vb_repo *repo, const struct vb_backups *backups)
{
    char id[2 * VB_REPO_ID_BYTES + 1], text[VB_NAME_TEXT_BYTES];

    fputs(FIRST_LINE, file);
    fprintf(file, "repository %s %s\n",
            sodium_bin2hex(id, sizeof(id), repo->config.repo_id, VB_REPO_ID_BYTES),
            vb_id_text(text, &repo->config.root_public));
    for (size_t i = 0; i < backups->count; i++) {
        const struct vb_backup *backup = &backups->backup[i];

        if (i + 1 < backups->count &&
            memcmp(backup->manifest.drive, backup[1].manifest.drive, VB_DRIVE_ID_BYTES) == 0)
            continue;
        fprintf(file, "drive %s %llu %s\n",
                sodium_bin2hex(id, sizeof(id), backup->manifest.drive, VB_DRIVE_ID_BYTES),
                (unsigned long long)backup->manifest.sequence, vb_id_text(text, &backup->name));
    }
    return fflush(file) == 0 && !ferror(file);
}

/* Nothing new: then nothing is written, and no disk waited for. */
static bool is_current(const struct vb_pins *pins, const struct vb_backups *backups)
{
    size_t drives = 0;

    for (size_t i = 0; i < backups->count; i++) {
        const struct vb_backup *backup = &backups->backup[i];
        bool found = false;

        if (i + 1 < backups->count &&
            memcmp(backup->manifest.drive, backup[1].manifest.drive, VB_DRIVE_ID_BYTES) == 0)
            continue;
        drives++;
        for (size_t k = 0; k < pins->count && !found; k++)
            found = vb_id_equal(&pins->pin[k].name, &backup->name);
        if (!found)
            return false;
    }
    return pins->known && drives == pins->count;
}

int vb_pins_save(struct vb_pins *pins, const struct vb_repo *repo, const struct vb_backups *backups,
                 struct vdisk_error *error)
{
    struct outfile out;
    char part[PATH_MAX];
    FILE *file;
    int copy, result;

    if (!pins->path || is_current(pins, backups))
        return 0;
    /* A part that a killed process left is nobody's. */
    snprintf(part, sizeof(part), "%s.part", pins->path);
    unlink(part);
    result = outfile_open(&out, pins->path, true, false, error);
    if (result)
        return result;
    copy = dup(out.fd);
    file = copy < 0 ? NULL : fdopen(copy, "w");
    if (!file || !print(file, repo, backups))
        result = error_set(error, -EIO, "%s cannot be written", pins->path);
    if (file)
        fclose(file);
    else if (copy >= 0)
        close(copy);
    if (result) {
        outfile_discard(&out);
        return result;
    }
    return outfile_finish(&out, error);
}
