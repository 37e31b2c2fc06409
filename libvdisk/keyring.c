/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The keys of epochs (SPEC.md 4, 12): found through the epoch tree, kept while used, and a few
 * beyond that. A drive may have data of any number of epochs close together, so that the number in
 * use is limited only by the requests in flight. Secrets stay in locked memory, a page at a time.
 */
#include "bytes.h"
#include "image.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>

#define KEPT_EPOCHS  64u
#define IDLE_CIPHERS 4u
#define PAGE_SECRETS 64u /* a bit of `taken` each */

struct vd_secrets {
    struct vd_secrets *next;
    uint64_t taken;
    uint8_t secret[PAGE_SECRETS][VD_KEY_BYTES];
};

struct vd_epoch_keys {
    struct vd_epoch_keys *next;
    uint32_t epoch;
    uint32_t refs;
    struct vd_secrets *page; /* of image->secrets */
    unsigned place;          /* in it */
    struct vdisk_image *image;
    unsigned idle_count;
    struct vd_cipher *idle[IDLE_CIPHERS];
};

static void keys_free(struct vd_epoch_keys *keys)
{
    sodium_memzero(keys->page->secret[keys->place], VD_KEY_BYTES);
    keys->page->taken &= ~(UINT64_C(1) << keys->place);
    while (keys->idle_count)
        vd_cipher_free(keys->idle[--keys->idle_count]);
    free(keys);
}

void vd_keyring_release(struct vdisk_image *image)
{
    while (image->keys) {
        struct vd_epoch_keys *keys = image->keys;
        image->keys = keys->next;
        keys_free(keys);
    }
    while (image->secrets) {
        struct vd_secrets *page = image->secrets;
        image->secrets = page->next;
        vdisk_secret_free(page);
    }
}

/* Where there are more than `kept`, frees the least recently used of those that nobody uses. */
static void evict(struct vdisk_image *image, unsigned kept)
{
    struct vd_epoch_keys **last_idle = NULL;
    if (image->key_count <= kept)
        return;
    for (struct vd_epoch_keys **p = &image->keys; *p; p = &(*p)->next) {
        if ((*p)->refs == 0)
            last_idle = p;
    }
    if (!last_idle)
        return;
    struct vd_epoch_keys *old = *last_idle;
    *last_idle = old->next;
    image->key_count--;
    keys_free(old);
}

/* A page with a place for a secret. */
static struct vd_secrets *free_page(struct vdisk_image *image)
{
    struct vd_secrets *page = image->secrets;
    while (page && page->taken == UINT64_MAX)
        page = page->next;
    if (page)
        return page;
    page = vdisk_secret_alloc(sizeof(*page));
    if (!page)
        return NULL;
    page->taken = 0;
    page->next = image->secrets;
    image->secrets = page;
    return page;
}

static int find_salt(struct vdisk_image *image, uint32_t epoch, uint8_t salt[VD_SALT_BYTES])
{
    struct vd_node *leaf = NULL;
    if (epoch == image->super->epoch) {
        memcpy(salt, image->super->epoch_salt, VD_SALT_BYTES);
        return 0;
    }
    int r = vd_tree_get(&image->epochs, 0, epoch / VD_SALTS, false, &leaf, NULL);
    if (r)
        return r;
    if (leaf)
        memcpy(salt, leaf->salts[epoch % VD_SALTS], VD_SALT_BYTES);
    vd_node_unpin(leaf);
    if (!leaf || vd_is_zero(salt, VD_SALT_BYTES))
        return vd_image_corrupt(image, VDISK_E_NOT_AUTHENTIC, "epoch %u is not known", epoch);
    return 0;
}

static struct vd_epoch_keys *find_keys(struct vdisk_image *image, uint32_t epoch)
{
    for (struct vd_epoch_keys **p = &image->keys; *p; p = &(*p)->next) {
        struct vd_epoch_keys *keys = *p;
        if (keys->epoch != epoch)
            continue;
        *p = keys->next;
        keys->next = image->keys;
        image->keys = keys;
        keys->refs++;
        return keys;
    }
    return NULL;
}

int vd_keys_get(struct vdisk_image *image, uint32_t epoch, struct vd_epoch_keys **out)
{
    uint8_t salt[VD_SALT_BYTES];
    *out = find_keys(image, epoch);
    if (*out)
        return 0;
    int r = find_salt(image, epoch, salt);
    if (r)
        return r;
    /* Finding the salt may have waited, and another found it first. */
    *out = find_keys(image, epoch);
    if (*out)
        return 0;
    evict(image, KEPT_EPOCHS - 1);
    struct vd_secrets *page = free_page(image);
    struct vd_epoch_keys *keys = page ? calloc(1, sizeof(*keys)) : NULL;
    if (!keys)
        return -ENOMEM;
    keys->image = image;
    keys->epoch = epoch;
    keys->refs = 1;
    keys->page = page;
    keys->place = (unsigned)__builtin_ctzll(~page->taken);
    page->taken |= UINT64_C(1) << keys->place;
    vd_epoch_secret(image->master, image->header.image_id, epoch, salt, page->secret[keys->place]);
    keys->next = image->keys;
    image->keys = keys;
    image->key_count++;
    *out = keys;
    return 0;
}

void vd_keys_put(struct vd_epoch_keys *keys)
{
    if (keys && --keys->refs == 0)
        evict(keys->image, KEPT_EPOCHS);
}

struct vd_cipher *vd_keys_take(struct vd_epoch_keys *keys)
{
    if (keys->idle_count)
        return keys->idle[--keys->idle_count];
    return vd_cipher_new(keys->page->secret[keys->place]);
}

void vd_keys_give(struct vd_epoch_keys *keys, struct vd_cipher *cipher)
{
    if (!cipher)
        return;
    if (keys->idle_count < IDLE_CIPHERS)
        keys->idle[keys->idle_count++] = cipher;
    else
        vd_cipher_free(cipher);
}
