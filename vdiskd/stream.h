/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection's bytes: over a socket, plain or, from stream_start_tls() on, by TLS. One task may
 * receive while another sends, both of the same thread.
 */
#ifndef VDISKD_STREAM_H
#define VDISKD_STREAM_H

#include "task.h"
#include "tls.h"

struct stream {
    int fd; /* non-blocking */
    struct ssl_st *ssl;
};

/* Waits for the handshake. -EPROTO when it fails, -ETIMEDOUT; then *why says it in static words.
 * Nothing may have been received that was not asked for: what comes in plain text before is never
 * taken for encrypted. */
int stream_start_tls(struct stream *stream, struct tls *tls, int64_t deadline, const char **why);
/* Name of who has proved to be there: a certificate's subject, a key's user; "" if nobody. */
void stream_subject(const struct stream *stream, char *out, size_t room);
/* Into the vectors in turn; bytes, 0 at the end, -errno, -ETIMEDOUT. */
ssize_t stream_receive(struct stream *stream, struct iovec *vectors, unsigned count,
                       int64_t deadline);
/* Exactly so many; -ECONNRESET when the end comes before. */
int stream_receive_all(struct stream *stream, void *data, size_t length, int64_t deadline);
/* All of it; the vectors are used up. 0 or -errno. */
int stream_send(struct stream *stream, struct iovec *vectors, unsigned count, int64_t deadline);
/* Says goodbye without waiting, and closes. */
void stream_close(struct stream *stream);

#endif
