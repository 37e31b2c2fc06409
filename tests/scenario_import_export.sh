#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Drives come from other formats and go back to them, bit for bit, and stay sparse.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"

# 24M: data, a written zero, a hole, data at an odd place up to the last byte.
truncate -s 25165824 drive.raw
data piece 3000000 1 mixed
dd if=piece of=drive.raw conv=notrunc status=none
dd if=/dev/zero of=drive.raw bs=1M count=4 seek=6 conv=notrunc status=none
tail -c 1000001 piece >end
dd if=end of=drive.raw bs=64K oflag=seek_bytes seek=$((25165824 - 1000001)) conv=notrunc status=none

t 'a raw drive is imported' vdisk import drive.raw drive.vdk --format raw
holds 'and is the same' drive.vdk drive.raw
json 'holes and zeros stay holes' \
    "sum(e['length'] for e in d if e['kind'] in ('hole', 'zero')) > 20 << 20" vdisk map drive.vdk --json
t 'a raw drive comes out' vdisk export drive.vdk out.raw
same 'the same' out.raw drive.raw
is 'with holes where nothing is' "$(($(stat -c %b out.raw) * 512 <= 5 << 20))" 1
is 'for its owner alone' "$(stat -c %a out.raw)" 600
t 'it can replace a file when told to' vdisk export drive.vdk out.raw --force
vdisk export drive.vdk - | cmp - drive.raw >.out 2>&1
verdict 'or go to standard output' $?
vdisk snapshot create drive.vdk here
vdisk write drive.vdk 5M <piece
t 'a snapshot is exported' vdisk export drive.vdk@here snapshot.raw
same 'as it was' snapshot.raw drive.raw
head -c 1000 piece >odd.raw
t 'a drive of 1000 bytes' vdisk import odd.raw odd.vdk --format raw
json 'becomes one of 1024' "d['size'] == 1024" vdisk info odd.vdk --json
: >nothing.raw
fails 1 'empty' 'an empty one is none' vdisk import nothing.raw new.vdk --format raw
fails 1 'no such file' 'one that is not there neither' vdisk import none.raw new.vdk --format raw
t 'without --format it is found out' vdisk import drive.raw found.vdk
is 'and said' "$(grep -c 'taken for raw' .err)" 1

mkdir bare
ln -s "$(command -v vdisk)" bare/vdisk
printf 'QFI\373\0\0\0\3' >claims.qcow2
fails 1 'qemu' 'without qemu-nbd that is said' env PATH="$PWD/bare" vdisk import drive.raw new.vdk --format qcow2
fails 1 'qemu' 'for an export too' env PATH="$PWD/bare" vdisk export drive.vdk out.qcow2 --format qcow2
is 'nothing half-made is left' "$(echo new.vdk* out.qcow2*)" 'new.vdk* out.qcow2*'

if ! command -v qemu-img >.out || ! command -v qemu-nbd >.out; then
    skip 'other formats' 'qemu-img and qemu-nbd are not installed'
    exit 0
fi
for format in qcow2 vmdk vpc vhdx vdi; do
    exact=()
    [ "$format" != vpc ] || exact=(-o force_size=on)
    qemu-img convert -f raw -O "$format" "${exact[@]}" drive.raw "drive.$format" 2>.err
    t "$format is imported" vdisk import "drive.$format" "$format.vdk" --format "$format" --quiet
    holds "$format keeps its content" "$format.vdk" drive.raw
    json "$format keeps its holes" \
        "sum(e['length'] for e in d if e['kind'] in ('hole', 'zero')) > 20 << 20" vdisk map "$format.vdk" --json
    t "$format is exported" vdisk export "$format.vdk" "back.$format" --format "$format" --quiet
    t "$format is what qemu-img reads" qemu-img compare -f "$format" -F raw "back.$format" drive.raw
    is "$format leaves nothing else" "$(echo "back.$format".*)" "back.$format.*"
done
t 'a qcow2 is found out' vdisk import drive.qcow2 guess.vdk
qemu-img create -q -f qcow2 -F raw -b drive.raw chain.qcow2
fails 1 'format' 'an image that refers to a file is not followed on a guess' vdisk import chain.qcow2 new.vdk --quiet
t 'but when told' vdisk import chain.qcow2 chain.vdk --format qcow2
holds 'with what it refers to' chain.vdk drive.raw
head -c 100 drive.qcow2 >broken.qcow2
fails 1 '.' 'a broken one is refused' vdisk import broken.qcow2 new.vdk --format qcow2
fails 2 'format' 'an unknown format' vdisk import drive.raw new.vdk --format zip

qemu-nbd -r -f raw -t -x disk -k "$PWD/nbd" drive.raw &
server=$!
for _ in {1..100}; do [ -S nbd ] || sleep 0.05; done
t 'NBD is imported' vdisk import "nbd+unix:///disk?socket=$PWD/nbd" nbd.vdk
holds 'and keeps its content' nbd.vdk drive.raw
fails 1 '.' 'an export that is not there' vdisk import "nbd+unix:///other?socket=$PWD/nbd" new.vdk
kill "$server"
wait "$server" 2>.err
fails 1 '.' 'a server that is not there' vdisk import "nbd+unix:///disk?socket=$PWD/none" new.vdk
is 'no failure leaves an image' "$(echo new.vdk*)" 'new.vdk*'
