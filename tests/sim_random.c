/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reproducible randomness (sim_random.h).
 */
#include "sim_random.h"

#include <sodium.h>
#include <string.h>

static uint64_t rotate_left(uint64_t value, unsigned bits)
{
    return value << bits | value >> (64 - bits);
}

void sim_rng_seed(struct sim_rng *rng, uint64_t seed)
{
    /* splitmix64: neighbouring seeds give unrelated states, and never all zeros */
    for (unsigned i = 0; i < 4; i++) {
        uint64_t z = seed += UINT64_C(0x9e3779b97f4a7c15);

        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        rng->state[i] = z ^ z >> 31;
    }
}

uint64_t sim_rng_next(struct sim_rng *rng)
{
    uint64_t *s = rng->state;
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return result;
}

uint64_t sim_rng_below(struct sim_rng *rng, uint64_t bound)
{
    return sim_rng_next(rng) % bound; /* the bias is of no concern here */
}

bool sim_rng_chance(struct sim_rng *rng, unsigned part, unsigned whole)
{
    return sim_rng_below(rng, whole) < part;
}

void sim_rng_fill(struct sim_rng *rng, void *data, size_t length)
{
    uint8_t *bytes = data;

    while (length > 0) {
        uint64_t value = sim_rng_next(rng);
        size_t count = length < sizeof(value) ? length : sizeof(value);

        memcpy(bytes, &value, count);
        bytes += count;
        length -= count;
    }
}

/* libsodium calls its implementation without a context. */
static struct sim_rng installed;

static const char *installed_name(void)
{
    return "sim";
}

static uint32_t installed_random(void)
{
    return (uint32_t)sim_rng_next(&installed);
}

static void installed_buf(void *const data, const size_t length)
{
    sim_rng_fill(&installed, data, length);
}

void sim_randombytes_install(uint64_t seed)
{
    static randombytes_implementation implementation = {
        .implementation_name = installed_name,
        .random = installed_random,
        .buf = installed_buf,
    };

    sim_rng_seed(&installed, seed);
    randombytes_set_implementation(&implementation);
}
