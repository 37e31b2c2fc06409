/* SPDX-License-Identifier: Apache-2.0 */
/* The VM generation ID; see generation.h. */
#include "generation.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/random.h>

int vm_generation_new(uint8_t guid[VM_GENERATION_BYTES])
{
    ssize_t have;

    do
        have = getrandom(guid, VM_GENERATION_BYTES, 0);
    while (have < 0 && errno == EINTR);
    if (have < 0)
        return -errno;
    return have == VM_GENERATION_BYTES ? 0 : -EIO;
}

int vm_generation_set(const struct vm_memory *memory)
{
    uint8_t guid[VM_GENERATION_BYTES], *to = vm_memory_at(memory, vm_generation_at(memory), 16);
    int rc = vm_generation_new(guid);

    assert(to != NULL);
    if (rc == 0)
        memcpy(to, guid, sizeof(guid));
    return rc;
}
