/* SPDX-License-Identifier: Apache-2.0 */
/* Making and opening a repository, its keyslots and writers; see repo.h. */
#include "repo.h"

#include "manifest.h"
#include "report.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* --- who may sign what ------------------------------------------------------------------------ */

static const struct vb_writer *find_writer(const struct vb_repo *repo, const struct vb_id *signer,
                                           bool revocation)
{
    for (size_t i = 0; i < repo->writer_count; i++) {
        const struct vb_writer *writer = &repo->writers[i];

        if (writer->revocation == revocation && vb_id_equal(&writer->key, signer))
            return writer;
    }
    return NULL;
}

const struct vb_writer *vb_repo_writer(const struct vb_repo *repo, const struct vb_id *signer)
{
    return find_writer(repo, signer, false);
}

const struct vb_writer *vb_repo_revocation(const struct vb_repo *repo, const struct vb_id *signer)
{
    return find_writer(repo, signer, true);
}

static bool role_may(enum vb_role role, enum vb_object_kind kind)
{
    switch (kind) {
    case VB_OBJECT_INDEX:
        return true;
    case VB_OBJECT_MANIFEST:
        return role != VB_ROLE_MAINTAIN;
    case VB_OBJECT_PRUNE:
        return role != VB_ROLE_PUT;
    default:
        return false;
    }
}

bool vb_repo_may_sign(const struct vb_repo *repo, const struct vb_id *signer,
                      enum vb_object_kind kind, const struct vb_id *name)
{
    const struct vb_writer *writer = vb_repo_writer(repo, signer);
    const struct vb_writer *revoked = vb_repo_revocation(repo, signer);

    if (!writer || !role_may(writer->role, kind))
        return false;
    if (!revoked || kind == VB_OBJECT_INDEX)
        return true;
    /* What was there then counts, and nothing that came later. */
    return revoked->valid_count && bsearch(name, revoked->valid, revoked->valid_count,
                                           sizeof(*revoked->valid), vb_id_compare);
}

bool vb_repo_trusts(const struct vb_repo *repo, const struct vb_id *signer)
{
    const struct vb_writer *writer = vb_repo_writer(repo, signer);

    if (!writer || vb_repo_revocation(repo, signer))
        return false;
    return writer->role != VB_ROLE_PUT ||
           (repo->keys && vb_id_equal(signer, &repo->keys->sign_public));
}

void vb_repo_segment_keys(const struct vb_repo *repo, struct vb_segment_keys *keys)
{
    const struct vb_keys *held = repo->keys;

    *keys = (struct vb_segment_keys){.repo_id = repo->config.repo_id};
    if (!held)
        return;
    keys->meta_key = held->meta_key;
    if (held->role != VB_ROLE_MAINTAIN)
        keys->data_public = held->data_public;
    if (held->role == VB_ROLE_READ)
        keys->data_secret = held->data_secret;
}

/* --- making ------------------------------------------------------------------------------- */

static int put_signed(struct vb_store *store, const uint8_t *repo_id, enum vb_place place,
                      enum vb_object_kind kind, uint16_t detail, const uint8_t *root_seed,
                      const uint8_t *body, size_t length, struct vb_id *name)
{
    struct vb_header header = {.kind = kind, .detail = detail};
    struct vb_object object;
    int result;

    memcpy(header.repo_id, repo_id, VB_REPO_ID_BYTES);
    result = vb_object_make(&header, root_seed, body, length, &object);
    if (result)
        return result;
    result = vb_object_put(store, place, &object);
    if (result == 0 && name)
        *name = object.name;
    vb_object_release(&object);
    return result;
}

static int put_writer(struct vb_store *store, const uint8_t *repo_id, const uint8_t *root_seed,
                      const struct vb_writer *writer)
{
    uint8_t *body;
    size_t length;
    int result = vb_writer_encode(writer, &body, &length);

    if (result)
        return result;
    result = put_signed(store, repo_id, VB_WRITERS, VB_OBJECT_WRITER, writer->revocation ? 2 : 1,
                        root_seed, body, length, NULL);
    free(body);
    return result;
}

/* A keyslot and the certificate that goes with it. */
static int put_slot(struct vb_store *store, const uint8_t *repo_id, const uint8_t *root_seed,
                    const struct vb_keys *keys, const struct vdisk_key *key, bool emergency,
                    const char *name, struct vb_id *slot_name, struct vdisk_error *error)
{
    struct vb_writer writer = {
        .key = keys->sign_public, .role = keys->role, .made = (uint64_t)time(NULL)};
    uint8_t body[VB_SLOT_BODY_BYTES];
    struct vb_slot slot;
    int result;

    if (name) {
        if (strlen(name) > VB_WRITER_NAME_MAX)
            return error_set(error, -EINVAL, "the name is longer than %u bytes",
                             VB_WRITER_NAME_MAX);
        memcpy(writer.name, name, strlen(name));
    }
    result = vb_slot_wrap(&slot, keys, key, emergency, repo_id, error);
    if (result)
        return result;
    vb_slot_encode(&slot, body);
    result = put_writer(store, repo_id, root_seed, &writer);
    if (result == 0)
        result = put_signed(store, repo_id, VB_KEYS, VB_OBJECT_SLOT, 0, root_seed, body,
                            sizeof(body), slot_name);
    if (result == 0)
        result = store->ops->sync(store);
    return result ? error_set(error, result, "%s", vdisk_strerror(result)) : 0;
}

int vb_repo_init(struct vb_store *store, const struct vb_init_options *options,
                 const struct vdisk_key *key, struct vdisk_error *error)
{
    struct vb_config config = {
        .created = (uint64_t)time(NULL), .pad = options->pad, .level = options->level};
    struct vb_keys *keys = vdisk_secret_alloc(sizeof(*keys));
    uint8_t body[VB_CONFIG_BODY_BYTES];
    int result;

    if (!keys)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    memset(keys, 0, sizeof(*keys));
    randombytes_buf(config.repo_id, sizeof(config.repo_id));
    randombytes_buf(keys->master, sizeof(keys->master));
    randombytes_buf(keys->sign_seed, sizeof(keys->sign_seed));
    vb_keys_derive(keys);
    vb_config_encode(&config, body);
    result = put_slot(store, config.repo_id, keys->root_seed, keys, key, false,
                      options->writer_name, NULL, error);
    if (result == 0) { /* last: with it, it is a repository */
        result = put_signed(store, config.repo_id, VB_CONFIG, VB_OBJECT_CONFIG, 0, keys->root_seed,
                            body, sizeof(body), NULL);
        if (result == 0)
            result = store->ops->sync(store);
        if (result)
            error_set(error, result, "%s", vdisk_strerror(result));
    }
    vdisk_secret_free(keys);
    return result;
}

/* --- opening ------------------------------------------------------------------------------ */

static int load_config(struct vb_repo *repo, struct vdisk_error *error)
{
    static const struct vb_id any;
    struct vb_object object;
    int result = vb_object_get(repo->store, VB_CONFIG, &any, NULL, VB_OBJECT_CONFIG, &object);

    if (result == 0) {
        result = vb_config_decode(&repo->config, object.body, object.body_bytes);
        memcpy(repo->config.repo_id, object.header.repo_id, VB_REPO_ID_BYTES);
        repo->config.root_public = object.signer;
        vb_object_release(&object);
    }
    return result
               ? error_set(error, result, "its config cannot be used: %s", vdisk_strerror(result))
               : 0;
}

/* What the root signed, of a place; else an error. */
static int get_root_signed(struct vb_repo *repo, enum vb_place place, enum vb_object_kind kind,
                           const struct vb_id *name, struct vb_object *object)
{
    int result = vb_object_get(repo->store, place, name, repo->config.repo_id, kind, object);

    if (result == 0 && !vb_id_equal(&object->signer, &repo->config.root_public)) {
        vb_object_release(object);
        result = VDISK_E_NOT_AUTHENTIC;
    }
    return result;
}

static int load_writers(struct vb_repo *repo)
{
    struct vb_id *names = NULL;
    size_t count = 0;
    int result = vb_store_names(repo->store, VB_WRITERS, false, &names, &count);

    if (result)
        return result;
    count = count < 2 * VB_WRITERS_MAX ? count : 2 * VB_WRITERS_MAX;
    repo->writers = calloc(count ? count : 1, sizeof(*repo->writers));
    if (!repo->writers)
        result = -ENOMEM;
    for (size_t i = 0; i < count && result == 0; i++) {
        struct vb_object object;
        int bad = get_root_signed(repo, VB_WRITERS, VB_OBJECT_WRITER, &names[i], &object);

        if (bad == 0) {
            bad = vb_writer_decode(&repo->writers[repo->writer_count], object.header.detail,
                                   object.body, object.body_bytes);
            vb_object_release(&object);
        }
        if (bad == 0)
            repo->writer_count++;
        else
            repo->bad_writers++;
        if (bad == -ENOMEM)
            result = bad;
    }
    free(names);
    return result;
}

int vb_repo_slots(struct vb_repo *repo, struct vb_slot **slots, struct vb_id **names, size_t *count)
{
    struct vb_id *all = NULL;
    struct vb_slot *list;
    size_t all_count = 0, good = 0;
    int result = vb_store_names(repo->store, VB_KEYS, false, &all, &all_count);

    if (result)
        return result;
    all_count = all_count < VB_SLOTS_MAX ? all_count : VB_SLOTS_MAX;
    list = calloc(all_count ? all_count : 1, sizeof(*list));
    if (!list) {
        free(all);
        return -ENOMEM;
    }
    for (size_t i = 0; i < all_count; i++) {
        struct vb_object object;

        if (get_root_signed(repo, VB_KEYS, VB_OBJECT_SLOT, &all[i], &object))
            continue;
        if (vb_slot_decode(&list[good], object.body, object.body_bytes) == 0)
            all[good++] = all[i];
        vb_object_release(&object);
    }
    *slots = list;
    *names = all;
    *count = good;
    return 0;
}

static int explain_unlock(int result, size_t slots, struct vdisk_error *error)
{
    switch (result) {
    case VDISK_E_UNSUPPORTED:
        return error_set(error, result, "a keyslot asks for a key derivation outside the limits");
    case -ENOMEM:
        return error_set(error, result, "out of memory for the key derivation");
    case VDISK_E_WRONG_KEY:
        if (slots == 0)
            return error_set(error, VDISK_E_NOT_AUTHENTIC, "there is no keyslot that counts");
        return error_set(error, result, "wrong key: it opens none of the keyslots");
    default:
        return error_set(error, result, "%s", vdisk_strerror(result));
    }
}

static int unlock(struct vb_repo *repo, const struct vdisk_key *key, struct vdisk_error *error)
{
    struct vb_slot *slots = NULL;
    struct vb_id *names = NULL;
    size_t count = 0;
    int worst = VDISK_E_WRONG_KEY;
    int result = vb_repo_slots(repo, &slots, &names, &count);

    if (result)
        return error_set(error, result, "%s", vdisk_strerror(result));
    result = VDISK_E_WRONG_KEY;
    for (size_t i = 0; i < count && result; i++) {
        result = vb_slot_unwrap(&slots[i], key, repo->config.repo_id, &repo->config.root_public,
                                repo->keys);
        if (result && result != VDISK_E_WRONG_KEY)
            worst = result;
    }
    free(slots);
    free(names);
    return result ? explain_unlock(worst, count, error) : 0;
}

int vb_repo_open(struct vb_store *store, const struct vdisk_key *key, struct vb_repo **out,
                 struct vdisk_error *error)
{
    struct vb_repo *repo = calloc(1, sizeof(*repo));
    int result;

    if (!repo) {
        store->ops->close(store);
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    }
    repo->store = store;
    result = load_config(repo, error);
    if (result == 0 && key) {
        repo->keys = vdisk_secret_alloc(sizeof(*repo->keys));
        result = repo->keys ? unlock(repo, key, error)
                            : error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    }
    if (result == 0) {
        result = load_writers(repo);
        if (result)
            error_set(error, result, "%s", vdisk_strerror(result));
    }
    if (result) {
        vb_repo_close(repo);
        return result;
    }
    *out = repo;
    return 0;
}

void vb_repo_close(struct vb_repo *repo)
{
    if (!repo)
        return;
    for (size_t i = 0; i < repo->writer_count; i++)
        vb_writer_release(&repo->writers[i]);
    free(repo->writers);
    vdisk_secret_free(repo->keys);
    repo->store->ops->close(repo->store);
    free(repo);
}

/* --- changing keys -------------------------------------------------------------------------- */

static int need_read(const struct vb_repo *repo, struct vdisk_error *error)
{
    if (repo->keys && repo->keys->role == VB_ROLE_READ)
        return 0;
    return error_set(error, -EPERM, "keys are changed with a key of role read, this one is %s",
                     repo->keys ? vb_role_name(repo->keys->role) : "none");
}

int vb_repo_key_add(struct vb_repo *repo, enum vb_role role, const struct vdisk_key *key,
                    bool emergency, const char *name, struct vb_id *slot, struct vdisk_error *error)
{
    struct vb_keys *keys;
    int result = need_read(repo, error);

    if (result)
        return result;
    keys = vdisk_secret_alloc(sizeof(*keys));
    if (!keys)
        return error_set(error, -ENOMEM, "%s", vdisk_strerror(-ENOMEM));
    vb_keys_for_role(repo->keys, role, keys);
    result = put_slot(repo->store, repo->config.repo_id, repo->keys->root_seed, keys, key,
                      emergency, name, slot, error);
    vdisk_secret_free(keys);
    return result;
}

/* Its manifests, and those of its prune records that count, stay. */
static int revoke(struct vb_repo *repo, const struct vb_slot *slot, struct vdisk_error *error)
{
    const struct vb_writer *writer = vb_repo_writer(repo, &slot->sign_public);
    struct vb_writer revocation = {.key = slot->sign_public,
                                   .role = slot->role,
                                   .revocation = true,
                                   .made = (uint64_t)time(NULL)};
    struct vb_id *names = NULL;
    size_t count = 0;
    int result = vb_store_names(repo->store, VB_BACKUPS, false, &names, &count);

    for (size_t i = 0; i < count && result == 0; i++) {
        static const enum vb_object_kind kinds[] = {VB_OBJECT_MANIFEST, VB_OBJECT_PRUNE};

        for (unsigned k = 0; k < 2; k++) {
            struct vb_object object;

            if (vb_object_get(repo->store, VB_BACKUPS, &names[i], repo->config.repo_id, kinds[k],
                              &object))
                continue;
            if (vb_id_equal(&object.signer, &slot->sign_public))
                names[revocation.valid_count++] = names[i];
            vb_object_release(&object);
        }
    }
    revocation.valid = names;
    if (writer)
        memcpy(revocation.name, writer->name, sizeof(revocation.name));
    if (result == 0)
        result = put_writer(repo->store, repo->config.repo_id, repo->keys->root_seed, &revocation);
    if (result == 0)
        result = repo->store->ops->sync(repo->store);
    free(names);
    return result ? error_set(error, result, "%s", vdisk_strerror(result)) : 0;
}

int vb_repo_key_remove(struct vb_repo *repo, const struct vb_id *slot, struct vdisk_error *error)
{
    struct vb_slot *slots = NULL, found = {0};
    struct vb_id *names = NULL;
    size_t count = 0, readers = 0;
    bool exists = false;
    int result = need_read(repo, error);

    if (result)
        return result;
    result = vb_repo_slots(repo, &slots, &names, &count);
    if (result)
        return error_set(error, result, "%s", vdisk_strerror(result));
    for (size_t i = 0; i < count; i++) {
        readers += slots[i].role == VB_ROLE_READ;
        if (vb_id_equal(&names[i], slot)) {
            found = slots[i];
            exists = true;
        }
    }
    free(slots);
    free(names);
    if (!exists)
        return error_set(error, VDISK_E_NOT_FOUND, "there is no such keyslot");
    if (found.role == VB_ROLE_READ && readers == 1)
        return error_set(error, VDISK_E_LIMIT,
                         "this is the last key that can read: add another one first");
    if (found.role != VB_ROLE_READ)
        result = revoke(repo, &found, error);
    if (result == 0) {
        result = repo->store->ops->remove(repo->store, VB_KEYS, slot, false);
        if (result)
            error_set(error, result, "%s", vdisk_strerror(result));
    }
    return result;
}
