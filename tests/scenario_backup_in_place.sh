#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A backup over the image it is of: what is fetched, what is kept, what is refused, and kills.
. "$VDISK_SRC/tests/lib.sh"
export XDG_STATE_HOME=$PWD/state

name_of() { # SEQUENCE: of a backup of d.vdk
    vdisk backup list repo --json | python3 -c 'import json, sys
print([b["name"] for b in json.load(sys.stdin)["backups"] if (b["drive"], b["sequence"]) == ("d.vdk", int(sys.argv[1]))][0])' "$1"
}
snapshots() { # PREFIX: the image's snapshots that begin so
    vdisk snapshot list d.vdk --json | python3 -c 'import json, sys
print(*[s["name"] for s in json.load(sys.stdin)["snapshots"] if s["name"].startswith(sys.argv[1])], sep="\n")' "$1"
}
forget() { # PREFIX
    local name
    for name in $(snapshots "$1"); do vdisk snapshot delete d.vdk "$name" || not_ok "$name is deleted"; done
}

data a 6000000 1 mixed
data b 3000000 2 random
drive d.vdk 200M
put a d.vdk 4096
put b d.vdk 100000000
vdisk backup init repo
vdisk backup create repo d.vdk >.out
cp d.model first
put b d.vdk 12345
vdisk backup create repo d.vdk >.out
cp d.model second

# --- what differs ------------------------------------------------------------------------------
data c 20000 3 random
put c d.vdk 2000000
put c d.vdk 50000000
json 'by its snapshot: what has changed since' \
    'd["compared_bytes"] == d["fetched_bytes"] == 1 << 20 and d["since"] == d["name"] and d["written_bytes"] < 30000' \
    vdisk backup restore repo latest d.vdk --in-place --json
holds 'the image is the backup' d.vdk second
holds 'the snapshot is what was there' "d.vdk@$(snapshots before-restore-)" d.model
t 'rolled back to it' vdisk snapshot rollback d.vdk "$(snapshots before-restore-)"
holds 'the image is what it was' d.vdk d.model
forget before-restore-
json 'an older backup: that, and what is between them' \
    '0 < d["fetched_bytes"] <= 4 << 20 and d["compared_bytes"] <= 5 << 20 and d["since"] != d["name"]' \
    vdisk backup restore repo "$(name_of 1)" d.vdk --in-place --json
holds 'the image is that one' d.vdk first
forget before-restore-
forget backup-
json 'without a snapshot: all is compared by hash' \
    'd["since"] is None and d["compared_bytes"] >= 9 << 20 and 0 < d["fetched_bytes"] <= 4 << 20' \
    vdisk backup restore repo "$(name_of 2)" d.vdk --in-place --json
holds 'and becomes the newer one' d.vdk second
json 'again: nothing is written' 'd["written_bytes"] == 0' \
    vdisk backup restore repo "$(name_of 2)" d.vdk --in-place --json
t 'a person is told' vdisk backup restore repo "$(name_of 2)" d.vdk --in-place
grep -q 'fetched' .out && grep -q 'snapshot before-restore-.*delete' .out
verdict 'what was fetched, and which snapshot to delete' $?
t 'quietly' vdisk backup restore repo "$(name_of 2)" d.vdk --in-place --quiet
[ ! -s .out ] && [ ! -s .err ]
verdict 'nothing is said' $?
forget before-restore-
clean 'the image is sound' d.vdk

# --- size and space ------------------------------------------------------------------------------
t 'larger' vdisk resize d.vdk 300M
head -c 40000000 /dev/urandom | vdisk write d.vdk 220000000
t 'restored' vdisk backup restore repo "$(name_of 2)" d.vdk --in-place
holds 'size and bytes' d.vdk second
forget before-restore-
json 'zeros are holes again' 'd["used_bytes"] < 20 << 20' vdisk info d.vdk --json
t 'smaller' vdisk resize d.vdk 50M --shrink
t 'restored' vdisk backup restore repo "$(name_of 2)" d.vdk --in-place
holds 'size and bytes' d.vdk second
forget before-restore-
t 'the next backup' vdisk backup create repo d.vdk
t 'is the same' vdisk backup restore repo latest same.raw
same 'byte for byte' same.raw second

# --- damage --------------------------------------------------------------------------------------
# In the middle of what is stored: clusters of data, of which one is hit.
for ((at = 2000000; at < 2400000; at += 20000)); do flip d.vdk "$at"; done
vdisk check d.vdk >.out 2>.err
is 'the image is damaged' $? 3
t 'all of it compared' vdisk backup restore repo latest d.vdk --drive d.vdk --in-place --compare
holds 'has mended it' d.vdk second
forget before-restore-
clean 'it is sound' d.vdk
head -c 110000000 /dev/urandom | vdisk write d.vdk 0
vdisk export d.vdk changed --quiet
largest=$(find repo/packs -type f -printf '%s %p\n' | sort -n | tail -1 | cut -d' ' -f2)
flip "$largest" 50000
fails 4 'the image is as it was before' 'a damaged repository' \
    vdisk backup restore repo "$(name_of 1)" d.vdk --in-place
holds 'which it is' d.vdk changed
is 'without a further snapshot' "$(snapshots before-restore-)" ''
flip "$largest" 50000
rm changed same.raw

# --- an overlay ------------------------------------------------------------------------------------
drive base.vdk 20M
put a base.vdk 0
vdisk create over.vdk --base base.vdk
cp base.model over.model
head -c 2000000 /dev/zero >zeros
put zeros over.vdk 2097152 # what the base has there shows no more
put c over.vdk 9000000
vdisk backup create repo over.vdk >.out
cp over.model over.then
put c over.vdk 2500000
put b over.vdk 1000000
t 'an overlay' vdisk backup restore repo latest over.vdk --drive over.vdk --in-place
holds 'is the backup, by its snapshot' over.vdk over.then
put b over.vdk 1000000
mkdir elsewhere && mv base.vdk elsewhere
fails 1 'base' 'its base has moved' vdisk backup restore repo latest over.vdk --drive over.vdk --in-place
t 'and is named' vdisk backup restore repo latest over.vdk --drive over.vdk --in-place --compare --base elsewhere/base.vdk
mv elsewhere/base.vdk .
holds 'it is the backup, by hash' over.vdk over.then
clean 'it is sound' over.vdk
rm over.vdk base.vdk

# --- refused ---------------------------------------------------------------------------------------
fails 1 'nothing to restore over' 'no image' vdisk backup restore repo latest none.vdk --drive d.vdk --in-place
fails 1 'in-place restores' 'over an image, and not meant' vdisk backup restore repo latest d.vdk --drive d.vdk
fails 2 'go with --in-place' 'words that belong to it' vdisk backup restore repo latest n.vdk --compare
vdisk backup restore repo latest n.vdk --drive d.vdk --quiet
fails 1 'other-drive' 'another drive' vdisk backup restore repo "$(name_of 1)" n.vdk --in-place
holds 'nothing of it is touched' n.vdk second
is 'not by a snapshot either' "$(vdisk snapshot list n.vdk --json | grep -c before-restore)" 0
t 'unless it is meant' vdisk backup restore repo "$(name_of 1)" n.vdk --in-place --other-drive
holds 'then it is the backup' n.vdk first
fails 1 'not .*image' 'a raw file' vdisk backup restore repo latest first --drive d.vdk --in-place
head -c 32 /dev/urandom >second.key
vdisk create e.vdk --size 10M --key-file second.key
fails 4 'image-key-file' 'an image with another key' vdisk backup restore repo latest e.vdk --drive d.vdk --in-place
t 'which is named' vdisk backup restore repo latest e.vdk --drive d.vdk --in-place --other-drive --image-key-file second.key
vdisk read e.vdk 0 --key-file second.key | cmp - second >.err 2>&1
verdict 'and has the bytes' $?
head -c 32 /dev/urandom >host.key
vdisk backup key add repo --role put --new-key-file host.key >.out
fails 4 'role read' 'who may not read' vdisk backup restore repo latest d.vdk --drive d.vdk --in-place --key-file host.key --image-key-file key
vdisk serve d.vdk --nbd unix:s & server=$!
opened "$server" d.vdk
fails 5 'in use' 'an image that is served' vdisk backup restore repo latest d.vdk --drive d.vdk --in-place
kill "$server"
wait "$server"
rm n.vdk e.vdk

# --- killed ------------------------------------------------------------------------------------------
# With the whole drive to fetch, once by a snapshot, once by hash. What was there stays to be had.
reads() { # IMAGE[@SNAPSHOT] MODEL: as holds
    vdisk read "$1" 0 2>.err | cmp -s - "$2"
}
vdisk backup restore repo latest d.vdk --drive d.vdk --in-place --quiet
forget before-restore-
cp second d.model
data noise 60000000 4 random
put noise d.vdk 120000000
vdisk backup create repo d.vdk >.out
cp d.model third
head -c 60000000 /dev/zero | vdisk write d.vdk 120000000
vdisk export d.vdk changed --quiet
cp d.vdk before.vdk
rounds=8
[ "${VDISK_TEST_LONG:-}" != 1 ] || rounds=60
partly=0
begin=$EPOCHREALTIME
vdisk backup restore repo latest d.vdk --drive d.vdk --in-place --quiet # how long it takes when nobody ends it
end=$EPOCHREALTIME
for ((round = 0; round < rounds; round++)); do
    cp before.vdk d.vdk
    [ $((round % 2)) = 0 ] || forget backup-
    vdisk backup restore repo latest d.vdk --drive d.vdk --in-place --quiet &
    sleep "$(awk -v a="$begin" -v b="$end" -v part="$((RANDOM % 100))" 'BEGIN { print (b - a) * part / 100 }')"
    kill -9 $! 2>/dev/null
    wait $! 2>/dev/null
    kept=$(snapshots before-restore-)
    [ -z "$kept" ] || reads "d.vdk@$kept" changed || not_ok "round $round: what was there is kept"
    reads d.vdk changed || reads d.vdk third || partly=$((partly + 1))
    [ $((round % 4)) != 3 ] || flip "$largest" 50000
    if vdisk backup restore repo latest d.vdk --drive d.vdk --in-place --quiet 2>.err; then
        reads d.vdk third || not_ok "round $round: run again, it is the backup"
    elif [ $((round % 4)) = 3 ]; then
        [ -z "$kept" ] || vdisk snapshot rollback d.vdk "$kept" || not_ok "round $round: rolled back"
        reads d.vdk changed || not_ok "round $round: back to what it was"
    else
        not_ok "round $round: run again"
    fi
    [ $((round % 4)) != 3 ] || flip "$largest" 50000
    vdisk check d.vdk >.out 2>.err || not_ok "round $round: the image is sound"
done
echo "# $partly of $rounds killed when a part was done"
ok 'killed at any moment: run again, or back'

for part in 20 50 80; do
    cp before.vdk d.vdk
    vdisk backup restore repo latest d.vdk --drive d.vdk --in-place --quiet 2>.err &
    sleep "$(awk -v a="$begin" -v b="$end" -v part="$part" 'BEGIN { print (b - a) * part / 100 }')"
    kill $! 2>/dev/null
    # A signal that comes when nothing is left to do ends it all the same, with the backup restored.
    if wait $! || [ -n "$(snapshots before-restore-)" ]; then
        reads d.vdk third || not_ok "part $part: done before the signal, it is the backup"
    else
        reads d.vdk changed || not_ok "part $part: the image is as it was"
    fi
done
ok 'ended by a signal: as it was'

# --- no room -----------------------------------------------------------------------------------------
if [ "$(id -u)" = 0 ] && mkdir small && mount -t tmpfs -o size=24M tmpfs small 2>/dev/null; then
    vdisk create small/s.vdk --size 10M
    head -c 5000000 /dev/urandom | vdisk write small/s.vdk 1000
    vdisk read small/s.vdk 0 >small.model
    fails 1 'space.*the image is as it was before' 'a full disk' \
        vdisk backup restore repo latest small/s.vdk --drive d.vdk --in-place --other-drive
    holds 'has what was there' small/s.vdk small.model
    clean 'is sound' small/s.vdk
    umount small
else
    skip 'a full disk' 'needs root and tmpfs'
fi
