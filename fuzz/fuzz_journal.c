/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Decodes a journal record's body and its operations. The first two bytes are the cluster size and
 * the size of the drive (a power of two of blocks). What decodes is within the drive, and within
 * one leaf where it has to be, and encodes to the same bytes.
 */
#include "format.h"
#include "require.h"

static void check_op(const struct vd_op *op, uint64_t guest_blocks)
{
    require(op->count > 0 && op->first < guest_blocks && op->count <= guest_blocks - op->first);
    if (op->type == VD_OP_ZERO || op->type == VD_OP_HOLE)
        return;
    require(op->first / VD_LEAF_BLOCKS == (op->first + op->count - 1) / VD_LEAF_BLOCKS);
    require(op->block < VD_HOST_BLOCKS_MAX && op->stamp);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t body[4 * VD_BLOCK - VD_RECORD_HEAD], again[sizeof(body)];
    struct vd_record record;
    struct vd_op op;
    size_t at = 0, before = 0;
    uint32_t count = 0;

    if (size < 2)
        return 0;
    uint8_t cluster_log2 = (uint8_t)(VD_CLUSTER_LOG2_MIN + data[0] % 7);
    uint64_t guest_blocks = UINT64_C(1) << (cluster_log2 - 12 + data[1] % 36);
    take_bytes(body, sizeof(body), data + 2, size - 2);
    int r = vd_record_decode(&record, body, sizeof(body));
    require(r == 0 || r == VDISK_E_MALFORMED);
    if (r)
        return 0;
    require(record.op_bytes <= sizeof(body) - VD_RECORD_BODY_HEAD);
    vd_record_encode(&record, again);
    require(memcmp(again, body, VD_RECORD_BODY_HEAD) == 0);
    const uint8_t *ops = body + VD_RECORD_BODY_HEAD;
    while (at < record.op_bytes &&
           vd_op_decode(&op, ops, record.op_bytes, &at, cluster_log2, guest_blocks) == 0) {
        require(at > before && at <= record.op_bytes && at - before == vd_op_size(&op));
        check_op(&op, guest_blocks);
        vd_op_encode(&op, again);
        require(memcmp(again, ops + before, at - before) == 0);
        before = at;
        count++;
    }
    require(count <= record.op_bytes / 24);
    return 0;
}
