/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What clients send in the handshake, taken apart, and the fixed parts of the answers: functions
 * on buffers. Strings are not copied; they point into the payload and have no end mark.
 */
#ifndef VDISKD_NBD_OPTIONS_H
#define VDISKD_NBD_OPTIONS_H

#include "nbd_proto.h"

#include <stdbool.h>
#include <stddef.h>

struct nbd_string {
    const char *text;
    uint32_t length;
};

struct nbd_option {
    uint32_t number;
    uint32_t length; /* of the payload that follows */
};

/* False: not an option; the connection is of no use. */
bool nbd_option_parse(const uint8_t header[static NBD_OPTION_BYTES], struct nbd_option *option);

/* Payload of INFO and GO. False: malformed. What is asked for is a bit for each NBD_INFO_. */
bool nbd_info_parse(const uint8_t *payload, size_t length, struct nbd_string *name,
                    unsigned *asked);

/* Payload of LIST_ and SET_META_CONTEXT. */
struct nbd_queries {
    struct nbd_string name; /* of the export */
    uint32_t count;
    const uint8_t *at; /* what is left of them */
    size_t left;
};
/* Looks at all of it. False: malformed. */
bool nbd_queries_parse(const uint8_t *payload, size_t length, struct nbd_queries *queries);
/* The next query; false at the end. */
bool nbd_queries_next(struct nbd_queries *queries, struct nbd_string *query);

bool nbd_string_is(const struct nbd_string *string, const char *text);
/* The rest after `prefix`, if it begins with it. */
bool nbd_string_after(const struct nbd_string *string, const char *prefix, struct nbd_string *rest);
/* Copies it with an end mark. False: too long, or there are zero bytes in it. */
bool nbd_string_copy(const struct nbd_string *string, char *out, size_t room);

void nbd_greeting_encode(uint8_t out[static NBD_GREETING_BYTES]);
void nbd_option_reply_encode(uint8_t out[static NBD_OPT_REPLY_BYTES], uint32_t option,
                             uint32_t type, uint32_t length);

/* What an export can do, as flags. `has_contexts` also when only asked for information. */
uint16_t nbd_export_flags(bool read_only, bool structured, bool extended, bool has_contexts);

#endif
