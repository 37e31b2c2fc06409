#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# An export to a file or a device, which several threads write, is whole and right or not there.
# What is mounted here is so only for this script.
if [ -z "${VDISK_UNSHARED-}" ] && unshare -m true 2>/dev/null; then
    VDISK_UNSHARED=1 exec unshare -m "$0"
fi
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"

none_left() { # NAME FILE
    is "$1" "$(ls -d "$2"* 2>.err)" ''
}
exported() { # NAME IMAGE MODEL OPTION...
    t "$1" vdisk export "$2" out.raw --force "${@:4}"
    same "$1: every byte" out.raw "$3"
}

# Many pieces of a MiB, holes, zeros within data, and a size that is no multiple of a block.
size=$((48 << 20 | 512))
data mixed 30000000 1 mixed
data last $((3 << 20 | 512)) 2 random
for compress in none zstd; do
    drive $compress.vdk $size --compress $compress
    put mixed $compress.vdk $((4 << 20))
    put last $compress.vdk $((size - (3 << 20) - 512))
    exported "$compress" $compress.vdk $compress.model
done
is 'holes are holes' "$(($(stat -c %b out.raw) * 512 < 34 << 20))" 1
cp none.model then.model
vdisk snapshot create none.vdk "then"
put last none.vdk $((9 << 20 | 1536))
exported 'a snapshot' none.vdk@then then.model
exported 'what was written since' none.vdk none.model
t 'an overlay' vdisk create over.vdk --base none.vdk@then
cp then.model over.model
put last over.vdk $((6 << 20 | 512))
put last over.vdk $((40 << 20))
exported 'over its base' over.vdk over.model
mkdir moved
mv none.vdk moved
exported 'which has moved' over.vdk over.model --base moved/none.vdk
mv moved/none.vdk .
vdisk export over.vdk - | cmp - over.model >.out 2>&1
verdict 'to a pipe' $?
processor=$(taskset -cp $$ | sed 's/.*[ ,-]//')
t 'on one processor' taskset -c "$processor" vdisk export over.vdk one.raw
same 'it is the same' one.raw over.model
# Enough for the image and the file, not for opening the image once more.
(ulimit -n 5 && vdisk export none.vdk few.raw) >.out 2>.err
verdict 'with few descriptors' $?
same 'it is the same' few.raw none.model

# --- damage, no room, a signal -----------------------------------------------------------------

cp none.vdk bad.vdk
flip bad.vdk $(($(stat -c %s bad.vdk) / 2))
fails 4 'not authentic' 'damaged data is told of' vdisk export bad.vdk bad.raw
none_left 'and no file' bad.raw
echo kept >kept.raw
fails 4 'not authentic' 'nor is a file replaced by it' vdisk export bad.vdk kept.raw --force
is 'which stays' "$(cat kept.raw)" kept
none_left 'alone' kept.raw.
mkdir small
if mount -t tmpfs -o size=16m none small 2>/dev/null; then
    fails 1 'pace' 'a full file system' vdisk export none.vdk small/out.raw
    none_left 'has nothing of it' small/out.raw
    mount -o remount,size=64m small
    t 'with room' vdisk export none.vdk small/out.raw
    same 'all is there' small/out.raw none.model
else
    skip 'a full file system' 'no tmpfs can be mounted here'
fi
vdisk create large.vdk --size 2G --compress none
for at in 0 400 800 1200; do
    vdisk write large.vdk ${at}M <mixed
done
vdisk export large.vdk large.raw 2>.err &
exporter=$!
for _ in {1..400}; do [ -e large.raw.part ] || sleep 0.005; done
kill "$exporter"
status=0
wait "$exporter" || status=$?
if [ -e large.raw ]; then
    skip 'a signal ends it' 'it was too late'
else
    is 'a signal ends it' "$status" 143
    none_left 'and leaves nothing' large.raw
fi

# --- a device ----------------------------------------------------------------------------------

truncate -s $((size + 512)) backing
if device=$(losetup --show -f backing 2>.err); then
    head -c $((size + 512)) /dev/zero | tr '\0' 'x' >"$device"
    t 'a device' vdisk export none.vdk "$device"
    head -c $size "$device" | cmp - none.model >.out 2>&1
    verdict 'has every byte, and zeros where there was something else' $?
    fails 1 'the device has' 'one that is too small' vdisk export large.vdk "$device"
    losetup -d "$device"
else
    skip 'a device' 'there are no loop devices here'
fi
