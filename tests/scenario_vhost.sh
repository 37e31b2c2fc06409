#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The daemon's drives over vhost-user, as QEMU sees them: its firmware reads the boot sector of the
# drive, which prints a word.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"

if ! command -v qemu-system-x86_64 >/dev/null; then
    skip 'vhost-user with QEMU' 'there is no qemu-system-x86_64'
    exit 0
fi

boot_sector() { # WORD: prints it at the serial port, and halts
    python3 - "$1" <<'PYTHON'
import sys
code = bytes.fromhex(
    "fa31c08ed8be1e7c"  # cli; ds = 0; si = the word
    "bafd03eca82074fb"  # until the port takes a byte
    "ac84c07406"        # a byte, the last is 0
    "baf803eeebed"      # out, and again
    "f4ebfd"            # halt
)
sys.stdout.buffer.write((code + sys.argv[1].encode() + b"\0").ljust(510, b"\0") + b"\x55\xaa")
PYTHON
}

guest() { # SOCKET: a machine ($guest) that boots from it, its serial port is .serial
    rm -f .serial
    qemu-system-x86_64 -machine q35,accel=tcg,memory-backend=m -nodefaults -display none \
        -object memory-backend-memfd,id=m,size=64M,share=on -serial file:.serial \
        -chardev "socket,id=c,path=$1" -device vhost-user-blk-pci,chardev=c,bootindex=1 \
        >.guest 2>&1 </dev/null &
    guest=$!
}

halt() {
    kill "$guest" 2>/dev/null
    wait "$guest" 2>/dev/null
}

said() { # WORD: the guest of now says it, in time
    for _ in {1..600}; do
        grep -q "$1" .serial 2>/dev/null && return 0
        kill -0 "$guest" 2>/dev/null || break
        sleep 0.05
    done
    sed 's/^/#   guest: /' .guest
    sed 's/^/#   server: /' .server
    return 1
}

boots() { # NAME SOCKET WORD
    guest "$2"
    if said "$3"; then ok "$1"; else not_ok "$1"; fi
}

awaits() { # TEXT: comes up in the log
    for _ in {1..200}; do
        grep -q "$1" .server && return 0
        sleep 0.05
    done
    return 1
}

ctl() { vdisk ctl --socket "$PWD/run/control/s" "$@"; }
mkdir run

drive a.vdk 8M
boot_sector first-word >sector
put sector a.vdk 0
t 'a snapshot is made' vdisk snapshot create a.vdk old
boot_sector second-word >sector
put sector a.vdk 0
drive b.vdk 8M
boot_sector other-drive >sector
put sector b.vdk 0

# ---- vdisk serve ----

t 'vdisk serve has a socket for it' up vdisk serve a.vdk --vhost-user "$PWD/vm"
is 'which is for its owner alone' "$(stat -c '%a %F' vm)" '600 socket'
boots 'a guest boots from it' "$PWD/vm" second-word
guest_before=$guest
guest "$PWD/vm"
t 'a second machine at the drive is refused' awaits 'event=denied'
halt
guest=$guest_before
halt
t 'the end of the first is noticed' awaits 'event=disconnect'
boots 'then another may have it' "$PWD/vm" second-word
down 'SIGTERM ends it under a guest'
halt
is 'the socket is gone' "$(find . -name vm)" ''
t 'a snapshot is served' up vdisk serve a.vdk@old --vhost-user "$PWD/vm"
boots 'a guest boots from what was there then' "$PWD/vm" first-word
halt
down 'and ends'
clean 'the image is clean' a.vdk

# ---- by the conventions for back ends ----

json 'vdiskd tells its capabilities' "d['type'] == 'block' and 'blk-file' in d['features']" \
    vdiskd --print-capabilities
t '--socket-path' up vdiskd --socket-path "$PWD/vm" --blk-file a.vdk --key-file key --read-only
boots 'a guest boots from that' "$PWD/vm" second-word
halt
down 'and it ends'
: >.server
python3 - <<'PYTHON' &
import os, socket
listener = socket.socket(socket.AF_UNIX)
os.umask(0o077)
listener.bind("vm")
listener.listen()
os.dup2(listener.fileno(), 7)
with open(".server", "ab") as log:
    os.dup2(log.fileno(), 2)
os.execvp("vdiskd", ["vdiskd", "--fd", "7", "--blk-file", "a.vdk", "--key-file", "key"])
PYTHON
server=$!
t '--fd: a socket that was passed' awaits 'event=ready'
boots 'a guest boots from that, too' "$PWD/vm" second-word
halt
down 'it ends as well'
rm -f vm
vdiskd --socket-path "$PWD/vm" >.out 2>.err
is 'one without the other is wrong usage' "$? $(grep -c blk-file .err)" '2 1'

# ---- managed ----

daemon() {
    up vdiskd --export "a=a.vdk,key-file=key,vhost-user=$PWD/run/a" --socket "$PWD/run/control/s" \
        --image-dir "$PWD" --socket-dir "$PWD/run" --audit-log audit --metrics "unix:$PWD/run/m" "$@"
}
t 'a daemon with management' daemon
boots 'its guest boots' "$PWD/run/a" second-word
json 'the list tells the socket and the guest' \
    "d[0]['vhost_user'] == '$PWD/run/a' and d[0]['sessions'] == 1" ctl export-list
curl -s --unix-socket run/m http://localhost/metrics >metrics
is 'and so do the metrics' "$(grep -c '^vdisk_export_sessions{export="a"} 1' metrics)" 1
json 'what it read is counted' "d['read']['count'] > 0" ctl stats a
guest_before=$guest
guest "$PWD/run/a"
t 'a second machine is refused' awaits 'event=denied'
halt
guest=$guest_before
t 'removing the export takes its drive away' ctl export-remove a
halt
is 'and the socket' "$(find run -name a)" ''
t 'another export with a socket is added' ctl export-add b b.vdk --key-file key --vhost-user run/b
is 'for its owner alone, too' "$(stat -c '%a %F' run/b)" '600 socket'
boots 'a guest boots from it' "$PWD/run/b" other-drive
t 'the daemon is shut down' ctl shutdown
wait "$server"
is 'with status 0' $? 0
halt
is 'no socket is left' "$(find run -type s)" ''
for word in connect disconnect denied export-add; do
    t "the audit log has: $word" grep -q "\"event\":\"$word\"" audit
done
t 'and is good' vdisk audit verify audit
clean 'the images are clean' a.vdk
clean 'both of them' b.vdk
