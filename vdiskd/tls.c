/* SPDX-License-Identifier: Apache-2.0 */
/*
 * TLS by OpenSSL: see tls.h. No session is resumed and nothing is renegotiated, so that a
 * certificate is looked at, and a key known, each time.
 */
#include "tls.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PATH_BYTES 4096u
#define LINE_BYTES 1024u

struct tls {
    SSL_CTX *context;
    BIO_METHOD *socket; /* sends without SIGPIPE */
    char psk_path[PATH_BYTES];
};

__attribute__((format(printf, 2, 3))) static int fail(struct vdisk_error *error, const char *format,
                                                      ...)
{
    va_list arguments;

    ERR_clear_error();
    error->code = -EINVAL;
    va_start(arguments, format);
    vsnprintf(error->text, sizeof(error->text), format, arguments);
    va_end(arguments);
    return -EINVAL;
}

/* --- the socket ----------------------------------------------------------------------------- */

static int socket_fd(BIO *bio)
{
    return (int)(intptr_t)BIO_get_data(bio);
}

static int socket_result(BIO *bio, ssize_t count, int retry)
{
    BIO_clear_retry_flags(bio);
    if (count < 0 && (errno == EAGAIN || errno == EINTR))
        BIO_set_flags(bio, BIO_FLAGS_SHOULD_RETRY | retry);
    return (int)count;
}

static int socket_write(BIO *bio, const char *data, int length)
{
    ssize_t count = send(socket_fd(bio), data, (size_t)length, MSG_NOSIGNAL | MSG_DONTWAIT);

    return socket_result(bio, count, BIO_FLAGS_WRITE);
}

static int socket_read(BIO *bio, char *data, int length)
{
    return socket_result(bio, recv(socket_fd(bio), data, (size_t)length, MSG_DONTWAIT),
                         BIO_FLAGS_READ);
}

static long socket_control(BIO *bio, int command, long number, void *pointer)
{
    (void)bio;
    (void)number;
    (void)pointer;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

static BIO_METHOD *socket_method(void)
{
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "socket");

    if (method) {
        BIO_meth_set_write(method, socket_write);
        BIO_meth_set_read(method, socket_read);
        BIO_meth_set_ctrl(method, socket_control);
    }
    return method;
}

/* --- pre-shared keys ------------------------------------------------------------------------ */

static unsigned hex_decode(const char *text, unsigned char *out, unsigned room)
{
    unsigned count = 0;

    for (; text[0] && text[0] != '\n' && text[0] != '\r'; text += 2) {
        char digits[3] = {text[0], text[1], 0}, *end;

        if (count == room || !text[1])
            return 0;
        out[count++] = (unsigned char)strtoul(digits, &end, 16);
        if (end != digits + 2)
            return 0;
    }
    return count;
}

static unsigned find_key(SSL *ssl, const char *user, unsigned char *key, unsigned room)
{
    struct tls *tls = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    FILE *file = user && *user ? fopen(tls->psk_path, "re") : NULL;
    size_t length = user ? strlen(user) : 0;
    char line[LINE_BYTES];
    unsigned found = 0;

    if (!file)
        return 0;
    setvbuf(file, NULL, _IONBF, 0); /* keys are in `line` and nowhere else */
    while (!found && fgets(line, sizeof(line), file)) {
        if (strncmp(line, user, length) == 0 && line[length] == ':')
            found = hex_decode(line + length + 1, key, room);
    }
    OPENSSL_cleanse(line, sizeof(line));
    fclose(file);
    if (found) { /* TLS 1.3 does not keep it for us; freed by stream_close() */
        free(SSL_get_app_data(ssl));
        SSL_set_app_data(ssl, strdup(user));
    }
    return found;
}

static int use_psk(struct tls *tls, const struct tls_settings *settings, struct vdisk_error *error)
{
    snprintf(tls->psk_path, sizeof(tls->psk_path), "%s/keys.psk", settings->folder);
    if (access(tls->psk_path, R_OK) < 0)
        return fail(error, "%s cannot be read", tls->psk_path);
    if (!SSL_CTX_set_cipher_list(tls->context, "PSK+HIGH:!aRSA:!aNULL") ||
        !SSL_CTX_set_ciphersuites(tls->context, "TLS_AES_128_GCM_SHA256"))
        return fail(error, "this build of OpenSSL has no pre-shared keys");
    SSL_CTX_set_dh_auto(tls->context, 1);
    SSL_CTX_set_psk_server_callback(tls->context, find_key);
    return 0;
}

/* --- certificates --------------------------------------------------------------------------- */

static int use_certificates(struct tls *tls, const struct tls_settings *settings,
                            struct vdisk_error *error)
{
    X509_STORE *store = SSL_CTX_get_cert_store(tls->context);
    char ca[PATH_BYTES], crl[PATH_BYTES], certificate[PATH_BYTES], key[PATH_BYTES];

    snprintf(ca, sizeof(ca), "%s/ca-cert.pem", settings->folder);
    snprintf(crl, sizeof(crl), "%s/ca-crl.pem", settings->folder);
    snprintf(certificate, sizeof(certificate), "%s/server-cert.pem", settings->folder);
    snprintf(key, sizeof(key), "%s/server-key.pem", settings->folder);
    if (SSL_CTX_use_certificate_chain_file(tls->context, certificate) != 1)
        return fail(error, "%s is not a certificate that can be used", certificate);
    if (SSL_CTX_use_PrivateKey_file(tls->context, key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(tls->context) != 1)
        return fail(error, "%s is not the key of %s", key, certificate);
    if (settings->any_client)
        return 0;
    if (SSL_CTX_load_verify_locations(tls->context, ca, NULL) != 1)
        return fail(error, "%s is not a certificate that can be used", ca);
    if (access(crl, F_OK) == 0) {
        if (X509_STORE_load_locations(store, crl, NULL) != 1)
            return fail(error, "%s is not a list of revoked certificates", crl);
        X509_STORE_set_flags(store, X509_V_FLAG_CRL_CHECK);
    }
    SSL_CTX_set_verify(tls->context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    return 0;
}

int tls_new(const struct tls_settings *settings, struct tls **out, struct vdisk_error *error)
{
    struct tls *tls = calloc(1, sizeof(*tls));
    int result = -ENOMEM;

    if (!tls)
        return fail(error, "there is no memory"), -ENOMEM;
    tls->context = SSL_CTX_new(TLS_server_method());
    tls->socket = socket_method();
    if (!tls->context || !tls->socket) {
        fail(error, "there is no memory");
        goto out;
    }
    SSL_CTX_set_app_data(tls->context, tls);
    SSL_CTX_set_min_proto_version(tls->context, TLS1_2_VERSION);
    SSL_CTX_set_options(tls->context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
                                          SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(tls->context, SSL_MODE_ENABLE_PARTIAL_WRITE |
                                       SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                       SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(tls->context, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(tls->context, 0);
    result = settings->kind == TLS_PSK ? use_psk(tls, settings, error)
                                       : use_certificates(tls, settings, error);
out:
    if (result) {
        tls_free(tls);
        return result;
    }
    *out = tls;
    return 0;
}

void tls_free(struct tls *tls)
{
    if (!tls)
        return;
    SSL_CTX_free(tls->context);
    BIO_meth_free(tls->socket);
    free(tls);
}

struct ssl_st *tls_accept(struct tls *tls, int fd)
{
    SSL *ssl = SSL_new(tls->context);
    BIO *bio = ssl ? BIO_new(tls->socket) : NULL;

    if (!bio) {
        SSL_free(ssl);
        return NULL;
    }
    BIO_set_data(bio, (void *)(intptr_t)fd);
    BIO_set_init(bio, 1);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_accept_state(ssl);
    return ssl;
}
