/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A device of three queues that holds its requests until the test says so, and then writes to each
 * how often it was answered: what it has when it is reset, paused or saved is up to the test.
 */
#ifndef VM_SLOW_H
#define VM_SLOW_H

#include "queue.h"

#define VM_SLOW_ID       60u /* of no kind that there is */
#define VM_SLOW_QUEUES   3u
#define VM_SLOW_QUEUE    128u
#define VM_SLOW_CONFIG   12u
#define VM_SLOW_HELD_MAX 32u
#define VM_SLOW_FEATURES (UINT64_C(1) << 3 | UINT64_C(1) << 40)

struct vm_slow_held {
    unsigned queue;
    uint16_t head;
    uint64_t guest; /* of its first byte that is writable */
};

struct vm_slow {
    struct virtio_device device; /* first */
    struct vm_queues *queues;
    uint8_t config[VM_SLOW_CONFIG];
    struct vm_slow_held held[VM_SLOW_HELD_MAX];
    unsigned held_count, starts, stops, kicks;
    int refuse; /* what start answers */
};

struct vm_slow *vm_slow_new(const struct vm_memory *memory, struct reactor *reactor);
/* Answers the oldest `count` that it holds. */
void vm_slow_answer(struct vm_slow *slow, unsigned count);

#endif
