/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Making a key pair: the files of `vdisk key generate`.
 */
#ifndef TOOLS_KEYPAIR_H
#define TOOLS_KEYPAIR_H

/*
 * Writes the identity to `path` (mode 0600) and the recipient to `path.pub`, neither of which may
 * exist, and prints the recipient. Returns an exit status, having reported; after a failure
 * neither is left.
 */
int keypair_generate(const char *path);

#endif
