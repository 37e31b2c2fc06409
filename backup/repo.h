/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An open repository: its store, config, keys, and who may sign what.
 *
 * After opening nothing in it changes; any thread may use it.
 */
#ifndef BACKUP_REPO_H
#define BACKUP_REPO_H

#include "repo_keys.h"
#include "seal.h"

struct vb_repo {
    struct vb_store *store;
    struct vb_config config;
    struct vb_keys *keys; /* NULL: opened without a key */
    struct vb_writer *writers;
    size_t writer_count;
    unsigned bad_writers; /* objects in writers/ that do not count */
};

struct vb_init_options {
    uint8_t pad; /* as in the config */
    int8_t level;
    const char *writer_name; /* of the first key */
};

/* Makes a repository with one keyslot of role read. `store` stays the caller's. */
int vb_repo_init(struct vb_store *store, const struct vb_init_options *options,
                 const struct vdisk_key *key, struct vdisk_error *error);

/*
 * Opens it; the store goes over to it, also on failure. `key` NULL: only what is public. Errors:
 * -ENOENT (no repository), VDISK_E_WRONG_KEY, VDISK_E_NOT_AUTHENTIC, VDISK_E_MALFORMED,
 * VDISK_E_UNSUPPORTED, -errno.
 */
int vb_repo_open(struct vb_store *store, const struct vdisk_key *key, struct vb_repo **out,
                 struct vdisk_error *error);
/* Wipes the keys. NULL is allowed. */
void vb_repo_close(struct vb_repo *repo);

void vb_repo_segment_keys(const struct vb_repo *repo, struct vb_segment_keys *keys);

/* The certificate of a signer, NULL without one; and its revocation. */
const struct vb_writer *vb_repo_writer(const struct vb_repo *repo, const struct vb_id *signer);
const struct vb_writer *vb_repo_revocation(const struct vb_repo *repo, const struct vb_id *signer);
/* Whether what `signer` signed counts as `kind`; for manifests of a revoked one, by name. */
bool vb_repo_may_sign(const struct vb_repo *repo, const struct vb_id *signer,
                      enum vb_object_kind kind, const struct vb_id *name);
/* Whether records listed by it may be taken for our own (SPEC.md B11). */
bool vb_repo_trusts(const struct vb_repo *repo, const struct vb_id *signer);

/* Keyslots, those with the root's signature; free() them. `names` in the same order. */
int vb_repo_slots(struct vb_repo *repo, struct vb_slot **slots, struct vb_id **names,
                  size_t *count);
/* Adds a keyslot for `key` and certifies its holder; role read of `repo` only (-EPERM). */
int vb_repo_key_add(struct vb_repo *repo, enum vb_role role, const struct vdisk_key *key,
                    bool emergency, const char *name, struct vb_id *slot,
                    struct vdisk_error *error);
/* Removes one; a put or maintain key is revoked with it. Refuses the last of role read
 * (VDISK_E_LIMIT). */
int vb_repo_key_remove(struct vb_repo *repo, const struct vb_id *slot, struct vdisk_error *error);

/* The public halves of signing and data keys. */
void vb_public_of_seed(const uint8_t seed[static VB_SEED_BYTES], struct vb_id *public_key);

#endif
