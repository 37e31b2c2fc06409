/* SPDX-License-Identifier: Apache-2.0 */
/* zstd for whole clusters, with contexts that are kept. */
#include "tasks.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <zstd.h>

/* log2 of the entries of each table of zstd's double-fast match finder. With its own choice, 17,
 * they do not fit into a core's own cache: a fifth more time for 0.7 % (SPEC.md 20). */
#define TABLE_LOG 14

struct vd_codec {
    struct vd_codec *next;
    ZSTD_CCtx *compressor;
    int level; /* that the compressor is set to */
    ZSTD_DCtx *decompressor;
};

struct vd_codec *vd_codec_take(struct vdisk_image *image)
{
    struct vd_codec *codec = image->codecs;
    if (codec) {
        image->codecs = codec->next;
        return codec;
    }
    return calloc(1, sizeof(*codec));
}

void vd_codec_give(struct vdisk_image *image, struct vd_codec *codec)
{
    if (!codec)
        return;
    codec->next = image->codecs;
    image->codecs = codec;
}

void vd_codecs_release(struct vdisk_image *image)
{
    while (image->codecs) {
        struct vd_codec *codec = image->codecs;
        image->codecs = codec->next;
        ZSTD_freeCCtx(codec->compressor);
        ZSTD_freeDCtx(codec->decompressor);
        free(codec);
    }
}

/* Levels 3 and 4 are those that zstd makes double-fast for a cluster's size. */
static bool set_level(ZSTD_CCtx *compressor, int level)
{
    (void)ZSTD_CCtx_reset(compressor, ZSTD_reset_parameters);
    size_t r = ZSTD_CCtx_setParameter(compressor, ZSTD_c_compressionLevel, level);
    if (!ZSTD_isError(r) && (level == 3 || level == 4)) {
        (void)ZSTD_CCtx_setParameter(compressor, ZSTD_c_strategy, ZSTD_dfast);
        (void)ZSTD_CCtx_setParameter(compressor, ZSTD_c_hashLog, TABLE_LOG);
        (void)ZSTD_CCtx_setParameter(compressor, ZSTD_c_chainLog, TABLE_LOG);
    }
    return !ZSTD_isError(r);
}

uint32_t vd_compress(struct vd_codec *codec, int level, const void *data, size_t length, void *out,
                     size_t room)
{
    if (!codec->compressor) {
        codec->compressor = ZSTD_createCCtx();
        if (!codec->compressor)
            return 0;
        codec->level = INT_MAX;
    }
    if (codec->level != level) {
        if (!set_level(codec->compressor, level))
            return 0;
        codec->level = level;
    }
    size_t n = ZSTD_compress2(codec->compressor, out, room, data, length);
    return ZSTD_isError(n) ? 0 : (uint32_t)n;
}

int vd_decompress(struct vd_codec *codec, const void *packed, size_t packed_length, void *out,
                  size_t length)
{
    if (!codec->decompressor)
        codec->decompressor = ZSTD_createDCtx();
    if (!codec->decompressor)
        return -ENOMEM;
    size_t n = ZSTD_decompressDCtx(codec->decompressor, out, length, packed, packed_length);
    return ZSTD_isError(n) || n != length ? VDISK_E_MALFORMED : 0;
}
