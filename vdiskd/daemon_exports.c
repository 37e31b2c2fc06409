/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The exports that the settings name, and reading the settings again; see daemon.h.
 */
#include "daemon.h"

#include "apart.h"
#include "audit.h"
#include "backup_source.h"
#include "export.h"
#include "log.h"
#include "notify.h"
#include "report.h"
#include "task.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int daemon_add_export(struct daemon *daemon, const struct settings_export *export,
                      const struct vdisk_unlocked *unlocked, struct vdisk_source *source,
                      const struct listen_socket *socket, struct vdisk_error *error)
{
    const struct export_options options = {
        .name = export->name,
        .path = export->image,
        .read_only = export->read_only,
        .when_full = export->wait_when_full ? EXPORT_WAIT : EXPORT_REPORT,
        .when_failing = export->wait_when_failing ? EXPORT_WAIT : EXPORT_REPORT,
        .limits = export->limits,
        .group = export->group,
        .unlocked = unlocked,
        .source = source,
        .release_source = source_release,
        .fill_rate = export->fill_rate,
    };

    int rc = vhost_exports_open(daemon->vhost, &options, export->vhost_snapshot, socket, error);
    const struct audit_event event = {
        .event = "export-open",
        .image = export->image,
        .export = export->name,
        .result = rc,
        .error = rc && error->code == rc ? error->text : NULL,
    };
    (void)audit_record(daemon->audit, &event);
    return rc;
}

void daemon_set_groups(struct daemon *daemon, const struct settings *settings)
{
    for (unsigned i = 0; i < settings->group_count; i++) {
        struct limit_group *group = exports_group(daemon->exports, settings->groups[i].name);

        if (group)
            limit_group_set(group, &settings->groups[i].limits);
    }
}

/* Those that the new settings do not name any more have no limits. */
static void free_groups(struct daemon *daemon, const struct settings *old,
                        const struct settings *new)
{
    static const struct limit_settings none;

    for (unsigned i = 0; i < old->group_count; i++) {
        struct limit_group *group = exports_find_group(daemon->exports, old->groups[i].name);
        bool is_named = false;

        for (unsigned j = 0; j < new->group_count; j++)
            is_named |= strcmp(old->groups[i].name, new->groups[j].name) == 0;
        if (group && !is_named)
            limit_group_set(group, &none);
    }
}

/* ---- all away ---- */

struct name_search {
    char name[256];
    bool is_found;
};

static bool take_first(void *opaque, struct export *export)
{
    struct name_search *search = opaque;
    struct export_info info;

    export_get_info(export, &info);
    memcpy(search->name, info.name, sizeof(search->name));
    search->is_found = true;
    return false;
}

void daemon_remove_exports(struct daemon *daemon)
{
    for (;;) {
        struct name_search search = {.is_found = false};
        struct vdisk_error error = {.code = 0};

        export_each(daemon->exports, take_first, &search);
        if (!search.is_found)
            return;
        int rc = vhost_exports_close(daemon->vhost, search.name, &error);
        if (rc == 0)
            continue;
        log_event(LOG_ERROR, "export-close", "export", search.name, "error",
                  error.code == rc ? error.text : vdisk_strerror(rc), NULL);
        daemon->status = daemon->status ? daemon->status : report_status(rc);
    }
}

/* ---- once more ---- */

struct reading {
    const struct settings_start *start;
    struct settings *settings;
    struct vdisk_error *error;
};

static int read_settings(void *arg)
{
    struct reading *reading = arg;

    return settings_load(reading->start->config, reading->start->options, &reading->settings,
                         reading->error);
}

struct unlocking {
    const struct settings_export *export;
    struct vdisk_unlocked *unlocked;
    struct vdisk_source *source;
    struct vdisk_error *error;
};

static int unlock(void *arg)
{
    struct unlocking *unlocking = arg;

    int rc = key_unlock(&unlocking->export->key, unlocking->export->image, &unlocking->unlocked,
                        unlocking->error);

    return rc ? rc : source_open(unlocking->export, &unlocking->source, unlocking->error);
}

static void note_error(struct vdisk_error *first, const struct settings_export *export, int rc,
                       const struct vdisk_error *error)
{
    const char *text = error->code == rc && error->text[0] ? error->text : vdisk_strerror(rc);
    const char *advice = rc == -EACCES ? "; the daemon may need --image-dir for its folder" : "";

    log_event(LOG_ERROR, "reload", "export", export->name, "image", export->image, "error", text,
              NULL);
    if (first->code == 0)
        error_set(first, rc, "export `%s`: %s%s", export->name, text, advice);
}

/* What came by a descriptor came once. */
static int check_again(const struct settings_export *export, struct vdisk_error *error)
{
    if (!export->key.file || (export->source && !export->source_key.file))
        return error_set(error, -EINVAL, "its key came by a descriptor, once");
    if (export->vhost_user && strncmp(export->vhost_user, "fd:", 3) == 0)
        return error_set(error, -EINVAL, "its socket came as a descriptor, once");
    return 0;
}

static void add_new(struct daemon *daemon, const struct settings_export *export,
                    struct vdisk_error *first)
{
    struct vdisk_error error = {.code = 0};
    struct unlocking unlocking = {.export = export, .error = &error};
    struct listen_socket socket = {.fd = -1};
    int rc = check_again(export, &error);

    if (rc == 0)
        rc = apart_call(unlock, &unlocking);
    if (rc == 0 && export->vhost_user)
        rc = vhost_exports_make(export->vhost_user, &socket, &error);
    if (rc == 0)
        rc = daemon_add_export(daemon, export, unlocking.unlocked, unlocking.source, &socket,
                               &error);
    else
        source_release(unlocking.source);
    vdisk_unlocked_free(unlocking.unlocked);
    if (rc)
        note_error(first, export, rc, &error);
    else
        log_event(LOG_INFO, "export-add", "export", export->name, "image", export->image, NULL);
}

static void remove_old(struct daemon *daemon, const struct settings_export *export,
                       struct vdisk_error *first)
{
    struct vdisk_error error = {.code = 0};
    int rc = vhost_exports_close(daemon->vhost, export->name, &error);
    const struct audit_event event = {
        .event = "export-close",
        .export = export->name,
        .result = rc,
        .error = rc && error.code == rc ? error.text : NULL,
    };

    (void)audit_record(daemon->audit, &event);
    if (rc && rc != VDISK_E_NOT_FOUND) /* somebody was faster */
        note_error(first, export, rc, &error);
    else
        log_event(LOG_INFO, "export-remove", "export", export->name, NULL);
}

/* Whether they differ in more than their limits. */
static bool is_another(const struct settings_export *a, const struct settings_export *b)
{
    json_t *left = json_copy(a->json), *right = json_copy(b->json);
    bool differs;

    json_object_del(left, "limits");
    json_object_del(right, "limits");
    differs = !json_equal(left, right);
    json_decref(left);
    json_decref(right);
    return differs;
}

static void change_limits(struct daemon *daemon, const struct settings_export *export)
{
    struct export *live = export_get(daemon->exports, export->name);

    if (live)
        limit_group_set(export_limits(live), &export->limits);
    export_put(live);
}

/* What the old settings named is brought to the state of the new ones. */
static void apply(struct daemon *daemon, const struct settings *new, struct vdisk_error *first)
{
    const struct settings *old = daemon->settings;

    free_groups(daemon, old, new);
    daemon_set_groups(daemon, new);
    for (unsigned i = 0; i < old->export_count; i++) {
        const struct settings_export *same = settings_find_export(new, old->exports[i].name);

        if (!same || is_another(&old->exports[i], same))
            remove_old(daemon, &old->exports[i], first);
        else
            change_limits(daemon, same);
    }
    for (unsigned i = 0; i < new->export_count; i++) {
        struct export *live = export_get(daemon->exports, new->exports[i].name);

        if (!live)
            add_new(daemon, &new->exports[i], first);
        export_put(live);
    }
}

static int read_again(struct daemon *daemon, struct vdisk_error *error)
{
    struct reading reading = {.start = daemon->start, .error = error};
    struct settings *old = daemon->settings;
    int rc;

    if (!daemon->start->config)
        return daemon->audit ? 0 : error_set(error, -EOPNOTSUPP, "there is no configuration file");
    error->code = 0;
    rc = apart_call(read_settings, &reading);
    if (rc == 0) {
        apply(daemon, reading.settings, error);
        daemon->settings = reading.settings;
        settings_free(old);
        rc = error->code;
    }
    return rc;
}

int daemon_reload(struct daemon *daemon, struct vdisk_error *error)
{
    struct vdisk_error log_error = {.code = 0};
    int log_rc, rc;

    if (daemon->is_reloading || daemon->is_ending)
        return error_set(error, -EBUSY, "it is being done already");
    daemon->is_reloading = true;
    notify_reloading();
    log_rc = audit_reopen(daemon->audit, &log_error);
    rc = read_again(daemon, error);
    if (log_rc && rc == 0) {
        *error = log_error;
        rc = log_rc;
    }
    daemon->is_reloading = false;
    notify_send("READY=1");
    task_wake(&daemon->place);
    return rc;
}
