#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Side by side with Debian's borgbackup and restic on the same drive, same machine: first backup, an
# increment after 200 changed blocks of 4 KiB, restore, size of the repository, memory. We sync what is
# restored, they do not: beside it stands how long the disk alone takes to write those bytes.
#   BENCH_DIR   where the files go (default: /var/tmp, a disk)
#   BENCH_RUNS  rounds, of which the median counts, of two the better (2)
#   BENCH_MIB   data in MiB (1024)
#   BENCH_TIB=0 leaves the drive of 1 TiB out
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/packages.sh
. scripts/packages.sh
# shellcheck source=scripts/bench_lib.sh
. scripts/bench_lib.sh
need_packages "${BENCH_BACKUP_PACKAGES[@]}"
export LC_ALL=C PATH="$PWD/build/bin:/usr/sbin:/sbin:$PATH"
runs=${BENCH_RUNS:-2}
mib=${BENCH_MIB:-1024}
dir=$(mktemp -d "${BENCH_DIR:-/var/tmp}/vdisk-bench.XXXXXX")
trap 'rm -rf "$dir"' EXIT
umask 077
cd "$dir"
export XDG_STATE_HOME=$dir/state BORG_BASE_DIR=$dir/borg-base BORG_PASSPHRASE=abc RESTIC_PASSWORD=abc \
    RESTIC_CACHE_DIR=$dir/restic-cache BORG_RELOCATED_REPO_ACCESS_IS_OK=yes
head -c 32 /dev/urandom >key
export VDISK_KEY_FILE=$dir/key

echo "Data: $mib MiB of this machine's own /usr in an ext4 of twice that size."
mkdir root
(cd /usr && find . -xdev -type f -size -64M -print0 | sort -z | tar --null -T - -cf - 2>/dev/null || true) |
    head -c "${mib}M" | tar -x -C root -f - 2>/dev/null || true
truncate -s $((mib * 2))M disk.raw
mke2fs -q -t ext4 -d root -F disk.raw
rm -rf root
vdisk import disk.raw disk.vdk --format raw --quiet

choose() { # SEED: 200 blocks of 4 KiB, for both copies of the drive
    python3 - "$1" <<'PYTHON'
import os, random, sys
rng = random.Random(sys.argv[1])
blocks = os.path.getsize("disk.raw") // 4096
with open("blocks", "wb") as out:
    for _ in range(200):
        out.write(rng.randrange(blocks).to_bytes(8, "little") + rng.randbytes(4096))
PYTHON
}
change_raw() {
    python3 - <<'PYTHON'
with open("blocks", "rb") as blocks, open("disk.raw", "r+b") as drive:
    while entry := blocks.read(4104):
        drive.seek(int.from_bytes(entry[:8], "little") * 4096)
        drive.write(entry[8:])
PYTHON
}
change_image() {
    local number at=8
    for number in $(python3 -c 'data = open("blocks", "rb").read()
print(*(int.from_bytes(data[n:n + 8], "little") for n in range(0, len(data), 4104)))'); do
        dd if=blocks bs=4096 count=1 skip=$at iflag=skip_bytes,fullblock status=none |
            vdisk write work.vdk $((number * 4096))
        at=$((at + 4104))
    done
}

fresh() {
    rm -rf repo.? state borg-base restic-cache out.* work.vdk
    cp --reflink=auto --sparse=always disk.vdk work.vdk
    vdisk backup init repo.v
    vdisk backup init repo.w
    borg init -e repokey repo.b 2>/dev/null
    restic -q init -r repo.r
    sync
}
v_backup() { vdisk backup create repo.v work.vdk --quiet; }
b_backup() { borg create --files-cache disabled -C zstd,1 "repo.b::$1" disk.raw; }
r_backup() { restic -q -r repo.r backup disk.raw; }
v_restore() { vdisk backup restore repo.v latest out.v --quiet; }
b_restore() { (mkdir out.b && cd out.b && borg extract --sparse "$dir/repo.b::$1"); }
r_restore() { restic -q -r repo.r restore latest --target out.r; }

disk_alone() { # MIB
    dd if=/dev/zero of=out.disk bs=4M count=$(($1 / 4)) oflag=direct conv=fsync status=none
    rm out.disk
}

# In a virtual machine free memory may have gone back to the host, and who takes it first waits for
# it. So it is touched before each run, and no side pays.
warm() { python3 -c 'import sys; b"." * (int(sys.argv[1]) << 20)' $((mib * 3)) && sync; }
declare -A taken
# measure NAME COMMAND...: appends seconds
measure() {
    local name=$1 from to
    shift
    warm
    from=$EPOCHREALTIME
    "$@" >/dev/null 2>error || { cat error >&2; echo "bench: $* failed" >&2; exit 1; }
    to=$EPOCHREALTIME
    taken[$name]+=$(awk -v a="$from" -v b="$to" 'BEGIN { printf "%.3f ", b - a }')
}
of() { xargs -n 1 <<<"${taken[$1]}" | median; } # NAME: seconds of a round
size() { du -sm --apparent-size "$1" | cut -f1; }

cp --sparse=always disk.raw original.raw
for ((run = 1; run <= runs; run++)); do
    cp --sparse=always original.raw disk.raw
    fresh
    measure v_first v_backup
    measure v_raw vdisk backup create repo.w disk.raw --quiet
    measure b_first b_backup first
    measure r_first r_backup
    sizes="$(size repo.v) $(size repo.b) $(size repo.r)"
    choose $run
    change_raw
    change_image
    measure v_next v_backup
    measure b_next b_backup next
    measure r_next r_backup
    measure v_restore v_restore
    measure b_restore b_restore next
    measure r_restore r_restore
    measure disk disk_alone "$(du -m out.v | cut -f1)"
    cmp out.v disk.raw && cmp out.b/disk.raw disk.raw && cmp "$(find out.r -name disk.raw)" disk.raw
done

row() { # TITLE NAME
    local v b r
    v=$(of "v_$2") b=$(of "b_$2") r=$(of "r_$2")
    printf '%-34s %9s s %9s s %9s s %8sx\n' "$1" "$v" "$b" "$r" \
        "$(awk -v v="$v" -v b="$b" -v r="$r" 'BEGIN { printf "%.1f", (b < r ? b : r) / v }')"
}
[ "$runs" = 2 ] && what='the better of 2 rounds' || what="medians of $runs rounds"
printf '\n%-34s %11s %11s %11s %9s\n' "$what" vdisk borg restic faster
row 'first backup, vdisk: of an image' first
taken[b_raw]=${taken[b_first]} taken[r_raw]=${taken[r_first]}
row 'first backup, all: of a raw file' raw
row 'after 200 changed blocks' next
row 'restore, raw' restore
printf '%-34s %9s s\n' '  the disk alone, the same bytes' "$(of disk)"
read -r v b r <<<"$sizes"
printf '%-34s %7s MiB %7s MiB %7s MiB\n' 'repository after the first' "$v" "$b" "$r"

# peak NAME COMMAND...: resident memory
peak() {
    local kib
    command time -f %M -o peak "${@:2}" >/dev/null 2>error || { cat error >&2; exit 1; }
    kib=$(tail -1 peak)
    printf '%-34s %7s MiB\n' "$1" $((kib / 1024))
}
rm -rf repo.? state out.*
vdisk backup init repo.v
peak 'memory, first backup' vdisk backup create repo.v disk.raw --quiet
peak 'memory, restore' vdisk backup restore repo.v latest out.v --quiet
rm -rf out.v repo.v state disk.raw original.raw
[ "${BENCH_TIB:-1}" = 1 ] || exit 0

echo
echo 'A drive of 1 TiB, sparse: 4 KiB of noise in each of 100,000 of its 1,048,576 chunks.'
truncate -s 1T big.raw
python3 - <<'PYTHON'
import os
with open("big.raw", "r+b") as drive:
    for n in range(100000):
        drive.seek((n * 10 + n % 7) << 20)
        drive.write(os.urandom(4096))
PYTHON
# cost NAME COMMAND...: time and resident memory
cost() {
    local kib seconds
    command time -f '%M %e' -o peak "${@:2}" >/dev/null 2>error || { cat error >&2; exit 1; }
    read -r kib seconds < <(tail -1 peak)
    printf '%-34s %9s s %7s MiB\n' "$1" "$seconds" $((kib / 1024))
}
vdisk backup init repo.v
cost 'first backup' vdisk backup create repo.v big.raw --quiet
cost 'again (all by hash)' vdisk backup create repo.v big.raw --quiet
cost 'list' vdisk backup list repo.v
cost 'verify, structure' vdisk backup verify repo.v --quiet
cost 'restore' vdisk backup restore repo.v latest out.raw --quiet
rm out.raw
cost 'collection, nothing to collect' vdisk backup gc repo.v --grace 0s --quiet
# The guest lets go of four fifths of it: of some packs all is garbage, of others half or less.
python3 - <<'PYTHON'
import os
with open("big.raw", "rb") as drive, open("less.raw", "wb") as less:
    less.truncate(1 << 40)
    for n in range(100000):
        if n < 10000 or n < 20000 and n % 2 or n < 40000 and n % 5 == 0:
            at = (n * 10 + n % 7) << 20
            less.seek(at)
            less.write(os.pread(drive.fileno(), 4096, at))
PYTHON
mv less.raw big.raw
cost 'a backup of 19,000 that are left' vdisk backup create repo.v big.raw --quiet
cost 'prune, two of three go' vdisk backup prune repo.v --keep-last 1 --force --quiet
cost 'collection, first' vdisk backup gc repo.v --grace 0s --quiet
cost 'collection, second' vdisk backup gc repo.v --grace 0s --quiet
cost 'verify, every byte' vdisk backup verify repo.v --data --quiet
