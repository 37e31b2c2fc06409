#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# vdisk backup create REPO nbd://...: exports of QEMU's, whole but for holes, and by dirty bitmaps.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
export XDG_STATE_HOME=$PWD/state
for tool in qemu-img qemu-io qemu-nbd qemu-storage-daemon nbdcopy; do
    command -v $tool >/dev/null || { skip 'exports of NBD' "$tool is not there"; exit 0; }
done

source="nbd+unix:///disk?socket=$PWD/s"
there() { # FILE
    local try
    for try in {1..200}; do
        [ ! -e "$1" ] || return 0
        sleep 0.05
    done
    return 1
}
nbd() { # OPTION...: qemu-nbd ($server) at ./s
    rm -f s
    qemu-nbd --read-only --persistent --export-name disk --socket "$PWD/s" "$@" >.server 2>&1 &
    server=$!
    there s
}
# served OPTION... -- COMMAND...: with disk.qcow2 served the command runs.
served() {
    local options=() status
    while [ "$1" != -- ]; do
        options+=("$1")
        shift
    done
    shift
    nbd "${options[@]}" -f qcow2 disk.qcow2 || return 1
    "$@"
    status=$?
    kill "$server"
    wait "$server" 2>/dev/null
    return $status
}
qio() {
    local commands=() command
    for command in "$@"; do commands+=(-c "$command"); done
    qemu-io -f qcow2 "${commands[@]}" disk.qcow2 >.io 2>&1 && ! grep -qE 'failed|rror' .io
}
backup() { vdisk backup create repo "$source" --drive mail "$@"; }
backups() { vdisk backup list repo --json | grep -c '"sequence"'; }
restores() { # NAME: the latest backup of the drive has what disk.qcow2 has
    rm -f out.raw
    vdisk backup restore repo latest out.raw --drive mail --quiet 2>.err &&
        qemu-img compare -f raw -F qcow2 out.raw disk.qcow2 >.out 2>&1
    verdict "$1" $?
}

data random 6000000 1 random
vdisk backup init repo
qemu-img create -q -f qcow2 disk.qcow2 600M
qio 'write -s random 1M 6M' 'write -P 7 300M 1M' 'write -P 8 599M 1M'

# ---- all of it, then by bitmaps: one begins with each backup, and serves the next ----

qemu-img bitmap --add disk.qcow2 b1
json 'an export is backed up, but for its holes' "d['sequence'] == 1 and d['drive'] == 'mail'
    and d['size'] == 600 << 20 and d['read_bytes'] == 8 << 20" served -- backup --json
restores 'and restores'
qio 'write -P 9 3M 64K' 'write -P 9 300M 64K' 'write -z 2M 1M' 'write -P 1 400M 4K' 'discard 599M 1M'
qemu-img bitmap --add disk.qcow2 b2
json 'with a bitmap what it has is read' "d['sequence'] == 2 and 0 < d['read_bytes'] <= 4 * 65536
    and d['chunks_zero'] == 2" served -B b1 -- backup --bitmap b1 --json
restores 'and nothing is missing'
json 'nothing changed: nothing is read' "d['read_bytes'] == 0 and d['stored_bytes'] == 0" \
    served -B b2 -- backup --bitmap b2 --json
qio 'write -s random 320M 5M' 'write -P 5 0 4K'
qemu-img bitmap --clear disk.qcow2 b1
json 'from a server for many clients' "d['read_bytes'] == (5 << 20) + 65536" \
    served --shared=8 -B b1 -B b2 -- backup --bitmap b2 --json
restores 'likewise'
qio 'write -P 6 10M 64K' 'write -z 323M 64K'
json 'by a bitmap that was cleared then' "d['read_bytes'] == 65536" served -B b1 -- backup --bitmap b1 --json
restores 'too'
qio 'write -P 11 20M 64K'
json 'without a bitmap all of it is read, and compared by hash' "d['read_bytes'] > 8 << 20
    and d['chunks_known'] > 3 and 0 < d['chunks_stored'] <= 4" served --shared=2 -- backup --json
restores 'of course'
json 'it is one drive' "[(b['source'], b['drive'], b['snapshot'], b['sequence']) for b in d['backups']]
    == [('nbd', 'mail', None, i) for i in range(1, 7)] and len({b['drive_id'] for b in d['backups']}) == 1" \
    vdisk backup list repo --json
t 'every byte in the repository is right' vdisk backup verify repo --data
port=$((20000 + RANDOM % 10000))
if qemu-nbd --read-only --persistent --fork --pid-file=tcp.pid --bind 127.0.0.1 --port $port -f qcow2 disk.qcow2 2>.err; then
    json 'over TCP, and called as it is asked for' "d['drive'] == 'nbd://127.0.0.1:$port' and d['stored_bytes'] < 4096" \
        vdisk backup create repo nbd://127.0.0.1:$port --json
    kill "$(cat tcp.pid)"
else
    skip 'over TCP' "port $port is taken"
fi

# ---- of a drive that is written meanwhile ----

qmp() { # REQUEST: to qemu-storage-daemon; what it answers is in .reply
    local before try
    before=$(wc -l <.qmp)
    {
        tr -d '\n' <<<"$1"
        echo
    } >&7
    for try in {1..200}; do
        tail -n "+$((before + 1))" .qmp >.reply
        ! grep -q '"error"' .reply || return 1
        ! grep -q '"return"' .reply || return 0
        sleep 0.05
    done
    return 1
}
do_qmp() { # COMMAND ARGUMENTS
    qmp "{\"execute\": \"$1\", \"arguments\": $2}" || { cat .reply >&2; return 1; }
}
bitmap() { # add|disable BITMAP, of a transaction
    echo "{\"type\": \"block-dirty-bitmap-$1\", \"data\": {\"node\": \"disk\", \"name\": \"$2\"}}"
}
# At one moment the state is kept, one bitmap begins (NEW), the other ends (OLD); both are served.
moment() { # NEW [OLD]
    local actions bitmaps='[]'
    rm -f kept.qcow2
    qemu-img create -q -f qcow2 kept.qcow2 600M
    actions="$(bitmap add "$1"), {\"type\": \"blockdev-backup\", \"data\": {\"job-id\": \"keep\",
        \"device\": \"disk\", \"target\": \"kept\", \"sync\": \"none\"}}"
    if [ $# = 2 ]; then
        actions+=", $(bitmap disable "$2")"
        bitmaps="[{\"node\": \"disk\", \"name\": \"$2\"}]"
    fi
    do_qmp blockdev-add '{"driver": "qcow2", "node-name": "kept", "backing": "disk",
            "file": {"driver": "file", "filename": "kept.qcow2"}}' &&
        do_qmp transaction "{\"actions\": [$actions]}" &&
        do_qmp block-export-add "{\"type\": \"nbd\", \"id\": \"kept\", \"node-name\": \"kept\",
            \"name\": \"kept\", \"bitmaps\": $bitmaps}"
}
over() { # [OLD]: the backup is made
    do_qmp block-export-del '{"id": "kept"}' && sleep 0.3 && do_qmp block-job-cancel '{"device": "keep"}' && sleep 0.3 &&
        do_qmp blockdev-del '{"node-name": "kept"}' &&
        { [ $# = 0 ] || do_qmp block-dirty-bitmap-remove "{\"node\": \"disk\", \"name\": \"$1\"}"; }
}
live() { qemu-io -f raw "${@}" "nbd+unix:///rw?socket=$PWD/live" >.io 2>&1 && ! grep -qE 'failed|rror' .io; }
kept() { vdisk backup create repo "nbd+unix:///kept?socket=$PWD/live" --drive live --json "$@"; }
has() { # NAME FILE
    rm -f out.raw
    vdisk backup restore repo latest out.raw --drive live --quiet 2>.err && cmp out.raw "$2" >.out 2>&1
    verdict "$1" $?
}

mkfifo .talk
qemu-storage-daemon --chardev stdio,id=m --monitor chardev=m \
    --blockdev driver=file,filename=disk.qcow2,node-name=file --blockdev driver=qcow2,file=file,node-name=disk \
    --nbd-server addr.type=unix,addr.path="$PWD/live",max-connections=16 \
    --export type=nbd,id=rw,node-name=disk,name=rw,writable=on <.talk >.qmp 2>.server &
daemon=$!
exec 7>.talk
there live
t 'a storage daemon serves a drive' do_qmp qmp_capabilities '{}'
t 'its state is kept' moment c1
nbdcopy "nbd+unix:///rw?socket=$PWD/live" was
t 'while it goes on' live -c 'write -P 21 1M 1M' -c 'write -P 22 450M 128K' -c flush
json 'the state is backed up' "d['sequence'] == 1 and d['read_bytes'] > 8 << 20" kept
t 'which is all' over
has 'it is as it was' was
t 'kept once more' moment c2 c1
nbdcopy "nbd+unix:///rw?socket=$PWD/live" was
t 'and written' live -c 'write -P 23 1M 1M' -c 'write -P 24 500M 128K' -c flush
json 'what changed between the two is read' "d['sequence'] == 2 and d['read_bytes'] == (1 << 20) + (128 << 10)" \
    kept --bitmap c1
t 'which is all again' over c1
has 'and it is as it was' was
exec 7>&-
kill "$daemon"
wait "$daemon" 2>/dev/null

# ---- a bitmap that cannot be right is refused ----

count=$(backups)
fails 1 'no dirty bitmap .b9.' 'one that is not served' served -B b1 -- backup --bitmap b9
fails 1 'the first one without' 'of a drive without a backup' served -B b1 -- vdisk backup create repo "$source" --bitmap b1
cp -r repo twin
served -- backup --quiet
mv repo mine && mv twin repo
served -- backup --quiet --accept-rollback
mv repo twin && mv mine repo
vdisk backup copy twin repo >/dev/null 2>&1
fails 1 'at once' 'with two last backups' served -B b1 -- backup --bitmap b1
t 'a backup without settles that' served -- backup
t 'and with it goes on' served -B b1 -- backup --bitmap b1
head -c 32 /dev/urandom >host.key
head -c 32 /dev/urandom >other.key
vdisk backup key add repo --role put --name web1 --new-key-file host.key >.out
vdisk backup key add repo --role put --name web2 --new-key-file other.key >.out
served -- backup --quiet --key-file host.key
fails 1 "another host's" 'after the backup of another host' served -B b1 -- backup --bitmap b1 --key-file other.key
t 'but not after its own' served -B b1 -- backup --bitmap b1 --key-file host.key
qemu-img bitmap --remove disk.qcow2 b1
qemu-img bitmap --remove disk.qcow2 b2
qemu-img resize -q disk.qcow2 700M
qemu-img bitmap --add disk.qcow2 b1
fails 1 'has 734003200 bytes, and had 629145600' 'when the size has changed' served -B b1 -- backup --bitmap b1
t 'without it that is no matter' served -- backup
restores 'at all'
is 'the refused ones have left nothing' "$(backups)" "$((count + 7))"
fails 2 'for nbd:' 'a file has no bitmap' vdisk backup create repo disk.qcow2 --bitmap b1
fails 2 'hooks' 'an export has no hooks' backup --freeze-hook true --thaw-hook true
fails 2 'an image.s file' 'nor a key' backup --image-key-file key
fails 2 'TLS' 'TLS is not spoken' vdisk backup create repo nbds://localhost/disk
fails 2 'HOST:PORT' 'a URI is one' vdisk backup create repo nbd://
fails 1 'efused|no such file' 'nobody is there' backup
fails 1 'not present|no export|refuses' 'it has another name' served -- \
    vdisk backup create repo "nbd+unix:///other?socket=$PWD/s"

# ---- a server that goes away ----

count=$(backups)
qio 'write -s random 620M 48M'
nbd --object throttle-group,id=t,x-bps-read=4194304 --image-opts \
    driver=throttle,throttle-group=t,file.driver=qcow2,file.file.filename=disk.qcow2
backup --quiet >.out 2>.err &
job=$!
sleep 2
kill -9 "$server"
wait "$job"
is 'is an error' "$?" 1
grep -q "^vdisk: nbd+unix.*: the server ended the connection" .err && [ "$(wc -l <.err)" = 1 ]
verdict 'that says so, in one line' $?
is 'and no backup' "$(backups)" "$count"
t 'the repository is sound' vdisk backup verify repo --data
t 'and the next one' served -- backup
restores 'restores'
