/* SPDX-License-Identifier: Apache-2.0 */
/* zstd for whole clusters, with contexts that are kept. */
#include "tasks.h"

#include <errno.h>
#include <stdlib.h>
#include <zstd.h>

struct vd_codec {
    struct vd_codec *next;
    ZSTD_CCtx *compressor;
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

uint32_t vd_compress(struct vd_codec *codec, int level, const void *data, size_t length, void *out,
                     size_t room)
{
    if (!codec->compressor)
        codec->compressor = ZSTD_createCCtx();
    if (!codec->compressor)
        return 0;
    size_t n = ZSTD_compressCCtx(codec->compressor, out, room, data, length, level);
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
