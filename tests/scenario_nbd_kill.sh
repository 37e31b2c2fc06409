#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# vdiskd, killed by SIGKILL while clients write and flush, and started again at once, again and
# again: nothing that was flushed is lost.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"

if ! /usr/bin/python3 -c 'import nbd' 2>.err; then
    skip 'a killed server' 'python3-libnbd is not installed'
    exit 0
fi
if ! command -v fio >/dev/null; then
    skip 'a killed server' 'fio is not installed'
    exit 0
fi
tool() { /usr/bin/python3 "$VDISK_SRC/tests/nbd_tool.py" "$@"; }
flushed() { grep -c '^f' log; }
daemon() {
    up vdiskd --default-export drive --export "drive=$PWD/a.vdk,key-file=$VDISK_KEY_FILE" \
        --nbd "unix:$PWD/nbd" --socket "$PWD/control/socket"
}
# The writer has the first 8 MiB, each of its writes and flushes is in the log; fio has the rest.
verifying() { # FIO_OPTION...: in the place of the shell, so that a signal meets fio itself
    exec fio --name=job --ioengine=nbd --uri="$(uri '')" --offset=8m --size=24m --rw=randwrite --bs=4k \
        --iodepth=16 --fsync=16 --verify=crc32c --verify_fatal=1 "$@" >fio.out 2>&1
}

kills=3
[ "${VDISK_TEST_LONG:-0}" != 1 ] || kills=50
drive a.vdk 64M --compress zstd
: >log
t 'vdiskd starts' daemon
for ((i = 1; i <= kills; i++)); do
    before=$(flushed)
    tool writer "$(uri '')" log "$i" 2>.err &
    writer=$!
    verifying --do_verify=1 --loops=1000 --randseed="$i" &
    fio=$!
    for ((try = 0; try < 1200 && $(flushed) < before + 20; try++)); do sleep 0.05; done
    sleep "0.$((RANDOM % 10))$((RANDOM % 10))"
    kill -9 "$server"
    wait "$server" 2>/dev/null
    t "it starts again, kill $i" daemon || break
    wait "$writer" || not_ok "the client ended by itself, kill $i"
    kill "$fio" 2>/dev/null # if it was so late that it serves itself from the new one
    wait "$fio"
    grep -qE 'verify failed|verify: bad' fio.out && sed 's/^/#   fio: /' fio.out && not_ok "what fio read was right, kill $i"
    if [ "$(flushed)" -lt $((before + 20)) ]; then not_ok "there were flushes, kill $i"; fi
    t "nothing flushed is lost, kill $i, $(flushed) flushes" tool verify "$(uri '')" log
done
if (verifying --do_verify=1); then
    ok 'fio verifies as before'
else
    sed 's/^/#   fio: /' fio.out
    not_ok 'fio verifies as before'
fi
down 'vdiskd ends'
clean 'the image is clean' a.vdk
