# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# A guest for scenarios: Debian's own kernel and an initramfs made here, whose first process says
# `STEP name ok`, or `failed`, on the serial port (tests/guest_steps.sh).
# shellcheck source-path=SCRIPTDIR source=../scripts/kernel.sh
. "$VDISK_SRC/scripts/kernel.sh"

patience=600 # seconds for what takes a few

# What is missing for a guest, as one line; nothing if nothing is.
guest_lacks() {
    kernel_lacks qemu-system-x86_64 fio mke2fs
}

# Programs of this system that are in a guest, beside fio.
GUEST_PROGRAMS=(mke2fs)

# guest_initramfs FILE INIT FLAVOURS MODULE...: busybox, programs, the modules of these kernels.
guest_initramfs() {
    local flavour
    root_busybox guest
    root_programs guest "${GUEST_PROGRAMS[@]}"
    root_fio guest >.err 2>&1 || root_programs guest fio
    for flavour in $3; do root_modules guest "$flavour" "${@:4}"; done
    cp "$VDISK_SRC/tests/guest_steps.sh" guest/steps
    cp "$2" guest/init && chmod 755 guest/init
    root_pack guest "$1"
}

# guest COMMAND...: starts it ($guest); it writes to ./serial, and reads from descriptor 8.
guest() {
    rm -f .serial
    mkfifo .serial
    : >serial # of another guest
    exec 8<>.serial
    "$@" <.serial >serial 2>.guest &
    guest=$!
    shown=
}

# says PATTERN: waits until the guest has said a line, or has ended.
says() {
    local try
    for ((try = 0; try < patience * 5; try++)); do
        ! grep -qE "$1" serial || return 0
        kill -0 "$guest" 2>/dev/null || break
        sleep 0.2
    done
    grep -qE "$1" serial
}

# stepped NAME...: the guest did these steps, and well.
stepped() {
    local name
    for name in "$@"; do
        if says "^STEP $name " && grep -q "^STEP $name ok" serial; then
            ok "guest: $name"
        else
            # Once: what follows is seldom of interest.
            [ -n "$shown" ] || tail -n 40 serial | sed 's/^/#   serial: /'
            [ -n "$shown" ] || sed 's/^/#   guest: /' .guest
            shown=1
            not_ok "guest: $name"
        fi
    done
}

round() { sed -n 's/^ROUND //p' serial | tail -n 1 | tr -d '\r'; }

# guest_kills COUNT START...: after KILL the guest writes, flushes and verifies in rounds. Kills the
# server ($server), each time somewhere in a round, and starts it again; then a round that is whole.
guest_kills() {
    local i before
    for ((i = 1; i <= $1; i++)); do
        sleep "0.$((RANDOM % 10))$((RANDOM % 10))"
        before=$(round)
        # shellcheck disable=SC2154
        kill -9 "$server"
        wait "$server" 2>/dev/null
        "${@:2}" || not_ok "vdiskd starts again, kill $i"
        if says "^ROUND $((${before:-0} + 2))[^0-9]"; then
            ok "the guest goes on, kill $i, round $((${before:-0} + 2))"
        else
            not_ok "the guest goes on, kill $i"
            break
        fi
    done
}
