/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Copying out in lanes, for a sink that takes pieces in any order.
 *
 * A lane is a thread that has the image opened once more. It reads a piece, verifies, decrypts and
 * writes it, all on one processor: the bytes come from memory once and go there once. Passed from a
 * thread that reads to those that decrypt to one that writes, they cross from processor to
 * processor on the way, which costs as much as the decryption.
 */
#ifndef TOOLS_LANES_H
#define TOOLS_LANES_H

#include "copyout.h"

/* Sets an exit status, having reported. False: no lane could be opened, and nothing was done. */
bool lanes_run(const struct copyout *copy, int *status);

#endif
