#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From the start of vdisk-vmm to the first line of the guest's first process, and memory beyond the
# guest's by then; beside QEMU's microvm, and kvmtool (lkvm) where that is installed, with the same
# kernel (Debian's cloud kernel), initrd, memory and processors. Runs take turns; figures are medians,
# ratios medians of the ratios of runs that followed each other. Where /dev/kvm is of no use to
# Linux, in the KVM lab (scripts/lab.sh): its processor is emulated, and only ratios say something.
#   BENCH_RUNS (5)
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
runs=${BENCH_RUNS:-5}
memory=256
kvmtool=$(command -v lkvm || command -v kvmtool)
machines=(vdisk-vmm microvm ${kvmtool:+kvmtool})
command='console=ttyS0 quiet panic=-1 mitigations=off'

# ---- one run ----

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
# Says `FIGURE MACHINE PROCESSORS MILLISECONDS KIB`.
boot() { # MACHINE PROCESSORS
    local line='' begin pid
    rm -f in out
    mkfifo in out
    exec 7<>in 8<>out
    begin=$(now_ms)
    start "$@" <in >out 2>err 7>&- 8>&- &
    pid=$!
    while [[ $line != BOOT* ]] && read -r -t 120 -u 8 line; do :; done
    if [[ $line = BOOT* ]]; then
        echo "FIGURE $1 $2 $(($(now_ms) - begin)) $(beyond_guest "$pid" "$memory")"
    else
        echo "# $1 does not come up: $(tail -n 1 err)"
    fi
    kill -9 "$pid"
    wait "$pid" 2>/dev/null
    exec 7>&- 8>&-
}
each() {
    local cpus machine
    for cpus in 1 2; do
        for machine in "${machines[@]}"; do boot "$machine" "$cpus"; done
    done
}
if ! lab_is_outside; then
    each
    exit
fi

# ---- all ----

lab_ready || exit 0
root_busybox guest
printf '#!/bin/sh\necho BOOT\nexec sleep 100000\n' >guest/init
chmod 755 guest/init
root_pack guest initrd
cp "$KERNEL_CACHE/cloud-amd64/vmlinuz" cloud
install -m 755 "$VDISK_SRC/tests/lab_peer.sh" vdisk-vmm-peer
PATH=$PWD:$PATH
if kvm_is_fast; then
    once() { each; }
    where='this processor'
else
    # A lab for each: QEMU's emulation does not last for ever.
    once() { lab "$VDISK_SRC/scripts/bench_vm.sh" serial 600 initrd cloud; }
    where='an emulated processor'
fi
touch figures
complete=0
for ((run = 0; run < runs; run++)); do
    once >said
    if [ "$(grep -c '^FIGURE' said)" = $((2 * ${#machines[@]})) ]; then
        grep '^FIGURE' said | tr -d '\r' >>figures
        complete=$((complete + 1))
    else
        echo 'bench: a run did not come to its end, and does not count:' >&2
        tail -n 5 said >&2
    fi
done

row() { # TITLE PROCESSORS COLUMN
    local machine
    printf '%-40s' "$1"
    for machine in "${machines[@]}"; do
        awk -v m="$machine" -v n="$2" -v c="$3" '$2 == m && $3 == n { print $c }' figures >"$machine.column"
        printf ' %9s' "$(median <"$machine.column")"
        [ "$machine" = vdisk-vmm ] || printf ' %5sx' "$(median_ratio "$machine.column" vdisk-vmm.column)"
    done
    echo
}
printf '\na guest of %s MiB on %s, medians of %s runs; x: how many times as much as vdisk-vmm\n' \
    "$memory" "$where" "$complete"
printf '%-40s %9s' '' vdisk-vmm
printf ' %9s       ' "${machines[@]:1}"
echo
for cpus in 1 2; do
    row "start to first process, $cpus processors, ms" "$cpus" 4
    row "memory beyond the guest's, KiB" "$cpus" 5
done
[ "$complete" -gt 0 ]
