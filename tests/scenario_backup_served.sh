#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# vdisk backup create REPO vdiskd:EXPORT: a drive that is in use, by a snapshot that the daemon makes.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"
export XDG_STATE_HOME=$PWD/state
for tool in qemu-io nbdcopy; do
    command -v $tool >/dev/null || { skip 'a drive in use' "$tool is not there"; exit 0; }
done

daemon() { # OPTION...
    up vdiskd --export "vm1=a.vdk,key-file=$PWD/key" --socket "$PWD/run/socket" "$@"
}
ctl() { vdisk ctl --socket run/socket "$@"; }
backup() { vdisk backup create repo vdiskd:vm1 --socket run/socket "$@"; }
# The names of snapshots, those for backups without the repository's digits.
snapshots() {
    ctl snapshot-list vm1 | grep -o '"name": "[^"]*"' | cut -d'"' -f4 |
        sed 's/^backup-[0-9a-f]\{8\}-/backup-/' | tr '\n' ' '
}
kept() { ctl snapshot-list vm1 | grep -o 'backup-[^"]*'; }
backups() { vdisk backup list repo --json | grep -c '"sequence"'; }
restores() { # NAME FILE: the latest backup has the bytes of the file
    rm -f out.raw
    vdisk backup restore repo latest out.raw --quiet 2>.err && cmp out.raw "$2" >.out 2>&1
    verdict "$1" $?
}
reads() { ctl stats vm1 | python3 -c 'import json, sys; print(json.load(sys.stdin)["read"]["count"])'; }
slow() { ctl limits-set vm1 --read-bytes "$1"; }
fast() { ctl limits-set vm1; }
# A backup ($job) that has read some of the drive, and takes its time.
in_the_middle() { # RATE
    local before try
    slow "$1"
    before=$(reads)
    vdisk backup create repo vdiskd:vm1 --socket run/socket --quiet >.job 2>&1 &
    job=$!
    for try in {1..200}; do
        [ "$(reads)" -le "$((before + 2))" ] || return 0
        sleep 0.05
    done
    return 1
}

data mixed 20000000 1 mixed
data random 24000000 2 random
drive a.vdk 96M
put mixed a.vdk 2M
vdisk snapshot create a.vdk monday
mkdir run
vdisk backup init repo
t 'a daemon serves the image' daemon --nbd unix:nbd

# ---- the first backup, increments ----

fails 5 'vdiskd:EXPORT' 'the file is in use, and what to do is told' vdisk backup create repo a.vdk
json 'the export is backed up' "d['sequence'] == 1 and d['drive'] == 'a.vdk' and d['size'] == 96 << 20
    and 0 < d['read_bytes'] <= 20 << 20" backup --json
is 'the daemon keeps a snapshot for the next one' "$(snapshots)" 'monday backup-1 '
restores 'it restores' a.model
t 'a client writes' io vm1 'write -P 0x5a 3M 8K' 'discard 4M 1M' 'write -z 6M 128K' flush
nbdcopy "$(uri vm1)" now
json 'the next one reads what has changed' "d['sequence'] == 2 and d['read_bytes'] == 8192
    and d['chunks_stored'] == 0 and d['chunks_zero'] == 1" backup --json
restores 'and has that' now
is 'the older snapshot is gone' "$(snapshots)" 'monday backup-2 '
json 'nothing changed: nothing is read' "d['read_bytes'] == 0 and d['stored_bytes'] == 0" backup --json
t 'the drive grows' ctl resize vm1 128M
t 'and is written there' io vm1 'write -P 3 127M 1M' flush
nbdcopy "$(uri vm1)" now
json 'the next one goes on, too' "d['size'] == 128 << 20 and d['read_bytes'] == 1 << 20" backup --json
restores 'and has all of it' now

# ---- while it is written ----

writer() { # until ./stop is there
    local i=0
    while [ ! -e stop ]; do
        qemu-io -f raw -c "write -P $((i % 250 + 1)) $((i * 517 % 120))M 512K" -c flush "$(uri vm1)" >/dev/null 2>&1
        i=$((i + 1))
    done
    echo "$i" >stop
}
io vm1 "write -s random 40M 20M" flush
writer & busy=$!
slow 6M
json 'a client writes all the time' "d['read_bytes'] >= 20 << 20" backup --json
fast
touch stop
wait "$busy"
[ "$(cat stop)" -gt 3 ]
verdict 'that is, many times meanwhile' $?
nbdcopy "$(uri "vm1@$(kept)")" was
restores 'the backup has the state of its snapshot' was
nbdcopy "$(uri vm1)" now
! cmp -s was now
verdict 'which is not that of now' $?
json 'what was written meanwhile comes with the next one' "0 < d['read_bytes'] < 100 << 20" backup --json
restores 'all of it' now

# ---- ends ----

io vm1 'write -s random 20M 22M' flush
nbdcopy "$(uri vm1)" now
count=$(backups)
t 'a backup is under way' in_the_middle 2M
fails 5 'being read' 'a second one at once is refused' backup
kill -9 "$job"
wait "$job" 2>/dev/null
is 'kill -9 leaves its snapshot' "$(snapshots)" "monday backup-$count backup-$((count + 1)) "
is 'and no backup' "$(backups)" "$count"
fast
json 'the next one reads what it should' "d['sequence'] == $((count + 1)) and d['read_bytes'] < 24 << 20" backup --json
is 'with one snapshot left' "$(snapshots)" "monday backup-$((count + 1)) "
restores 'and restores' now

io vm1 'write -s random 50M 22M' flush
t 'another one is under way' in_the_middle 5M
kill "$job"
wait "$job" 2>/dev/null
is 'SIGTERM takes its snapshot away' "$(snapshots)" "monday backup-$((count + 1)) "
fast
nbdcopy "$(uri vm1)" now
t 'one more is under way' in_the_middle 5M
kill -9 "$server"
wait "$server" 2>/dev/null
wait "$job"
is 'the daemon is killed, which is an error' "$? $(head -n 1 .job)" '1 vdisk: vdiskd:vm1: the server ended the connection'
is 'and no backup either' "$(backups)" "$((count + 1))"
t 'nothing is half-made' vdisk backup verify repo --data
t 'the daemon comes again' daemon --nbd unix:nbd
json 'and the next one goes on' "d['sequence'] == $((count + 2)) and d['read_bytes'] < 24 << 20" backup --json
restores 'from what is restored' now
is 'with its snapshot alone' "$(snapshots)" "monday backup-$((count + 2)) "

# ---- one snapshot taken for another ----

name=$(kept)
ctl snapshot-delete vm1 "$name"
io vm1 'write -P 9 70M 64K' flush
ctl snapshot-create vm1 "$name"
nbdcopy "$(uri vm1)" now
json 'one of the same name is not the same' "d['read_bytes'] > 30 << 20" backup --json
restores 'so nothing is missed' now

# ---- the file and the export are one drive ----

down 'the daemon ends'
data b 70000 3 random
vdisk write a.vdk 12345 <b
vdisk read a.vdk 0 >now
json 'the file goes on from the export' "d['sequence'] == $((count + 4)) and 0 < d['read_bytes'] < 400000" \
    vdisk backup create repo a.vdk --json
restores 'byte for byte' now
vdisk snapshot list a.vdk --json >listed
t 'the daemon is there again' daemon --nbd unix:nbd
json 'and says the same of snapshots' "[(s['name'], s['id'], s['created_ns'], s['root_tag'], s['size_bytes']) for s in d]
    == [(s['name'], s['id'], s['created_ns'], s['root_tag'], s['size']) for s in json.load(open('listed'))['snapshots']]" \
    ctl snapshot-list vm1
io vm1 'write -P 4 90M 4K' flush
nbdcopy "$(uri vm1)" now
json 'the export goes on from the file' "d['sequence'] == $((count + 5)) and d['read_bytes'] == 4096" backup --json
restores 'likewise' now
json 'to the repository it is one drive' "len({b['drive_id'] for b in d['backups']}) == 1
    and {(b['drive'], b['source']) for b in d['backups']} == {('a.vdk', 'image')}
    and [b['sequence'] for b in d['backups']] == list(range(1, $((count + 6))))" vdisk backup list repo --json
t 'of another name it is that still' backup --drive mail
is 'and there is one snapshot' "$(snapshots)" "monday backup-$((count + 6)) "

# ---- hooks ----

hook() { echo "vdisk ctl --socket run/socket snapshot-list vm1 | grep -c backup- >>hooks; $1"; }
t 'with hooks' backup --freeze-hook "$(hook true)" --thaw-hook "$(hook true)"
is 'the snapshot is made between them' "$(tr '\n' ' ' <hooks)" '1 2 '
json 'which the backup says' "d['backups'][-1]['consistency'] == 'filesystem' and d['backups'][-2]['consistency'] == 'crash'" \
    vdisk backup list repo --json
rm hooks
fails 1 'freeze hook failed' 'without a freeze' backup --freeze-hook "$(hook false)" --thaw-hook "$(hook true)"
is 'there is no snapshot' "$(tr '\n' ' ' <hooks)$(snapshots)" "1 1 monday backup-$((count + 7)) "
is 'and no backup' "$(backups)" "$((count + 7))"

# ---- what does not work says why ----

fails 1 'no export' 'no such export' vdisk backup create repo vdiskd:vm2 --socket run/socket
fails 1 'no management' 'nobody there' vdisk backup create repo vdiskd:vm1 --socket run/none
fails 2 'vdiskd:EXPORT' 'a socket is of no use to a file' vdisk backup create repo a.vdk --socket run/socket
fails 2 'an image.s file' "a daemon's image takes no key" backup --image-key-file key
fails 2 'for nbd:' 'nor a bitmap' backup --bitmap x
fails 2 'of at most' 'a name that is no text' backup --drive $'a\nb'
is 'all that left no snapshot' "$(snapshots)" "monday backup-$((count + 7)) "
down 'the daemon ends'
t 'a daemon without NBD' daemon
fails 1 'no Unix socket' 'has nothing to read from' backup
down 'it ends'
t 'one that only reads' up vdiskd --export "vm1=a.vdk,key-file=$PWD/key,read-only" \
    --socket "$PWD/run/socket" --nbd unix:nbd
fails 1 'read-only' 'can keep no snapshot' backup
down 'it ends, too'
clean 'the image is sound' a.vdk
t 'and so is the repository' vdisk backup verify repo --data
