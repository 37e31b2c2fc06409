#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From the start of vdisk-vmm to the first line of the guest's first process, and memory beyond the
# guest's by then; beside QEMU's microvm, and kvmtool (lkvm) where that is installed, with the same
# kernel (Debian's cloud kernel), initrd, memory and processors. Runs take turns; figures are medians,
# ratios medians of the ratios of runs that followed each other. Where /dev/kvm is of no use to
# Linux, in the KVM lab (scripts/lab.sh): its processor is emulated, and only ratios say something.
#   BENCH_RUNS (3)
VDISK_SRC=${VDISK_SRC:-$(realpath "$(dirname "$0")/..")}
: "${VDISK_LAB:=}" "${VDISK:=$VDISK_SRC/build/bin/vdisk}" "${TMPDIR:=}"
VDISK=$(realpath "$VDISK")
if [ -z "$VDISK_LAB" ]; then
    TMPDIR=$(mktemp -d)
    trap 'rm -rf "$TMPDIR"' EXIT
fi
export VDISK VDISK_SRC TMPDIR VDISK_VMM=vdisk-vmm-peer
# shellcheck source-path=SCRIPTDIR source=../tests/lib.sh
. "$VDISK_SRC/tests/lib.sh" >/dev/null
# shellcheck source-path=SCRIPTDIR source=../tests/lib_lab.sh
. "$VDISK_SRC/tests/lib_lab.sh"
# shellcheck source-path=SCRIPTDIR source=bench_lib.sh
. "$VDISK_SRC/scripts/bench_lib.sh"
runs=${BENCH_RUNS:-3}
memory=256

if lab_is_outside; then
    lab_ready || exit 0
    root_busybox guest
    printf '#!/bin/sh\necho BOOT\nexec sleep 100000\n' >guest/init
    chmod 755 guest/init
    root_pack guest initrd
    cp "$KERNEL_CACHE/cloud-amd64/vmlinuz" cloud
    if ! kvm_is_fast; then
        echo "BENCH_RUNS=$runs" >settings
        lab "$VDISK_SRC/scripts/bench_vm.sh" serial $((600 + 300 * runs)) initrd cloud settings |
            grep --line-buffered '^[^#o]'
        grep -q '^LAB ends 0' serial && exit
        tail -n 20 serial >&2
        exit 1
    fi
    install -m 755 "$VDISK_SRC/tests/lab_peer.sh" vdisk-vmm-peer
    PATH=$PWD:$PATH
else
    . ./settings
    runs=$BENCH_RUNS
fi

kvmtool=$(command -v lkvm || command -v kvmtool)
machines=(vdisk-vmm microvm ${kvmtool:+kvmtool})
command='console=ttyS0 quiet panic=-1 mitigations=off'
start() { # MACHINE PROCESSORS
    local options=(--kernel cloud --initrd initrd --memory "${memory}M" --cpus "$2" --command "$command"
        --console stdio)
    case $1 in
    vdisk-vmm) exec vdisk-vmm "${options[@]}" ;;
    microvm) exec vdisk-vmm-peer "${options[@]}" ;;
    kvmtool)
        exec "$kvmtool" run --kernel cloud --initrd initrd --mem "$memory" --cpus "$2" \
            --params "$command" --console serial --network mode=none
        ;;
    esac
}
# One run of it, into MACHINE.time and MACHINE.memory.
boot() { # MACHINE PROCESSORS
    local line='' begin pid
    rm -f in out
    mkfifo in out
    exec 7<>in 8<>out
    begin=$(now_ms)
    start "$@" <in >out 2>err 7>&- 8>&- &
    pid=$!
    while [[ $line != BOOT* ]] && read -r -t 300 -u 8 line; do :; done
    if [[ $line = BOOT* ]]; then
        echo $(($(now_ms) - begin)) >>"$1.time"
        beyond_guest "$pid" "$memory" >>"$1.memory"
    else
        echo "# $1 does not come up: $(tail -n 1 err)"
    fi
    kill -9 "$pid"
    wait "$pid" 2>/dev/null
    exec 7>&- 8>&-
}
row() { # TITLE KIND
    local machine
    printf '%-40s' "$1"
    for machine in "${machines[@]}"; do
        printf ' %9s' "$(median "$machine.$2")"
        [ "$machine" = vdisk-vmm ] || printf ' %5sx' "$(median_ratio "$machine.$2" "vdisk-vmm.$2")"
    done
    echo
}

printf '\na guest of %s MiB, medians of %s runs; x: how many times as much as vdisk-vmm\n' "$memory" "$runs"
printf '%-40s' ''
for machine in "${machines[@]}"; do
    if [ "$machine" = vdisk-vmm ]; then printf ' %9s' "$machine"; else printf ' %9s       ' "$machine"; fi
done
echo
for cpus in 1 2; do
    rm -f ./*.time ./*.memory
    for ((run = 0; run < runs; run++)); do
        for machine in "${machines[@]}"; do boot "$machine" "$cpus"; done
    done
    row "start to first process, $cpus processors, ms" time
    row "memory beyond the guest's, KiB" memory
done
