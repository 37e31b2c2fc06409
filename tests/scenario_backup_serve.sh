#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Instant restore: a backup is served, and run, at once, while the image fills; what happens when the
# daemon dies or the repository is away; a backup mounted; and overlays that need their base no more.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source=tests/lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"
# shellcheck source=tests/lib_files.sh
. "$VDISK_SRC/tests/lib_files.sh"
export XDG_STATE_HOME=$PWD/state

for tool in nbdcopy qemu-io fio; do
    command -v $tool >/dev/null && continue
    skip 'instant restore' "there is no $tool"
    exit
done

backup_serve() { # DEST OPTION...
    up vdisk backup serve repo latest "$1" --nbd "unix:$PWD/nbd" "${@:2}"
}

said() { # EVENT: waits until the server has said it
    local _
    for _ in {1..600}; do
        ! grep -q "event=$1" .server || return 0
        kill -0 "$server" 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}

guest_writes() { # OFFSET LENGTH BYTE: by NBD, flushed, and into the model
    io '' "write -P $3 $1 $2" flush
    python3 - "$@" <<'PYTHON'
import sys
offset, length, byte = (int(text, 0) for text in sys.argv[1:])
with open("now", "r+b") as file:
    file.seek(offset)
    file.write(bytes([byte]) * length)
PYTHON
}

copied() { # NAME: the drive has the bytes of `now`
    rm -f out.raw
    t "$1: it can be read" nbdcopy "$(uri '')" out.raw
    same "$1: byte for byte" out.raw now
}

data a 40000000 1 mixed
data b 3000000 2 random
drive d.vdk 300M
put a d.vdk 4096
put b d.vdk 200000000
vdisk backup init repo && vdisk backup create repo d.vdk >.out 2>.err
put b d.vdk 60001000
t 'a backup that has patches' vdisk backup create repo d.vdk
cp d.model now

# ---- served while it fills, killed, served again ----

t 'a backup is served' backup_serve n.vdk --fill-rate 2M --socket "$PWD/ctl"
json 'and said to be filling' "d['result'][0]['filling'] and not d['result'][0]['has_base']" \
    vdisk ctl --socket ctl export-list --json
guest_writes 4096 4096 0x11
guest_writes 20000 100 0x22
guest_writes 60000000 2000000 0x33
t 'what fio writes it finds again' fio --name=x --ioengine=nbd "--uri=$(uri '')" --rw=randwrite --bs=4k \
    --iodepth=8 --offset=100M --size=4M --verify=crc32c --end_fsync=1
t 'so does it in what was backed up' fio --name=x --ioengine=nbd "--uri=$(uri '')" --rw=randwrite --bs=12k \
    --iodepth=8 --offset=8M --size=3M --verify=crc32c --end_fsync=1 --number_ios=100
for part in '8 3' '100 4'; do # what fio wrote: first and number of MiB
    # shellcheck disable=SC2086
    set -- $part
    qemu-img dd -f raw -O raw bs=1M skip="$1" count=$(($1 + $2)) if="$(uri '')" of=fio.raw >.out 2>&1
    dd if=fio.raw of=now bs=1M seek="$1" count="$2" conv=notrunc status=none
done
guest_writes 270000000 5000 0x44
kill -9 "$server"
wait "$server" 2>.err
t 'after kill -9 its image is sound' vdisk check n.vdk
json 'and known to be unfinished' "d['source'].endswith(d['source'].split('::')[1]) and d['base'] is None" \
    vdisk info n.vdk --json
fails 1 'not yet filled from .*repo::' 'alone it is of no use' vdisk read n.vdk 0 10
fails 1 'not yet filled from' 'nor is it backed up so' vdisk backup create repo n.vdk
fails 1 'not yet filled' 'it has no snapshots yet' vdisk snapshot create n.vdk early
t 'served again it goes on' backup_serve n.vdk --fill-rate 4M
copied 'what was flushed is there'
t 'it is filled' said filled
copied 'then'
guest_writes 8192 4096 0x55
copied 'and goes on without a break'
down 'it ends well'
mv repo gone
json 'an ordinary image' "d['source'] is None and d['base'] is None" vdisk info n.vdk --json
holds 'with all that was written' n.vdk now
clean 'and sound' n.vdk
t 'with snapshots' vdisk snapshot create n.vdk late
mv gone repo
fails 1 'is an image of its own' 'which is not served as a backup' \
    vdisk backup serve repo latest n.vdk --nbd "unix:$PWD/nbd"
rm -f n.vdk out.raw fio.raw

# ---- the repository away ----

cp d.model now
t 'served once more' backup_serve n.vdk --fill-rate 1M
guest_writes 30000000 4096 0x66
mv repo/packs repo/elsewhere
t 'without the repository the daemon says so' said fill-failed
guest_writes 35000320 8192 0x77
if io '' 'read -P 0x77 35000320 8192' 'read -P 0x66 30000000 4096'; then
    ok 'what was written can be read'
else
    not_ok 'what was written can be read'
fi
if io '' 'read 203000000 4096' || io '' 'read 202000000 65536'; then
    not_ok 'what is missing cannot'
else
    ok 'what is missing cannot'
fi
grep -q 'nput/output error' .out .err
verdict 'but fails with EIO' $?
kill -9 "$server"
wait "$server" 2>.err
mv repo/elsewhere repo/packs
t 'put back' backup_serve n.vdk
t 'it is filled after all' said filled
copied 'with what was written meanwhile'
down 'and ends well'
rm -f n.vdk out.raw

cp d.model now
t 'one that waits' backup_serve n.vdk --fill-rate 1M --wait-when-failing
mv repo/packs repo/elsewhere
t 'for its repository' said fill-failed
qemu-io -f raw -c 'read 202000000 65536' "$(uri '')" >waited 2>&1 &
reader=$!
sleep 1.5
kill -0 $reader
verdict 'a read waits' $?
mv repo/elsewhere repo/packs
wait $reader
verdict 'until it is there again' $?
down 'it is left half filled'
rm -f n.vdk

# ---- time to the first byte, whatever the size ----

limit=10000 pieces=2 # milliseconds, on a machine that has other things to do
[ "${VDISK_TEST_LONG:-}" != 1 ] || limit=1000 pieces=10
drive huge.vdk 1T
rm -f huge.model
for ((i = 1; i < pieces; i++)); do vdisk write huge.vdk ${i}0G <a; done
vdisk write huge.vdk 700000002048 <a
t 'a drive of 1 TiB is backed up' vdisk backup create repo huge.vdk
began=$(date +%s%N)
vdisk backup serve repo latest h.vdk --drive huge.vdk --nbd "unix:$PWD/nbd" >.server 2>&1 &
server=$!
until [ -S nbd ]; do sleep 0.01; done
until qemu-img dd -f raw -O raw bs=4096 skip=170898438 count=170898439 if="$(uri '')" of=first >.out 2>.err; do
    kill -0 "$server" || break
    sleep 0.01
done
took=$((($(date +%s%N) - began) / 1000000))
echo "# the first byte after $took ms"
head -c 4096 a | same 'the first bytes are right' - first
is 'and come at once' $((took < limit)) 1
t 'all of it is there soon' said filled
down 'and it ends'
is 'a sparse image' $(($(du -k h.vdk | cut -f1) < 50000 * pieces)) 1
vdisk read h.vdk 700000002048 40000000 | cmp - a && vdisk read h.vdk 10G 40000000 | cmp - a
verdict 'with its data' $?
rm -f h.vdk huge.vdk

# ---- mounted ----

trap 'vdisk umount m 2>/dev/null' EXIT
if [ -w /dev/fuse ] && mkdir m && vdisk backup mount repo latest m --drive d.vdk >.out 2>.err; then
    same 'a mounted backup is the drive' m/disk d.model
    json 'and says which one' "d['drive'] == 'd.vdk' and d['size'] == 300 << 20" cat m/info.json
    if : 2>.err >>m/disk; then not_ok 'for reading'; else ok 'for reading'; fi
    t 'it is unmounted' vdisk umount m
    make_tree tree
    ext_image fs.img 60M tree -t ext4
    vdisk backup create repo fs.img >.out 2>.err
    t 'with the files of its file system' vdisk backup mount repo latest m --drive fs.img --files --log log
    same_tree 'as they were' tree m/files/disk
    t 'it is unmounted too' vdisk umount m
else
    sed 's/^/# /' .err
    skip 'a mounted backup' 'there is no FUSE here'
fi

# ---- overlays ----

vdisk create o.vdk --base d.vdk --base-key-file key && cp d.model o.model
put b o.vdk 7000
vdisk snapshot create o.vdk s
fails 1 'delete it first' 'an overlay with a snapshot that shows the base stays one' vdisk flatten o.vdk --quiet
vdisk snapshot delete o.vdk s
t 'else it is made flat' vdisk flatten o.vdk --quiet
mv d.vdk away.vdk
holds 'and needs its base no more' o.vdk o.model
clean 'and is sound' o.vdk
