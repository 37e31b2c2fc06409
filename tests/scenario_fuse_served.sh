#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# vdisk mount vdiskd:EXPORT: a drive that somebody uses, by a snapshot that the daemon makes for it.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"
# shellcheck source-path=SCRIPTDIR source=lib_fuse.sh
. "$VDISK_SRC/tests/lib_fuse.sh"
need_fuse

drive a.vdk 64M
data mixed $((20 << 20)) 1 mixed
put mixed a.vdk 2M
vdisk snapshot create a.vdk monday
cp a.model monday.model
data random $((1 << 20)) 2 random
put random a.vdk 30M
mkdir m run

daemon() {
    up vdiskd --export "vm1=a.vdk,key-file=$PWD/key" --socket "$PWD/run/socket" "$@"
}
ctl() { vdisk ctl --socket "$PWD/run/socket" "$@"; }
mount_it() { # EXPORT OPTION...
    vdisk mount "vdiskd:$1" m --socket run/socket "${@:2}"
}
snapshots() { ctl snapshot-list vm1 --json | grep -o '"name": "[^"]*"' | cut -d'"' -f4 | tr '\n' ' '; }
none_left() { [ "$(snapshots)" = 'monday ' ]; }

t 'a daemon serves the image' daemon --nbd unix:nbd
json 'it tells where' "d == ['unix:$PWD/nbd']" ctl nbd-list
fails 5 'vdiskd:EXPORT' 'the file is in use, and what to do is told' vdisk mount a.vdk m
t 'its drive is mounted' mount_it vm1 --log log
same 'as it is' m/disk a.model
same 'and as it was' m/snapshots/monday/disk monday.model
is 'the daemon has a snapshot for it' "$(snapshots | sed 's/[0-9]*-[0-9]* $/N/')" 'monday vdisk-mount-N'
json 'info.json tells of the export' "d['name'] == 'vm1' and d['size_bytes'] == 64 << 20" cat m/info.json
t 'a client writes meanwhile' io vm1 'write -P 0x5a 1M 1M' 'discard 30M 1M' flush
same 'which is not seen' m/disk a.model
fails 5 'being read' 'nobody removes the snapshot' vdisk ctl --socket "$PWD/run/socket" \
    snapshot-delete vm1 "$(snapshots | cut -d' ' -f2)"
seek_map m/disk >seek
vdisk_map() { nbdinfo --map "$(uri "vm1@$(snapshots | cut -d' ' -f2)")"; }
if command -v nbdinfo >/dev/null; then
    vdisk_map | awk '$3 % 4 < 2 { if ($1 == end) end = $1 + $2
        else { if (end) print begin, end; begin = $1; end = $1 + $2 } }
        END { if (end) print begin, end }' >map
    same 'holes are where the daemon says' seek map
fi
cp --sparse=auto m/disk copy
same 'a copy is the same' copy a.model
t 'it is unmounted' vdisk umount m
t 'and the snapshot is gone' none_left
same 'the drive has what the client wrote' <(nbdcopy "$(uri vm1)" - | head -c 2M | tail -c 1M) \
    <(head -c 1M /dev/zero | tr '\0' '\132')

t 'a snapshot of it is mounted' mount_it vm1@monday
same 'and is that' m/disk monday.model
is 'for which none was made' "$(snapshots)" 'monday '
t 'it is unmounted, too' vdisk umount m

# ---- ends ----

t 'it is mounted again' mount_it vm1
kill "$(server_of m)"
t 'SIGTERM ends it' until_true 10 gone m
t 'with its snapshot' until_true 10 none_left
t 'it is mounted once more' mount_it vm1
mounter=$(server_of m)
kill -9 "$mounter"
t 'kill -9 leaves no mount' until_true 10 gone m
until_true 10 ended "$mounter"
is 'but the snapshot' "$(snapshots | wc -w)" 2
t 'the next mount' mount_it vm1 --log dead
is 'takes it away' "$(snapshots | wc -w)" 2
# Two at a time leave each other alone.
mkdir n
t 'a second one beside it' vdisk mount vdiskd:vm1 n --socket run/socket
is 'has its own' "$(snapshots | wc -w)" 3
t 'goes' vdisk umount n
is 'and takes only that' "$(snapshots | wc -w)" 2

dd if=m/disk of=/dev/null bs=1M count=1 status=none
down 'the daemon ends under the mount'
unreadable() { ! dd if=m/disk of=/dev/null bs=1M skip=40 count=1 2>.err && grep -q 'Input/output' .err; }
t 'which is an I/O error then' unreadable
t 'and a line in the log' grep -q 'event=read-failed' dead
t 'the daemon comes again' daemon --nbd unix:nbd
t 'and the mount reads on' cmp --ignore-initial=10M --bytes=8M m/disk a.model
down 'the daemon ends for good'
t 'it can be unmounted' vdisk umount m
t 'the image is as it should be' vdisk check a.vdk

# ---- what does not work says why ----

t 'a daemon without NBD' daemon
fails 1 'no Unix socket' 'has nothing to read from' mount_it vm1
down 'ends'
t 'a daemon with it' daemon --nbd unix:nbd
fails 1 'no export' 'has no such export' mount_it vm2
fails 1 'no snapshot' 'nor that snapshot' mount_it vm1@friday
fails 2 'nobody may write' 'a snapshot is not written' mount_it vm1 --write
fails 1 'no folder' 'no place to mount' vdisk mount vdiskd:vm1 key --socket run/socket
t 'leaves no snapshot' until_true 10 none_left
down 'it ends'
fails 1 'no management' 'nobody there' mount_it vm1
fails 2 'vdiskd:EXPORT' 'a socket is of no use to a file' vdisk mount a.vdk m --socket run/socket
