/* SPDX-License-Identifier: Apache-2.0 */
/* A bounded cache of decompressed clusters, by the stamp of their extent. */
#ifndef VD_CLUSTERS_H
#define VD_CLUSTERS_H

#include "vdisk/vdisk.h"

struct vd_cluster_cache;

/* NULL without memory. */
struct vd_cluster_cache *vd_clusters_new(size_t limit_bytes, size_t cluster_bytes);
void vd_clusters_free(struct vd_cluster_cache *cache);
/* The content, good until the next call of vd_clusters_put; NULL when it is not there. */
const uint8_t *vd_clusters_get(struct vd_cluster_cache *cache, uint64_t stamp);
/* Takes a copy; without memory it just does not. */
void vd_clusters_put(struct vd_cluster_cache *cache, uint64_t stamp, const uint8_t *data);
/* Adds its own. */
void vd_clusters_count(const struct vd_cluster_cache *cache, struct vdisk_cache_figures *figures);

#endif
