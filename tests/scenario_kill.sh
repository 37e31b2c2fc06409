#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# kill -9 at any moment: the image opens, the check finds nothing, and what was flushed is there.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"

rounds=${VDISK_TEST_LONG:+10}
: "${rounds:=1}"

# kill_soon MILLISECONDS COMMAND...: runs it, with standard input, and kills it before that has passed.
kill_soon() {
    local limit=$1 process
    shift
    "$@" >.out 2>.err <&0 &
    process=$!
    sleep "$(printf '0.%03d' $((RANDOM % limit)))"
    kill -9 "$process" 2>/dev/null
    wait "$process" 2>/dev/null
}

drive drive.vdk 32M
data kept 6000000 1 mixed
data news 9000000 2 mixed
put kept drive.vdk 0
vdisk snapshot create drive.vdk root
cp --sparse=always drive.model root.model

# A block of the range that was being written is the old one or the new one; no other has changed.
judge() { # OFFSET
    vdisk read drive.vdk 0 >now 2>.err && python3 - "$1" <<'PYTHON'
import sys
at = int(sys.argv[1])
now, old, new = (open(name, "rb").read() for name in ("now", "drive.model", "news"))
want = bytearray(old)
want[at:at + len(new)] = new
if len(now) != len(old):
    sys.exit("the size is another")
for block in range(0, len(now), 4096):
    if now[block:block + 4096] not in (old[block:block + 4096], bytes(want[block:block + 4096])):
        sys.exit(f"block at {block} is neither old nor new")
open("drive.model", "wb").write(now)
PYTHON
}

bad=0
for _ in $(seq $((10 * rounds))); do
    offset=$((RANDOM % 4096 * 4096))
    kill_soon 400 vdisk write drive.vdk "$offset" <news
    judge "$offset" >.out 2>&1 || { bad=$((bad + 1)); sed 's/^/# /' .out; }
    vdisk check drive.vdk >.out 2>&1 || { bad=$((bad + 1)); sed 's/^/# /' .out; }
    vdisk read drive.vdk@root 0 | cmp - root.model || bad=$((bad + 1))
done
is 'write: old or new, block by block, and the rest untouched' "$bad" 0

bad=0
for _ in $(seq $((8 * rounds))); do
    vdisk snapshot create drive.vdk goes
    vdisk write drive.vdk $((RANDOM % 4096 * 4096)) <news
    vdisk read drive.vdk 0 >drive.model
    kill_soon 150 vdisk snapshot delete drive.vdk goes
    vdisk check drive.vdk >.out 2>&1 || { bad=$((bad + 1)); sed 's/^/# /' .out; }
    vdisk read drive.vdk 0 | cmp - drive.model || bad=$((bad + 1))
    vdisk read drive.vdk@root 0 | cmp - root.model || bad=$((bad + 1))
    decoder check drive.vdk >.out 2>.err || { bad=$((bad + 1)); sed 's/^/# /' .out; }
    vdisk snapshot delete drive.vdk goes >.out 2>&1
done
is 'snapshot delete: gone or not, no more and no less' "$bad" 0
is 'no deletion is left' "$(vdisk snapshot list drive.vdk | awk 'NR > 1 { print $NF }')" root

bad=0
for _ in $(seq $((8 * rounds))); do
    for _ in 1 2 3; do
        head -c 20000 news | vdisk write drive.vdk $((RANDOM % 4096 * 4096))
    done
    vdisk read drive.vdk 0 >drive.model
    kill_soon 250 vdisk compact drive.vdk
    vdisk check drive.vdk >.out 2>&1 || { bad=$((bad + 1)); sed 's/^/# /' .out; }
    vdisk read drive.vdk 0 | cmp - drive.model || bad=$((bad + 1))
done
is 'compact: the same drive' "$bad" 0
json 'nothing is in use for nothing' "d['clean'] and d['leaked_blocks'] == 0" vdisk check drive.vdk --json

bad=0
for _ in $(seq $((6 * rounds))); do
    rm -f new.vdk
    kill_soon 300 vdisk import drive.model new.vdk --format raw
    [ ! -e new.vdk ] || vdisk check new.vdk >.out 2>.err ||
        grep -qE 'not a vdisk image|not authentic|damaged' .err || bad=$((bad + 1))
done
is 'import: an image that is in order, or one that is known not to be' "$bad" 0
rm -f new.vdk
t 'and the next one succeeds' vdisk import drive.model new.vdk --format raw
holds 'whole' new.vdk drive.model
