/* SPDX-License-Identifier: Apache-2.0 */
/* Leases (SPEC.md B11); see lease.h. */
#include "lease.h"

#include "cursor.h"

#include <sodium.h>
#include <time.h>

void vb_lease_encode(const struct vb_repo *repo, const struct vb_lease *lease,
                     uint8_t bytes[static VB_LEASE_BYTES])
{
    struct vb_header header = {.kind = VB_OBJECT_LEASE};

    memcpy(header.repo_id, repo->config.repo_id, VB_REPO_ID_BYTES);
    memset(bytes, 0, VB_LEASE_BYTES);
    vb_header_encode(&header, bytes);
    vb_put_le(bytes + VB_HEADER_BYTES, lease->begun, 8);
    vb_put_le(bytes + VB_HEADER_BYTES + 8, lease->alive, 8);
}

int vb_lease_decode(const struct vb_repo *repo, struct vb_lease *lease, const uint8_t *bytes,
                    size_t length)
{
    struct vb_header header;
    int result = vb_header_decode(&header, bytes, length);

    if (result)
        return result;
    if (length != VB_LEASE_BYTES || header.kind != VB_OBJECT_LEASE || header.detail ||
        memcmp(header.repo_id, repo->config.repo_id, VB_REPO_ID_BYTES) != 0 ||
        !sodium_is_zero(bytes + VB_HEADER_BYTES + 16, 16))
        return VDISK_E_MALFORMED;
    lease->begun = vb_get_le(bytes + VB_HEADER_BYTES, 8);
    lease->alive = vb_get_le(bytes + VB_HEADER_BYTES + 8, 8);
    return 0;
}

static int put(struct vb_repo *repo, struct vb_lease *lease)
{
    uint8_t bytes[VB_LEASE_BYTES];

    lease->alive = (uint64_t)time(NULL);
    vb_lease_encode(repo, lease, bytes);
    return repo->store->ops->replace(repo->store, VB_LEASES, &lease->name, bytes, sizeof(bytes));
}

int vb_lease_begin(struct vb_repo *repo, struct vb_lease *lease)
{
    randombytes_buf(lease->name.b, sizeof(lease->name.b));
    lease->begun = (uint64_t)time(NULL);
    return put(repo, lease);
}

int vb_lease_beat(struct vb_repo *repo, struct vb_lease *lease)
{
    return (uint64_t)time(NULL) < lease->alive + VB_LEASE_BEAT_S ? 0 : put(repo, lease);
}

void vb_lease_end(struct vb_repo *repo, struct vb_lease *lease)
{
    repo->store->ops->remove(repo->store, VB_LEASES, &lease->name, false);
}
