#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Measures the service over a Unix socket, by NBD (fio's engine) and by vhost-user-blk (bench/vhost),
# beside qemu-storage-daemon with qcow2+LUKS and with plain qcow2 (io_uring, cache.direct=on), and
# beside the disk itself under fio's io_uring. Every drive is filled in the same way first, and again
# before the rows of vhost-user: random writes scatter what we store, and the rows of 1M would show
# those of NBD. What that costs is the last row's to say. Runs of all servers take turns. Figures are medians of runs, ratios medians of the ratios of runs that
# followed each other. The columns cpu are the server's own processor time for a request.
#   BENCH_DIR (on the disk to measure; default: in build/), BENCH_RUNS (3), BENCH_SECONDS (3),
#   BENCH_GIB (1), BENCH_ROWS (all; a pattern of rows, as 'NBD 4K*')
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source-path=SCRIPTDIR source=bench_lib.sh
. scripts/bench_lib.sh

vdisk=${VDISK:-build/bin/vdisk}
client=$(dirname "$(dirname "$vdisk")")/bench/vhost
runs=${BENCH_RUNS:-3}
run_seconds=${BENCH_SECONDS:-3}
gib=${BENCH_GIB:-1}
rows=${BENCH_ROWS:-*}
mkdir -p "${BENCH_DIR:-build}"
dir=$(mktemp -d "$(realpath "${BENCH_DIR:-build}")/bench-serve.XXXXXX")
tick=$(getconf CLK_TCK)
servers=(vdisk luks qcow2 disk zstd snapshots)
declare -A pid=()

stop() {
    [ "${#pid[@]}" -eq 0 ] || kill "${pid[@]}" 2>/dev/null || true
    wait
    rm -rf "$dir"
}
trap stop EXIT
fail() { echo "bench: $1" >&2; exit 1; }
for tool in fio qemu-storage-daemon qemu-img; do
    command -v "$tool" >/dev/null || fail "$tool is missing (Debian: fio, qemu-system-common, qemu-utils)"
done

# ---- servers: the sockets $dir/NAME and $dir/NAME.vhost each ---------------------------------

started() { # NAME
    local _
    for _ in {1..200}; do
        [ ! -S "$dir/$1" ] || [ ! -S "$dir/$1.vhost" ] || return 0
        kill -0 "${pid[$1]}" 2>/dev/null || break
        sleep 0.05
    done
    cat "$dir/$1.log" >&2
    fail "the server $1 did not start"
}
ours() { # NAME OPTION...
    local name=$1
    shift
    "$vdisk" create "$dir/$name.vdk" --size "${gib}G" --key-file "$dir/key" "$@"
    serve_ours "$name"
}
serve_ours() { # NAME
    "$vdisk" serve "$dir/$1.vdk" --nbd "unix:$dir/$1" --vhost-user "$dir/$1.vhost" \
        --key-file "$dir/key" >"$dir/$1.log" 2>&1 &
    pid[$1]=$!
    started "$1"
}
theirs() { # NAME QEMU_IMG_OPTIONS BLOCKDEV_OPTIONS
    local _ secret=(--object "secret,id=s0,file=$dir/secret") encryption=()
    [ "$1" = luks ] || secret=()
    [ -z "$2" ] || encryption=(-o "$2")
    # Repeated: qemu-img 7.2 fails now and then to measure its own key derivation.
    for _ in {1..20}; do
        ! qemu-img create -q -f qcow2 "${secret[@]}" "${encryption[@]}" "$dir/$1.qcow2" \
            "${gib}G" 2>"$dir/$1.log" || break
    done
    qemu-storage-daemon "${secret[@]}" \
        --blockdev "file,node-name=f,filename=$dir/$1.qcow2,cache.direct=on,aio=io_uring" \
        --blockdev "qcow2,node-name=q,file=f$3" --nbd-server "addr.type=unix,addr.path=$dir/$1" \
        --export nbd,id=e,node-name=q,writable=on,name= \
        --export "vhost-user-blk,id=v,node-name=q,writable=on,addr.type=unix,addr.path=$dir/$1.vhost" \
        >"$dir/$1.log" 2>&1 &
    pid[$1]=$!
    started "$1"
}

# ---- one run: MB/s and requests a second into $dir/result -------------------------------------

fio_run() { # SERVER FIO_OPTION...
    local server=$1 engine
    shift
    engine=(--ioengine=nbd --uri="nbd+unix:///?socket=$dir/$server")
    [ "$server" != disk ] || engine=(--ioengine=io_uring --direct=1 --filename="$dir/disk.raw")
    fio --name=bench "${engine[@]}" --size="${gib}G" --randrepeat=0 --norandommap \
        --buffer_compress_percentage=50 --refill_buffers --output-format=terse --terse-version=3 \
        "$@" >"$dir/fio.out" 2>"$dir/fio.err" || { cat "$dir/fio.err" >&2; fail "fio at $server"; }
    # KiB and requests a second, of reads and of writes.
    awk -F';' '$1 == 3 { print ($7 + $48) * 1024 / 1e6, $8 + $49 }' "$dir/fio.out" >"$dir/result"
}
run() { # HOW SERVER MODE BLOCK DEPTH
    local flush=()
    if [ "$1" = vhost ] && [ "$2" != disk ]; then
        "$client" "$dir/$2.vhost" "$3" "$4" "$5" "$run_seconds" >"$dir/vhost.out" ||
            fail "vhost at $2"
        tr ' ' '\n' <"$dir/vhost.out" | awk -F= '{ v[$1] = $2 } END { print v["mbps"], v["iops"] }' \
            >"$dir/result"
        return
    fi
    [ "$3" != flush ] || flush=(--fsync=1)
    fio_run "$2" --time_based --runtime="$run_seconds" --rw="${3/flush/randwrite}" --bs="$4" \
        --iodepth="$5" "${flush[@]}"
}
fill() {
    local server
    for server in "${servers[@]}"; do
        fio_run "$server" --rw=write --bs=1m --iodepth=8 --end_fsync=1
    done
}
cpu_ticks() { # NAME
    [ -n "${pid[$1]-}" ] || { echo 0; return; }
    sed 's/.*) //' "/proc/${pid[$1]}/stat" | awk '{ print $12 + $13 }'
}
median_ratio() { # NAME NAME
    paste "$dir/$1.figures" "$dir/$2.figures" | awk '$2 { printf "%.3f\n", $1 / $2 }' | median
}

# row HOW TITLE UNIT MODE BLOCK DEPTH: UNIT is MB/s or IOPS.
row() {
    local how=$1 title=$2 unit=$3 server i before ratio
    shift 3
    # shellcheck disable=SC2254 # it is a pattern
    case $title in $rows) ;; *) return ;; esac
    rm -f "$dir"/*.figures "$dir"/*.cpu
    for ((i = 0; i < runs; i++)); do
        for server in "${servers[@]}"; do
            before=$(cpu_ticks "$server")
            run "$how" "$server" "$@"
            awk -v unit="$unit" '{ print unit == "IOPS" ? $2 : $1 }' "$dir/result" \
                >>"$dir/$server.figures"
            awk -v a="$before" -v b="$(cpu_ticks "$server")" -v t="$tick" -v s="$run_seconds" \
                '{ print $2 ? (b - a) / t / ($2 * s) * 1e6 : 0 }' "$dir/result" \
                >>"$dir/$server.cpu"
        done
    done
    printf '%-32s %-4s' "$title" "$unit"
    for server in "${servers[@]}"; do
        printf ' %7.0f' "$(median <"$dir/$server.figures")"
        case $server in
        luks | qcow2 | disk) ratio=$(median_ratio vdisk "$server") ;;
        zstd | snapshots) ratio=$(median_ratio "$server" vdisk) ;;
        *) continue ;;
        esac
        printf ' %5.2fx' "$ratio"
    done
    for server in vdisk luks qcow2; do printf ' %6.0f' "$(median <"$dir/$server.cpu")"; done
    echo
}

# ---- all -----------------------------------------------------------------------------------

(umask 077 && head -c 32 /dev/urandom >"$dir/key" && printf 'abc' >"$dir/secret")
ours vdisk --compress none
ours zstd --compress zstd
theirs luks encrypt.format=luks,encrypt.key-secret=s0,encrypt.iter-time=10 \
    ,encrypt.format=luks,encrypt.key-secret=s0
theirs qcow2 '' ''
ours snapshots --compress none
fill
# Each snapshot has something of its own: 1 MiB somewhere, in pieces.
kill "${pid[snapshots]}"
wait "${pid[snapshots]}" || fail 'vdisk serve did not end well'
for ((i = 0; i < 100; i++)); do
    "$vdisk" snapshot create "$dir/snapshots.vdk" "s$i" --key-file "$dir/key"
    head -c 1M /dev/urandom |
        "$vdisk" write "$dir/snapshots.vdk" "$((i * 7919 % (gib * 1023)))M" --key-file "$dir/key"
done
serve_ours snapshots

printf '\nthe service over a Unix socket, %s runs of %s s, %s GiB; x: how many times as fast;\n' \
    "$runs" "$run_seconds" "$gib"
printf 'zstd and 100 snapshots against vdisk without; cpu: us of the server for a request\n'
printf '%-37s %7s %14s %14s %14s %14s %14s %20s\n' '' vdisk 'LUKS       ' 'qcow2       ' \
    'disk       ' 'zstd       ' '100 snaps  ' 'cpu   LUKS  qcow2'
for how in nbd vhost; do
    name=NBD
    if [ "$how" = vhost ]; then
        name=vhost
        fill
    fi
    row $how "$name 1M write, depth 8" MB/s write 1048576 8
    row $how "$name 1M read, depth 8" MB/s read 1048576 8
    row $how "$name 4K random write, depth 32" IOPS randwrite 4096 32
    row $how "$name 4K random read, depth 32" IOPS randread 4096 32
    row $how "$name 4K random write, depth 1" IOPS randwrite 4096 1
    row $how "$name 4K random read, depth 1" IOPS randread 4096 1
    row $how "$name 4K random write and flush" IOPS flush 4096 1
done
row vhost "vhost 1M read, scattered" MB/s read 1048576 8
