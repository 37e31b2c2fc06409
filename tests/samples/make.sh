#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Made the sample images of format version 1:  VDISK=build/bin/vdisk tests/samples/make.sh
# Not to be run again while that version is read: the samples are there to stay as they are. A new
# version of the format, or a new feature of it, gets samples of its own beside them.
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
set -e

printf 'the key file of the sample images, of 32 bytes or more\n' >key
printf 'sample passphrase\n' >passphrase
vdisk key generate identity >.out
cp key passphrase identity identity.pub "$samples"
: >"$samples/manifest"

# state IMAGE[@SNAPSHOT] OFFSET LENGTH KEY-OPTION KEY-FILE
state() {
    printf '%s %s %s %s %s %s\n' "$(vdisk read "$1" "$2" "$3" "--$4" "$5" | sha256sum | cut -d' ' -f1)" "$@" \
        >>"$samples/manifest"
}

data text 70000 1 text
data random 6000 2 random
cat random <(head -c 20000 text) random >mixed
truncate -s 150000 zeros

# Everything a map can hold, branches, one marked for deletion, several epochs.
drive many.vdk 6M --cluster-size 64K
put text many.vdk 0
put random many.vdk 3000000
vdisk snapshot create many.vdk root
put mixed many.vdk 100000
put zeros many.vdk 4M
vdisk snapshot create many.vdk left
vdisk snapshot rollback many.vdk root
put random many.vdk 12345
vdisk snapshot create many.vdk 'rïght'
put zeros many.vdk 30000
vdisk snapshot delete many.vdk root
for name in many.vdk many.vdk@left many.vdk@rïght; do state $name 0 6M key-file key; done

# Not closed: a record in the journal.
drive fresh.vdk 2M --cluster-size 64K
put text fresh.vdk 0
vdisk snapshot create fresh.vdk left
interrupt() {
    cp fresh.vdk journal.vdk
    python3 - <<'PYTHON'
import os, subprocess
handle = os.open("journal.vdk", os.O_RDONLY)
ring = lambda: os.pread(handle, 508 * 4096, 4 * 4096)
before = ring()
with open("mixed", "rb") as data:
    process = subprocess.Popen(["vdisk", "write", "journal.vdk", "50000"], stdin=data)
while process.poll() is None and ring() == before:
    pass
process.kill()
process.wait()
PYTHON
    decoder info journal.vdk | grep '"journal_records": [1-9]' >.out
}
until interrupt; do :; done
for name in journal.vdk journal.vdk@left; do state $name 0 2M key-file key; done

# Every kind of key; raw only; clusters of 16 KiB.
vdisk create keys.vdk --size 1M --compress none --cluster-size 16K --passphrase-file passphrase "${CHEAP[@]}"
vdisk key add keys.vdk --passphrase-file passphrase --new-recipient identity.pub --quiet
vdisk key add keys.vdk --passphrase-file passphrase --new-key-file key --quiet
vdisk write keys.vdk 5000 --identity identity <mixed
state keys.vdk 0 1M key-file key
state keys.vdk 0 1M passphrase-file passphrase
state keys.vdk 0 1M identity identity

# An overlay; clusters of 1 MiB.
drive base.vdk 3M --cluster-size 1M
put text base.vdk 0
vdisk snapshot create base.vdk golden
put mixed base.vdk 0
vdisk create overlay.vdk --base base.vdk@golden --size 4M --cluster-size 16K
vdisk write overlay.vdk 200000 <random
vdisk write overlay.vdk 100000 <zeros
for name in base.vdk base.vdk@golden; do state $name 0 3M key-file key; done
state overlay.vdk 0 4M key-file key

# Several files. What filled the first is given back, and leaves a hole.
data much 15000000 4 random
vdisk create split.vdk --size 64M --split 16M
vdisk write split.vdk 20M <much
vdisk write split.vdk 0 <mixed
vdisk resize split.vdk 2M --shrink
vdisk compact split.vdk --quiet
state split.vdk 0 2M key-file key

# As large as can be.
vdisk create giant.vdk --size 64P
for offset in 0 100G 10T 65535T; do vdisk write giant.vdk $offset <random; done
for offset in 0 100G 10T 65535T; do state giant.vdk $offset 1M key-file key; done

for image in many journal keys base overlay split giant; do
    vdisk check $image.vdk --quiet
    for file in "$image.vdk" "$image.vdk".*; do
        [ ! -e "$file" ] || xz -9e -c "$file" >"$samples/$file.xz"
    done
done
ls -l "$samples"
