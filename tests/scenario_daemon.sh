#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# vdiskd as a service: its configuration file, its service manager, and management while it serves.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"

start=(python3 "$VDISK_SRC/tests/daemon_start.py")
ctl() { vdisk ctl --socket "$PWD/run/control/s" "$@"; }
refused() { # STATUS TEXT NAME OPTION...: vdiskd ends with the status and one line that has the text
    local want=$1 text=$2 name=$3 status=0
    timeout 60 vdiskd "${@:4}" >.out 2>.err </dev/null || status=$?
    if [ "$status" = "$want" ] && [ "$(wc -l <.err)" = 1 ] && grep -qE -- "$text" .err; then
        ok "$name"
    else
        echo "#   status $status, not $want, or not one line with '$text'"
        not_ok "$name"
    fi
}
said() { # TEXT FILE: comes up there
    for _ in {1..200}; do
        grep -qF -- "$1" "$2" && return 0
        sleep 0.05
    done
    return 1
}
size() { nbdinfo --size "$(uri "$1")"; }

# ---- images with keys of each kind, and a configuration file ----

mkdir run images images/later log
printf 'correct horse\n' >words
vdisk key generate pair 2>.err
vdisk create images/file.vdk --size 16M
vdisk create images/words.vdk --size 16M --passphrase-file words "${CHEAP[@]}"
vdisk create images/pair.vdk --size 16M --recipient pair.pub
vdisk create images/later.vdk --size 8M

configure() { # EXPORT...: further objects of the file's list of exports
    local IFS=,
    cat >vdiskd.json <<JSON
{
    "exports": [
        {"name": "file", "image": "$PWD/images/file.vdk", "key_file": "$PWD/key",
         "group": "guests", "limits": {"write_ops": {"rate": $rate}}},
        {"name": "words", "image": "$PWD/images/words.vdk", "passphrase_file": "$PWD/words"}
        ${*:+, $*}
    ],
    "groups": {"guests": {"read_bytes": {"rate": 1073741824, "burst": 33554432}}},
    "nbd": ["unix:$PWD/nbd"],
    "socket": "$PWD/run/control/s",
    "audit_log": "$PWD/log/audit",
    "metrics": "unix:$PWD/run/metrics",
    "memory": "64M",
    "image_dirs": ["$PWD/images"]
}
JSON
}
pair='{"name": "pair", "image": "'$PWD'/images/pair.vdk", "identity": "'$PWD'/pair"}'
later='{"name": "later", "image": "'$PWD'/images/later.vdk", "key_file": "'$PWD'/key"}'
rate=100000
configure "$pair"

# ---- under a service manager ----

"${start[@]}" --notified "$PWD/notify" states &
manager=$!
until [ -S notify ]; do sleep 0.02; done
export NOTIFY_SOCKET=$PWD/notify
t 'it comes up with its file' up vdiskd --config vdiskd.json
t 'and says READY=1' said READY=1 states
for name in file words pair; do
    is "export $name is there" "$(size "$name")" $((16 << 20))
done
t 'a client writes by each kind of key' io pair 'write -P 7 0 1M' flush
is 'names are listed' "$(nbdinfo --list "$(uri '')" | grep -c '^export=')" 3
refused 5 'another daemon listens' 'a second daemon at its sockets is refused' --socket "$PWD/run/control/s"

# ---- read again ----

rate=777
configure "$later"
kill -HUP "$server"
t 'SIGHUP: RELOADING=1' said RELOADING=1 states
t 'it has a time' said MONOTONIC_USEC= states
t 'is logged' said 'event=reload' .server
is 'a new export is there' "$(size later)" $((8 << 20))
if size pair >.out 2>.err; then not_ok 'one that is gone is gone'; else ok 'one that is gone is gone'; fi
json 'limits have changed' "d['write_ops']['rate'] == 777" ctl limits-get file
is 'READY=1 again' "$(grep -c READY=1 states)" 2
configure "$pair"
t 'vdisk ctl reload does the same' ctl reload
json 'with what it has now' "sorted(e['name'] for e in d) == ['file', 'pair', 'words']" ctl export-list
is 'the data is there again' "$(io pair 'read -P 7 0 1M' && echo yes)" yes
echo '{' >vdiskd.json
fails 1 'line 2' 'a file with an error changes nothing' ctl reload
json 'nothing at all' "len(d) == 3" ctl export-list
configure "${pair/pair.vdk/none.vdk}"
fails 1 'pair.*no such file' 'a reload that half works says so' ctl reload
configure "$pair"
t 'and can be repeated' ctl reload

# ---- the audit log is moved away ----

mv log/audit log/audit.1
t 'a reload begins a new one' ctl reload
t 'the old one is good' vdisk audit verify log/audit.1 --key-file log/audit.key
head=$(tail -n 1 .out)
t 'the new one goes on from it' vdisk audit verify log/audit --start "$head"
is 'and has what came since' "$(grep -c '"event":"reload"' log/audit)" 1
mv log/audit log/audit.2
kill -HUP "$server"
t 'SIGHUP does the same' said '"event":"reload"' log/audit
t 'it is good as well' vdisk audit verify log/audit.2 --key-file log/audit.key --start "$head"
head=$(tail -n 1 .out)

# ---- management while a client is connected ----

/usr/bin/python3 - "$(uri file)" >client 2>&1 <<'PYTHON' &
import nbd, os, sys, time
h = nbd.NBD()
h.connect_uri(sys.argv[1])
h.pwrite(b"x" * 65536, 0)
h.flush()
print("here", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
h.pwrite(b"y" * 65536, 65536)
h.flush()
PYTHON
client=$!
t 'a client is connected' said here client
json 'and seen' "[e['sessions'] for e in d if e['name'] == 'file'] == [1]" ctl export-list
t 'a snapshot is made' ctl snapshot-create file monday
json 'listed' "d[0]['name'] == 'monday' and d[0]['size_bytes'] == $((16 << 20))" ctl snapshot-list file
is 'served' "$(size file@monday)" $((16 << 20))
fails 1 'monday' 'not made twice' ctl snapshot-create file monday
t 'the drive grows' ctl resize file 32M
is 'a new client sees it' "$(size file)" $((32 << 20))
fails 1 'smaller' 'it does not shrink by mistake' ctl resize file 16M
json 'it is compacted' "d['freed_bytes'] >= 0" ctl compact file
t 'a checkpoint is made' ctl checkpoint file
touch go
wait "$client"
is 'the client noticed nothing' "$? $(grep -c . client)" '0 1'

# ---- a snapshot that clients use stays ----

uses() { # NAME EXPORT CONTEXT: a client until ./done-NAME is there ($user); it reads at the end
    /usr/bin/python3 - "$(uri "$2")" "$3" "done-$1" >"$1" 2>&1 <<'PYTHON' &
import nbd, os, sys, time
h = nbd.NBD()
for context in sys.argv[2:3]:
    h.add_meta_context(context)
h.connect_uri(sys.argv[1])
assert h.can_meta_context(sys.argv[2])
print("here", flush=True)
while not os.path.exists(sys.argv[3]):
    time.sleep(0.02)
extents = []
h.block_status(1 << 20, 0, lambda context, at, entries, error: extents.append((context, entries)))
dirty = [e for c, e in extents if c.startswith("qemu:dirty-bitmap:")]
print(h.pread(1, 65536)[0], h.pread(1, 0)[0], dirty)
PYTHON
    user=$!
}

uses since file qemu:dirty-bitmap:monday
since=$user
t 'a client asks what has changed since it' said here since
fails 5 'monday. is being read' 'it is not deleted then' ctl snapshot-delete file monday
uses of file@monday base:allocation
of=$user
t 'a client reads it' said here of
touch done-since
wait "$since"
is 'the first one had what it asked for' "$(tail -n 1 since)" '121 120 [[65536, 0, 65536, 1, 917504, 0]]'
fails 5 'monday. is being read' 'nor is it under the other' ctl snapshot-delete file monday
touch done-of
wait "$of"
is 'which had its state' "$(tail -n 1 of)" '0 120 []'
t 'the snapshot is deleted' ctl snapshot-delete file monday
fails 1 'monday' 'its bitmap and its state are no more' ctl snapshot-delete file monday
no_client() { ! nbdinfo "$1" >.out 2>&1; }
t 'nor is it served' no_client "$(uri file@monday)"
json 'it is gone' 'd == []' ctl snapshot-list file
json 'what the client did is counted' "d['write']['count'] == 2 and d['write']['bytes'] == 131072" ctl stats file
json 'and so is what that costs' "d['checkpoints'] > 0 and d['cache']['nodes']['hits'] > 0 and
    0 < d['cache']['nodes']['bytes'] <= d['cache']['nodes']['limit_bytes'] and d['journal']['records'] > 1 and
    d['journal']['syncs'] > 1 and 0 <= d['journal']['used_bytes'] < d['journal']['bytes']" ctl stats file
t 'a key is added' ctl key-add file --recipient "$(cat pair.pub)"
json 'and listed' "[k['kind'] for k in d] == ['key-file', 'recipient']" ctl key-list file
t 'the limits of an export are set' ctl limits-set file --write-ops 50K/9 --read-bytes 1G
json 'they are' "d['write_ops'] == {'rate': 51200, 'burst': 9} and d['write_bytes']['rate'] == 0" \
    ctl limits-get file
json 'groups are listed' "d[0]['name'] == 'guests' and d[0]['limits']['read_bytes']['burst'] == 1 << 25" \
    ctl group-list
t "a group's limits are set" ctl group-limits-set guests --read-ops 1000
json 'and told' "d['read_ops']['rate'] == 1000 and d['read_bytes']['rate'] == 0" ctl group-limits-get guests
fails 1 'no group' 'of one that is there' ctl group-limits-get other
t 'an export is removed' ctl export-remove file
t 'its image can be opened with the new key' vdisk info images/file.vdk --identity pair
t 'and is good' vdisk check images/file.vdk --key-file key
t 'it is added again by that key' ctl export-add file images/file.vdk --identity pair \
    --group guests --wait-when-full --write-ops 1000/10
is 'with all its bytes' "$(io file 'read -P 120 0 64K' 'read -P 121 64K 64K' && echo yes)" yes
t 'a key is removed' ctl key-remove file 1
json 'it is gone' "[k['kind'] for k in d] == ['key-file']" ctl key-list file
fails 1 'no export' 'a mistake is told' ctl stats none
fails 2 'not a size' 'bad words, too' ctl resize file much
fails 4 'key' 'a wrong key' ctl export-add later images/later.vdk --identity pair
exec 7<images/later.vdk
flock -n 7
began=$SECONDS
fails 5 'in use' 'an image that is in use' ctl export-add later images/later.vdk --key-file key
t 'is refused at once' test $((SECONDS - began)) -lt 2
exec 7<&-

# ---- metrics ----

curl -s --unix-socket run/metrics http://localhost/metrics >metrics
scraped() {
    python3 - <<'PYTHON'
import re
series = {}
for line in open("metrics", encoding="utf-8"):
    if not line.startswith("#"):
        name, labels, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)\n", line).groups()
        series.setdefault(name, {})[labels] = float(value)
total = series["vdisk_export_operations_total"]['export="file",operation="read"']
assert total == 2, total
bounds, last = [], None
for labels, value in series["vdisk_export_operation_seconds_bucket"].items():
    found = re.fullmatch(r'export="file",operation="read",le="(.*)"', labels)
    if found:
        bounds.append((float(found[1]), value))
assert bounds == sorted(bounds) and bounds[-1] == (float("inf"), total), bounds
assert all(a[1] <= b[1] for a, b in zip(bounds, bounds[1:]))
assert series["vdisk_export_operation_seconds_count"]['export="file",operation="read"'] == total
assert series["vdisk_export_journal_bytes"]['export="file"'] > 0
assert series["vdisk_export_cache_hits_total"]['export="file",cache="nodes"'] > 0
PYTHON
}
t 'metrics are scraped' scraped

# ---- the ends ----

t 'it is shut down' ctl shutdown
wait "$server"
is 'with status 0' $? 0
t 'it says STOPPING=1' said STOPPING=1 states
is 'its sockets are gone' "$(find . -type s -not -name notify)" ''
for image in file words pair later; do
    [ $image = words ] && key=(--passphrase-file words) || key=(--key-file key)
    [ $image = pair ] && key=(--identity pair)
    t "image $image is good" vdisk check "images/$image.vdk" "${key[@]}"
done
t 'the audit log is good' vdisk audit verify log/audit --start "$head"

t 'it comes up again' up vdiskd --config vdiskd.json --export "file2=images/later.vdk,key-file=key" \
    --memory 32M --metrics tcp:127.0.0.1:0
kill -9 "$server"
wait "$server" 2>/dev/null
t 'and after kill -9, where its sockets lie about' up vdiskd --config vdiskd.json
is 'it serves' "$(io pair 'read -P 7 0 1M' && echo yes)" yes
/usr/bin/python3 - "$(uri pair)" >client 2>&1 <<'PYTHON' &
import nbd, sys, time
h = nbd.NBD()
h.connect_uri(sys.argv[1])
print("here", flush=True)
time.sleep(60)
PYTHON
client=$!
said here client
down 'SIGTERM ends it under an idle client'
kill "$client" 2>/dev/null
kill "$manager"
unset NOTIFY_SOCKET

# ---- sockets that are handed over ----

t 'with sockets of the service manager' up "${start[@]}" --listen "nbd=nbd" --listen "control=c" \
    --listen "metrics=m" vdiskd --export "file=images/later.vdk,key-file=key"
is 'NBD is served there' "$(size file)" $((8 << 20))
json 'management, too' "len(d) == 1" vdisk ctl --socket c export-list
is 'and metrics' "$(curl -s --unix-socket m http://localhost/metrics | grep -c '^vdisk_export_size_bytes')" 1
down 'it ends'
is 'it leaves those sockets to their owner' "$(find . -maxdepth 1 -type s -not -name notify | wc -l)" 3
rm -f nbd c m

# ---- what is wrong is said ----

one=(--export "a=images/later.vdk,key-file=key")
refused 2 'nobody could reach it' 'no socket at all' "${one[@]}"
refused 1 'no .*colour' 'an unknown word' --export 'a=images/later.vdk,key-file=key,colour=red' --nbd "unix:$PWD/nbd"
refused 1 'needs a key' 'no key' --export 'a=images/later.vdk' --nbd "unix:$PWD/nbd"
refused 1 'two exports' 'a name twice' "${one[@]}" "${one[@]}" --nbd "unix:$PWD/nbd"
refused 4 'later.vdk' 'a wrong key' --export 'a=images/later.vdk,key-file=words' --nbd "unix:$PWD/nbd"
refused 1 'later.vdk|words' 'no image' --export 'a=images/words,key-file=key' --nbd "unix:$PWD/nbd"
refused 1 'cannot listen' 'no folder for the socket' "${one[@]}" --nbd "unix:$PWD/none/nbd"
refused 1 'metrics are for this host' 'metrics for everybody' "${one[@]}" --nbd "unix:$PWD/nbd" --metrics tcp:0.0.0.0:0
refused 1 'no such user' 'an operator that is none' "${one[@]}" --nbd "unix:$PWD/nbd" --operator 'no body'
refused 1 'tls-dir' 'TLS without keys' "${one[@]}" --nbd "unix:$PWD/nbd" --tls-required
refused 1 'none.json' 'no configuration file' --config none.json
chmod 777 run
refused 1 'not safe' 'a folder of everybody' "${one[@]}" --socket "$PWD/run/s"
chmod 700 run
