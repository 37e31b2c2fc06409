#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `vdisk run REPO::BACKUP`, on the real KVM: a guest boots from a backup at once, its drive fills while
# it writes to it, also when vdiskd is killed, and is an ordinary image in the end.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"

kit=$VDISK_BUILD/tests/test_vm_suspend_ctl
if [ ! -x "$kit" ] || ! vdisk-vmm --probe 2>&1 | grep -qE 'instructions|slow'; then
    skip 'a guest is run from a backup' 'the VMM is not built here, or there is no KVM'
    exit
fi
"$kit" . # a kernel: writes
export XDG_STATE_HOME=$PWD/state
[ "$(id -u)" = 0 ] || export XDG_RUNTIME_DIR=$PWD/x
mkdir -p x
vm=b$$

run() {
    vdisk run "$@" --kernel writes --name "$vm" --memory 64M --console none --quiet >.run 2>&1 &
    guest=$!
}
is_up() {
    local try
    for try in {1..600}; do
        ! vdisk ctl --vm "$vm" info >/dev/null 2>&1 || return 0
        kill -0 $guest 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}
is_filled() {
    local try
    for try in {1..600}; do
        ! vdisk ctl --vm "$vm" export-list --json 2>/dev/null >.list || grep -q filling .list || return 0
        sleep 0.1
    done
    return 1
}

data a 30000000 1 mixed
drive web.vdk 200M
put a web.vdk 50000000
put a web.vdk 150000000
vdisk backup init repo && vdisk backup create repo web.vdk >.out 2>.err

fails 2 'goes with REPO::BACKUP' 'only a backup is run to another image' vdisk run web.vdk --to x.vdk
fails 1 'there is no backup' 'a backup that is not there' vdisk run repo::0000000 --to x.vdk --kernel writes
run repo::latest --to n.vdk
t 'a guest runs from a backup' is_up
daemon=$(pgrep -P $guest -x vdiskd)
kill -9 "$daemon"
t 'its drive is filled, though vdiskd was killed' is_filled
t 'the guest runs on' is_up
t 'it is stopped' vdisk ctl --vm "$vm" stop
wait $guest
is 'and ends' $? 0
json 'the drive is an image of its own' "d['source'] is None" vdisk info n.vdk --json
clean 'and sound' n.vdk
# The kernel has written to the first half of it at most.
vdisk read n.vdk 150000000 30000000 | cmp - a && vdisk read n.vdk 50000000 30000000 | cmp - a
verdict 'with what was backed up' $?
