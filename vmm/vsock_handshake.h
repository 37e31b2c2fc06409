/* SPDX-License-Identifier: Apache-2.0 */
/* How a program of the host says which port of the guest it wants: "CONNECT 1024\n". */
#ifndef VMM_VSOCK_HANDSHAKE_H
#define VMM_VSOCK_HANDSHAKE_H

#include "vsock_conn.h"

/* Of a line without its newline. False: it says something else. */
bool vsock_handshake_parse(const char *line, size_t length, uint32_t *port);
/* Reads what has come of the line, and nothing beyond it; with its end the guest is asked. */
void vsock_handshake_read(struct vsock_conn *conn);

#endif
