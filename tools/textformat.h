/* SPDX-License-Identifier: Apache-2.0 */
/*
 * X25519 keys as text. A secret key is a file of one line, `vdisk-identity-1 BASE64`; a public key
 * is one word, `vdisk-recipient-1:BASE64`, so that it can be pasted. Base64 of 32 bytes has 44
 * characters of the usual alphabet, the last a `=`.
 */
#ifndef TOOLS_TEXTFORMAT_H
#define TOOLS_TEXTFORMAT_H

#include "vdisk/vdisk.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TEXTFORMAT_IDENTITY_PREFIX  "vdisk-identity-1 "
#define TEXTFORMAT_RECIPIENT_PREFIX "vdisk-recipient-1:"
#define TEXTFORMAT_BASE64_CHARS     44u
#define TEXTFORMAT_IDENTITY_CHARS   (sizeof(TEXTFORMAT_IDENTITY_PREFIX) - 1 + TEXTFORMAT_BASE64_CHARS)
#define TEXTFORMAT_RECIPIENT_CHARS                                                                 \
    (sizeof(TEXTFORMAT_RECIPIENT_PREFIX) - 1 + TEXTFORMAT_BASE64_CHARS)

/* Neither ends its text with a NUL or a newline. */
void textformat_put_identity(char text[TEXTFORMAT_IDENTITY_CHARS],
                             const uint8_t identity[VDISK_IDENTITY_BYTES]);
void textformat_put_recipient(char text[TEXTFORMAT_RECIPIENT_CHARS],
                              const uint8_t public_key[VDISK_PUBLIC_KEY_BYTES]);

/* Blanks and newlines around are ignored; anything else makes it false. */
bool textformat_get_identity(const void *text, size_t length,
                             uint8_t identity[VDISK_IDENTITY_BYTES]);
bool textformat_get_recipient(const void *text, size_t length,
                              uint8_t public_key[VDISK_PUBLIC_KEY_BYTES]);

#endif
