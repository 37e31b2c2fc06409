/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The numbers of the NBD protocol (doc/proto.md of the NBD project; QEMU's docs/interop/nbd.txt for
 * the contexts `qemu:`), and its integers. Everything on the wire is big-endian.
 */
#ifndef VDISKD_NBD_PROTO_H
#define VDISKD_NBD_PROTO_H

#include <endian.h>
#include <stdint.h>
#include <string.h>

/* --- handshake ------------------------------------------------------------------------------ */

#define NBD_MAGIC                     UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define NBD_OPT_MAGIC                 UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_REP_MAGIC                 UINT64_C(0x0003e889045565a9)
#define NBD_GREETING_BYTES            18u
#define NBD_OPTION_BYTES              16u /* header of an option */
#define NBD_OPT_REPLY_BYTES           20u /* header of a reply to one */

#define NBD_HANDSHAKE_FIXED           (1u << 0)
#define NBD_HANDSHAKE_NO_ZEROES       (1u << 1)

#define NBD_OPT_EXPORT_NAME           1u
#define NBD_OPT_ABORT                 2u
#define NBD_OPT_LIST                  3u
#define NBD_OPT_STARTTLS              5u
#define NBD_OPT_INFO                  6u
#define NBD_OPT_GO                    7u
#define NBD_OPT_STRUCTURED_REPLY      8u
#define NBD_OPT_LIST_META_CONTEXT     9u
#define NBD_OPT_SET_META_CONTEXT      10u
#define NBD_OPT_EXTENDED_HEADERS      11u

#define NBD_REP_ACK                   1u
#define NBD_REP_SERVER                2u
#define NBD_REP_INFO                  3u
#define NBD_REP_META_CONTEXT          4u
#define NBD_REP_ERR(n)                (UINT32_C(1) << 31 | (n))
#define NBD_REP_ERR_UNSUP             NBD_REP_ERR(1u)
#define NBD_REP_ERR_POLICY            NBD_REP_ERR(2u)
#define NBD_REP_ERR_INVALID           NBD_REP_ERR(3u)
#define NBD_REP_ERR_PLATFORM          NBD_REP_ERR(4u)
#define NBD_REP_ERR_TLS_REQD          NBD_REP_ERR(5u)
#define NBD_REP_ERR_UNKNOWN           NBD_REP_ERR(6u)
#define NBD_REP_ERR_SHUTDOWN          NBD_REP_ERR(7u)
#define NBD_REP_ERR_TOO_BIG           NBD_REP_ERR(9u)
#define NBD_REP_ERR_EXT_REQD          NBD_REP_ERR(10u)

#define NBD_INFO_EXPORT               0u
#define NBD_INFO_NAME                 1u
#define NBD_INFO_DESCRIPTION          2u
#define NBD_INFO_BLOCK_SIZE           3u

/* Of an export. */
#define NBD_FLAG_HAS_FLAGS            (1u << 0)
#define NBD_FLAG_READ_ONLY            (1u << 1)
#define NBD_FLAG_SEND_FLUSH           (1u << 2)
#define NBD_FLAG_SEND_FUA             (1u << 3)
#define NBD_FLAG_SEND_TRIM            (1u << 5)
#define NBD_FLAG_SEND_WRITE_ZEROES    (1u << 6)
#define NBD_FLAG_SEND_DF              (1u << 7)
#define NBD_FLAG_CAN_MULTI_CONN       (1u << 8)
#define NBD_FLAG_SEND_CACHE           (1u << 10)
#define NBD_FLAG_SEND_FAST_ZERO       (1u << 11)
#define NBD_FLAG_BLOCK_STATUS_PAYLOAD (1u << 12)

/* --- transmission --------------------------------------------------------------------------- */

#define NBD_REQUEST_MAGIC             UINT32_C(0x25609513)
#define NBD_EXTENDED_REQUEST_MAGIC    UINT32_C(0x21e41c71)
#define NBD_SIMPLE_REPLY_MAGIC        UINT32_C(0x67446698)
#define NBD_CHUNK_MAGIC               UINT32_C(0x668e33ef)
#define NBD_EXTENDED_CHUNK_MAGIC      UINT32_C(0x6e8a278c)
#define NBD_REQUEST_BYTES             28u
#define NBD_EXTENDED_REQUEST_BYTES    32u
#define NBD_SIMPLE_REPLY_BYTES        16u
#define NBD_CHUNK_BYTES               20u
#define NBD_EXTENDED_CHUNK_BYTES      32u

#define NBD_CMD_READ                  0u
#define NBD_CMD_WRITE                 1u
#define NBD_CMD_DISC                  2u
#define NBD_CMD_FLUSH                 3u
#define NBD_CMD_TRIM                  4u
#define NBD_CMD_CACHE                 5u
#define NBD_CMD_WRITE_ZEROES          6u
#define NBD_CMD_BLOCK_STATUS          7u

#define NBD_CMD_FLAG_FUA              (1u << 0)
#define NBD_CMD_FLAG_NO_HOLE          (1u << 1)
#define NBD_CMD_FLAG_DF               (1u << 2)
#define NBD_CMD_FLAG_REQ_ONE          (1u << 3)
#define NBD_CMD_FLAG_FAST_ZERO        (1u << 4)
#define NBD_CMD_FLAG_PAYLOAD_LEN      (1u << 5)

#define NBD_CHUNK_DONE                (1u << 0) /* the last of a reply */
#define NBD_CHUNK_NONE                0u
#define NBD_CHUNK_OFFSET_DATA         1u
#define NBD_CHUNK_OFFSET_HOLE         2u
#define NBD_CHUNK_BLOCK_STATUS        5u
#define NBD_CHUNK_BLOCK_STATUS_EXT    6u
#define NBD_CHUNK_ERROR               (1u << 15 | 1u)

#define NBD_STATE_HOLE                (1u << 0)
#define NBD_STATE_ZERO                (1u << 1)
#define NBD_STATE_DIRTY               (1u << 0) /* of a dirty bitmap */

/* Errors on the wire. */
#define NBD_EPERM                     1u
#define NBD_EIO                       5u
#define NBD_ENOMEM                    12u
#define NBD_EINVAL                    22u
#define NBD_ENOSPC                    28u
#define NBD_EOVERFLOW                 75u
#define NBD_ENOTSUP                   95u
#define NBD_ESHUTDOWN                 108u

/* --- our limits ----------------------------------------------------------------------------- */

#define NBD_STRING_MAX                4096u       /* of the protocol */
#define NBD_PAYLOAD_MAX               (32u << 20) /* of a read or write; what clients assume unasked */
#define NBD_OPTION_MAX                (64u << 10) /* payload of an option that is looked at */
#define NBD_CONTEXTS_MAX              16u         /* of a connection */
#define NBD_DESCRIPTORS_MAX           (64u << 10) /* of a block status reply; the protocol has 2^20 */
#define NBD_BLOCK_PREFERRED           4096u

static inline uint16_t nbd_get16(const void *from)
{
    uint16_t value;

    memcpy(&value, from, sizeof(value));
    return be16toh(value);
}

static inline uint32_t nbd_get32(const void *from)
{
    uint32_t value;

    memcpy(&value, from, sizeof(value));
    return be32toh(value);
}

static inline uint64_t nbd_get64(const void *from)
{
    uint64_t value;

    memcpy(&value, from, sizeof(value));
    return be64toh(value);
}

static inline void nbd_put16(void *to, uint16_t value)
{
    value = htobe16(value);
    memcpy(to, &value, sizeof(value));
}

static inline void nbd_put32(void *to, uint32_t value)
{
    value = htobe32(value);
    memcpy(to, &value, sizeof(value));
}

static inline void nbd_put64(void *to, uint64_t value)
{
    value = htobe64(value);
    memcpy(to, &value, sizeof(value));
}

#endif
