/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A suspended guest as a stream of bytes, to and from a descriptor:
 *
 *     head     magic (8), version (le32), length of the text (le32), text: JSON, see vm_state.h
 *     records  offset in RAM (le64), length (le32), 0 (le32), bytes; by ascending offset, whole
 *              pages, up to VM_STREAM_PIECE; what is in none is zeros
 *     end      how many bytes were in records (le64), 0 (le32), 0 (le32)
 *
 * An offset in RAM is one in its memfd. There is no seal on it: that is for who keeps it. What is
 * read is checked all the same.
 */
#ifndef VMM_VM_STREAM_H
#define VMM_VM_STREAM_H

#include "memory.h"

#include "vdisk/error.h"

#include <jansson.h>

#define VM_STREAM_MAGIC    "VMSTATE\n"
#define VM_STREAM_VERSION  1u
#define VM_STREAM_TEXT_MAX (16u << 20)
#define VM_STREAM_PIECE    (1u << 20)

struct vm_stream {
    int fd;     /* blocking or not */
    int cancel; /* when it is readable, what waits ends with -ECANCELED; -1: never */
};

/* Both: -errno; -EPIPE: the other end is gone. */
int vm_stream_write_head(const struct vm_stream *stream, const json_t *state,
                         struct vdisk_error *error);
/* RAM, and the end. Nobody changes it meanwhile. */
int vm_stream_write_memory(const struct vm_stream *stream, const struct vm_memory *memory,
                           struct vdisk_error *error);

/* Both: VDISK_E_MALFORMED: it is no such stream, or ends early; VDISK_E_UNSUPPORTED: of another
 * version; -errno. *state is a new reference to an object. */
int vm_stream_read_head(const struct vm_stream *stream, json_t **state, struct vdisk_error *error);
/* Into RAM that is zeros. After a failure some of it is written. */
int vm_stream_read_memory(const struct vm_stream *stream, const struct vm_memory *memory,
                          struct vdisk_error *error);

#endif
