/* SPDX-License-Identifier: Apache-2.0 */
/* An NBD server with a small drive, to which a client says what a fuzz target makes up. */
#ifndef NBD_KIT_H
#define NBD_KIT_H

#include <stddef.h>
#include <stdint.h>

/* Says all of it and no more; what the server has answered by the time it hangs up, of at most
 * 4 MiB, in memory that the next call takes back. */
struct nbd_kit_answer {
    const uint8_t *bytes;
    size_t length;
    uint64_t total; /* with what there was no room for */
};
struct nbd_kit_answer nbd_kit_say(const uint8_t *first, size_t first_bytes, const uint8_t *data,
                                  size_t size);

/* The server goes on between inputs, and what its tasks hold meanwhile is known to their stacks
 * only, where no leak checker looks. */
#define NBD_KIT_WITHOUT_LEAK_CHECKER                                                               \
    int __lsan_is_turned_off(void);                                                                \
    int __lsan_is_turned_off(void)                                                                 \
    {                                                                                              \
        return 1;                                                                                  \
    }

/* The answers to options, from *at on: ends at the first byte that is not of one. */
void nbd_kit_option_replies(const struct nbd_kit_answer *answer, size_t *at);

#endif
