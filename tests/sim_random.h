/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reproducible randomness for tests: a generator (xoshiro256**), and libsodium's
 * randombytes_buf() made to draw from one, so that a seed replays a whole run.
 */
#ifndef SIM_RANDOM_H
#define SIM_RANDOM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct sim_rng {
    uint64_t state[4];
};

void sim_rng_seed(struct sim_rng *rng, uint64_t seed);
uint64_t sim_rng_next(struct sim_rng *rng);
/* 0 ... bound - 1; bound is at least 1. */
uint64_t sim_rng_below(struct sim_rng *rng, uint64_t bound);
/* True in `part` of `whole` cases. */
bool sim_rng_chance(struct sim_rng *rng, unsigned part, unsigned whole);
void sim_rng_fill(struct sim_rng *rng, void *data, size_t length);

/* From here on libsodium's random bytes follow from `seed`; calling it again starts over.
 * Process-wide, for one thread. */
void sim_randombytes_install(uint64_t seed);

#endif
