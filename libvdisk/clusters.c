/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The cluster cache: sets of four entries chosen by the stamp, the least recently used one
 * replaced. Clear text: wiped when freed.
 */
#include "clusters.h"

#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#define WAYS 4u

struct entry {
    uint64_t stamp; /* 0: empty */
    uint64_t used;
    uint8_t *data;
};

struct vd_cluster_cache {
    size_t cluster_bytes;
    size_t sets;
    uint64_t clock;
    size_t filled; /* entries */
    uint64_t hits, misses;
    struct entry entry[];
};

struct vd_cluster_cache *vd_clusters_new(size_t limit_bytes, size_t cluster_bytes)
{
    size_t sets = limit_bytes / cluster_bytes / WAYS;
    sets = sets ? sets : 1;
    struct vd_cluster_cache *cache = calloc(1, sizeof(*cache) + sets * WAYS * sizeof(struct entry));
    if (cache) {
        cache->cluster_bytes = cluster_bytes;
        cache->sets = sets;
    }
    return cache;
}

void vd_clusters_free(struct vd_cluster_cache *cache)
{
    if (!cache)
        return;
    for (size_t i = 0; i < cache->sets * WAYS; i++) {
        if (cache->entry[i].data)
            sodium_memzero(cache->entry[i].data, cache->cluster_bytes);
        free(cache->entry[i].data);
    }
    free(cache);
}

static struct entry *set_of(struct vd_cluster_cache *cache, uint64_t stamp)
{
    uint64_t hash = stamp * UINT64_C(0x9e3779b97f4a7c15);
    return &cache->entry[(hash >> 32) % cache->sets * WAYS];
}

const uint8_t *vd_clusters_get(struct vd_cluster_cache *cache, uint64_t stamp)
{
    struct entry *set = set_of(cache, stamp);
    for (unsigned i = 0; i < WAYS; i++) {
        if (set[i].stamp == stamp) {
            set[i].used = ++cache->clock;
            cache->hits++;
            return set[i].data;
        }
    }
    cache->misses++;
    return NULL;
}

void vd_clusters_put(struct vd_cluster_cache *cache, uint64_t stamp, const uint8_t *data)
{
    struct entry *set = set_of(cache, stamp);
    struct entry *oldest = &set[0];
    for (unsigned i = 0; i < WAYS; i++) {
        if (set[i].stamp == stamp)
            return;
        if (set[i].used < oldest->used)
            oldest = &set[i];
    }
    if (!oldest->data) {
        oldest->data = malloc(cache->cluster_bytes);
        if (!oldest->data)
            return;
        cache->filled++;
    }
    memcpy(oldest->data, data, cache->cluster_bytes);
    oldest->stamp = stamp;
    oldest->used = ++cache->clock;
}

void vd_clusters_count(const struct vd_cluster_cache *cache, struct vdisk_cache_figures *figures)
{
    figures->bytes += cache->filled * cache->cluster_bytes;
    figures->limit_bytes += cache->sets * WAYS * cache->cluster_bytes;
    figures->hits += cache->hits;
    figures->misses += cache->misses;
}
