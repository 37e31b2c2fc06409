#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Made the sample of an image that is being filled (SPEC.md 17), when that was new:
# VDISK=build/bin/vdisk tests/samples/make_filling.sh. Not to be run again, as make.sh.
set -eu
umask 022
samples=$(cd "$(dirname "$0")" && pwd)
VDISK_SRC=$(cd "$samples/../.." && pwd)
VDISK=$(realpath "${VDISK:-$VDISK_SRC/build/bin/vdisk}")
TMPDIR=$(mktemp -d)
trap 'rm -rf "$TMPDIR"' EXIT
VDISK_TEST_SEED=1
export VDISK VDISK_SRC TMPDIR VDISK_TEST_SEED
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source=tests/lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"
set -e
export XDG_STATE_HOME=$PWD/state

cp "$samples/key" key
data mixed 300000 3 mixed
truncate -s 5M filling.raw
for at in 100000 1200000 2200000 3300000 4500000; do
    dd if=mixed of=filling.raw bs=64K oflag=seek_bytes seek=$at conv=notrunc status=none
done
vdisk backup init /tmp/repository
vdisk backup create /tmp/repository filling.raw
up vdisk backup serve /tmp/repository latest filling.vdk --nbd "unix:$PWD/nbd" --fill-rate 1 --quiet || true
# With --quiet nothing says that it is ready.
for _ in {1..100}; do [ -S nbd ] && break; sleep 0.1; done
io '' 'write -P 0x61 150000 5000' 'write -P 0x62 3145728 65536' 'discard 4194304 65536' flush
down 'the server ends'
rm -rf /tmp/repository
xz -9e -c filling.vdk >"$samples/filling.vdk.xz"
xz -9e -c filling.raw >"$samples/filling.raw.xz"
python3 - <<'PYTHON' >"$samples/filling.sha256"
import hashlib
drive = bytearray(open("filling.raw", "rb").read())
drive[150000:155000] = b"a" * 5000
drive[3145728:3145728 + 65536] = b"b" * 65536
drive[4194304:4194304 + 65536] = bytes(65536)
print(hashlib.sha256(drive).hexdigest())
PYTHON
chmod 644 "$samples"/filling.*
ls -l "$samples"
