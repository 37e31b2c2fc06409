#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Backups as a person makes them: keys and roles, increments, restores, verification, damage.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"
export XDG_STATE_HOME=$PWD/state

name_of() { # DRIVE SEQUENCE: of a backup
    vdisk backup list repo --json | python3 -c 'import json, sys
print([b["name"] for b in json.load(sys.stdin)["backups"] if (b["drive"], b["sequence"]) == (sys.argv[1], int(sys.argv[2]))][0])' "$@"
}

# --- first backup, increment, restore ----------------------------------------------------------
data a 6000000 1 mixed
data b 70000 2 random
drive d.vdk 300M
put a d.vdk 4096
put b d.vdk 200000000
t 'a repository' vdisk backup init repo --name keeper
fails 1 'exists already' 'not over another' vdisk backup init repo
fails 1 'no backup repository' 'nothing is taken for one' vdisk backup list .
t 'the first backup' vdisk backup create repo d.vdk --tag first --tag monthly
cp d.model d.first
put b d.vdk 12345
json 'an increment reads what changed' \
    'd["read_bytes"] < 400000 and d["chunks_stored"] == 0 and d["patches"] == 1 and d["sequence"] == 2' \
    vdisk backup create repo d.vdk --json
json 'nothing changed: nothing is read' 'd["read_bytes"] == 0 and d["stored_bytes"] == 0' \
    vdisk backup create repo d.vdk --json
json 'the list' '[b["sequence"] for b in d["backups"]] == [1, 2, 3] and d["backups"][0]["tags"] == ["first", "monthly"]
    and d["backups"][0]["drive"] == "d.vdk" and d["backups"][0]["size"] == 300 << 20' vdisk backup list repo --json
json 'one snapshot is kept in the image' 'len(d["snapshots"]) == 1' vdisk snapshot list d.vdk --json
t 'the newest, raw' vdisk backup restore repo latest out.raw
same 'has the bytes of the drive' out.raw d.model
[ "$(du -k out.raw | cut -f1)" -lt 8000 ]
verdict 'and is sparse' $?
t 'an older one, by the digits of its name' vdisk backup restore repo "$(name_of d.vdk 1 | cut -c1-12)" first.raw
same 'has the bytes of then' first.raw d.first
if device=$(losetup --show -f first.raw 2>.err); then
    fill=$(stat -c %s first.raw)
    head -c "$fill" /dev/zero | tr '\0' 'x' >"$device"
    t 'to a device' vdisk backup restore repo "$(name_of d.vdk 1)" "$device"
    head -c "$fill" "$device" | cmp - d.first >.out 2>&1
    verdict 'has every byte, and zeros where there was something else' $?
    losetup -d "$device"
    truncate -s 1M small.raw
    device=$(losetup --show -f small.raw)
    fails 1 'the device has' 'one that is too small' vdisk backup restore repo "$(name_of d.vdk 1)" "$device"
    losetup -d "$device"
    rm small.raw
else
    skip 'to a device' 'there are no loop devices here'
fi
t 'as an image' vdisk backup restore repo latest new.vdk
holds 'the image has them' new.vdk d.model
clean 'and is sound' new.vdk
fails 1 'exists already' 'no restore over a file' vdisk backup restore repo latest out.raw
fails 1 'there is no backup' 'no such backup' vdisk backup restore repo 00000000 x.raw
t 'all is well' vdisk backup verify repo
t 'every byte' vdisk backup verify repo --data
t 'a new image makes increments of its own' vdisk backup create repo new.vdk --image-key-file key
json 'which store little: the content is known' '[b for b in d["backups"] if b["drive"] == "new.vdk"][0]["stored_bytes"] < 500000' vdisk backup list repo --json
fails 1 'several drives' 'latest of which drive' vdisk backup restore repo latest x.raw
t 'of this one' vdisk backup restore repo latest again.raw --drive new.vdk
same 'the same bytes' again.raw d.model
rm -f again.raw first.raw out.raw new.vdk

# --- raw drives ------------------------------------------------------------------------------------
cp d.model disk.raw
t 'a raw file' vdisk backup create repo disk.raw
printf 'changed' | dd of=disk.raw bs=1 seek=5000 conv=notrunc status=none
json 'again, by hash' 'd["chunks_stored"] == 1 and d["sequence"] == 2' vdisk backup create repo disk.raw --json
t 'restored' vdisk backup restore repo latest raw.out --drive disk.raw
same 'byte for byte' raw.out disk.raw
rm -f raw.out disk.raw

# --- keys ------------------------------------------------------------------------------------------
printf 'a passphrase' >pass
head -c 32 /dev/urandom >host.key
vdisk key generate id >/dev/null
t 'a host that makes backups' vdisk backup key add repo --role put --name web1 --new-key-file host.key
t 'another one, by its public key' vdisk backup key add repo --role put --new-recipient "$(cat id.pub)"
t 'a reader with a passphrase' vdisk backup key add repo --role read --new-passphrase-file pass "${CHEAP[@]}"
fails 2 'role' 'a role must be named' vdisk backup key add repo --new-key-file host.key
fails 1 'role read' 'the host adds no keys' vdisk backup key add repo --role read --new-passphrase-file pass --key-file host.key
json 'the keys are listed without a key' '[k["role"] for k in d["keyslots"]].count("put") == 2' \
    env -u VDISK_KEY_FILE vdisk backup key list repo --json
put b d.vdk 77777
t 'the host backs up' vdisk backup create repo d.vdk --key-file host.key --image-key-file key
fails 4 'cannot read data' 'and reads nothing' vdisk backup restore repo latest x.raw --drive d.vdk --key-file host.key
t 'the identity backs up' vdisk backup create repo d.vdk --identity id --image-key-file key
fails 4 'cannot read data' 'and reads nothing either' vdisk backup restore repo latest x.raw --drive d.vdk --identity id
[ ! -e x.raw ] && [ ! -e x.raw.part ]
verdict 'nothing is left of it' $?
t 'the reader restores' vdisk backup restore repo latest p.raw --drive d.vdk --passphrase-file pass
same 'what the host stored' p.raw d.model
head -c 32 /dev/urandom >wrong.key
fails 4 'wrong key' 'a wrong key' vdisk backup list repo --key-file wrong.key
vdisk backup key emergency repo >paper
grep -qE '^([0-9A-Z]{4}-){8}[0-9A-Z]{4}$' paper
verdict 'an emergency key, to be printed' $?
tr 'A-Z-' 'a-z ' <paper >typed
t 'opens, however it is typed in' vdisk backup list repo --passphrase-file typed
sed 's/^./#/' typed >slip
fails 4 'wrong key' 'a slip does not' vdisk backup list repo --passphrase-file slip
slot=$(vdisk backup key list repo --json | python3 -c 'import json,sys; print([k["slot"] for k in json.load(sys.stdin)["keyslots"] if k["name"]=="web1"][0])')
cp -r repo stolen
t 'the host is out' vdisk backup key remove repo --slot "${slot:0:10}"
fails 4 'wrong key' 'its key opens nothing' vdisk backup create repo d.vdk --key-file host.key --image-key-file key
t 'its backups restore all the same' vdisk backup verify repo --data
rm -rf stolen p.raw

# --- somebody changes the repository ---------------------------------------------------------------
# One that another one follows, whatever the drives' ids.
before=$(name_of d.vdk 2)
cp -r repo older
t 'one more' vdisk backup create repo d.vdk
mv repo newer && mv older repo
fails 4 'older state' 'an older state is noticed' vdisk backup list repo
fails 4 'older state' 'by a backup, too' vdisk backup create repo d.vdk
t 'unless it is accepted' vdisk backup list repo --accept-rollback
rm -rf repo && mv newer repo
t 'now the newer one is known' vdisk backup list repo
# shellcheck disable=SC2016  # the inner shell's
fails 4 'older state|is gone' 'a backup that goes without a record' sh -c 'f=$(find repo/backups -type f -printf "%T@ %p\n" | sort -n | tail -1 | cut -d" " -f2)
    mv "$f" gone && vdisk backup list repo >out; s=$?; mv gone "$f"; exit $s'
vdisk backup init other
mv repo mine && mv other repo
fails 4 'another repository' 'another repository in its place' vdisk backup list repo
rm -rf repo && mv mine repo
cp -r repo good

largest=$(find repo/packs -type f -printf '%s %p\n' | sort -n | tail -1 | cut -d' ' -f2)
flip "$largest" 50000
vdisk backup verify repo --data >out 2>err
is 'a changed byte: status 3' $? 3
grep -q "$(basename "$largest")" out
verdict 'it is named' $?
damaged=$(grep -c DAMAGED out)
[ "$damaged" -gt 0 ] && [ "$((damaged + $(grep -c ': restores$' out)))" = "$(vdisk backup list repo | tail -n +2 | wc -l)" ]
verdict 'and which backups restore' $?
mapfile -t good < <(sed -n 's/^backup \([0-9a-f]*\) .*: restores$/\1/p' out)
for backup in "${good[@]}"; do
    vdisk backup restore repo "$backup" r.raw 2>.err || not_ok "backup $backup restores"
    rm -f r.raw
done
mapfile -t bad < <(sed -n 's/^backup \([0-9a-f]*\) .*DAMAGED.*/\1/p' out)
for backup in "${bad[@]}"; do
    ! vdisk backup restore repo "$backup" r.raw 2>.err || not_ok "backup $backup was said not to restore"
    [ ! -e r.raw ] || not_ok 'a failed restore leaves a file'
done
ok 'what was said of each is so'
fails 3 'damage' 'the exit status of verify' sh -c 'vdisk backup verify repo --data >out'
rm -rf repo && cp -r good repo
rm "$largest"
fails 3 'do not restore' 'a pack that is gone' sh -c 'vdisk backup verify repo >out'
rm -rf repo && cp -r good repo
rm "repo/backups/$before"
fails 3 'damage' 'a backup that is gone' sh -c 'vdisk backup verify repo --accept-rollback >out'
grep -q "$before" out
verdict 'is named' $?
rm -rf repo && mv good repo

# --- killed ------------------------------------------------------------------------------------------
data c 30000000 3 random
put c d.vdk 100000000
for delay in 0.02 0.05 0.1 0.2 0.4; do
    vdisk backup create repo d.vdk --quiet &
    sleep "$delay"
    kill -9 $! 2>/dev/null
    wait $! 2>/dev/null
done
t 'after kills all is well' vdisk backup verify repo
t 'the next backup' vdisk backup create repo d.vdk
t 'restores' vdisk backup restore repo latest k.raw --drive d.vdk
same 'byte for byte after kills' k.raw d.model
json 'with one snapshot in the image' 'len(d["snapshots"]) == 1' vdisk snapshot list d.vdk --json
clean 'which is sound' d.vdk
vdisk serve d.vdk --nbd unix:s & server=$!
opened "$server" d.vdk
fails 5 'in use' 'an image that is in use' vdisk backup create repo d.vdk
kill "$server"
wait "$server"

# --- a full disk -----------------------------------------------------------------------------------
if [ "$(id -u)" = 0 ] && mkdir small && mount -t tmpfs -o size=8M tmpfs small 2>/dev/null; then
    t 'a repository on a small disk' vdisk backup init small/repo
    fails 1 'space' 'no room' vdisk backup create small/repo d.vdk
    t 'it is a repository still' vdisk backup verify small/repo
    json 'the snapshot for it is gone' 'len(d["snapshots"]) == 1' vdisk snapshot list d.vdk --json
    umount small
else
    skip 'a full disk' 'needs root and tmpfs'
fi
