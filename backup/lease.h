/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Leases (SPEC.md B11): a sign of life that keeps garbage collection from what is not yet named by
 * a manifest. Nobody waits for one, and a crash leaves nothing that locks.
 */
#ifndef BACKUP_LEASE_H
#define BACKUP_LEASE_H

#include "repo.h"

#define VB_LEASE_BYTES    64u
#define VB_LEASE_BEAT_S   60
#define VB_LEASE_EXPIRE_S 3600

struct vb_lease {
    struct vb_id name;
    uint64_t begun, alive; /* seconds since 1970 */
};

void vb_lease_encode(const struct vb_repo *repo, const struct vb_lease *lease,
                     uint8_t bytes[static VB_LEASE_BYTES]);
int vb_lease_decode(const struct vb_repo *repo, struct vb_lease *lease, const uint8_t *bytes,
                    size_t length);

int vb_lease_begin(struct vb_repo *repo, struct vb_lease *lease);
/* Now and then: writes when the last sign of life is a minute old. */
int vb_lease_beat(struct vb_repo *repo, struct vb_lease *lease);
void vb_lease_end(struct vb_repo *repo, struct vb_lease *lease);

#endif
