#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# File systems that were not unmounted: files come out as e2fsck would find them, and nothing is
# written to the image.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source=tests/lib_files.sh
. "$VDISK_SRC/tests/lib_files.sh"
export TZ=UTC

# Mounts in a name space of our own go away with us, whatever happens.
if [ -z "${IN_NAMESPACE:-}" ] && [ "$(id -u)" = 0 ] && grep -qw ext4 /proc/filesystems &&
    losetup -f >/dev/null 2>&1 && unshare -m true 2>/dev/null; then
    IN_NAMESPACE=1 exec unshare -m --propagation private bash "$0"
fi

# like_fsck NAME IMAGE: the files on IMAGE (a raw file) come out as those of a copy that e2fsck
# repaired, and an image of it is not touched.
like_fsck() {
    local before
    cp --sparse=always "$2" mended.img
    e2fsck -fy mended.img >fsck 2>&1
    [ $? -lt 4 ] || { not_ok "$1: e2fsck mends it"; return; }
    vdisk import "$2" dirty.vdk --quiet
    before=$(sha256sum <dirty.vdk)
    vdisk import mended.img mended.vdk --quiet
    rm -rf want have
    t "$1: it comes out" vdisk cp --recursive dirty.vdk:/ have
    vdisk cp --recursive mended.vdk:/ want
    same_tree "$1: as e2fsck finds it" want have
    described want >want.txt
    described have >have.txt
    same "$1: with the same sizes and times" want.txt have.txt
    json "$1: transactions are counted" "d['journal_transactions'] > 0" vdisk ls --json dirty.vdk:/
    is "$1: the image is not written to" "$(sha256sum <dirty.vdk)" "$before"
    rm -f dirty.vdk mended.vdk
}

# ---- journals written by debugfs: no rights are needed ----

# logged NAME BLOCK-BYTES OPTION...: a block of a file, and one with the journal's own magic number,
# are newer in the journal; so is one that is then revoked.
logged() {
    local blocks
    mkdir -p tree
    data tree/file $((4 * $2)) 1 random
    echo other >tree/other
    ext_image fs.img 16M tree -b "$2" "${@:3}" || return
    blocks=$(debugfs -R 'blocks /file' fs.img 2>/dev/null)
    read -ra block <<<"$blocks"
    data first "$2" 2 random
    data second "$2" 3 text
    printf '\xc0\x3b\x39\x98\0\0\0\1' | dd of=second conv=notrunc status=none
    {
        echo 'jo'
        echo "jw -b ${block[1]} first"
        echo "jw -b ${block[2]},${block[3]} /dev/zero"
        echo "jw -b ${block[3]} second"
        echo "jw -r ${block[2]}"
        echo 'jc'
    } >commands
    debugfs -w -f commands fs.img >.out 2>.err
    like_fsck "$1" fs.img
    # What fsck says is what is meant, but see that it says anything.
    dd if=have/file bs="$2" skip=1 count=1 of=got status=none
    same "$1: the newer block is taken" got first
    dd if=have/file bs="$2" skip=2 count=1 of=got status=none
    dd if=tree/file bs="$2" skip=2 count=1 of=old status=none
    same "$1: the revoked one is not" got old
    dd if=have/file bs="$2" skip=3 count=1 of=got status=none
    same "$1: one with the magic number comes out whole" got second
}
logged 'ext3, of 1 KiB' 1024 -t ext3
logged 'ext4, with checksums' 4096 -t ext4
logged 'ext4, without' 4096 -t ext4 -O '^metadata_csum,^64bit'

# ---- file systems in use ----

if [ -z "${IN_NAMESPACE:-}" ]; then
    skip 'file systems in use' 'needs root, loop devices and ext4'
    exit 0
fi

shut_down() { # DIR: as if the power went, after what is in the journal has reached the disk
    python3 - "$1" <<'PYTHON'
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.ioctl(fd, 0x8004587d, struct.pack("I", 1))  # EXT4_IOC_SHUTDOWN, LOGFLUSH
PYTHON
}

# used NAME OPTION...: files are made, changed, renamed and deleted; all of it is committed, and
# little of it is in its place yet, when the file system ends.
used() {
    rm -rf was && mkdir -p mnt was
    rm -f fs.img && truncate -s 64M fs.img
    mke2fs -q -F "${@:2}" fs.img >.out 2>.err
    if ! mount -o loop fs.img mnt 2>>.err; then
        not_ok "$1: can be mounted"
        return
    fi
    cp -a tree/. mnt/
    sync -f mnt
    rm -r mnt/many mnt/text
    mkdir mnt/new && mv mnt/etc mnt/new/
    for i in {1..500}; do echo "$i" >"mnt/new/$i"; done
    for i in {1..200}; do mv "mnt/new/$i" "mnt/deep/$i" && rm "mnt/new/$((i + 200))"; done
    echo more >>mnt/large
    ln -s new mnt/soft
    touch -d '2040-01-01 00:00:00 UTC' mnt/nothing
    touch -d '1931-05-06 07:08:09 UTC' mnt/one
    sync -f mnt
    cp -a mnt/. was/
    shut_down mnt
    umount mnt
    t "$1: the journal is not empty" grep -q needs_recovery <(dumpe2fs -h fs.img 2>/dev/null)
    like_fsck "$1" fs.img
    rm -rf was/lost+found have/lost+found
    same_tree "$1: it is as it was in use" was have
    described was | sed -E 's/ f 4/ f /' >want.txt
    described have >have.txt
    same "$1: with permissions and times" want.txt have.txt
}
make_tree tree
used 'ext4 in use' -t ext4
used 'ext4 with inline data in use' -t ext4 -O inline_data
used 'ext4 without checksums in use' -t ext4 -O '^metadata_csum,^64bit' -I 256
used 'ext3 in use' -t ext3 -b 1024 -I 256
used 'ext4 with fast commits in use' -t ext4 -O fast_commit

# What was committed in the fast form alone is left out, and it is said so.
rm -f fs.img && truncate -s 64M fs.img
mke2fs -q -F -t ext4 -O fast_commit fs.img
if mount -o loop fs.img mnt 2>.err; then
    echo first >mnt/first
    sync -f mnt
    echo second >mnt/second
    sync mnt/second
    cp --sparse=always fs.img copy.img
    umount mnt
    vdisk import copy.img fast.vdk --quiet
    t 'fast commits alone' vdisk cp fast.vdk:/first -
    is 'it is said that there are some' "$(grep -c 'fast commits' .err)" 1
else
    skip 'fast commits alone' 'this kernel does not mount them'
fi
