/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rings, chains, requests and in-flight memory of any bytes: what is fetched lies within its
 * bounds, what is copied stays in memory, and everything ends.
 *
 * The input: 8 bytes that say what kind of ring it is, then guest memory (of three regions: two
 * adjoin, then there is a gap), then in-flight memory.
 */
#include "require.h"
#include "vhost_blk.h"
#include "vhost_inflight.h"

#define GUEST     UINT64_C(0x10000)
#define USER      UINT64_C(0x7000000000)
#define BYTES     4096u
#define REGION    1024u
#define SIZE_MAX_ 16u
#define DESC_AT   0u
#define AVAIL_AT  256u
#define USED_AT   320u
#define FETCHES   64u
#define INFLIGHT  1024u

enum kind {
    PACKED = 1,
    EVENT_INDEX = 2,
    INDIRECT = 4,
    LOG = 8,
    WITH_INFLIGHT = 16,
    READ_ONLY = 32,
    AT_ONCE = 64, /* each is given back before the next is fetched */
};

struct device {
    struct vhost_memory memory;
    struct virtqueue ring;
    struct vhost_inflight inflight;
    struct vhost_inflight_lost lost[VRING_SIZE_MAX];
    struct vring_chain chain[FETCHES];
    struct vhost_inflight_used used[FETCHES];
    unsigned count;
};

static struct device device;
static _Alignas(64) uint8_t bytes[BYTES], region[INFLIGHT], bits[64];

static void lay_out(const uint8_t *head)
{
    memset(&device, 0, offsetof(struct device, chain));
    device.count = 0;
    for (unsigned i = 0; i < 3; i++)
        require(vhost_memory_add_mapped(&device.memory, GUEST + i * REGION + (i == 2 ? 512 : 0),
                                        REGION, USER + i * 2 * REGION, bytes + i * REGION,
                                        NULL) == 0);
    device.memory.log = (struct vhost_log){.bits = bits, .bytes = 8, .enabled = head[0] & LOG};
    device.ring.config = (struct vring_config){
        .size = (uint16_t)(head[1] % SIZE_MAX_ + 1),
        .packed = head[0] & PACKED,
        .event_index = head[0] & EVENT_INDEX,
        .indirect = head[0] & INDIRECT,
        .log = head[0] & LOG,
        .desc = USER + DESC_AT + (head[2] & 7) * 128u,
        .avail = USER + AVAIL_AT + (head[2] >> 3 & 3) * 512u,
        .used = USER + USED_AT + (head[2] >> 5 & 7) * 128u,
        .log_guest = GUEST + USED_AT,
    };
}

static void check_chain(const struct vring_chain *chain)
{
    uint64_t readable = 0, writable = 0;

    require(chain->readable + chain->writable <= VRING_SEGMENTS_MAX);
    require(chain->slots >= 1 && chain->slots <= device.ring.config.size);
    require(device.ring.config.packed || chain->head < device.ring.config.size);
    for (unsigned i = 0; i < chain->readable; i++)
        readable += chain->segment[i].length;
    for (unsigned i = 0; i < chain->writable; i++)
        writable += chain->segment[chain->readable + i].length;
    require(readable == chain->readable_bytes && writable == chain->writable_bytes);
    require(readable + writable <= UINT32_MAX);
}

static void check_request(const struct vhost_blk_request *request,
                          const struct vhost_blk_limits *limits)
{
    require(request->ranges <= VHOST_BLK_RANGES_MAX);
    require(request->kind == VHOST_BLK_GET_ID || request->offset <= limits->size);
    require(request->kind == VHOST_BLK_GET_ID || request->length <= limits->size - request->offset);
    require(request->kind == VHOST_BLK_READ || request->kind == VHOST_BLK_FLUSH ||
            request->kind == VHOST_BLK_GET_ID || !limits->read_only);
    for (unsigned i = 0; i < request->ranges; i++)
        require(request->range[i].offset <= limits->size &&
                request->range[i].length <= limits->size - request->range[i].offset);
}

/* What the device does with a request, with a drive that is not there. */
static bool serve(const struct vring_chain *chain, const struct vhost_blk_limits *limits,
                  uint32_t *written)
{
    static struct vhost_blk_request request;
    uint8_t status = 0xee, *data;
    bool is_out;

    check_chain(chain);
    if (vhost_blk_parse(&request, chain, &device.memory, limits, &status))
        return false;
    require(status <= VIRTIO_BLK_S_UNSUPP);
    if (status == VIRTIO_BLK_S_OK) {
        check_request(&request, limits);
        data = calloc(1, request.length + 1);
        require(data != NULL);
        is_out = request.kind == VHOST_BLK_WRITE;
        if (is_out ? vhost_blk_take(&device.memory, chain, 0, data, request.length)
                   : vhost_blk_fill(&device.memory, chain, 0, data, request.length))
            status = VIRTIO_BLK_S_IOERR;
        free(data);
    }
    return vhost_blk_answer(&device.memory, chain, status, written) == 0;
}

static void give_back(void)
{
    if (device.count == 0)
        return;
    vhost_inflight_put(&device.inflight, &device.ring, &device.memory, device.used, device.count);
    (void)vring_should_call(&device.ring);
    device.count = 0;
}

static bool take(const struct vhost_blk_limits *limits)
{
    const struct vring_chain *chain = &device.chain[device.count];
    struct vhost_inflight_used used = {chain->head, chain->slots, chain->entry, 0};

    if (!serve(chain, limits, &used.written))
        return false;
    device.used[device.count++] = used;
    return true;
}

/* What an earlier process had taken. */
static bool recover(const struct vhost_blk_limits *limits)
{
    unsigned count;

    if (vhost_inflight_open(&device.inflight, region, device.ring.config.size, &device.ring,
                            device.lost, &count))
        return false;
    require(count <= VRING_SIZE_MAX);
    for (unsigned i = 0; i < count; i++) {
        if (device.count == FETCHES)
            give_back();
        if (vhost_inflight_refetch(&device.inflight, &device.ring, &device.memory, &device.lost[i],
                                   &device.chain[device.count]) ||
            !take(limits))
            return false;
    }
    return true;
}

static void fetch_all(bool at_once, const struct vhost_blk_limits *limits)
{
    for (unsigned i = 0; i < FETCHES; i++) {
        struct vring_chain *chain = &device.chain[device.count];

        vring_no_kicks(&device.ring, &device.memory);
        int rc = vring_fetch(&device.ring, &device.memory, chain);

        require(rc >= -71 && rc <= 1);
        if (rc < 0)
            require(vring_fetch(&device.ring, &device.memory, chain) < 0);
        if (rc <= 0 || vhost_inflight_taken(&device.inflight, chain) || !take(limits))
            break;
        if (at_once || device.count == FETCHES)
            give_back();
        (void)vring_want_kicks(&device.ring, &device.memory);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct vhost_blk_limits limits = {
        .size = 65536, .flush = true, .discard = true, .zeroes = true};
    uint8_t head[8];
    uint32_t base;

    take_bytes(head, sizeof(head), data, size);
    take_bytes(bytes, sizeof(bytes), data + 8, size > 8 ? size - 8 : 0);
    take_bytes(region, sizeof(region), data + 8 + BYTES, size > 8 + BYTES ? size - 8 - BYTES : 0);
    memset(bits, 0, sizeof(bits));
    limits.read_only = head[0] & READ_ONLY;
    lay_out(head);
    if (vring_resolve(&device.ring, &device.memory))
        return 0;
    memcpy(&base, head + 4, sizeof(base));
    vring_start(&device.ring, base);
    if (!(head[0] & WITH_INFLIGHT) || (!device.ring.broken && recover(&limits)))
        fetch_all(head[0] & AT_ONCE, &limits);
    give_back();
    (void)vring_base(&device.ring);
    for (unsigned i = 8; i < sizeof(bits); i++)
        require(bits[i] == 0); /* the log has 8 bytes */
    return 0;
}
