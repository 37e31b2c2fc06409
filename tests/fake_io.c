/* SPDX-License-Identifier: Apache-2.0 */
/* See fake_io.h. */
#include "fake_io.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static void fake_submit(struct vdisk_io *io, struct vdisk_io_request *request)
{
    struct fake_io *fake = (struct fake_io *)io;
    assert(fake->in_flight < FAKE_IO_MAX_IN_FLIGHT);
    fake->last = *request;
    fake->queue[fake->in_flight++] = request;
    fake->submitted++;
}

static void complete_one(struct fake_io *fake)
{
    unsigned chosen = (unsigned)sim_rng_below(&fake->rng, fake->in_flight);
    struct vdisk_io_request *request = fake->queue[chosen];

    fake->queue[chosen] = fake->queue[--fake->in_flight];
    fake->completed++;
    request->result = request->offset == fake->fail_offset ? fake->fail_result : 0;
    request->done(request);
}

static int fake_poll(struct vdisk_io *io, bool wait)
{
    struct fake_io *fake = (struct fake_io *)io;
    unsigned count = fake->lazy ? 0 : (unsigned)sim_rng_below(&fake->rng, 4);
    int ran = 0;

    fake->polls++;
    fake->blocking_polls += wait;
    if (wait && count == 0)
        count = 1;
    for (; count > 0 && fake->in_flight > 0; count--, ran++)
        complete_one(fake);
    return ran;
}

static int fake_size(struct vdisk_io *io, uint64_t *bytes)
{
    (void)io;
    *bytes = 0;
    return 0;
}

static int64_t fake_now(struct vdisk_io *io)
{
    (void)io;
    return 0;
}

static void fake_close(struct vdisk_io *io)
{
    (void)io;
}

static const struct vdisk_io_ops fake_ops = {
    .submit = fake_submit,
    .poll = fake_poll,
    .size = fake_size,
    .now = fake_now,
    .close = fake_close,
};

void fake_io_init(struct fake_io *fake, uint64_t seed)
{
    *fake = (struct fake_io){.io.ops = &fake_ops};
    sim_rng_seed(&fake->rng, seed);
}

uint64_t fake_io_seed(void)
{
    const char *text = getenv("SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : 1;
    printf("SEED=%" PRIu64 "\n", seed);
    return seed;
}
