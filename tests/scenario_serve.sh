#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# vdisk serve: one image, in the foreground, to clients that others wrote.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"

drive a.vdk 64M
data text $((3 << 20)) 1 mixed
put text a.vdk 1M
t 'a snapshot is made' vdisk snapshot create a.vdk monday

round() { # WORDS: all that a client does, by either back end
    t "$1: it comes up" serve a.vdk
    t "$1: a client writes" io '' 'write -P 0x5a 8M 1M' 'write -z 16M 1M' 'discard 32M 4M' flush
    t "$1: and reads" io '' 'read -P 0x5a 8M 1M' 'read -P 0 16M 1M' 'read -P 0 32M 4M'
    t "$1: all of the drive is copied" nbdcopy "$(uri '')" copy
    python3 - <<'PYTHON'
with open("a.model", "r+b") as file:
    file.seek(8 << 20)
    file.write(b"\x5a" * (1 << 20))
PYTHON
    same "$1: as it should be" copy a.model
    t "$1: a snapshot is an export of its own" nbdcopy "$(uri @monday)" copy
    t "$1: it is what it was" cmp copy monday.model
    fails_to_write "$1: nobody writes to it"
    down "$1: SIGTERM closes the image and ends it"
    is "$1: its socket is gone" "$(find . -name nbd)" ''
    clean "$1: the image is clean" a.vdk
    holds "$1: and has all that was written" a.vdk a.model
}

fails_to_write() {
    if io @monday 'write 0 4K'; then not_ok "$1"; else ok "$1"; fi
}

cp a.model monday.model
round uring
SERVE_OPTIONS=(--no-uring)
round threads
SERVE_OPTIONS=()

# ---- what does not work says so, with a status ----

head -c 32 /dev/urandom >other
fails 4 'wrong key' 'a wrong key is told' vdisk serve a.vdk --nbd "unix:$PWD/nbd" --key-file other
fails 2 'give --nbd' 'nowhere to serve' vdisk serve a.vdk
fails 1 'no such file' 'no image' vdisk serve b.vdk --nbd "unix:$PWD/nbd"
fails 1 'without TLS' 'TCP for others wants TLS' vdisk serve a.vdk --nbd tcp:0.0.0.0:0
t 'another serves it' serve a.vdk
fails 5 'in use' 'an image in use is told' vdisk serve a.vdk --nbd "unix:$PWD/nbd2"
fails 5 'in use' 'other commands are kept away' vdisk check a.vdk

# ---- what a daemon gives up, seen from outside ----

status() { awk -v name="$1:" '$1 == name { print $2 }' "/proc/$server/status"; }
is 'no new privileges' "$(status NoNewPrivs)" 1
is 'system calls are filtered' "$(status Seccomp)" 2
is 'no core dumps' "$(awk '/^Max core file size/ { print $5, $6 }' "/proc/$server/limits")" '0 0'
hidden() { # the key is nowhere that others can read
    python3 - "$server" <<'PYTHON'
import sys
key = open("key", "rb").read()
for name in ("cmdline", "environ"):
    try:
        text = open(f"/proc/{sys.argv[1]}/{name}", "rb").read()
    except PermissionError:
        continue
    assert key not in text and key[:8] not in text, name
PYTHON
}
t 'the key is in neither arguments nor environment' hidden
is 'the log has no key in it' "$(grep -cF "$(base64 -w0 key)" .server)" 0
down 'it ends'

# ---- other keys, and a snapshot alone ----

printf 'correct horse\n' >words
t 'with a passphrase' vdisk key add a.vdk --new-passphrase-file words "${CHEAP[@]}"
t 'it is served by passphrase' serve a.vdk --passphrase-file words
down 'and ends'
t 'a key pair' vdisk key generate pair
t 'opens it' vdisk key add a.vdk --new-recipient "$(awk '/^vdisk-recipient/' .out)"
t 'it is served by identity' serve a.vdk --identity pair
down 'and ends as well'
t 'a snapshot may be served alone' serve a.vdk@monday
t 'as the default export' nbdcopy "$(uri '')" copy
same 'with what was there then' copy monday.model
down 'and ends, too'
clean 'the image is clean at the end' a.vdk
