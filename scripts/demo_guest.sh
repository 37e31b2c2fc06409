#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What the demo does with its guest; scripts/demo.sh runs it, here or in the KVM lab. Its folder has
# drive.vdk, key, vmlinuz and initrd. It prints `BEGIN what`, `END what came of it`; at last `OVER`, or
# `LOG line`, `FAIL why`.
set -euo pipefail
name=demo-$$
patience=${DEMO_PATIENCE:-60} # seconds for what takes one on a fast machine
asked=0
answer=
: >said

begin() { echo "BEGIN $*"; }
end() { echo "END $*"; }
fail() {
    tail -n 30 serial | tr -d '\r' | sed 's/^/LOG guest: /'
    cat errors said | sed 's/^/LOG /'
    echo "FAIL $*"
    exit 1
}

# await PATTERN: the guest says it.
await() {
    local try
    for ((try = 0; try < patience * 5; try++)); do
        ! grep -qE -- "$1" serial || return 0
        kill -0 "$guest" 2>/dev/null || return 1
        sleep 0.2
    done
    return 1
}

# ask COMMAND: types it at the guest's console, where root is logged in; what it prints is in $answer.
ask() {
    local from
    from=$(stat -c %s serial)
    asked=$((asked + 1))
    echo "$1; echo ENDED $asked \$?" >&8
    await "^ENDED $asked " || fail "the guest does not answer to: $1"
    answer=$(tail -c "+$((from + 1))" serial | sed "/^ENDED $asked /d")
    grep -q "^ENDED $asked 0" serial || fail "the guest failed: $1"
}

start() {
    mkfifo console
    exec 8<>console
    vdisk run drive.vdk --key-file key --name "$name" --memory 512M --cpus 2 \
        --kernel vmlinuz --initrd initrd --command "console=ttyS0 quiet panic=-1 ${DEMO_KERNEL_WORDS:-}" \
        --console stdio --quiet <console >serial 2>errors 8>&- &
    guest=$!
    trap 'exit 143' HUP INT TERM
    trap 'kill "$guest" 2>/dev/null && sleep 0.2 && kill "$guest" 2>/dev/null; wait' EXIT
    await '^root@debian:.*# $' || fail 'Debian has not come up'
    ask 'stty -echo -onlcr; PS1='
}

begin 'vdisk run: Debian boots from the encrypted drive'
start
# shellcheck disable=SC2016  # for the guest's shell
ask '. /etc/os-release; echo "$PRETTY_NAME, Linux $(uname -r), $(nproc) processors"'
# What was echoed before is no answer.
end "$(tail -n 1 <<<"$answer")"

begin 'In the guest: files are written'
ask 'echo "the secret recipe" >/root/recipe; mkdir /root/units; cp /lib/systemd/system/systemd-[f-j]* /root/units; sync; ls /root/units | wc -l'
end "/root/recipe and $answer more"

begin 'vdisk ctl: a snapshot of the running guest'
vdisk ctl --vm "$name" snapshot-create drive0 before >said 2>&1 || fail 'there is no snapshot'
end

begin 'In the guest: files are changed and deleted'
ask 'echo "all gone" >/root/recipe; rm -r /root/units; cp /usr/bin/bash /root; sync'
end

begin 'vdisk ctl: its power button'
ask 'udevadm settle' # then logind has seen that there is one
vdisk ctl --vm "$name" power-button >said 2>&1 || fail 'it cannot be pushed'
for ((try = 0; try < patience * 5; try++)); do
    kill -0 "$guest" 2>/dev/null || break
    sleep 0.2
done
! kill -0 "$guest" 2>/dev/null || fail 'it does not shut down'
wait "$guest" || fail "vdisk run: exit status $?"
trap - EXIT
end 'Debian shuts down'
echo OVER
