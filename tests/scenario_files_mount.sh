#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `vdisk mount --files`: the files of a drive's file systems, through FUSE, compared with those that
# they were made of; and, as root, file systems that only the kernel can read.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source=tests/lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"
# shellcheck source=tests/lib_files.sh
. "$VDISK_SRC/tests/lib_files.sh"
export TZ=UTC

if ! command -v fusermount3 >/dev/null || ! [ -w /dev/fuse ]; then
    skip 'files through FUSE' 'needs fusermount3 and /dev/fuse'
    exit 0
fi
mkdir mnt
trap 'vdisk umount mnt 2>/dev/null' EXIT

make_tree tree
mkdir data && cp tree/text data/book
ext_image root.img 40M tree -t ext4 -O inline_data
ext_image data.img 8M data -t ext2
truncate -s 64M gpt.img
sfdisk -q gpt.img >.out 2>.err <<'TABLE'
label: gpt
start=2048, size=81920, type=L
start=83968, size=16384, type=L
start=100352, size=8192, type=S
TABLE
dd if=root.img of=gpt.img bs=512 seek=2048 conv=notrunc,sparse status=none
dd if=data.img of=gpt.img bs=512 seek=83968 conv=notrunc,sparse status=none
vdisk import gpt.img gpt.vdk --quiet --compress none
vdisk snapshot create gpt.vdk before
cp gpt.img later.img
debugfs -w -R 'rm /etc/fstab' "later.img?offset=1048576" >.out 2>.err
vdisk write gpt.vdk 0 <later.img

# ---- two file systems and a snapshot ----

t 'a drive is mounted with its files' vdisk mount gpt.vdk mnt --files --log log
is 'beside what a mount shows' "$(echo mnt/*)" \
    'mnt/disk mnt/files mnt/info.json mnt/partitions mnt/snapshots'
is 'those that can be read have a folder' "$(echo mnt/files/*)" 'mnt/files/1 mnt/files/2'
same_tree 'which has the files' data mnt/files/2
same_tree 'so has a snapshot' tree mnt/snapshots/before/files/1
described tree >want
described mnt/snapshots/before/files/1 >have
same 'with names, kinds, permissions, sizes, targets and times' have want
[ ! -e mnt/files/1/etc/fstab ]
verdict 'a file that was deleted since is not in the live state' $?
files=mnt/snapshots/before/files/1
is 'what is not stored is no part of its space' "$(($(du -k $files/sparse | cut -f1) < 64))" 1
t 'a copy of it' cp --sparse=auto $files/sparse copied
is 'has its holes' "$(($(du -k copied | cut -f1) < 200))" 1
same 'and its bytes' copied tree/sparse
is 'all names of a large folder come once' "$(find $files/many -type f -printf '%f\n' | sort -u | wc -l)" 300
is 'numbers of inodes differ from file to file' \
    "$(find mnt/files mnt/snapshots -not -name hard -not -name text -printf '%i\n' | sort | uniq -d | wc -l)" 0
is 'but for names of one file' "$(stat -c %i $files/text)" "$(stat -c %i $files/deep/a/b/hard)"
readers=()
for i in {1..8}; do
    (cd $files && find . -type f -not -path './lost+found/*' -print0 | sort -z | xargs -0 sha256sum) >"sums.$i" &
    readers+=($!)
done
wait "${readers[@]}"
(cd tree && find . -type f -print0 | sort -z | xargs -0 sha256sum) >sums
for i in {1..8}; do cmp sums "sums.$i" || break; done >.err 2>&1
verdict 'eight readers at once read the same' $?

for change in 'rm FILES/one' 'touch FILES/one' 'mkdir FILES/new' 'ln -s x FILES/x' 'mv FILES/one FILES/two' \
    'truncate -s 0 FILES/one' 'chmod 600 FILES/one' "sh -c 'echo >>FILES/one'"; do
    eval "${change//FILES/$files}" >.out 2>&1 && break
done
verdict 'nothing can be changed' "$((! $?))"
t 'it is unmounted' vdisk umount mnt

# ---- a drive without partitions, whose journal is not empty ----

ext_image fs.img 16M data -t ext4
read -ra block <<<"$(debugfs -R 'blocks /book' fs.img 2>/dev/null)"
data new 4096 2 random
printf 'jo\njw -b %s new\njc\n' "${block[1]}" >commands
debugfs -w -f commands fs.img >.out 2>.err
vdisk import fs.img fs.vdk --quiet --compress none
t 'one that was not unmounted' vdisk mount fs.vdk mnt --files --log log
dd if=mnt/files/disk/book of=got bs="$(dumpe2fs -h fs.img 2>/dev/null | awk '/^Block size/ {print $3}')" \
    skip=1 count=1 status=none
same 'has what the journal has' got <(head -c "$(stat -c %s got)" new)
vdisk cp fs.vdk:/book - >book
same 'as vdisk cp has' mnt/files/disk/book book
vdisk umount mnt

# ---- damage ----

cp fs.vdk hurt.vdk
hurt_file hurt.vdk /book
: >log
t 'a drive that was altered' vdisk mount hurt.vdk mnt --files --log log
cat mnt/files/disk/book >.out 2>.err
is 'a file whose data was altered is an error' "$(grep -c 'Input/output error' .err)" 1
is 'and a line in the log' "$(grep -c 'event=read-failed.*files/disk' log)" 1
t 'others are there' ls mnt/files/disk/lost+found
vdisk umount mnt
fails 2 'for reading' 'files are not shown of what may be written' vdisk mount fs.vdk mnt --files --write

# ---- one that is in use ----

up vdiskd --export "vm=gpt.vdk,key-file=key" --nbd "unix:$PWD/nbd" --socket "$PWD/control/socket" ||
    not_ok 'vdiskd starts'
t 'a drive that a daemon serves' vdisk cp vdiskd:vm:/text - --partition 1 --socket control/socket
same 'can be looked at' .out tree/text
json 'as well as listed' "d['partition'] == 2 and 'book' in [e['name'] for e in d['entries']]" \
    vdisk ls --json vdiskd:vm:/ --partition 2 --socket control/socket
t 'a snapshot of it' vdisk cp vdiskd:vm@before:/etc/fstab - --partition 1 --socket control/socket
same 'too' .out tree/etc/fstab
t 'and mounted' vdisk mount vdiskd:vm mnt --files --socket control/socket
same_tree 'with its files' data mnt/files/2
vdisk umount mnt
json 'nothing of that stays' "[s['name'] for s in d['result']] == ['before']" \
    vdisk ctl --socket control/socket snapshot-list vm --json
fails 1 'no.*export' 'an export that is not there' vdisk ls vdiskd:other:/ --socket control/socket
fails 1 'management' 'no daemon' vdisk ls vdiskd:vm:/ --socket "$PWD/nothing"
fails 2 'are for vdiskd' 'an image has no socket' vdisk ls gpt.vdk:/ --socket "$PWD/nothing"
down 'the daemon ends'

# ---- the kernel's own ----

if [ "$(id -u)" != 0 ] || ! [ -w /dev/loop-control ] || ! modprobe xfs 2>/dev/null && ! grep -qw xfs /proc/filesystems; then
    skip 'a file system that only the kernel reads' 'needs root, loop devices and xfs'
    exit 0
fi
truncate -s 320M xfs.img
mkfs.xfs -q xfs.img
mkdir inside
# In a name space of its own, so that nothing stays mounted whatever happens. What is written last
# is in the log alone.
# shellcheck disable=SC2016 # its own variables
unshare -m bash -c 'mount -o loop,nouuid xfs.img inside && cp -a tree/. inside/ && sync -f inside &&
    for i in {1..100}; do mkdir "inside/d$i"; done && python3 - <<PYTHON
import fcntl, os, struct
fd = os.open("inside", os.O_RDONLY)
os.fsync(fd)
fcntl.ioctl(fd, 0x8004587d, struct.pack("I", 1))  # XFS_IOC_GOINGDOWN, LOGFLUSH
PYTHON
    umount inside' >.out 2>.err
verdict 'an xfs that was not unmounted' $?
vdisk import xfs.img xfs.vdk --quiet
before=$(sha256sum <xfs.vdk)
t 'is mounted by the kernel' vdisk mount xfs.vdk mnt --files --log log
rm -rf have && cp -a mnt/files/disk have
is 'with what was in its log' "$(find have -maxdepth 1 -name 'd[0-9]*' | wc -l)" 100
rm -rf have/d[0-9]*
same_tree 'and with all files' tree have
touch mnt/files/disk/new 2>.err
is 'nothing can be changed there' "$(grep -c 'Read-only' .err)" 1
exec 8<mnt/files/disk/etc/fstab
vdisk umount mnt 2>.err
is 'it stays while a file is open' "$?" 5
exec 8<&-
t 'and is unmounted' vdisk umount mnt
is 'with nothing left behind' "$(grep -c "$PWD" /proc/mounts; losetup -a | grep -c "$PWD")" "$(printf '0\n0')"
is 'the image is not written to' "$(sha256sum <xfs.vdk)" "$before"
for signal in TERM KILL; do
    vdisk mount xfs.vdk mnt --files --log log
    kill -$signal "$(readlink mnt/.server)"
    for _ in {1..100}; do
        grep -q "$PWD" /proc/mounts || break
        sleep 0.1
    done
    is "after SIG$signal nothing is left either" "$(grep -c "$PWD" /proc/mounts)" 0
done
t 'the place can be used again' vdisk mount xfs.vdk mnt --files
vdisk umount mnt
