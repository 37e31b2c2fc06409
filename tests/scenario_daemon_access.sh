#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Who may do what with vdiskd, what it gives up, and what its audit log tells about it.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"

ctl() { vdisk ctl --socket "$PWD/run/s" "$@"; }
size() { nbdinfo --size "$(uri "$1")"; }
status() { awk -v name="$1:" '$1 == name { print $2 }' "/proc/$server/status"; }

mkdir images elsewhere tls wrong
mkdir -m 755 run
drive images/a.vdk 16M
data random.data $((8 << 20)) 3 random
put random.data images/a.vdk 4M
drive elsewhere/b.vdk 1M
printf 'guest:%s\n' "$(head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n')" >tls/keys.psk
printf 'guest:%s\n' "$(head -c 32 /dev/urandom | od -An -vtx1 | tr -d ' \n')" >wrong/keys.psk
tls_uri() { echo "nbds+unix://guest@/a?socket=$PWD/nbd&tls-psk-file=$PWD/$1"; }

# ---- as root: another user for the daemon, others for its socket ----

other=65533
as() { # UID[,GROUP] COMMAND...: with the group as a supplementary one
    local groups=(--clear-groups)
    [ "$1" = "${1#*,}" ] || groups=(--groups "${1#*,}")
    setpriv --reuid "${1%,*}" --regid "${1%,*}" "${groups[@]}" "${@:2}"
}
as_ctl() { # UID WORD...: as root's ctl, by a copy that everybody may execute
    as "$1" bin/vdisk ctl --socket "$PWD/run/s" "${@:2}"
}
if [ "$(id -u)" = 0 ] && as $other true; then
    user=65532
    user_options=(--user "$user" --operator "$((other - 5))" --viewer "@$other")
    chmod 711 .
    mkdir -m 755 bin
    install -m 755 "$VDISK" bin/vdisk
    chown -R $user images elsewhere run tls
else
    user=$(id -u)
    user_options=()
fi

t 'the daemon comes up' up vdiskd --export "a=images/a.vdk,key-file=key" --nbd "unix:$PWD/nbd" \
    --socket "$PWD/run/s" --tls-dir tls --tls-psk --audit-log audit --metrics "unix:$PWD/m" \
    "${user_options[@]}"
is 'it is the user that it should be' "$(awk '$1 == "Uid:" { print $2, $3, $4, $5 }' "/proc/$server/status")" \
    "$user $user $user $user"
is 'without new privileges' "$(status NoNewPrivs)" 1
is 'with a filter of system calls' "$(status Seccomp)" 2
is 'its memory is not dumped' "$(awk '/^Max core file size/ { print $5, $6 }' "/proc/$server/limits")" '0 0'
if [ -n "${VDISK_SANITIZER-}" ]; then
    skip 'keys are locked in memory' 'mlock() does nothing under a sanitizer'
else
    is 'keys are locked in memory' "$(awk '$1 == "VmLck:" { print ($2 > 0) }' "/proc/$server/status")" 1
fi
is 'clients are served' "$(size a)" $((16 << 20))
is 'its sockets are for it alone' "$(stat -c '%a %u' nbd m | sort -u)" "600 $user"
if grep -q no-landlock .server; then
    skip 'it is kept to its folders' 'this kernel has no Landlock'
else
    fails 1 'ermission|permitted' 'it is kept to its folders' ctl export-add b elsewhere/b.vdk --key-file key
fi
if [ ${#user_options[@]} -gt 0 ]; then
    is 'it has no capabilities' "$(status CapEff) $(status CapPrm)" \
        '0000000000000000 0000000000000000'
    is 'nor groups' "$(awk '$1 == "Groups:" { print NF }' "/proc/$server/status")" 1
    json 'a viewer may look' 'len(d) == 1' as_ctl $other export-list
    fails 1 'may look only' 'and not touch' as_ctl $other snapshot-create a mine
    t 'an operator may' as_ctl $((other - 5)) snapshot-create a theirs
    member=$((other - 3))
    json 'a viewer by a supplementary group may look' 'len(d) == 1' as_ctl $member,$other export-list
    fails 1 'may look only' 'and not touch, either' as_ctl $member,$other snapshot-create a mine
    fails 1 'may not use' 'without that group nothing' as_ctl $member,$((other - 4)) export-list
    fails 1 'may not use' 'anybody else may nothing' as_ctl $((other - 2)) export-list
    is 'nor connect to the drive' "$(as $((other - 2)) nbdinfo --size "$(uri a)" 2>/dev/null)" ''
else
    skip 'users and roles' 'only root can become another user'
    t 'a snapshot is made' ctl snapshot-create a theirs
fi

# ---- clients that may not ----

if nbdinfo --size "$(tls_uri tls/keys.psk)" >.out 2>.err; then
    ok 'TLS with the right key'
else
    not_ok 'TLS with the right key'
fi
if nbdinfo --size "$(tls_uri wrong/keys.psk)" >.out 2>.err; then
    not_ok 'TLS with a wrong one is refused'
else
    ok 'TLS with a wrong one is refused'
fi
if size none >.out 2>.err; then not_ok 'no such export'; else ok 'no such export'; fi
fails 1 'no export' 'a command that fails' ctl checkpoint none
t 'a reload has nothing to do' ctl reload
mv audit audit.away
if grep -q no-landlock .server; then
    skip 'no new audit log where other things lie' 'this kernel has no Landlock'
else
    fails 1 'folder of its own' 'no new audit log where other things lie' ctl reload
fi
mv audit.away audit
fails 4 'key' 'a key that is wrong' ctl export-add c images/a.vdk --key-file tls/keys.psk
down 'it ends'

# ---- the log ----

recorded() { # EXPRESSION
    python3 - "$1" <<'PYTHON'
import json, sys
lines = [json.loads(line) for line in open("audit", encoding="utf-8")]
assert any(eval(sys.argv[1]) for d in lines), lines
PYTHON
}
has() { # NAME EXPRESSION: some line (`d`) is so
    t "audit: $1" recorded "$2"
}
has 'the start' "d['event'] == 'start'"
has 'what was opened' "d['event'] == 'export-open' and d['image'].endswith('a.vdk') and d['export'] == 'a'"
has 'a client and its user' "d['event'] == 'connect' and d['export'] == 'a' and d['uid'] == $(id -u) and d['pid']"
has 'its name by TLS' "d['event'] == 'connect' and 'guest' in d.get('tls_subject', '')"
has 'its end' "d['event'] == 'disconnect'"
has 'a wrong key of TLS' "d['event'] == 'auth-failed' and d['result'] == 'failed'"
has 'no such export' "d['event'] == 'denied' and d['export'] == 'none' and d['error'] == 'no such export'"
has 'a command' "d['event'] == 'snapshot-create' and d['detail'] == 'theirs' and d['result'] == 'done'"
has 'one that failed' "d['event'] == 'checkpoint' and d['result'] == 'failed' and 'none' in d['error']"
has 'a wrong key' "d['event'] == 'export-add' and d['image'].endswith('a.vdk') and d['result'] == 'failed'"
if [ ${#user_options[@]} -gt 0 ]; then
    has 'one that was not permitted' "d['event'] == 'snapshot-create' and d['uid'] == $other and d['result'] == 'failed'"
    has 'somebody unknown' "d.get('uid') == $((other - 2)) and d['result'] == 'failed'"
fi
has 'the end' "d['event'] == 'stop'"
t 'the log is good' vdisk audit verify audit
head=$(tail -n 1 .out)
sed '4s/"event":"./"event":"X/' audit >altered
fails 3 'line 4' 'an altered line is found' vdisk audit verify altered --key-file audit.key
sed 3d audit >altered
fails 3 'line 3' 'one that is missing' vdisk audit verify altered --key-file audit.key
awk 'NR == 3 { held = $0; next } { print } NR == 4 { print held }' audit >altered
fails 3 'line 3' 'lines that changed places' vdisk audit verify altered --key-file audit.key
head -n -1 audit >altered
fails 3 'missing' 'an end that was cut off' vdisk audit verify altered --key-file audit.key --head "$head"

# ---- nothing tells the key ----

no_secret() { # FILE...
    /usr/bin/env python3 - "$@" <<'PYTHON'
import base64, sys
secrets = [open("key", "rb").read(), open("audit.key", "rb").read()]
secrets += [bytes.fromhex(open(name).read().split(":")[1]) for name in ("tls/keys.psk", "wrong/keys.psk")]
for name in sys.argv[1:]:
    text = open(name, "rb").read()
    for secret in secrets:
        for form in (secret, secret.hex().encode(), secret.hex().upper().encode(),
                     base64.b64encode(secret), base64.b64encode(secret).rstrip(b"=")):
            assert form not in text, name
PYTHON
}
t 'neither log has a key in it' no_secret audit .server

# ---- damage ----

flip images/a.vdk $(($(stat -c %s images/a.vdk) - (5 << 20)))
t 'the image is damaged, and served' up vdiskd --export "a=images/a.vdk,key-file=key" \
    --nbd "unix:$PWD/nbd" --socket "$PWD/run/s" --audit-log audit "${user_options[@]}"
if nbdcopy "$(uri a)" copy >.out 2>.err; then not_ok 'its reader is told'; else ok 'its reader is told'; fi
json 'it is counted' "d['integrity_errors'] > 0" ctl stats a
is 'and logged' "$(grep -c 'event=integrity export=a' .server | sed 's/[1-9].*/some/')" some
down 'it ends'
has 'the damage' "d['event'] == 'integrity-error' and d['export'] == 'a'"
t 'the log goes on' vdisk audit verify audit --head "$head"

# ---- where io_uring is not permitted ----

t 'without io_uring it comes up' up python3 "$VDISK_SRC/tests/daemon_start.py" --no-io-uring \
    vdiskd --export "b=elsewhere/b.vdk,key-file=key,write-ops=1/1" --nbd "unix:$PWD/nbd" --reactors 2
is 'says so once' "$(grep -c no-io-uring .server)" 1
is 'and serves' "$(io b 'write -P 1 0 4K' 'read -P 1 0 4K' && echo yes)" yes

# ---- an end is not put off by clients that wait ----

/usr/bin/python3 - "$(uri b)" >client 2>&1 <<'PYTHON' &
import nbd, sys
h = nbd.NBD()
h.connect_uri(sys.argv[1])
for i in range(60):
    h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(512)), i * 512)
print("here", flush=True)
try:
    while True:
        h.poll(-1)
except nbd.Error:
    pass
PYTHON
client=$!
for _ in {1..100}; do grep -qs here client && break; sleep 0.05; done
sleep 0.2
SECONDS=0
down 'SIGTERM ends it though a minute of writes waits for a limit'
is 'within seconds' "$((SECONDS < 30))" 1
kill $client 2>/dev/null
clean 'the image is clean' elsewhere/b.vdk

# shellcheck disable=SC2016  # for the inner shell
small_disk() { # a daemon whose disk is full soon
    up unshare -m bash -c 'mount -t tmpfs -o size=8M none full &&
        vdisk create full/f.vdk --size 32M --compress none &&
        exec vdiskd --export "f=full/f.vdk,key-file=key,wait-when-full" --nbd "unix:$PWD/nbd" \
            --metrics "unix:$PWD/m"'
}
waits() {
    for _ in {1..200}; do
        curl -s --unix-socket m http://localhost/metrics >metrics
        grep -q '^vdisk_export_waiting_for_space_total{.*} [1-9]' metrics && return 0
        sleep 0.05
    done
    return 1
}
mkdir full
if unshare -m mount -t tmpfs none full 2>/dev/null; then
    t 'a daemon on a small disk' small_disk
    nbdcopy random.data "$(uri f)" >client 2>&1 &
    client=$!
    t 'a client waits for space' waits
    SECONDS=0
    down 'SIGTERM ends that, too'
    is 'within seconds as well' "$((SECONDS < 30))" 1
    kill $client 2>/dev/null || true
else
    skip 'a client that waits for space' 'only root can mount a small disk'
fi
