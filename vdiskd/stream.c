/* SPDX-License-Identifier: Apache-2.0 */
/* A connection's bytes: see stream.h. */
#include "stream.h"

#include <errno.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* After an SSL_ function that returned `got`: 0 when it is to be called again. */
static int tls_wait(struct stream *stream, int got, int64_t deadline)
{
    int why = SSL_get_error(stream->ssl, got), events;

    ERR_clear_error();
    if (why == SSL_ERROR_WANT_READ || why == SSL_ERROR_WANT_WRITE) {
        events = task_poll(stream->fd, why == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT, deadline);
        return events < 0 ? events : 0;
    }
    return why == SSL_ERROR_SSL ? -EPROTO : -ECONNRESET;
}

/* In OpenSSL's words, which are static: what it did not like about the peer. */
static const char *tls_objection(const struct stream *stream)
{
    long verified = SSL_get_verify_result(stream->ssl);

    return verified != X509_V_OK ? X509_verify_cert_error_string(verified)
                                 : ERR_reason_error_string(ERR_peek_error());
}

int stream_start_tls(struct stream *stream, struct tls *tls, int64_t deadline, const char **why)
{
    const char *objection = NULL;
    int got, result = 0;

    *why = "the TLS handshake failed";

    stream->ssl = tls_accept(tls, stream->fd);
    if (!stream->ssl)
        return -ENOMEM;
    while (result == 0) {
        ERR_clear_error();
        got = SSL_accept(stream->ssl);
        if (got == 1)
            return 0;
        objection = tls_objection(stream);
        result = tls_wait(stream, got, deadline);
    }
    if (objection)
        *why = objection;
    return result;
}

void stream_subject(const struct stream *stream, char *out, size_t room)
{
    X509 *peer = stream->ssl ? SSL_get1_peer_certificate(stream->ssl) : NULL;
    const char *user = stream->ssl ? SSL_get_app_data(stream->ssl) : NULL;
    BIO *memory = peer ? BIO_new(BIO_s_mem()) : NULL;

    snprintf(out, room, "%s", user ? user : "");
    if (memory && X509_NAME_print_ex(memory, X509_get_subject_name(peer), 0, XN_FLAG_RFC2253) > 0) {
        int length = BIO_read(memory, out, (int)room - 1);

        out[length > 0 ? length : 0] = 0;
    }
    BIO_free(memory);
    X509_free(peer);
}

static ssize_t receive_tls(struct stream *stream, void *data, size_t length, int64_t deadline)
{
    for (;;) {
        int got, result;

        ERR_clear_error();
        got = SSL_read(stream->ssl, data, length < INT_MAX ? (int)length : INT_MAX);
        if (got > 0)
            return got;
        if (SSL_get_error(stream->ssl, got) == SSL_ERROR_ZERO_RETURN)
            return 0;
        result = tls_wait(stream, got, deadline);
        if (result)
            return result;
    }
}

ssize_t stream_receive(struct stream *stream, struct iovec *vectors, unsigned count,
                       int64_t deadline)
{
    struct msghdr message = {.msg_iov = vectors, .msg_iovlen = count};
    struct reactor_op op = {.kind = REACTOR_RECEIVE, .fd = stream->fd, .message = &message};
    int result;

    if (stream->ssl)
        return receive_tls(stream, vectors[0].iov_base, vectors[0].iov_len, deadline);
    for (;;) {
        result = task_do(&op, deadline);
        if (result == -EAGAIN)
            result = task_poll(stream->fd, POLLIN, deadline);
        else if (result != -EINTR)
            return result;
        if (result < 0 && result != -EINTR)
            return result;
    }
}

int stream_receive_all(struct stream *stream, void *data, size_t length, int64_t deadline)
{
    struct iovec vector = {data, length};

    while (vector.iov_len > 0) {
        ssize_t got = stream_receive(stream, &vector, 1, deadline);

        if (got <= 0)
            return got < 0 ? (int)got : -ECONNRESET;
        vector.iov_base = (char *)vector.iov_base + got;
        vector.iov_len -= (size_t)got;
    }
    return 0;
}

/* Some of it: bytes, or -errno. Mostly there is room, and no need to go through the loop. */
static ssize_t send_some(struct stream *stream, struct iovec *vectors, unsigned count,
                         int64_t deadline)
{
    struct msghdr message = {.msg_iov = vectors, .msg_iovlen = count};
    ssize_t sent;
    int result;

    for (;;) {
        if (stream->ssl) {
            size_t length = vectors->iov_len < INT_MAX ? vectors->iov_len : INT_MAX;

            ERR_clear_error();
            sent = SSL_write(stream->ssl, vectors->iov_base, (int)length);
            if (sent > 0)
                return sent;
            result = tls_wait(stream, (int)sent, deadline);
        } else {
            sent = sendmsg(stream->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent >= 0)
                return sent;
            result = errno == EINTR ? 0 : -errno;
            if (result == -EAGAIN) {
                result = task_poll(stream->fd, POLLOUT, deadline);
                result = result < 0 ? result : 0;
            }
        }
        if (result)
            return result;
    }
}

int stream_send(struct stream *stream, struct iovec *vectors, unsigned count, int64_t deadline)
{
    while (count > 0) {
        ssize_t sent = 0;

        if (vectors->iov_len > 0) {
            sent = send_some(stream, vectors, count, deadline);
            if (sent < 0)
                return (int)sent;
        }
        while (count > 0 && (size_t)sent >= vectors->iov_len) {
            sent -= (ssize_t)vectors->iov_len;
            vectors++;
            count--;
        }
        if (count > 0) {
            vectors->iov_base = (char *)vectors->iov_base + sent;
            vectors->iov_len -= (size_t)sent;
        }
    }
    return 0;
}

void stream_close(struct stream *stream)
{
    if (stream->ssl) {
        ERR_clear_error();
        if (SSL_is_init_finished(stream->ssl))
            (void)SSL_shutdown(stream->ssl);
        ERR_clear_error();
        free(SSL_get_app_data(stream->ssl)); /* the user, by tls.c */
        SSL_free(stream->ssl);
        stream->ssl = NULL;
    }
    close(stream->fd);
    stream->fd = -1;
}
