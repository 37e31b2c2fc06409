#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What `vdisk run` makes of its command line, on the real KVM: limits of each drive, names that have
# commas, what is refused before anything runs; and that its drives can be looked at meanwhile.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_fuse.sh
. "$VDISK_SRC/tests/lib_fuse.sh"

kit=$VDISK_BUILD/tests/test_vm_suspend_ctl
if [ ! -x "$kit" ] || ! vdisk-vmm --probe 2>&1 | grep -qE 'instructions|slow'; then
    skip 'a guest is run' 'the VMM is not built here, or there is no KVM'
    exit
fi
"$kit" . # a kernel: writes
[ "$(id -u)" = 0 ] || export XDG_RUNTIME_DIR=$PWD/x
mkdir -p x
vm=r$$

run() { vdisk run a.vdk --kernel writes --name "$vm" --memory 64M --console none --quiet "$@"; }
is_up() {
    local try
    for try in {1..600}; do
        ! vdisk ctl --vm "$vm" info >/dev/null 2>&1 || return 0
        kill -0 $guest 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}
limits() { # NAME DRIVE EXPRESSION
    json "$1" "$3" vdisk ctl --vm "$vm" limits-get "drive$2"
}
for image in a b c,d e,f; do drive "$image.vdk" 1M; done
data random 300000 1 random
put random b.vdk 64K
t 'a snapshot is made' vdisk snapshot create e,f.vdk one
run --limits read-ops=50 --drive b.vdk,read-ops=100/200,write-bytes=1M --drive c,d.vdk \
    --drive c,,d.vdk@one,write-ops=7 2>.guest &
guest=$!
wait $guest
is 'a snapshot that is not there ends it' $? 1
run --limits read-ops=50 --drive b.vdk,read-ops=100/200,write-bytes=1M --drive c,d.vdk \
    --drive e,,f.vdk@one,write-ops=7 2>.guest &
guest=$!
t 'a guest runs' is_up
limits 'its first drive has the limit of all' 0 "d['read_ops']['rate'] == 50"
limits 'the second has its own' 1 \
    "d['read_ops'] == {'rate': 100, 'burst': 200} and d['write_bytes']['rate'] == 1 << 20"
limits 'the third, whose name has a comma, has that of all' 2 "d['read_ops']['rate'] == 50"
limits 'the snapshot of a fourth its own alone' 3 \
    "d['write_ops']['rate'] == 7 and d['read_ops']['rate'] == 0"

# ---- its drives are looked at while it runs ----

if [ -z "$(fuse_missing)" ]; then
    mkdir m
    told() { vdisk ctl --vm "$vm" snapshot-list "drive$1" --json | grep -c vdisk-mount; }
    t 'its drive is mounted' vdisk mount vdiskd:drive1 m --vm "$vm"
    same 'and read' m/disk b.model
    is 'by a snapshot' "$(told 1)" 1
    t 'it is unmounted' vdisk umount m
    is 'which is gone' "$(told 1)" 0
    t 'that which it writes as well' vdisk mount vdiskd:drive0 m --vm "$vm"
    cp m/disk before
    sleep 0.3
    dd if=m/disk iflag=nocache count=0 status=none
    same 'stands still' m/disk before
    t 'it is unmounted, too' vdisk umount m
    t 'the guest goes on' vdisk ctl --vm "$vm" info
else
    skip 'its drive is mounted' "$(fuse_missing | head -1)"
fi
t 'it is stopped' vdisk ctl --vm "$vm" stop
wait $guest
is 'and ends' $? 0
sed 's/^/#   guest: /' .guest

# ---- nobody waits for it any more ----

writes_of() { vdisk ctl --vm "$vm" stats drive0 | grep -A 1 '"write"' | tr -dc 0-9; }
goes_on() {
    local before
    before=$(writes_of)
    sleep 0.5
    [ -n "$before" ] && [ "$(writes_of)" != "$before" ]
}
are_gone() { # PID...
    local try pid
    for try in {1..100}; do
        for pid; do
            ended "$pid" || { sleep 0.1 && continue 2; }
        done
        return 0
    done
    return 1
}
killed() { # OPTION...: runs it, kills the one that started it, and its programs are $programs
    (exec vdisk run a.vdk --kernel writes --name "$vm" --memory 64M --console none --quiet "$@") 2>.guest &
    guest=$!
    is_up || return 1
    mapfile -t programs < <(pgrep -P "$guest")
    kill -9 "$guest"
    wait "$guest"
    sleep 1
    [ ${#programs[@]} = 2 ] && kill -0 "${programs[@]}"
}
t 'vdisk run is killed, and the guest has time to shut down' killed
t 'with its drives' goes_on
fails 5 'a guest of this name is running' 'its name is taken meanwhile' run
t 'it is stopped' vdisk ctl --vm "$vm" stop
t 'then all is gone' are_gone "${programs[@]}"
if [ "$(id -u)" = 0 ]; then
    chmod 711 .
    chown nobody a.vdk
    t 'it is killed when its programs are of another user' killed --user nobody
    t 'they are there no less' goes_on
    t 'and end as well' vdisk ctl --vm "$vm" stop
    t 'both of them' are_gone "${programs[@]}"
else
    skip 'the programs are of another user' 'only root can have that'
fi
if [ "${VDISK_TEST_LONG:-}" ]; then
    t 'it is killed, and the guest does not care for its button' killed
    sleep 85
    t 'it has 90 seconds' kill -0 "${programs[@]}"
    sleep 7
    t 'and no more' are_gone "${programs[@]}"
fi

fails 1 'nothing.vdk' 'an image that is not there is refused' run --drive nothing.vdk,read-ops=3
# By vdiskd, which knows what limits there are.
run --drive b.vdk,reed-ops=3 2>said
t 'so is a limit that is none' grep -x 'vdiskd: an export has no .reed_ops.' said
run --drive b.vdk, 2>said
t 'and none at all' grep -x 'vdiskd: a word is empty.*' said
