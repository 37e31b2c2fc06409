#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Suspends and restores a guest of 512 MiB on this machine's /dev/kvm: a few instructions that write
# to a drive and say so (tests/vm_guests.c), for which any KVM will do. Of its memory 160 MiB are
# random, 160 MiB this machine's /usr, and the rest was never touched. Beside it QEMU's microvm with the same in
# memory, stopped, by `migrate` to and from a file that is neither encrypted nor compressed. Suspended
# is what is written and durable; restored is from the start of the program until the guest
# goes on. Runs take turns; figures are medians.
#   BENCH_DIR   where the files go (default: memory, so that the disk does not decide)
#   BENCH_RUNS  pairs (5)
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C
# shellcheck source-path=SCRIPTDIR source=bench_lib.sh
. scripts/bench_lib.sh
vdisk=$(realpath "${VDISK:-build/bin/vdisk}")
kit=$(dirname "$(dirname "$vdisk")")/tests/test_vm_suspend_ctl
runs=${BENCH_RUNS:-5}
memory=512 fill=160
dir=$(mktemp -d "${BENCH_DIR:-/dev/shm}/vdisk-bench.XXXXXX")
guest=
stop() {
    [ -z "$guest" ] || kill "$guest" 2>/dev/null || true
    wait
    rm -rf "$dir"
}
trap stop EXIT
umask 077
fail() { echo "bench: $1" >&2; exit 1; }
probe=$("$(dirname "$vdisk")/vdisk-vmm" --probe 2>&1 || true)
[[ $probe == *instructions* || $probe == *slow* ]] ||
    { echo 'bench: no guest is suspended: there is no KVM here'; exit 0; }
command -v qemu-system-x86_64 >/dev/null || fail 'needs qemu-system-x86_64 (package qemu-system-x86)'
export XDG_RUNTIME_DIR=$dir

# ---- vdisk ----

# Each letter of the guest comes by the fifo.
letter() { # COUNT
    read -r -t 60 -N "$1" -u 7 _ || { cat "$dir/log" >&2; fail 'the guest says nothing'; }
}
run_ours() { # OPTION...
    "$vdisk" run "$dir/drive.vdk" --key-file "$dir/key" --console "file:$dir/letters" --quiet "$@" \
        >"$dir/log" 2>&1 </dev/null 7>&- &
    guest=$!
}
ours() {
    local begin pid
    rm -f "$dir"/{drive,state}.vdk "$dir/letters"
    mkfifo "$dir/letters"
    exec 7<>"$dir/letters"
    "$vdisk" create "$dir/drive.vdk" --size 16M --key-file "$dir/key"
    run_ours --kernel "$dir/writes" --initrd "$dir/fill" --memory "${memory}M" --name bench
    letter 20
    pid=$(child_named "$guest" vdisk-vmm)
    beyond_guest "$pid" "$memory" >>"$dir/ours.memory"
    begin=$(now_ms)
    "$vdisk" ctl --vm bench suspend "$dir/state.vdk" --key-file "$dir/key" --quiet
    echo $(($(now_ms) - begin)) >>"$dir/ours.suspend"
    wait "$guest"
    while read -r -t 0.01 -N 1 -u 7 _; do :; done
    stat -c %s "$dir/state.vdk" >>"$dir/ours.size"
    begin=$(now_ms)
    "$vdisk" read "$dir/state.vdk" 0 --key-file "$dir/key" >/dev/null
    echo $(($(now_ms) - begin)) >>"$dir/ours.read"
    begin=$(now_ms)
    run_ours --restore "$dir/state.vdk"
    letter 1
    echo $(($(now_ms) - begin)) >>"$dir/ours.restore"
    paste "$dir/ours.restore" "$dir/ours.read" | tail -n 1 | awk '{ print $1 - $2 }' >>"$dir/ours.beyond"
    "$vdisk" ctl --vm bench stop
    wait "$guest"
    guest=
    exec 7>&-
}

# ---- QEMU ----

# Says so by descriptor 8, and waits for a line with the text by descriptor 7.
qmp() { # TEXT MESSAGE
    local line
    printf '%s\n' "$2" >&8
    while read -r -t 60 -u 7 line; do
        case $line in
        *"$1"*) return ;;
        *'"error"'* | *'"failed"'*) fail "QEMU: $line" ;;
        esac
    done
    cat "$dir/log" >&2
    fail 'QEMU does not answer'
}
start_theirs() { # OPTION...
    exec 7<>"$dir/from" 8<>"$dir/to"
    qemu-system-x86_64 -M microvm,memory-backend=m,rtc=on -accel kvm -cpu host -m "${memory}M" \
        -object "memory-backend-memfd,id=m,size=${memory}M,share=on" -nodefaults -no-user-config \
        -display none -qmp stdio "$@" <"$dir/to" >"$dir/from" 2>"$dir/log" 7>&- 8>&- &
    guest=$!
    qmp '"return"' '{"execute": "qmp_capabilities"}'
    qmp '"return"' '{"execute": "migrate-set-capabilities", "arguments": {"capabilities":
        [{"capability": "events", "state": true}]}}'
}
end_theirs() {
    printf '{"execute": "quit"}\n' >&8
    wait "$guest"
    guest=
    exec 7>&- 8>&-
}
theirs() {
    local begin
    rm -f "$dir"/{from,to,state}
    mkfifo "$dir/from" "$dir/to"
    start_theirs -device "loader,file=$dir/fill,addr=0x2000000,force-raw=on"
    # 128 MiB a second otherwise.
    qmp '"return"' '{"execute": "migrate-set-parameters", "arguments": {"max-bandwidth": 1000000000000}}'
    begin=$(now_ms)
    qmp '"return"' '{"execute": "stop"}'
    qmp '"completed"' "{\"execute\": \"migrate\", \"arguments\": {\"uri\": \"exec:cat >$dir/state\"}}"
    sync "$dir/state"
    echo $(($(now_ms) - begin)) >>"$dir/theirs.suspend"
    end_theirs
    stat -c %s "$dir/state" >>"$dir/theirs.size"
    begin=$(now_ms)
    cat "$dir/state" >/dev/null
    echo $(($(now_ms) - begin)) >>"$dir/theirs.read"
    begin=$(now_ms)
    start_theirs -incoming defer
    qmp '"completed"' "{\"execute\": \"migrate-incoming\", \"arguments\": {\"uri\": \"exec:cat $dir/state\"}}"
    qmp '"RESUME"' '{"execute": "cont"}'
    echo $(($(now_ms) - begin)) >>"$dir/theirs.restore"
    paste "$dir/theirs.restore" "$dir/theirs.read" | tail -n 1 | awk '{ print $1 - $2 }' >>"$dir/theirs.beyond"
    beyond_guest "$guest" "$memory" >>"$dir/theirs.memory"
    end_theirs
}

# ---- all ----

head -c 32 /dev/urandom >"$dir/key"
"$kit" "$dir"
{
    head -c "${fill}M" /dev/urandom
    { tar -C / --sort=name -cf - usr 2>/dev/null || true; } | head -c "${fill}M"
} >"$dir/fill"
for ((run = 0; run < runs; run++)); do
    ours
    theirs
done
row() { # TITLE UNIT NAME DIVISOR
    printf '%-46s %10.0f %10.0f %7.2fx\n' "$1, $2" \
        "$(median <"$dir/ours.$3" | awk -v d="$4" '{ print $1 / d }')" \
        "$(median <"$dir/theirs.$3" | awk -v d="$4" '{ print $1 / d }')" \
        "$(median_ratio "$dir/theirs.$3" "$dir/ours.$3")"
}
printf '\na guest of %s MiB, medians of %s pairs; x: how many times as much QEMU takes\n' "$memory" "$runs"
printf '%-46s %10s %10s %8s\n' '' vdisk microvm ''
row 'suspend' ms suspend 1
row 'size of its file' MiB size 1048576
row 'read that (vdisk read; cat)' ms read 1
row 'restore' ms restore 1
row 'restore beyond reading' ms beyond 1
row "memory beyond the guest's" KiB memory 1
