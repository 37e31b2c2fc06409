/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shorthands for tests of the simulated disk (sim_kit.h).
 */
#include "sim_kit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

uint8_t sim_data[64 * PAGE] __attribute__((aligned(4096)));
uint8_t sim_back[64 * PAGE] __attribute__((aligned(4096)));
int sim_done_count;

int sim_check_leaks(void **state)
{
    (void)state;
    return sim_pages_live() == 0 ? 0 : -1;
}

static void note_done(struct vdisk_io_request *request)
{
    ++*(int *)request->owner;
}

void sim_queue(struct sim *sim, struct vdisk_io_request *request, enum vdisk_io_op op,
               uint64_t page, void *bytes, uint64_t pages)
{
    *request = (struct vdisk_io_request){
        .op = op,
        .offset = page * PAGE,
        .data = bytes,
        .length = pages * PAGE,
        .result = 1,
        .done = note_done,
        .owner = &sim_done_count,
    };
    sim_io(sim)->ops->submit(sim_io(sim), request);
}

void sim_drain(struct sim *sim)
{
    while (sim_io(sim)->ops->poll(sim_io(sim), true) > 0)
        ;
}

int sim_run(struct sim *sim, enum vdisk_io_op op, uint64_t page, void *bytes, uint64_t pages)
{
    struct vdisk_io_request request;

    sim_queue(sim, &request, op, page, bytes, pages);
    sim_drain(sim);
    return request.result;
}

int sim_put(struct sim *sim, uint64_t page, uint8_t byte, uint64_t pages)
{
    memset(sim_data, byte, pages * PAGE);
    return sim_run(sim, VDISK_IO_WRITE, page, sim_data, pages);
}

int sim_sync(struct sim *sim)
{
    return sim_run(sim, VDISK_IO_SYNC, 0, NULL, 0);
}

int sim_seen(struct sim *sim, uint64_t page)
{
    assert_int_equal(sim_run(sim, VDISK_IO_READ, page, sim_back, 1), 0);
    return sim_back[0];
}

int sim_kept(const struct sim *sim, uint64_t page)
{
    uint8_t byte;

    sim_raw_read(sim, page * PAGE, &byte, 1);
    return byte;
}

int sim_kept_after(const struct sim *sim, enum sim_crash_mode mode, uint64_t page)
{
    struct sim *image = sim_crash_image(sim, 1, mode);
    int byte = sim_kept(image, page);

    sim_free(image);
    return byte;
}
