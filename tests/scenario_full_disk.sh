#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A host's disk that is full, as NBD clients see it: by policy they are told, or wait; by io_uring and
# by threads. What is mounted here is so only for this script.
if [ -z "${VDISK_UNSHARED-}" ] && unshare -m true 2>/dev/null; then
    VDISK_UNSHARED=1 exec unshare -m "$0"
fi
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"

# Writes 1 MiB pieces of 24 in turn, and prints how many worked and the first error; what worked is
# read back, by this connection and, after a flush, by the next.
cat >client.py <<'PYTHON'
import nbd, errno, random, sys, time
COUNT, MIB = 24, 1 << 20
pieces = [random.Random(i).randbytes(MIB) for i in range(COUNT)]

def connect():
    h = nbd.NBD()
    h.connect_uri(sys.argv[1])
    return h

def verify(h, done):
    assert all(h.pread(MIB, i * MIB) == pieces[i] for i in range(done))

h, done, error = connect(), 0, "none"
try:
    for done in range(COUNT):
        h.pwrite(pieces[done], done * MIB)
    done = COUNT
except nbd.Error as e:
    error = e.errno
verify(h, done)
if error == "none":
    h.flush()
    h.shutdown()
    verify(connect(), done)
print(done, error, flush=True)
PYTHON
client() { timeout 100 /usr/bin/python3 client.py "$(uri "$1")"; }
ctl() { vdisk ctl --socket "$PWD/run/s" "$@"; }

begin() { # EXPORT-OPTIONS: a disk of 20 MiB with an image, of which 8 are taken by another file
    mkdir -p full run
    chmod 750 run
    mount -t tmpfs -o size=20m none full 2>/dev/null || return 1
    vdisk create full/drive.vdk --size 64M
    head -c 8M /dev/zero >full/rest
    up vdiskd --export "drive=full/drive.vdk,key-file=key$1" --nbd "unix:$PWD/nbd" --socket "$PWD/run/s"
}

finish() { # by SIGTERM; then the image is good
    down 'the daemon ends'
    clean 'the image is good' full/drive.vdk
    umount full
}

for backend in io_uring threads; do
    [ "$backend" = io_uring ] || SERVE_OPTIONS=(--no-uring)
    if ! begin ''; then
        skip "a full disk, by $backend" 'no tmpfs can be mounted here'
        continue
    fi
    client drive >.told
    read -r fitted error <.told
    t "by $backend: some of it fits" test "$fitted" -gt 6 -a "$fitted" -lt 14
    is 'then a client is told that there is no space' "$error" ENOSPC
    rm full/rest
    client drive >.told
    read -r more error <.told
    t 'with 8 MiB it goes on' test "$more" -ge 7
    is 'until they are gone' "$error" ENOSPC
    mount -o remount,size=64m full
    is 'with enough all is written' "$(client drive)" '24 none'
    finish

    begin ,wait-when-full
    client drive >.told &
    waits=$!
    for _ in {1..200}; do
        json 'a client waits' "d['waiting_for_space'] > 0" ctl stats drive >.seen
        grep -q '^ok' .seen && break
        sleep 0.1
    done
    cat .seen
    t 'it is there' kill -0 "$waits"
    is 'and is not told anything' "$(cat .told)" ''
    t 'but the log tells why' grep -q 'event=requests-wait export=drive .*no space' .server
    json 'how many wait is counted' "0 < d['delayed'] <= d['in_flight']" ctl stats drive
    mount -o remount,size=64m full
    wait "$waits"
    is 'when there is space it goes on' "$(cat .told)" '24 none'
    t 'which is logged' grep -q 'event=requests-wait-over export=drive' .server
    json 'and nothing waits' "d['delayed'] == 0" ctl stats drive
    finish
done
