#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A repository kept in order: rules, removal and return, collection beside backups, copies, figures.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"
export XDG_STATE_HOME=$PWD/state

names() { # REPO: of its backups, from the oldest on
    vdisk backup list "$1" --json --accept-rollback | python3 -c 'import json,sys
for b in json.load(sys.stdin)["backups"]: print(b["name"])'
}
packs() { # REPO: bytes in packs
    find "$1/packs" -type f -printf '%s\n' | awk '{s += $1} END {print s + 0}'
}

data a 6000000 1 random
data b 300000 2 random
drive d.vdk 100M
vdisk backup init repo
put a d.vdk 0
vdisk backup create repo d.vdk --tag release --quiet
cp d.model d.first
for i in 1 2 3 4 5 6; do
    put b d.vdk $((i * 10000000))
    vdisk backup create repo d.vdk --quiet
done
head -c 32 /dev/urandom >maintain.key
head -c 32 /dev/urandom >host.key
vdisk backup key add repo --role maintain --new-key-file maintain.key
vdisk backup key add repo --role put --new-key-file host.key
maintain=(--key-file maintain.key)

# --- rules ---------------------------------------------------------------------------------------
fails 2 'what is to be kept' 'a prune has rules' vdisk backup prune repo
fails 2 '36h, 30d' 'times are times' vdisk backup prune repo --keep-within 3x
fails 1 'role maintain' 'a host that makes backups removes none' vdisk backup prune repo --keep-last 2 --keep-tag release --key-file host.key
json 'what would go, and why' 'd["removed"] == 4 and d["dry_run"] and [b["keep"] for b in d["backups"]] == [True] + [False] * 4 + [True] * 2
    and d["backups"][0]["reason"] == "tag release" and d["backups"][6]["reason"] == "last" and d["backups"][1]["reason"] == "no rule keeps it"' \
    vdisk backup prune repo --keep-last 2 --keep-tag release --dry-run --json "${maintain[@]}"
[ "$(names repo | wc -l)" = 7 ]
verdict 'nothing has gone' $?
json 'all of today' 'd["removed"] == 0' vdisk backup prune repo --keep-within 1d --json
fails 1 'more than half' 'not too many at once' vdisk backup prune repo --keep-last 1
t 'immutable for a while' vdisk backup create repo d.vdk --immutable 30d
t 'and one more' vdisk backup create repo d.vdk
mapfile -t name < <(names repo)
fails 1 'is immutable' 'it is not removed by name' vdisk backup delete repo "${name[7]}"
json 'nor by a rule' '[b["reason"] for b in d["backups"] if b["keep"]] == ["immutable", "last"]' \
    vdisk backup prune repo --keep-last 1 --dry-run --json
t 'prune' vdisk backup prune repo --keep-last 3 --keep-tag release "${maintain[@]}"
[ "$(names repo | tr '\n' ' ')" = "${name[0]} ${name[6]} ${name[7]} ${name[8]} " ]
verdict 'those have gone, these are there' $?
t 'no sign of tampering' vdisk backup verify repo --data
t 'one comes back' vdisk backup undelete repo "${name[3]:0:12}"
t 'and restores' vdisk backup restore repo "${name[3]:0:12}" r.raw
fails 1 'no backup' 'once' vdisk backup undelete repo "${name[3]}"
t 'away by name' vdisk backup delete repo "${name[3]:0:12}"
rm -f r.raw

# --- collection ------------------------------------------------------------------------------------
fails 1 'role maintain' 'not by a host that makes backups' vdisk backup gc repo --key-file host.key
json 'what is young stays' 'd["trashed_packs"] == 0 and d["young_bytes"] > 0' vdisk backup gc repo --json "${maintain[@]}"
sleep 1.1
before=$(packs repo)
json 'what would go' 'd["trashed_packs"] >= 1 and d["deleted_objects"] == 0' vdisk backup gc repo --grace 0s --dry-run --json
[ "$(packs repo)" = "$before" ]
verdict 'it has not gone' $?
t 'at once' vdisk backup gc repo --grace 0s "${maintain[@]}"
[ "$(packs repo)" -lt "$before" ] && [ -z "$(find repo/trash -name 'packs-*')" ] && [ -z "$(ls repo/leases)" ]
verdict 'space is given back' $?
t 'all is well' vdisk backup verify repo --data
t 'the oldest' vdisk backup restore repo "${name[0]}" r.raw
same 'is what it was' r.raw d.first
rm -f r.raw
fails 1 'no backup' 'what has gone has gone' vdisk backup undelete repo "${name[3]}"
put b d.vdk 33333
json 'increments go on' 'd["read_bytes"] < 1100000' vdisk backup create repo d.vdk --json

# --- figures ------------------------------------------------------------------------------------
json 'figures' 'len(d["backups"]) == 5 and d["drives"] == 1 and d["size_bytes"] == 5 * (100 << 20) and d["deduplication_percent"] > 300
    and all(b["unique_bytes"] <= b["stored_bytes"] for b in d["backups"]) and d["stored_bytes"] <= d["pack_bytes"]' vdisk backup stats repo --json "${maintain[@]}"
mapfile -t name < <(names repo)
vdisk backup stats repo | grep -q 'deduplication'
verdict 'for people' $?
json 'what changed' '[(r["offset"], r["length"]) for r in d["ranges"]] == [(0, 1 << 20)]' \
    vdisk backup diff repo "${name[3]}" latest --json "${maintain[@]}"
json 'nothing from one to itself' 'd["ranges"] == []' vdisk backup diff repo "${name[3]}" "${name[3]}" --json

# --- copies ----------------------------------------------------------------------------------------
t 'a copy, without a key' env -u VDISK_KEY_FILE vdisk backup copy repo copy
same 'the same list' <(vdisk backup list repo) <(vdisk backup list copy)
t 'restores' vdisk backup restore copy latest r.raw
same 'the same bytes' r.raw d.model
rm -f r.raw
json 'again: nothing' 'd["packs"] == 0 and d["manifests"] == 0' env -u VDISK_KEY_FILE vdisk backup copy repo copy --json
t 'another backup' vdisk backup create repo d.vdk
json 'is all that is copied' 'd["manifests"] == 1 and d["packs"] <= 2' vdisk backup copy repo copy --all --json "${maintain[@]}"
fails 1 'another repository' 'not into another one' sh -c 'vdisk backup init other && vdisk backup copy repo other'
t 'one backup, with a key' vdisk backup copy repo some latest "${maintain[@]}"
t 'restores' vdisk backup restore some latest r.raw
same 'its bytes' r.raw d.model
t 'the rest is no sign of tampering' vdisk backup verify some --data
[ "$(packs some)" -lt "$(packs repo)" ] || [ "$(names some | wc -l)" = 1 ]
verdict 'it is alone' $?
rm -rf r.raw some other
largest=$(find repo/packs -type f -printf '%s %p\n' | sort -n | tail -1 | cut -d' ' -f2)
cp -r repo damaged
flip "damaged/${largest#repo/}" 5000
rm -rf copy
fails 3 'not what its name says' 'damage is not copied' env -u VDISK_KEY_FILE vdisk backup copy damaged copy --quiet
[ ! -e "copy/${largest#repo/}" ] && [ -z "$(ls copy/backups)" ]
verdict 'nor what might need it' $?
t 'from a good one it is completed' env -u VDISK_KEY_FILE vdisk backup copy repo copy
t 'all is well' vdisk backup verify copy --data
# shellcheck disable=SC2016  # the inner shell's
fails 3 'nobody knows' 'nothing is collected beside damage' sh -c 'f=$(ls damaged/backups | head -1) && printf x >>damaged/backups/$f && vdisk backup gc damaged --accept-rollback'
rm -rf damaged copy

# --- several at once -------------------------------------------------------------------------------
data u 3000000 7 random
data v 3000000 8 random
cp u one.raw
cp v two.raw
backups() { # FILE OTHER: some, each of what the other had, too
    for i in 1 2 3 4 5 6; do
        vdisk backup create repo "$1" --quiet || return 1
        dd if="$2" of="$1" bs=500000 count=1 skip="$i" seek="$((i / 2))" conv=notrunc status=none
    done
}
backups one.raw v 2>one.err &
one=$!
backups two.raw u 2>two.err &
two=$!
collections=0
while kill -0 $one 2>/dev/null || kill -0 $two 2>/dev/null; do
    vdisk backup prune repo --keep-last 2 --drive one.raw --force --quiet "${maintain[@]}" 2>>prune.err
    if [ $((collections % 3)) = 2 ]; then
        timeout -s KILL 0.05 vdisk backup gc repo --grace 0s --quiet "${maintain[@]}" 2>/dev/null
    else
        vdisk backup gc repo --grace 0s --quiet "${maintain[@]}" 2>>gc.err || cat gc.err
    fi
    collections=$((collections + 1))
done
wait $one
verdict "two hosts back up beside $collections collections" $?
wait $two
verdict 'both' $?
t 'all is well' vdisk backup verify repo --data
find repo/leases -type f -delete # of those that were killed
sleep 1.1
t 'and tidy' vdisk backup gc repo --grace 0s
t 'all is well then, too' vdisk backup verify repo --data
t 'the newest' vdisk backup create repo two.raw
t 'restores' vdisk backup restore repo latest r.raw --drive two.raw
same 'byte for byte' r.raw two.raw

# --- a drive at rest -------------------------------------------------------------------------------
hooks=(--freeze-hook 'echo freeze >>hooks' --thaw-hook 'echo thaw >>hooks')
t 'with hooks' vdisk backup create repo d.vdk "${hooks[@]}" --json
[ "$(tr '\n' ' ' <hooks)" = 'freeze thaw ' ]
verdict 'each is run once' $?
json 'what that is worth' 'd["backups"][-1]["consistency"] == "filesystem" and d["backups"][0]["consistency"] == "crash"' \
    sh -c 'vdisk backup list repo --json | python3 -c "
import json,sys
print(json.dumps({\"backups\": [b for b in json.load(sys.stdin)[\"backups\"] if b[\"drive\"] == \"d.vdk\"]}))"'
rm hooks
fails 1 'freeze hook failed' 'a freeze that fails' vdisk backup create repo d.vdk --freeze-hook false --thaw-hook 'echo thaw >>hooks'
[ "$(cat hooks)" = thaw ]
verdict 'is thawed, too' $?
rm hooks
fails 2 'go together' 'no freeze without a thaw' vdisk backup create repo d.vdk --freeze-hook true
fails 2 'for images' 'a raw file has no snapshot' vdisk backup create repo one.raw "${hooks[@]}"
wait_for() { # FILE
    for _ in $(seq 200); do
        if [ -s "$1" ]; then return; fi
        sleep 0.05
    done
}
vdisk backup create repo d.vdk --freeze-hook 'sleep 0.3; echo freeze >>hooks' --thaw-hook 'echo thaw >>thawed' 2>.err &
create=$!
sleep 0.2
kill -KILL $create
wait $create 2>/dev/null
wait_for thawed
[ "$(cat hooks thawed | tr '\n' ' ')" = 'freeze thaw ' ]
verdict 'the thaw comes though we are killed' $?
t 'and the next backup' vdisk backup create repo d.vdk

# --- nothing left ----------------------------------------------------------------------------------
vdisk backup init last
vdisk backup create last one.raw --quiet
t 'the last backup goes by name alone' vdisk backup delete last "$(names last)"
sleep 1.1
t 'and its space' vdisk backup gc last --grace 0s
[ "$(packs last)" = 0 ]
verdict 'all of it' $?
