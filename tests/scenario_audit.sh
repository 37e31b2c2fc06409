#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The audit log seen from the command line: what `vdisk audit verify` finds and says.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"

# The format has a second writer here, from its description in tools/auditlog.h.
python3 - <<'PYTHON'
import hashlib, os
key = os.urandom(32)
head, lines = bytes(32), []
for number in range(1, 6):
    body = b'{"sequence":%d,"time":"2026-01-31T12:00:00.000000Z","event":"start"' % number
    head = hashlib.blake2b(head + body, key=key, digest_size=32).digest()
    lines.append(body + b',"hash":"' + head.hex().encode() + b'"}\n')
open("a.log", "wb").write(b"".join(lines))
open("head", "w").write(head.hex())
os.umask(0o077)
open("a.log.key", "wb").write(key)
PYTHON
head=$(cat head)

t 'a good log is good' vdisk audit verify a.log
is 'its head is printed' "$(tail -n 1 .out)" "$head"
t 'and accepted' vdisk audit verify a.log --head "$head"
json 'in JSON, too' "d['good'] and d['lines'] == 5 and d['head'] == '$head' and d['head_found']" \
    vdisk audit verify a.log --head "$head" --json
cp a.log.key elsewhere
t 'the key may lie elsewhere' vdisk audit verify a.log --key-file elsewhere

sed '3s/start/starT/' a.log >b.log
fails 3 'line 3' 'an altered line is found' vdisk audit verify b.log --key-file elsewhere
sed 2d a.log >b.log
fails 3 'line 2' 'a removed one' vdisk audit verify b.log --key-file elsewhere
sed 1d a.log >b.log
fails 3 'line 1' 'also the first' vdisk audit verify b.log --key-file elsewhere
head -n 4 a.log >b.log
t 'a log that was cut seems good' vdisk audit verify b.log --key-file elsewhere
fails 3 'missing' 'but not with the head' vdisk audit verify b.log --key-file elsewhere --head "$head"
vdisk audit verify b.log --key-file elsewhere --head "$head" --json >.out 2>.err
is 'with status 3 and an answer' "$? $(grep -c '"good": false' .out)" '3 1'
head -c 32 /dev/urandom >other
fails 3 'line 1' 'another key verifies nothing' vdisk audit verify a.log --key-file other
chmod 644 other
fails 1 'chmod 600' 'a key for all to read is refused' vdisk audit verify a.log --key-file other
fails 1 'key' 'no key at all' vdisk audit verify b.log
fails 2 'hex' 'a head that is none' vdisk audit verify a.log --head abc

# A log that goes on from the one before: its first line has the next number and the head of that.
python3 - <<'PYTHON'
import hashlib
key, head, lines = open("a.log.key", "rb").read(), bytes.fromhex(open("head").read()), []
for number in (6, 7):
    body = b'{"sequence":%d,"time":"2026-02-01T12:00:00.000000Z","event":"log-continued"' % number
    if number == 6:
        body += b',"before":"' + head.hex().encode() + b'"'
    head = hashlib.blake2b(head + body, key=key, digest_size=32).digest()
    lines.append(body + b',"hash":"' + head.hex().encode() + b'"}\n')
open("next.log", "wb").write(b"".join(lines))
PYTHON
t 'a log that continues another is good' vdisk audit verify next.log --key-file elsewhere --start "$head"
json 'it says which' "d['continues'] == '$head' and d['lines'] == 2" \
    vdisk audit verify next.log --key-file elsewhere --json
fails 3 'continue' 'one that continues yet another is found' \
    vdisk audit verify next.log --key-file elsewhere --start "${head//[0-7]/8}"
fails 3 'continue' 'and one that continues none' vdisk audit verify a.log --key-file elsewhere --start "$head"
sed 1d next.log >b.log
fails 3 'line 1' 'its first line is not to be missing' vdisk audit verify b.log --key-file elsewhere
fails 2 'hex' 'a start that is none' vdisk audit verify a.log --start abc
