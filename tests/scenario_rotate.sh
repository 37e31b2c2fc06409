#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `vdisk key rotate`: all content under a new volume key, and whatever happens meanwhile, an image.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"

drive drive.vdk 24M
data one 5000000 1 mixed
data two 200000 2 random
put one drive.vdk 100000
vdisk snapshot create drive.vdk root
cp --sparse=always drive.model root.model
put two drive.vdk 1M
vdisk snapshot create drive.vdk left
cp --sparse=always drive.model left.model
vdisk snapshot rollback drive.vdk root
cp --sparse=always root.model drive.model
put two drive.vdk 9M
vdisk snapshot create drive.vdk right
cp --sparse=always drive.model right.model
put two drive.vdk 17M
vdisk create split.vdk --size 64M --split 16M
data big 24000000 3 random
vdisk write split.vdk 0 <big

all_there() { # IMAGE WHEN
    holds "the drive is whole, $2" "$1" drive.model
    for name in root left right; do
        holds "snapshot $name is whole, $2" "$1@$name" "$name.model"
    done
    json "the snapshots are in their order, $2" \
        "[s['name'] for s in d['snapshots']] == ['root', 'left', 'right']" vdisk snapshot list "$1" --json
    clean "the check finds nothing, $2" "$1"
}

all_there drive.vdk 'before'
cp drive.vdk old.vdk
t 'an image is rotated' vdisk key rotate drive.vdk
all_there drive.vdk 'rotated'
all_there old.vdk 'in the old copy'
is 'it is the same image' "$(vdisk info drive.vdk | grep '^id ')" "$(vdisk info old.vdk | grep '^id ')"
# Sealed bytes look random: equal ones at the same or at any other place would show that a
# piece was kept as it was.
python3 - <<'PYTHON'
import sys
def blocks(path):
    data = open(path, "rb").read()
    first = 2 << 20
    return {data[at:at + 4096] for at in range(first + 12288, len(data), 4096)} - {bytes(4096)}
sys.exit(1 if blocks("old.vdk") & blocks("drive.vdk") else 0)
PYTHON
verdict 'no sealed block is the same' $?
decoder check drive.vdk >.out 2>.err
is 'the second decoder agrees' "$?" 0

head -c 40 /dev/urandom >second
vdisk key add drive.vdk --new-key-file second --quiet
vdisk key generate me >.out
vdisk key add drive.vdk --new-recipient me.pub --quiet
fails 1 'keep-key-file' 'other keys are not lost unasked' vdisk key rotate drive.vdk
t 'they are kept when named' vdisk key rotate drive.vdk --keep-key-file second
t 'and open it' vdisk info drive.vdk --key-file second
t 'recipients are kept by themselves' vdisk info drive.vdk --identity me
t 'or dropped when asked' vdisk key rotate drive.vdk --drop-others
fails 4 'key|opens' 'a dropped key opens no more' vdisk info drive.vdk --key-file second
fails 4 'key|opens' 'a wrong key rotates nothing' vdisk key rotate drive.vdk --key-file second

# --- killed at any moment

for image in drive.vdk split.vdk; do
    began=$(date +%s%N)
    vdisk key rotate "$image" --drop-others
    whole=$((($(date +%s%N) - began) / 1000000))
    vdisk read "$image" 0 >before
    bad=0
    for _ in {1..10}; do
        vdisk key rotate "$image" --drop-others >.out 2>&1 &
        process=$!
        sleep "$(printf '0.%03d' $((RANDOM % (whole < 900 ? whole + 50 : 950))))"
        kill -9 "$process" 2>.err
        wait "$process" 2>.err
        if ! vdisk read "$image" 0 2>.err | cmp -s - before || ! vdisk check "$image" >.out 2>.err; then
            bad=$((bad + 1))
        fi
    done
    is "$image, rotated and killed ten times (of $whole ms), is whole" "$bad" 0
    t 'the next rotation succeeds' vdisk key rotate "$image"
    holds 'and keeps the content' "$image" before
    is 'and leaves nothing behind' "$(echo "$image".rotate*)" "$image.rotate*"
done
all_there drive.vdk 'at the end'
is 'an image in parts has only its own parts' "$(find . -name 'split.vdk.*.001' | wc -l)" 1
