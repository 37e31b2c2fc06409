#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A drive through a mount, in order, beside qemu-storage-daemon's FUSE export of qcow2+LUKS: the same
# data, in pairs that take turns; medians, and medians of the ratios. Before each run of reading the
# kernel forgets what it keeps of the mounted drive; both images are in memory.
#   BENCH_DIR   where the files go (default: memory, so that the disk does not decide)
#   BENCH_RUNS  pairs (5)       BENCH_MIB  data in MiB (768)
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source-path=SCRIPTDIR source=bench_lib.sh
. scripts/bench_lib.sh
export LC_ALL=C
vdisk=${VDISK:-$PWD/build/bin/vdisk}
runs=${BENCH_RUNS:-5}
mib=${BENCH_MIB:-768}
dir=$(mktemp -d "${BENCH_DIR:-/dev/shm}/bench-fuse.XXXXXX")
theirs=
umask 077

fail() {
    echo "bench: $1" >&2
    exit 1
}
stop() {
    "$vdisk" umount "$dir/ours" 2>/dev/null || true
    if [ -n "$theirs" ]; then
        kill "$theirs" 2>/dev/null || true
        wait "$theirs" || true
    fi
    rm -rf "$dir"
}
trap stop EXIT
for tool in qemu-img qemu-storage-daemon fusermount3; do
    command -v "$tool" >/dev/null ||
        fail "$tool is missing (Debian: qemu-utils, qemu-system-common, fuse3)"
done

# ---- the two ---------------------------------------------------------------------------------

head -c 32 /dev/urandom >"$dir/key"
printf 'abc' >"$dir/secret"
export VDISK_KEY_FILE=$dir/key
head -c "${mib}M" /dev/urandom >"$dir/data"

"$vdisk" create "$dir/ours.vdk" --size "${mib}M" --compress none
mkdir "$dir/ours"
mount_ours() { # OPTION...
    "$vdisk" mount "$dir/ours.vdk" "$dir/ours" "$@" || fail 'our mount does not come up'
}

secret=(--object "secret,id=s0,file=$dir/secret")
# Repeated: qemu-img 7.2 fails now and then to measure its own key derivation.
for _ in {1..20}; do
    ! qemu-img create -q -f qcow2 "${secret[@]}" \
        -o encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10 "$dir/luks.qcow2" \
        "${mib}M" 2>"$dir/error" || break
done
: >"$dir/theirs"
qemu-storage-daemon "${secret[@]}" \
    --blockdev "file,node-name=f,filename=$dir/luks.qcow2" \
    --blockdev "qcow2,node-name=q,file=f,encrypt.format=luks,encrypt.key-secret=s0" \
    --export "fuse,id=e,node-name=q,mountpoint=$dir/theirs,writable=on" >"$dir/log" 2>&1 &
theirs=$!
for _ in {1..200}; do
    [ "$(stat -c %s "$dir/theirs")" = 0 ] || break
    kill -0 "$theirs" 2>/dev/null || { cat "$dir/log" >&2; fail 'their export does not come up'; }
    sleep 0.05
done

# ---- runs --------------------------------------------------------------------------------------

file() { [ "$1" = ours ] && echo "$dir/ours/disk" || echo "$dir/theirs"; }
rate() { # COMMAND...: MB/s
    local from=$EPOCHREALTIME to
    "$@"
    to=$EPOCHREALTIME
    awk -v a="$from" -v b="$to" -v m="$mib" 'BEGIN { printf "%.1f\n", m * 1.048576 / (b - a) }'
}
write_all() { dd if="$dir/data" of="$(file "$1")" bs=1M conv=notrunc,fsync status=none; }
read_all() { dd if="$(file "$1")" of=/dev/null bs=1M status=none; }
before_read() { dd if="$(file "$1")" iflag=nocache count=0 status=none; }
before_write() { cat "$dir/data" >/dev/null; }
row() { # TITLE read|write
    local i a b
    : >"$dir/a"
    : >"$dir/b"
    for ((i = 0; i < runs; i++)); do
        "before_$2" ours
        a=$(rate "$2_all" ours)
        "before_$2" theirs
        b=$(rate "$2_all" theirs)
        echo "$a" >>"$dir/a"
        echo "$b" >>"$dir/b"
    done
    printf '%-44s %7.0f MB/s %7.0f MB/s %8sx\n' "$1" "$(median <"$dir/a")" "$(median <"$dir/b")" \
        "$(median_ratio "$dir/a" "$dir/b")"
}

printf '\n%-44s %12s %12s %9s\n' "a mounted drive, $mib MiB, medians of $runs pairs" vdisk qemu faster
mount_ours --write
write_all ours
write_all theirs
row 'write in order, and flush' write
row 'read in order, of a mount that may be written' read
cmp "$dir/data" "$dir/ours/disk" || fail 'our mount has other data'
cmp "$dir/data" "$dir/theirs" || fail 'their mount has other data'
"$vdisk" umount "$dir/ours"
mount_ours
row 'read in order' read
