#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a guest's process has given up while the guest runs, and that it gets by with the rest: SeaBIOS
# boots a sector of the drive, which counts itself, writes itself back, and resets the machine once.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"

firmware=/usr/share/seabios/bios-microvm.bin
if ! vdisk-vmm --probe 2>&1 | grep -qE 'instructions|slow'; then
    skip 'a guest is confined' 'the VMM is not built here, or there is no KVM'
    exit
elif [ ! -r $firmware ]; then
    skip 'a guest is confined' "there is no $firmware (Debian: seabios)"
    exit
fi
vm=c$$
user=$(id -u)
group=$(id -g)
options=()
if [ "$user" = 0 ]; then
    user=$(id -u nobody)
    group=$(id -g nobody)
    options=(--user nobody)
    chmod 711 .
else
    export XDG_RUNTIME_DIR=$PWD/x
    mkdir x
fi

# says TEXT: waits until the guest has said so.
says() {
    local try
    for try in {1..600}; do
        ! grep -qF "$1" said 2>/dev/null || return 0
        kill -0 "$run" 2>/dev/null || break
        sleep 0.1
    done
    sed 's/^/#   guest: /' .guest
    return 1
}
of() { sed -n "s/^$1:[[:space:]]*//p" "/proc/$pid/status" | tr -s '[:space:]' ' ' | sed 's/ $//'; }
# threads NAME: the different values that its threads have.
threads() { awk -v name="$1:" '$1 == name { print $2 }' "/proc/$pid/task/"*/status | sort -u; }
as_user() { # COMMAND...: as whom the guest's process is
    if [ "$(id -u)" = 0 ]; then
        setpriv --reuid "$user" --regid "$group" --clear-groups "$@"
    else
        "$@"
    fi
}
refused() { # NAME COMMAND...
    as_user "${@:2}" >.out 2>.err </dev/null
    verdict "$1" "$(grep -q 'ermission denied' .err && [ ! -s .out ]; echo $?)"
}

# At 0x7c80 it counts. Says X, writes itself, and resets by the keyboard controller; then Y, and halts.
python3 - >sector <<'PYTHON'
import sys
code = bytes.fromhex("""
    31c0 8ed8 8ec0 8ed0 bc007c  fe06807c
    b80103 bb007c b90100 b600 cd13
    baf803 a0807c 0457 ee  3c59 7404 b0fe e664  f4 ebfd""")
sys.stdout.buffer.write(code.ljust(510, b"\0") + b"\x55\xaa")
PYTHON
drive a.vdk 16M
put sector a.vdk 0
[ "$(id -u)" != 0 ] || chown nobody a.vdk

vdisk run a.vdk --name "$vm" --memory 64M --cpus 2 --firmware $firmware --console "file:$PWD/said" \
    --cpu-limit 50 --memory-limit 1G --weight 50 "${options[@]}" 2>.guest </dev/null &
run=$!
t 'a guest boots from its drive' says X
t 'and once more after a reset' says Y
pid=
read -ra children <"/proc/$run/task/$run/children"
for child in "${children[@]}"; do
    [ "$(cat "/proc/$child/comm")" != vdisk-vmm ] || pid=$child
done
if [ -z "$pid" ]; then
    not_ok 'the process is found'
    exit
fi

# ---- user, privileges ----
is 'its process is the user that it should be' "$(of Uid) $(of Gid)" \
    "$user $user $user $user $group $group $group $group"
[ "$(id -u)" != 0 ] || is 'without other groups' "$(of Groups)" ''
is 'and capabilities' "$(of CapPrm) $(of CapEff) $(of CapInh) $(of CapAmb)" \
    '0000000000000000 0000000000000000 0000000000000000 0000000000000000'
t 'it has threads' test "$(find "/proc/$pid/task" -mindepth 1 -maxdepth 1 | wc -l)" -ge 3
is 'none of them may get new privileges' "$(threads NoNewPrivs)" 1
is 'and each has a filter of system calls' "$(threads Seccomp)" 2

# ---- namespaces ----
if [ "$(id -u)" != 0 ]; then
    skip 'it has namespaces of its own' 'for who is not root they would cost more than they give'
elif grep -q no-namespaces .guest; then
    skip 'it has namespaces of its own' 'this system does not give them'
else
    for kind in net ipc uts; do
        t "it has a namespace of its own: $kind" \
            test "$(readlink "/proc/$pid/ns/$kind")" != "$(readlink "/proc/self/ns/$kind")"
    done
fi

# ---- memory ----
is 'there are no core dumps' "$(awk '/^Max core file size/ { print $5, $6 }' "/proc/$pid/limits")" '0 0'
refused 'its memory is not readable by others of its user' head -c 1 "/proc/$pid/mem"
refused 'nor what it has mapped' cat "/proc/$pid/maps"
refused 'nor the files that it has open' ls "/proc/$pid/fd"
if [ "$(id -u)" = 0 ]; then
    # A mapping's flags come last of it.
    is "the guest's memory is not dumped, whoever asks" "$(awk '/^[0-9a-f]+-/ { is = /guest-memory/ }
        is && /^VmFlags:/ { print / dd( |$)/ ? "dd" : $0 }' "/proc/$pid/smaps" | sort -u)" dd
else
    skip "the guest's memory is not dumped, whoever asks" 'only root can see that'
fi

# ---- limits ----
if grep -q 'limits of processors and memory are not in force' .guest; then
    ok 'a system without limits for groups is told'
    is 'once' "$(grep -c 'not in force' .guest)" 1
else
    group=/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup")
    is 'its limits are in force' "$(cat "$group"/{cpu.max,cpu.weight,memory.max} | tr '\n' ' ')" \
        "50000 100000 50 $((1 << 30)) "
fi

# ---- what is left is enough ----
is 'the guest runs' "$(vdisk ctl --vm "$vm" info | sed -n 's/^  "state": "\(.*\)",/\1/p')" running
t 'it is ended' vdisk ctl --vm "$vm" stop
status=0
wait $run || status=$?
is 'well' "$status" 0
t 'it has written to its drive' test "$(vdisk read a.vdk 128 1 | od -An -tu1)" -eq 2
clean 'which is clean' a.vdk
