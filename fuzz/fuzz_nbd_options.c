/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An NBD client that says anything from its first byte on: every option gets its answers, and what
 * follows them is a reply to a request, or nothing.
 */
#include "nbd_kit.h"
#include "nbd_proto.h"
#include "require.h"

NBD_KIT_WITHOUT_LEAK_CHECKER

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nbd_kit_answer answer;
    size_t at = NBD_GREETING_BYTES;

    if (size > 65536)
        return 0;
    answer = nbd_kit_say(data, 0, data, size);
    require(answer.length >= at && nbd_get64(answer.bytes) == NBD_MAGIC);
    nbd_kit_option_replies(&answer, &at);
    if (answer.length - at >= 4) {
        uint32_t magic = nbd_get32(answer.bytes + at);

        require(magic == NBD_SIMPLE_REPLY_MAGIC || magic == NBD_CHUNK_MAGIC ||
                magic == NBD_EXTENDED_CHUNK_MAGIC ||
                answer.length - at >= 10); /* the size, after EXPORT_NAME */
    }
    return 0;
}
