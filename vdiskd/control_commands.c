/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the requests of the management socket do; see control.h. Each by a task, on an image in a
 * coroutine of the image, so that its clients go on meanwhile. Reading a key and deriving from it
 * takes a second or blocks, and is done by a thread of its own.
 */
#include "control.h"

#include "apart.h"
#include "export.h"
#include "key.h"
#include "limit_json.h"
#include "report.h"
#include "vhost_exports.h"

#include <errno.h>
#include <sodium.h>

/* ---- keys ---- */

struct key_work {
    struct key_source source;
    const char *image; /* to unlock; NULL: the key is only read */
    struct key_held held;
    struct vdisk_unlocked *unlocked;
    struct vdisk_error *error;
};

static int run_key_work(void *arg)
{
    struct key_work *work = arg;

    return work->image ? key_unlock(&work->source, work->image, &work->unlocked, work->error)
                       : key_load(&work->source, &work->held, work->error);
}

/* Waits for the key. After any result key_work_end() is due. */
static int key_take(struct key_work *work, const struct control_request *request, int fd,
                    const char *image, struct vdisk_error *error)
{
    *work = (struct key_work){
        .source = {.kind = request->key_kind,
                   .file = request->key_file[0] ? request->key_file : NULL,
                   .fd = fd},
        .image = image,
        .error = error,
    };
    return apart_call(run_key_work, work);
}

static void key_work_end(struct key_work *work)
{
    vdisk_unlocked_free(work->unlocked);
    key_release(&work->held);
}

/* ---- on the image, in one of its coroutines ---- */

struct image_work {
    const struct control_request *request;
    const struct vdisk_key *key;
    json_t *result;
};

static void set_hex(json_t *object, const char *name, const uint8_t *bytes, size_t length)
{
    char text[2 * VDISK_ID_BYTES + 1];

    _Static_assert(VDISK_TAG_BYTES <= VDISK_ID_BYTES, "both have room");
    json_object_set_new(object, name,
                        json_string(sodium_bin2hex(text, sizeof(text), bytes, length)));
}

static bool add_snapshot(void *opaque, const struct vdisk_snapshot_info *info)
{
    struct image_work *work = opaque;
    json_t *object = json_pack("{s:s, s:I, s:I, s:I, s:I}", "name", info->name, "id",
                               (json_int_t)info->id, "size_bytes", (json_int_t)info->size,
                               "created", (json_int_t)(info->created / 1000000000), "created_ns",
                               (json_int_t)info->created);

    set_hex(object, "root_tag", info->root_tag, sizeof(info->root_tag));
    json_array_append_new(work->result, object);
    return true;
}

static int list_keys(struct vdisk_image *image, struct image_work *work)
{
    static const char *const kinds[] = {"", "passphrase", "key-file", "recipient", "identity"};
    struct vdisk_keyslot_info slots[VDISK_KEYSLOTS];
    unsigned count = vdisk_key_list(image, slots);

    work->result = json_array();
    for (unsigned i = 0; i < count; i++)
        json_array_append_new(work->result,
                              json_pack("{s:i, s:s, s:I}", "slot", (int)slots[i].slot, "kind",
                                        kinds[slots[i].kind <= 4 ? slots[i].kind : 0], "created",
                                        (json_int_t)slots[i].created));
    return 0;
}

static int compact(struct vdisk_image *image, struct image_work *work)
{
    struct vdisk_compact_result result;
    int rc = vdisk_compact(image, NULL, NULL, &result);

    if (rc == 0)
        work->result =
            json_pack("{s:I, s:I}", "clusters_folded", (json_int_t)result.clusters_folded,
                      "freed_bytes", (json_int_t)result.bytes_freed);
    return rc;
}

static int add_key(struct vdisk_image *image, struct image_work *work)
{
    unsigned slot = 0;
    int rc = vdisk_key_add(image, work->key, &slot);

    if (rc == 0)
        work->result = json_pack("{s:i}", "slot", (int)slot);
    return rc;
}

static int on_image(struct vdisk_image *image, void *arg)
{
    struct image_work *work = arg;
    const struct control_request *request = work->request;

    switch (request->command->verb) {
    case CONTROL_SNAPSHOT_LIST:
        work->result = json_array();
        return vdisk_snapshot_list(image, add_snapshot, work);
    case CONTROL_SNAPSHOT_CREATE:
        return vdisk_snapshot_create(image, request->snapshot);
    case CONTROL_SNAPSHOT_DELETE:
        return vdisk_snapshot_delete(image, request->snapshot);
    case CONTROL_RESIZE:
        return vdisk_resize(image, request->size, request->shrink);
    case CONTROL_COMPACT:
        return compact(image, work);
    case CONTROL_CHECKPOINT:
        return vdisk_checkpoint(image);
    case CONTROL_KEY_LIST:
        return list_keys(image, work);
    case CONTROL_KEY_ADD:
        return add_key(image, work);
    case CONTROL_KEY_REMOVE:
        return vdisk_key_remove(image, request->slot);
    default:
        return -EOPNOTSUPP;
    }
}

/* ---- on exports ---- */

static json_int_t load(const atomic_uint_fast64_t *counter)
{
    return (json_int_t)atomic_load_explicit(counter, memory_order_relaxed);
}

static json_t *cache_json(const struct vdisk_cache_figures *cache)
{
    return json_pack("{s:I, s:I, s:I, s:I}", "bytes", (json_int_t)cache->bytes, "limit_bytes",
                     (json_int_t)cache->limit_bytes, "hits", (json_int_t)cache->hits, "misses",
                     (json_int_t)cache->misses);
}

static void add_figures(json_t *root, const struct vdisk_figures *figures)
{
    json_object_set_new(root, "cache",
                        json_pack("{s:o, s:o}", "nodes", cache_json(&figures->nodes), "clusters",
                                  cache_json(&figures->clusters)));
    json_object_set_new(root, "journal",
                        json_pack("{s:I, s:I, s:I, s:I}", "bytes",
                                  (json_int_t)figures->journal_bytes, "used_bytes",
                                  (json_int_t)figures->journal_used_bytes, "records",
                                  (json_int_t)figures->journal_records, "syncs",
                                  (json_int_t)figures->journal_syncs));
    json_object_set_new(root, "dirty_bytes", json_integer((json_int_t)figures->dirty_bytes));
    json_object_set_new(root, "checkpoints", json_integer((json_int_t)figures->checkpoints));
}

static json_t *stats_json(const struct stats *stats, const struct vdisk_figures *figures)
{
    static const char *const names[STATS_OPS] = {"read", "write", "flush", "discard", "zero"};
    json_t *root = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "in_flight", load(&stats->in_flight), "delayed",
        load(&stats->delayed), "throttled", load(&stats->throttled), "waiting_for_space",
        load(&stats->waiting_for_space), "reopened", load(&stats->reopened), "integrity_errors",
        load(&stats->integrity_errors), "sessions_total", load(&stats->sessions_total));

    for (unsigned op = 0; op < STATS_OPS; op++) {
        const struct stats_counter *counter = &stats->op[op];

        json_object_set_new(root, names[op],
                            json_pack("{s:I, s:I, s:I, s:I}", "count", load(&counter->count),
                                      "bytes", load(&counter->bytes), "errors",
                                      load(&counter->errors), "nanoseconds",
                                      load(&counter->nanoseconds)));
    }
    add_figures(root, figures);
    return root;
}

struct listing {
    const struct control_options *options;
    json_t *array;
};

static bool add_export(void *opaque, struct export *export)
{
    struct listing *listing = opaque;
    const struct vhost_exports *vhost = listing->options->vhost;
    struct export_info info;

    export_get_info(export, &info);
    const char *socket = vhost ? vhost_exports_address(vhost, info.name) : NULL;
    const char *snapshot = vhost ? vhost_exports_snapshot(vhost, info.name) : NULL;
    json_t *object = json_pack("{s:s, s:s, s:I, s:I, s:b, s:b, s:i}", "name", info.name, "image",
                               info.path, "size_bytes", (json_int_t)info.size, "cluster_bytes",
                               (json_int_t)info.cluster_bytes, "read_only", info.read_only,
                               "has_base", info.has_base, "sessions", (int)info.sessions);
    if (info.is_filling) {
        const struct stats *stats = export_stats(export);

        json_object_set_new(object, "filling", json_true());
        json_object_set_new(object, "filled_to_bytes",
                            json_integer((json_int_t)atomic_load_explicit(&stats->filled_to,
                                                                          memory_order_relaxed)));
    }
    json_object_set_new(object, "compress", json_string(info.compress ? "zstd" : "none"));
    json_object_set_new(object, "compress_level", json_integer(info.compress_level));
    set_hex(object, "image_id", info.image_id, sizeof(info.image_id));
    if (info.read_only)
        set_hex(object, "root_tag", info.root_tag, sizeof(info.root_tag));
    if (socket)
        json_object_set_new(object, "vhost_user", json_string(socket));
    if (snapshot)
        json_object_set_new(object, "vhost_snapshot", json_string(snapshot));
    json_array_append_new(listing->array, object);
    return true;
}

static int add_with_socket(const struct control_options *options,
                           const struct control_request *request,
                           const struct export_options *export, struct vdisk_error *error)
{
    struct listen_socket socket = {.fd = -1};
    const char *snapshot = request->vhost_snapshot[0] ? request->vhost_snapshot : NULL;
    int rc = 0;

    if (request->vhost_user[0])
        rc = vhost_exports_make(request->vhost_user, &socket, error);
    return rc ? rc : vhost_exports_open(options->vhost, export, snapshot, &socket, error);
}

static int add_new_export(const struct control_options *options,
                          const struct control_request *request, int key_fd,
                          struct vdisk_error *error)
{
    struct export_options export = {
        .name = request->export,
        .path = request->image,
        .read_only = request->read_only,
        .when_full = request->wait_when_full ? EXPORT_WAIT : EXPORT_REPORT,
        .when_failing = request->wait_when_failing ? EXPORT_WAIT : EXPORT_REPORT,
        .limits = request->limits,
        .group = request->group[0] ? request->group : NULL,
    };
    struct key_work work;
    int rc = key_take(&work, request, key_fd, request->image, error);

    export.unlocked = work.unlocked;
    if (rc == 0 && options->vhost)
        rc = add_with_socket(options, request, &export, error);
    else if (rc == 0)
        rc = export_add(options->exports, &export, error);
    key_work_end(&work);
    return rc;
}

static int remove_export(const struct control_options *options, const char *name,
                         struct vdisk_error *error)
{
    return options->vhost ? vhost_exports_close(options->vhost, name, error)
                          : export_remove(options->exports, name, error);
}

/* ---- groups ---- */

static void add_group(void *opaque, const char *name, struct limit_group *group)
{
    struct limit_settings limits;

    limit_group_get(group, &limits);
    json_array_append_new(opaque,
                          json_pack("{s:s, s:o}", "name", name, "limits", limit_to_json(&limits)));
}

static int run_on_group(const struct control_options *options,
                        const struct control_request *request, json_t **result,
                        struct vdisk_error *error)
{
    bool is_setting = request->command->verb == CONTROL_GROUP_LIMITS_SET;
    struct limit_group *group = is_setting ? exports_group(options->exports, request->group)
                                           : exports_find_group(options->exports, request->group);
    struct limit_settings limits;

    if (!group)
        return is_setting
                   ? error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM))
                   : error_set(error, VDISK_E_NOT_FOUND, "there is no group `%s`", request->group);
    if (is_setting) {
        limit_group_set(group, &request->limits);
    } else {
        limit_group_get(group, &limits);
        *result = limit_to_json(&limits);
    }
    return 0;
}

/* ---- all of them ---- */

/* What concerns one export that is there. */
static int run_on_export(struct export *export, const struct control_request *request, int key_fd,
                         json_t **result, struct vdisk_error *error)
{
    struct image_work work = {.request = request};
    struct limit_settings limits;
    struct vdisk_figures figures;
    struct key_work key = {.image = NULL};
    int rc = 0;

    switch (request->command->verb) {
    case CONTROL_STATS:
        export_get_figures(export, &figures);
        *result = stats_json(export_stats(export), &figures);
        return 0;
    case CONTROL_LIMITS_GET:
        limit_group_get(export_limits(export), &limits);
        *result = limit_to_json(&limits);
        return 0;
    case CONTROL_LIMITS_SET:
        limit_group_set(export_limits(export), &request->limits);
        return 0;
    case CONTROL_KEY_ADD:
        rc = key_take(&key, request, key_fd, NULL, error);
        work.key = &key.held.key;
        break;
    default:
        break;
    }
    if (rc == 0)
        rc = export_call(export, on_image, &work, error);
    key_work_end(&key);
    if (rc == 0 && request->command->verb == CONTROL_RESIZE)
        export_resized(export);
    if (rc == 0)
        *result = work.result;
    else
        json_decref(work.result);
    return rc;
}

int control_run(const struct control_options *options, const struct control_request *request,
                int key_fd, json_t **result, struct vdisk_error *error)
{
    struct export *export;
    int rc;

    *result = NULL;
    *error = (struct vdisk_error){.code = 0};
    switch (request->command->verb) {
    case CONTROL_EXPORT_LIST:
        *result = json_array();
        export_each(options->exports, add_export,
                    &(struct listing){.options = options, .array = *result});
        return 0;
    case CONTROL_EXPORT_ADD:
        return add_new_export(options, request, key_fd, error);
    case CONTROL_EXPORT_REMOVE:
        return remove_export(options, request->export, error);
    case CONTROL_GROUP_LIST:
        *result = json_array();
        exports_each_group(options->exports, add_group, *result);
        return 0;
    case CONTROL_GROUP_LIMITS_GET:
    case CONTROL_GROUP_LIMITS_SET:
        return run_on_group(options, request, result, error);
    case CONTROL_NBD_LIST:
        *result = options->nbd ? json_incref(options->nbd) : json_array();
        return 0;
    case CONTROL_RELOAD:
        if (!options->reload)
            return error_set(error, -EOPNOTSUPP, "there is no configuration file");
        return options->reload(options->opaque, error);
    case CONTROL_SHUTDOWN:
        return options->shut_down ? 0 : error_set(error, -EOPNOTSUPP, "not supported here");
    default:
        break;
    }
    export = export_get(options->exports, request->export);
    if (!export)
        return error_set(error, VDISK_E_NOT_FOUND, "there is no export `%s`", request->export);
    rc = run_on_export(export, request, key_fd, result, error);
    export_put(export);
    return rc;
}
