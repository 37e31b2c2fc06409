/* SPDX-License-Identifier: Apache-2.0 */
/* Opening a repository for a command; see backup_session.h. */
#include "backup_session.h"

#include "report.h"

#include <string.h>

int backup_report(const char *subject, int code, const struct vdisk_error *error)
{
    const char *text = error->code == code ? error->text : vdisk_strerror(code);

    switch (code) {
    case VDISK_E_WRONG_KEY:
        return report_text(subject, code, "%s; `vdisk backup key list` shows who has one", text);
    case VDISK_E_NOT_AUTHENTIC:
    case VDISK_E_MALFORMED:
    case VDISK_E_NOT_FOUND:
        return report_text(subject, code, "%s", text);
    default:
        return report(subject, code, error);
    }
}

static int load(struct backup_session *session, const struct backup_options *options)
{
    struct vdisk_error error = {0};
    int result = vb_pins_load(options->state, session->path, &session->pins, &error);

    if (result == 0)
        result = vb_pins_check_repo(&session->pins, session->repo, &error);
    if (result == 0)
        result = vb_backups_load(session->repo, &session->backups, &error);
    if (result == 0 && !options->accept_rollback)
        result = vb_pins_check_backups(&session->pins, &session->backups, &error);
    if (result)
        return backup_report(session->path, result, &error);
    backup_remember(session);
    return STATUS_DONE;
}

int backup_open(struct backup_session *session, const char *command, const char *path,
                const struct backup_options *options)
{
    struct vdisk_error error = {0};
    struct vb_store *store = NULL;
    int result, status;

    memset(session, 0, sizeof(*session));
    session->path = path;
    /* Before anyone is asked for a passphrase. */
    result = vb_store_dir_open(path, false, &store, &error);
    if (result)
        return report(path, result, &error);
    status = keyopt_load(&options->key, KEYOPT_OPEN, command, path, &session->key);
    if (status != STATUS_DONE) {
        store->ops->close(store);
        return status;
    }
    result = vb_repo_open(store, &session->key.key, &session->repo, &error);
    status = result ? backup_report(path, result, &error) : load(session, options);
    if (status != STATUS_DONE)
        backup_close(session);
    return status;
}

bool backup_begin(struct backup_session *session, const struct usage *usage, int argc, char **argv,
                  const struct backup_options *options, int *status)
{
    char **operands;
    int count;

    *status = options_parse(usage, argc, argv, &operands, &count);
    if (*status != OPTIONS_GO_ON)
        return false;
    *status = backup_open(session, usage->command, operands[0], options);
    if (*status != STATUS_DONE)
        return false;
    session->operands = operands;
    session->count = count;
    return true;
}

void backup_remember(struct backup_session *session)
{
    struct vdisk_error error = {0};

    if (vb_pins_save(&session->pins, session->repo, &session->backups, &error))
        report_note(session->path, "what is there now is not remembered: %s", error.text);
}

void backup_close(struct backup_session *session)
{
    vb_backups_release(&session->backups);
    vb_pins_release(&session->pins);
    vb_repo_close(session->repo);
    keyopt_release(&session->key);
    memset(session, 0, sizeof(*session));
}
