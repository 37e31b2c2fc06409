#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Debian's kernel with two processors is suspended in the middle of writing and verifying, and goes
# on, again and again; it learns that it was, and finds its memory and its drive as they were.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_lab.sh
. "$VDISK_SRC/tests/lib_lab.sh"

times=3
[ "${VDISK_TEST_LONG:-0}" != 1 ] || times=30

if lab_is_outside; then
    lab_ready || exit 0
    lab_guest_initrd initrd "$VDISK_SRC/tests/guest_vm_suspend_init.sh"
    cp "$KERNEL_CACHE/amd64/vmlinuz" generic
    kvm_is_fast || { lab "$0" serial initrd generic; exit; }
fi

vm=s$$
[ "$(id -u)" = 0 ] || export XDG_RUNTIME_DIR=$PWD/x
mkdir -p x

start() { # OPTION...
    vdisk run a.vdk --console stdio --quiet "$@" <.serial >>serial 2>>.guest &
    guest=$!
}
suspend() { # FILE
    local status=0
    rm -f "$1"
    t 'it is suspended' vdisk ctl --vm "$vm" suspend "$1"
    wait "$guest" || status=$?
    is 'and its programs end well' "$status" 0
    vdisk info "$1" 2>/dev/null | sed -n 's/^\(used\|drive\) */# \1 /p'
}

drive a.vdk 256M
mkfifo .serial
exec 8<>.serial
# shellcheck disable=SC2034
shown=
start --name "$vm" --kernel generic --initrd initrd --memory 512M --cpus 2 \
    --command 'console=ttyS0 quiet panic=-1 mitigations=off'
stepped modules mkfs mount
says '^KILL' || not_ok 'guest: it gets to the rounds'
says '^ROUND 1[^0-9]'
for ((i = 1; i <= times; i++)); do
    before=$(round)
    suspend state.vdk
    start --restore state.vdk
    if says "^ROUND $((${before:-0} + 2))[^0-9]"; then
        ok "the guest goes on, time $i, round $((${before:-0} + 2))"
    else
        sed 's/^/#   guest: /' .guest
        sed 's/^/#   serial: /' serial
        # Whether its processors still do something, it was reset, or says that round later.
        for _ in 1 2; do
            vdisk ctl --vm "$vm" info 2>&1 | sed 's/^/#   info: /'
            vdisk ctl --vm "$vm" metrics 2>&1 | sed 's/^/#   metrics: /'
            sleep 5
        done
        ! says "^ROUND $((${before:-0} + 2))[^0-9]" || echo '#   it has said that round by now'
        not_ok "the guest goes on, time $i"
        break
    fi
done
echo stop >&8
stepped rounds memory file processors random fork umount no_errors
says '^DONE' || kill "$guest"
status=0
wait "$guest" || status=$?
is 'it powers off, and vdisk run ends' "$status" 0
clean 'the image is clean' a.vdk
t 'the drive is exported' vdisk export a.vdk out.raw
t 'e2fsck: the file system is clean' e2fsck -fn out.raw
