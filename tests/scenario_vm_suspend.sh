#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `vdisk ctl suspend` and `vdisk run --restore` on the real KVM, with a guest that says the alphabet,
# a letter for each write to its drive: it goes on with the next letter; not with other drives, nor
# with its own when they moved on; what fails leaves it running. What is mounted is so only here.
if [ -z "${VDISK_UNSHARED-}" ] && unshare -m true 2>/dev/null; then
    VDISK_UNSHARED=1 exec unshare -m bash "$0"
fi
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=../scripts/bench_lib.sh
. "$VDISK_SRC/scripts/bench_lib.sh"

kit=$VDISK_BUILD/tests/test_vm_suspend_ctl
if [ ! -x "$kit" ] || ! vdisk-vmm --probe 2>&1 | grep -qE 'instructions|slow'; then
    skip 'a guest is suspended' 'the VMM is not built here, or there is no KVM'
    exit
fi
"$kit" .
[ "$(id -u)" = 0 ] || export XDG_RUNTIME_DIR=$PWD/x
mkdir -p x
vm=s$$
drives=()
guest=
image=a.vdk

# start OPTION...: the guest ($guest), saying what it does to ./said; it has begun.
start() {
    touch said
    local before
    before=$(stat -c %s said)
    vdisk run "$image" "${drives[@]}" --console "file:$PWD/said" --quiet "$@" 2>.guest </dev/null &
    guest=$!
    says $((before + 5))
}
boot() { start --kernel writes --name "$vm" --memory 64M --command "a-secret-of-the-guest" "$@"; }
says() { # BYTES: waits until it has said so many
    local try
    for try in {1..1200}; do
        [ "$(stat -c %s said)" -lt "$1" ] || return 0
        kill -0 "$guest" 2>/dev/null || break
        sleep 0.05
    done
    sed 's/^/#   guest: /' .guest
    return 1
}
goes_on() { says $(($(stat -c %s said) + 5)); }
ctl() { vdisk ctl --vm "$vm" "$@"; }
state() { ctl info 2>/dev/null | sed -n 's/^  "state": "\(.*\)",/\1/p'; }
ended() { # NAME STATUS
    wait "$guest"
    is "$1" $? "$2"
}
snapshots() { vdisk snapshot list "$image" | grep -o 'suspend-[0-9a-f]*'; }
served() { ctl snapshot-list drive0 | grep -c '"name": "suspend-'; }
# alphabet NAME: what was said is letters one after the other, and so many are on the drive.
alphabet() {
    vdisk read "$image" 512 4 >count 2>/dev/null
    python3 - said count >.out 2>.err <<'PYTHON'
import sys
said, count = (open(name, "rb").read() for name in sys.argv[1:])
for at, letter in enumerate(said):
    assert letter == ord("a") + at % 26, (at, said[:at + 1][-40:])
assert 0 <= int.from_bytes(count, "little") - len(said) <= 1, (count, len(said))
PYTHON
    verdict "$1" $?
}
# suspend NAME FILE OPTION...: it is, and its programs have ended.
suspend() {
    t "$1" ctl suspend "${@:2}" && ended 'and vdisk run ends well' 0
}

drive a.vdk 16M
t 'a guest starts' boot
if [ -z "${VDISK_SANITIZER:-}" ]; then
    kib=$(beyond_guest "$(child_named "$guest" vdisk-vmm)" 64)
    echo "# beyond its memory vdisk-vmm has $kib KiB"
    verdict 'beyond its memory vdisk-vmm has less than 5 MiB' "$([ "$kib" -lt 5120 ]; echo $?)"
fi
suspend 'it is suspended' s.vdk
is 'with a snapshot of its drive' "$(snapshots | wc -l)" 1
alphabet 'up to then it has said the alphabet'
cp said said.s
is 'of what it was nothing is to be read' "$(grep -c a-secret-of-the-guest s.vdk)" 0
t 'the state is a good image' vdisk check s.vdk
t 'it goes on' start --restore s.vdk
suspend 'it is suspended once more' t.vdk
alphabet 'with the next letter, and the next write'

fails 1 'written to since .*rollback. to `suspend-' 'its first state is not that of the drive any more' \
    vdisk run a.vdk --restore s.vdk
t 'it is rolled back' vdisk snapshot rollback a.vdk "$(snapshots | head -n 1)"
fails 1 'written to since' 'so now the second state is not' vdisk run a.vdk --restore t.vdk
cp said.s said
t 'the first goes on instead' start --restore s.vdk
suspend 'it is suspended' u.vdk
alphabet 'from where it was then'

# ---- other drives ----
cp a.vdk moved.vdk
drive other.vdk 16M
fails 1 'its id is another' 'another image is not its drive' vdisk run other.vdk --restore u.vdk
fails 1 'another number of drives' 'nor are two' vdisk run a.vdk --drive other.vdk --restore u.vdk
fails 1 'the drive itself and no snapshot' 'nor a snapshot of it' \
    vdisk run "a.vdk@$(snapshots | tail -n 1)" --restore u.vdk
fails 1 'had 64 MiB of memory, and is given 128 MiB' 'nor may it have more memory' \
    vdisk run a.vdk --restore u.vdk --memory 128M
fails 1 'had 1 processors, and is given 2' 'or processors' vdisk run a.vdk --restore u.vdk --cpus 2
fails 1 'not the state of a suspended guest' 'a drive is no state' \
    vdisk run a.vdk --restore other.vdk

# ---- keys, damage ----
head -c 32 /dev/urandom >key2
fails 4 'u.vdk: ' 'another key does not open it' \
    vdisk run a.vdk --restore u.vdk --restore-key-file key2
python3 - u.vdk bad.vdk <<'PYTHON'
import sys
data = bytearray(open(sys.argv[1], "rb").read())
for at in range(len(data) // 2 // 4096 * 4096, len(data), 4096):
    data[at + 5] ^= any(data[at:at + 4096])
open(sys.argv[2], "wb").write(data)
PYTHON
fails 4 'bad.vdk: ' 'what was altered does not go on' vdisk run a.vdk --restore bad.vdk

vdisk key generate pair >.out
image=renamed.vdk
mv a.vdk $image
t 'by another name the drive is the same' start --restore u.vdk
suspend 'a state may have a key of its own' v.vdk --recipient pair.pub
fails 4 'v.vdk: ' 'which is needed then' vdisk run $image --restore v.vdk
t 'and opens it' start --restore v.vdk --restore-identity pair

# ---- what fails ----
before=$(served)
fails 1 'exists|taken' 'a file that is there is not replaced' ctl suspend v.vdk
mkdir full
if mount -t tmpfs -o size=1m none full 2>/dev/null; then
    fails 1 'full/s.vdk: .*(space|room)' 'a full disk is told' ctl suspend full/s.vdk
    is 'and has no file' "$(ls full)" ''
    umount full
else
    skip 'a full disk is told' 'nothing can be mounted here'
fi
is 'nor are there snapshots' "$(served)" "$before"
is 'the guest runs' "$(state)" running
t 'and goes on' goes_on
fails 1 'no guest of this name' 'a guest that is not there is told' vdisk ctl --vm no suspend w.vdk
t 'it is ended' ctl stop
ended 'well' 0

# ---- whoever suspends it goes away ----
head -c 160M /dev/urandom >initrd
rm said
t 'a guest with more memory starts' boot --initrd initrd --memory 256M
before=$(served)
for signal in TERM KILL; do
    vdisk ctl --vm "$vm" suspend w.vdk 2>.err &
    tool=$!
    while [ "$(state)" = running ]; do :; done
    kill -"$signal" $tool
    wait $tool 2>/dev/null
    is "SIG$signal ends the tool amid it" $? $((128 + $(kill -l $signal)))
    if [ $signal = TERM ]; then
        is 'there is no file' "$(ls w.vdk 2>/dev/null)" ''
        is 'and no snapshot' "$(served)" "$before"
    else
        while [ "$(state)" = suspending ]; do :; done
        is 'the guest is paused' "$(state)" paused
        t 'and can be resumed' ctl resume
        fails 1 'or not all of it' 'what there is of the file is no state' \
            vdisk run $image --restore w.vdk
    fi
    t 'it goes on' goes_on
done
t 'it is ended' ctl stop
ended 'well' 0

# ---- drives that it cannot write ----
t 'a snapshot is made' vdisk snapshot create other.vdk one
drives=(--drive other.vdk@one)
rm said
t 'a guest with a snapshot starts' boot
suspend 'it is suspended' y.vdk
fails 1 'the snapshot .one. of it' 'not with what it is a snapshot of' \
    vdisk run $image --drive other.vdk --restore y.vdk
t 'it goes on' start --restore y.vdk
t 'it is ended' ctl stop
ended 'well' 0
clean 'its drive is clean' $image

drives=()
rm said
t 'a guest starts once more' boot
suspend 'it is suspended' z.vdk
name=$(snapshots | tail -n 1)
t 'its snapshot is deleted' vdisk snapshot delete $image "$name"
fails 1 'is gone: it cannot go on' 'without it, it does not go on' vdisk run $image --restore z.vdk
t 'another is made by that name' vdisk snapshot create $image "$name"
fails 1 'is gone: it cannot go on' 'nor with that one' vdisk run $image --restore z.vdk

# A guest that cannot write says nothing.
runs() {
    local try
    vdisk run other.vdk --console none --quiet "$@" 2>.guest </dev/null &
    guest=$!
    for try in {1..1200}; do
        [ "$(state)" != running ] || return 0
        kill -0 $guest 2>/dev/null || break
        sleep 0.05
    done
    return 1
}
t 'a guest starts whose drive is read-only' runs --kernel writes --name "$vm" --memory 64M --read-only
suspend 'it is suspended' ro.vdk
t 'it goes on' runs --restore ro.vdk
t 'it is ended' ctl stop
ended 'well' 0
t 'the drive is written to' put key other.vdk 0
fails 1 'was changed since .* read-only' 'then it does not go on' vdisk run other.vdk --restore ro.vdk
