#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Side by side with qemu-img on the same data, same machine, in pairs: A B A B ..., medians, ratios.
#   BENCH_DIR   where the files go (default: memory, so that the disk does not decide)
#   BENCH_RUNS  pairs (5)       BENCH_MIB  data in MiB (768)       BENCH_OPEN_GIB  for opening (10)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/bench_lib.sh
. scripts/bench_lib.sh
export LC_ALL=C PATH="$PWD/build/bin:/usr/sbin:/sbin:$PATH"
runs=${BENCH_RUNS:-5}
mib=${BENCH_MIB:-768}
dir=$(mktemp -d "${BENCH_DIR:-/dev/shm}/vdisk-bench.XXXXXX")
trap 'rm -rf "$dir"' EXIT
umask 077
for tool in qemu-img qemu-io; do
    command -v "$tool" >/dev/null || { echo "bench: needs $tool (package qemu-utils)" >&2; exit 1; }
done

head -c 32 /dev/urandom >"$dir/key"
printf 'abc' >"$dir/secret"
echo "Data: $mib MiB of this machine's own /usr in a drive twice that size, the rest a hole."
truncate -s $((mib * 2))M "$dir/disk.raw"
{ tar -C / --sort=name -cf - usr 2>/dev/null || true; } | head -c "${mib}M" |
    dd of="$dir/disk.raw" bs=1M seek=64 conv=notrunc iflag=fullblock status=none
[ "$(head -c 65M "$dir/disk.raw" | tail -c 1M | tr -d '\0' | wc -c)" -gt 0 ] ||
    { echo 'bench: no data' >&2; exit 1; }

secret=(--object "secret,id=s0,file=$dir/secret")
luks_open="driver=qcow2,encrypt.key-secret=s0,file.filename=$dir/luks.qcow2"
# Not timed, and repeated: qemu-img 7.2 fails now and then to measure its own key derivation.
before_qemu_luks_import() {
    for _ in {1..20}; do
        ! qemu-img create -q "${secret[@]}" -f qcow2 -o encrypt.format=luks,encrypt.iter-time=10,encrypt.key-secret=s0 \
            "$dir/luks.qcow2" $((mib * 2))M 2>"$dir/error" || return 0
    done
    cat "$dir/error" >&2
    return 1
}
qemu_luks_import() { qemu-img convert -n --target-is-zero -t writeback "${secret[@]}" --target-image-opts "$dir/disk.raw" "$luks_open"; }
qemu_luks_export() { qemu-img convert -t writeback "${secret[@]}" -O raw --image-opts "$luks_open" "$dir/out.raw"; }
qemu_zstd_import() { qemu-img convert -t writeback -O qcow2 -c -o compression_type=zstd -W -m 2 "$dir/disk.raw" "$dir/zstd.qcow2"; }
qemu_zstd_export() { qemu-img convert -t writeback -O raw "$dir/zstd.qcow2" "$dir/out.raw"; }
our_raw_import() { vdisk import "$dir/disk.raw" "$dir/raw.vdk" --format raw --compress none --key-file "$dir/key" --quiet; }
our_raw_export() { vdisk export "$dir/raw.vdk" "$dir/out.raw" --key-file "$dir/key" --quiet; }
our_zstd_import() { vdisk import "$dir/disk.raw" "$dir/zstd.vdk" --format raw --key-file "$dir/key" --quiet; }
our_zstd_export() { vdisk export "$dir/zstd.vdk" "$dir/out.raw" --key-file "$dir/key" --quiet; }

# In a virtual machine free memory may have gone back to the host, and who takes it first waits for
# it: a second for a GiB. So it is touched before each run, and neither side pays.
warm() { head -c $((mib * 3))M /dev/zero >"$dir/warm" && rm "$dir/warm"; }
# seconds COMMAND FILE: wall-clock of one run that makes FILE anew
seconds() {
    rm -f "$2"
    if declare -F "before_$1" >/dev/null; then "before_$1" || return 1; fi
    warm
    local from=$EPOCHREALTIME to
    "$1" || return 1
    to=$EPOCHREALTIME
    awk -v a="$from" -v b="$to" 'BEGIN { printf "%.3f\n", b - a }'
}
fail() { echo "bench: $1 failed" >&2; exit 1; }
# pair TITLE OURS OUR_FILE THEIRS THEIR_FILE
pair() {
    local a=() b=() r=() i ours theirs
    for ((i = 0; i < runs; i++)); do
        ours=$(seconds "$2" "$dir/$3") || fail "$2"
        theirs=$(seconds "$4" "$dir/$5") || fail "$4"
        a+=("$ours") b+=("$theirs")
        r+=("$(awk -v a="${a[i]}" -v b="${b[i]}" 'BEGIN { printf "%.3f", b / a }')")
    done
    printf '%-44s %9s s %9s s %8sx\n' "$1" "$(printf '%s\n' "${a[@]}" | median)" \
        "$(printf '%s\n' "${b[@]}" | median)" "$(printf '%s\n' "${r[@]}" | median)"
}

printf '\n%-44s %11s %11s %9s\n' "medians of $runs pairs" vdisk qemu-img faster
pair 'import, encrypted (qemu: qcow2+LUKS)' our_raw_import raw.vdk qemu_luks_import luks.qcow2
pair 'export, encrypted (qemu: qcow2+LUKS)' our_raw_export out.raw qemu_luks_export out.raw
pair 'import, zstd+encrypted (qemu: zstd only)' our_zstd_import zstd.vdk qemu_zstd_import zstd.qcow2
pair 'export, zstd+encrypted (qemu: zstd only)' our_zstd_export out.raw qemu_zstd_export out.raw
cmp "$dir/out.raw" "$dir/disk.raw"
printf '\n%-44s %9s KiB, qemu-img %s KiB\n' 'space taken, zstd' \
    "$(du -k "$dir/zstd.vdk" | cut -f1)" "$(du -k "$dir/zstd.qcow2" | cut -f1)"
printf '%-44s %9s KiB, qemu-img %s KiB\n\n' 'space taken, not compressed' \
    "$(du -k "$dir/raw.vdk" | cut -f1)" "$(du -k "$dir/luks.qcow2" | cut -f1)"
rm -f "$dir"/*.vdk "$dir"/*.qcow2 "$dir"/*.raw

build/bench/engine "$dir" "${BENCH_OPEN_GIB:-10}" | while read -r name value unit what; do
    printf '%-20s %10s %-6s %s\n' "$name" "$value" "$unit" "$what"
done
