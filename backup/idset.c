/* SPDX-License-Identifier: Apache-2.0 */
/* A hash table of ids, which are hashes already; see idset.h. */
#include "idset.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ROOM_MIN 1024u

static struct vb_id *find(struct vb_id *slot, size_t room, const struct vb_id *id)
{
    size_t at;

    memcpy(&at, id->b, sizeof(at));
    for (at &= room - 1; !vb_id_is_zero(&slot[at]) && !vb_id_equal(&slot[at], id);)
        at = (at + 1) & (room - 1);
    return &slot[at];
}

static int grow(struct vb_idset *set)
{
    size_t room = set->room ? 2 * set->room : ROOM_MIN;
    struct vb_id *slot = calloc(room, sizeof(*slot));

    if (!slot)
        return -ENOMEM;
    for (size_t i = 0; i < set->room; i++) {
        if (!vb_id_is_zero(&set->slot[i]))
            *find(slot, room, &set->slot[i]) = set->slot[i];
    }
    free(set->slot);
    set->slot = slot;
    set->room = room;
    return 0;
}

int vb_idset_add(struct vb_idset *set, const struct vb_id *id)
{
    struct vb_id *slot;

    if (set->count + 1 > set->room / 4 * 3) {
        int result = grow(set);

        if (result)
            return result;
    }
    slot = find(set->slot, set->room, id);
    if (!vb_id_is_zero(slot))
        return 0;
    *slot = *id;
    set->count++;
    return 1;
}

bool vb_idset_has(const struct vb_idset *set, const struct vb_id *id)
{
    return set->room && !vb_id_is_zero(find(set->slot, set->room, id));
}

void vb_idset_release(struct vb_idset *set)
{
    free(set->slot);
    memset(set, 0, sizeof(*set));
}
