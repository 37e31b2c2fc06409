#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# vdisk mount --write: the drive is written as a file, and nothing that was flushed is lost.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_fuse.sh
. "$VDISK_SRC/tests/lib_fuse.sh"
need_fuse

vdisk create a.vdk --size 64M
mkdir m
t 'it is mounted' vdisk mount a.vdk m --write --log log
fails 5 'in use' 'nobody else may look at the image' vdisk info a.vdk --key-file key

# ---- as a block device is written ----

truncate -s 64M disk
printf 'label: dos\nstart=2048,size=40960\nstart=43008,size=40960\n' | sfdisk -q disk
data mixed $((30 << 20)) 1 mixed
dd if=mixed of=disk bs=1M seek=3 conv=notrunc status=none
t 'a whole drive is copied over it' cp disk m/disk
same 'and is there' m/disk disk
is 'it has a table of partitions now' "$(cd m/partitions && echo *)" '1 2'
data random $((1 << 20)) 2 random
t 'a partition is written' dd if=random of=m/partitions/2 bs=1M seek=2 conv=notrunc
dd if=random of=disk bs=512 seek=$((43008 + 4096)) conv=notrunc status=none
same 'the drive has it' m/disk disk
dd if=m/disk bs=512 skip=43008 count=40960 status=none | cmp - m/partitions/2 >.out 2>&1
verdict 'as has the partition' $?
fails_at_end() { ! dd if=random of="$1" bs=64K seek="$2" conv=notrunc 2>.err && grep -q 'No space' .err; }
t 'a drive ends where it ends' fails_at_end m/disk 1022
t 'and so does a partition' fails_at_end m/partitions/1 318
dd if=random of=disk bs=64K seek=1022 count=2 conv=notrunc status=none
dd if=random of=disk bs=64K seek=$((16 + 318)) count=2 conv=notrunc status=none
same 'no byte is beyond it' m/disk disk
other_size() { ! truncate -s "$1" m/disk 2>/dev/null; }
t 'it has no other size' other_size 1M

# ---- who reads in order has it read ahead ----

# While it is read through m/disk it is changed ahead of that, through a partition and by fallocate.
read_in_order() {
    python3 - <<'PYTHON'
import ctypes, os
KIB = 1 << 10
libc = ctypes.CDLL(None, use_errno=True)
with open("disk", "rb") as file:
    drive = bytearray(file.read())
partition = os.open("m/partitions/2", os.O_RDWR)
begin = 43008 * 512
disk = os.open("m/disk", os.O_RDWR)
at, number = 0, 0
while at < len(drive):
    got = os.pread(disk, 256 * KIB, at)
    assert got and got == drive[at : at + len(got)], at
    at += len(got)
    number += 1
    changed = at + number * 37 % 40 * 64 * KIB + 512
    if number % 3 == 0 and begin <= changed < begin + (16 << 20):
        data = os.urandom(3 * KIB)
        assert os.pwrite(partition, data, changed - begin) == len(data)
    elif number % 3 == 1 and changed < len(drive) - KIB:
        data = bytes(KIB)
        mode = 3 if number % 2 else 0x11  # punch a hole, or zero a range
        assert libc.fallocate(disk, mode, ctypes.c_long(changed), ctypes.c_long(KIB)) == 0
    else:
        continue
    drive[changed : changed + len(data)] = data
with open("disk", "wb") as file:
    file.write(drive)
PYTHON
}
t 'what is changed ahead of who reads is read as it is then' read_in_order
same 'and once more' m/disk disk

# ---- giving back ----

t 'a range is given back' fallocate --punch-hole --offset 8M --length 8M m/disk
t 'another is zeroed' fallocate --zero-range --offset 20M --length 1M m/disk
python3 - <<'PYTHON'
with open("disk", "r+b") as file:
    for at, length in (8 << 20, 8 << 20), (20 << 20, 1 << 20):
        file.seek(at)
        file.write(bytes(length))
PYTHON
same 'both read as zeros' m/disk disk
seek_map m/disk >seek
t 'it is made durable' sync m/disk
t 'it is unmounted' vdisk umount m
clean 'the image is clean' a.vdk
holds 'with all that was written' a.vdk disk
told_map a.vdk >map
same 'its holes were told as they are' seek map

# ---- programs that check what they wrote ----

t 'it is mounted again' vdisk mount a.vdk m --write
verify() { # NAME FILE OPTION...
    t "$1" fio --name=v --filename="$2" --size=16M --verify=crc32c --verify_fatal=1 --ioengine=libaio \
        --iodepth=8 --end_fsync=1 --randseed="$VDISK_TEST_SEED" --output=fio.out "${@:3}"
}
if command -v fio >/dev/null; then
    verify 'fio verifies random blocks' m/disk --offset=24M --rw=randwrite --bsrange=4k-64k
    verify 'and past the page cache' m/disk --offset=44M --rw=randwrite --bsrange=512-128k --blockalign=512 --direct=1
    verify 'on a partition' m/partitions/1 --rw=randrw --bs=4k --direct=1
    verify 'in order, in large pieces' m/disk --rw=write --bs=1M --direct=0 --offset=32M
else
    skip 'fio verifies random blocks' 'no fio'
fi
t 'a file system is made' mkfs.ext4 -q m/partitions/2
t 'and checked' e2fsck -fn m/partitions/2
cp m/disk disk
t 'it is unmounted again' vdisk umount m
holds 'the image has it all' a.vdk disk

# ---- killed while it is written ----

writer() { # writes numbered blocks; in `flushed` is the number of the last that was flushed
    python3 - <<'PYTHON'
import os
fd = os.open("m/disk", os.O_RDWR)
log = open("flushed", "w", buffering=1)
number = 0
try:
    while number < 1 << 20:
        for _ in range(64):
            block = number.to_bytes(8, "little") * 1024
            os.pwrite(fd, block, number * 7919 % 8192 * 8192)
            number += 1
        os.fsync(fd)
        log.write(f"{number}\n")
except OSError:
    pass
PYTHON
}
durable() {
    python3 - <<'PYTHON'
import subprocess, sys
flushed = int(open("flushed").read().split()[-1])
drive = subprocess.run(["vdisk", "read", "a.vdk", "0"], stdout=subprocess.PIPE, check=True).stdout
last = {}
for number in range(flushed):
    last[number * 7919 % 8192] = number
assert last, "nothing was flushed"
for place, number in last.items():
    block = drive[place * 8192 : place * 8192 + 8192]
    got = int.from_bytes(block[:8], "little")
    # What came after the last flush may be there, whole.
    assert got == number or (got > number and got * 7919 % 8192 == place), (place, number, got)
    assert block == got.to_bytes(8, "little") * 1024, place
print(flushed, file=sys.stderr)
PYTHON
}
for round in 1 2 3; do
    t "$round: it is mounted" vdisk mount a.vdk m --write
    server=$(server_of m)
    writer &
    until_true 20 test -s flushed
    sleep "0.$((RANDOM % 5))"
    kill -9 "$server"
    wait $!
    t "$round: killed, it leaves no mount" until_true 20 gone m
    until_true 20 ended "$server"
    until_true 20 vdisk info a.vdk >.out 2>.err # the kernel ends its ring, with the lock, a little later
    clean "$round: the image is clean" a.vdk
    t "$round: what was flushed is there" durable
    rm flushed
done
t 'the place is as before' rmdir m
mkdir m

# ---- a full disk ----

mkdir small
if [ "$(id -u)" = 0 ] && unshare --mount true 2>/dev/null; then
    full() {
        mount -t tmpfs -o size=24m none small || return
        vdisk create small/b.vdk --size 64M --compress none
        t 'an image on a small disk is mounted' vdisk mount small/b.vdk m --write --log full.log
        head -c 40M /dev/urandom >large
        if dd if=large of=m/disk bs=1M conv=notrunc,fsync 2>.err; then
            not_ok 'who writes too much is told'
        else
            cp .err told
            t 'who writes too much is told' grep -q 'No space' told
        fi
        cat full.log told
        t 'and the log has it' grep -q 'event=write-failed' full.log
        t 'what is there may be read' cat m/disk
        t 'room is made' fallocate --punch-hole --offset 0 --length 64M m/disk
        t 'and it goes on' dd if=random of=m/disk bs=1M conv=notrunc,fsync
        t 'it is unmounted' vdisk umount m
        clean 'the image is clean' small/b.vdk
    }
    export -f full t ok not_ok clean
    unshare --mount bash -c full
else
    skip 'who writes too much is told' 'no namespaces'
fi

# ---- an overlay ----

vdisk create base.vdk --size 64M
vdisk write base.vdk 0 <mixed
t 'an overlay is made' vdisk create over.vdk --base base.vdk
t 'and mounted' vdisk mount over.vdk m --write
truncate -s 64M model
dd if=mixed of=model conv=notrunc status=none
same 'its base shows' m/disk model
t 'it is written' dd if=random of=m/disk bs=1M seek=5 conv=notrunc
dd if=random of=model bs=1M seek=5 conv=notrunc status=none
t 'and unmounted' vdisk umount m
holds 'all is there' over.vdk model
