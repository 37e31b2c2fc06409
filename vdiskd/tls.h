/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS 1.2 and 1.3 for servers, by X.509 certificates or by pre-shared keys, from a folder laid out
 * as QEMU's and libnbd's are: ca-cert.pem, server-cert.pem, server-key.pem and, if there are
 * certificates that were called back, ca-crl.pem; or keys.psk with lines `user:hexadecimal key`.
 */
#ifndef VDISKD_TLS_H
#define VDISKD_TLS_H

#include "vdisk/error.h"

#include <stdbool.h>

enum tls_kind {
    TLS_X509,
    TLS_PSK,
};

struct tls_settings {
    enum tls_kind kind;
    const char *folder;
    bool any_client; /* X509: clients need no certificate */
};

struct tls;

/* Reads certificates now; keys.psk is read anew by each handshake. -EINVAL with a sentence. */
int tls_new(const struct tls_settings *settings, struct tls **out, struct vdisk_error *error);
/* After the last connection. NULL is allowed. */
void tls_free(struct tls *tls);
/* A server's end (struct ssl_st of OpenSSL) over the socket; NULL without memory. */
struct ssl_st *tls_accept(struct tls *tls, int fd);

#endif
