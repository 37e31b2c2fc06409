#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# vdiskd and the NBD clients of others: libnbd's tools, QEMU's, fio; an incremental backup.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"

for tool in nbdinfo nbdcopy nbdsh qemu-img qemu-io fio; do
    command -v "$tool" >/dev/null || {
        skip 'NBD clients' "$tool is not installed"
        exit 0
    }
done

tool() { /usr/bin/python3 "$VDISK_SRC/tests/nbd_tool.py" "$@"; }
ctl() { vdisk ctl --socket "$PWD/control/socket" "$@"; }
image() { # IMAGE OPTION...
    up vdiskd --default-export drive --export "drive=$PWD/$1,key-file=$VDISK_KEY_FILE" --nbd "unix:$PWD/nbd" \
        --socket "$PWD/control/socket" "${@:2}"
}
same_drive() { # NAME FILE: by qemu-img
    t "$1" qemu-img compare -f raw -F raw "$2" "$(uri '')"
}

size=$((64 << 20))
drive a.vdk "$size"
data mixed $((24 << 20)) "$VDISK_TEST_SEED" mixed
put mixed a.vdk 3M
t 'vdiskd starts' image a.vdk

# ---- libnbd: nbdinfo, nbdcopy, nbdsh ----

json 'nbdinfo: the export and what it can do' \
    "(e := d['exports'][0]) and d['protocol'] == 'newstyle-fixed' and d['structured']
     and e['export-size'] == $size and not e['is_read_only'] and e['can_multi_conn']
     and e['can_trim'] and e['can_zero'] and e['can_fast_zero'] and e['can_fua'] and e['can_df'] and e['can_cache']
     and e['block_size_minimum'] == 1 and e['block_size_preferred'] == 4096
     and {'base:allocation', 'qemu:allocation-depth'} <= set(e['contexts'])" \
    nbdinfo --json "$(uri '')"
is 'nbdinfo: the size' "$(nbdinfo --size "$(uri '')")" "$size"
t 'nbdinfo: it can be written' nbdinfo --can write "$(uri '')"
json 'nbdinfo: the map covers the drive without gaps' \
    "d[0]['offset'] == 0 and d[0]['type'] == 3 and d[-1]['type'] == 3
     and sum(e['length'] for e in d) == $size
     and all(a['offset'] + a['length'] == b['offset'] for a, b in zip(d, d[1:]))" \
    nbdinfo --json --map "$(uri '')"
json 'nbdinfo: what is allocated is at depth 1' \
    "sum(e['length'] for e in d) == $size and {e['type'] for e in d} == {0, 1}" \
    nbdinfo --json --map=qemu:allocation-depth "$(uri '')"

t 'nbdcopy: out' nbdcopy --connections=4 "$(uri '')" out.raw
same 'nbdcopy: as it was written' out.raw a.model
data other "$size" 2 mixed
t 'nbdcopy: in, over four connections' nbdcopy --connections=4 --requests=32 other "$(uri '')"
t 'nbdcopy: out again' nbdcopy --connections=4 "$(uri '')" out.raw
same 'nbdcopy: all of it' out.raw other
t 'libnbd: structured replies, each checked' tool strict "$(uri '')" other
# Its Python is the first in PATH; only the distribution's has the module.
t 'nbdsh: writes with FUA, zeros, trims' env PATH=/usr/bin:/bin nbdsh -u "$(uri '')" -c '
h.pwrite(b"n" * 1000, 12345, nbd.CMD_FLAG_FUA)
h.zero(1 << 20, 4 << 20, nbd.CMD_FLAG_FAST_ZERO)
h.trim(1 << 20, 6 << 20)
h.flush()
assert h.pread(1000, 12345) == b"n" * 1000 and h.pread(1 << 20, 4 << 20) == bytes(1 << 20)'

# ---- QEMU: qemu-img, qemu-io ----

t 'qemu-img: convert to the drive' qemu-img convert -n -f raw -O raw a.model "$(uri '')"
same_drive 'qemu-img: compare' a.model
t 'qemu-img: convert to qcow2' qemu-img convert -f raw -O qcow2 "$(uri '')" out.qcow2
t 'qemu-img: which has the same' qemu-img compare -f qcow2 -F raw out.qcow2 a.model
json 'qemu-img: map shows holes and data' \
    "sum(e['length'] for e in d) == $size and {e['data'] for e in d} == {True, False}
     and not d[-1]['data'] and d[-1]['zero']" \
    qemu-img map --output=json -f raw "$(uri '')"
t 'qemu-img: bench, reads' qemu-img bench -f raw -c 2000 -d 32 -s 4096 "$(uri '')"
t 'qemu-img: bench, writes with flushes' qemu-img bench -f raw -w -c 2000 -d 32 -s 4096 \
    --flush-interval 50 --pattern 7 "$(uri '')"
t 'qemu-io: writes, zeros, discards, flushes' io '' 'write -P 0x11 9M 3M' 'write -z 10M 64k' \
    'write -z -u 10304k 128k' 'write -f -P 0x12 1000 2000' 'discard 11M 512k' 'aio_write -P 0x13 20M 1M' aio_flush flush
t 'qemu-io: reads' io '' 'read -P 0x11 9M 1M' 'read -P 0 10M 192k' 'read -P 0x12 1000 2000' \
    'read -P 0 11M 512k' 'read -P 0x13 20M 1M' 'read -P 0x07 8k 4k'

# ---- fio, which verifies what it wrote, and after a restart once more ----

job() { # FIO_OPTION...
    fio --name=job --ioengine=nbd --uri="$(uri '')" --size=48m --rw=randrw --bsrange=4k-64k --iodepth=16 \
        --verify=crc32c --verify_fatal=1 --randseed=5 "$@"
}
t 'fio: random writes, verified' job --do_verify=1
t 'fio: with a flush every 8 writes' job --rw=randwrite --bs=4k --fsync=8 --number_ios=1500 \
    --do_verify=1 --randseed=9
t 'fio: a job that saves its state' job --rw=randwrite --do_verify=0 --verify_state_save=1
t 'the drive is copied' nbdcopy "$(uri '')" before.raw
down 'vdiskd ends'
clean 'the image is clean' a.vdk
holds 'vdisk read and the clients agree' a.vdk before.raw
t 'vdiskd starts again' image a.vdk
t 'fio: verifies by the saved state' job --rw=randwrite --verify_only --verify_state_load=1

# ---- an incremental backup by dirty bitmap, also after kill -9 ----

t 'backup: a snapshot while serving' ctl snapshot-create drive one
t 'backup: all of it' tool backup "$(uri drive@one)" copy.raw
t 'backup: nothing is dirty yet' tool backup "$(uri '')" copy.raw one
is 'backup: so nothing is read' "$(cat .out)" 0
t 'clients go on writing' io '' 'write -P 0x21 1M 64k' 'write -P 0x22 33M 1M' 'write -z 5M 256k' 'discard 40M 1M' flush
json 'nbdinfo: the dirty bitmap' \
    "sum(e['length'] for e in d) == $size and
     sum(e['length'] for e in d if e['type'] & 1) <= 4 << 20 and
     any(e['type'] & 1 and e['offset'] <= 33 << 20 < e['offset'] + e['length'] for e in d)" \
    nbdinfo --json --map=qemu:dirty-bitmap:one "$(uri '')"
t 'backup: the next snapshot' ctl snapshot-create drive two
t 'the drive moves on' io '' 'write -P 0x23 1M 64k' flush
kill -9 "$server"
wait "$server" 2>/dev/null
t 'vdiskd starts after kill -9' image a.vdk
t 'backup: what changed from the one to the other' tool backup "$(uri drive@two)" copy.raw one
changed=$(cat .out)
verdict 'backup: it read little' "$([ "$changed" -ge $((2 << 20)) ] && [ "$changed" -le $((4 << 20)) ]; echo $?)"
t 'backup: a full one of the same state' tool backup "$(uri drive@two)" full.raw
same 'backup: the two are the same' copy.raw full.raw
t 'backup: what changed up to now' tool backup "$(uri '')" copy.raw two
same_drive 'backup: is the drive as it is now' copy.raw
t 'a snapshot goes while serving' ctl snapshot-delete drive one
down 'vdiskd ends well'
clean 'the image is clean after all' a.vdk
holds 'and has what the backup has' a.vdk copy.raw
