#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Overlays: an image that holds only what differs from another, which must stay as it was.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"

drive base.vdk 8M
data first 3000000 1 mixed
data second 300000 2 random
put first base.vdk 50000
vdisk snapshot create base.vdk golden
cp --sparse=always base.model golden.model

t 'an overlay on a snapshot' vdisk create over.vdk --base base.vdk@golden
holds 'reads as the snapshot' over.vdk golden.model
cp --sparse=always golden.model over.model
put second over.vdk 111111
holds 'takes writes' over.vdk over.model
holds 'its base does not' base.vdk base.model
json 'and says what it is based on' \
    "d['base']['snapshot'] == 'golden' and d['base']['path'].endswith('/base.vdk')" \
    vdisk info over.vdk --json
json 'the map shows from how deep' "{e['depth'] for e in d if e['kind'] != 'hole'} == {0, 1}" \
    vdisk map over.vdk --json
put second base.vdk 2M
holds 'the base may go on: the snapshot is kept' over.vdk over.model
t 'an overlay can be larger' vdisk create larger.vdk --base base.vdk@golden --size 16M
cp --sparse=always golden.model larger.model
truncate -s 16M larger.model
holds 'with zeros behind' larger.vdk larger.model
t 'or smaller' vdisk create smaller.vdk --base base.vdk@golden --size 1M
head -c 1M golden.model >smaller.model
holds 'with less' smaller.vdk smaller.model
vdisk resize larger.vdk 1M --shrink
vdisk resize larger.vdk 4M
truncate -s 4M smaller.model
holds 'what was cut off is zeros when it grows again, not the base' larger.vdk smaller.model

t 'a base with a key of its own' bash -c "head -c 32 /dev/urandom >other &&
    vdisk create deep.vdk --base over.vdk --key-file other --base-key-file key"
cp --sparse=always over.model deep.model
VDISK_KEY_FILE=$PWD/other put second deep.vdk 4M
t 'makes a chain' vdisk read deep.vdk 0 --key-file other
same 'of three' .out deep.model
json 'three deep' "{e['depth'] for e in d if e['kind'] != 'hole'} == {0, 1, 2}" \
    vdisk map deep.vdk --json --key-file other
t 'a check of it' vdisk check deep.vdk --key-file other
python3 "$VDISK_SRC/tests/vdisk_decoder.py" read deep.vdk --key-file other >.out 2>.err
same 'the second decoder reads the same' .out deep.model

vdisk create grown.vdk --base base.vdk@golden --size 1000K
vdisk resize grown.vdk 2M
truncate -s 2M grown.model
head -c 1024000 golden.model | dd of=grown.model conv=notrunc status=none
holds 'what an overlay smaller than its base gains is zeros' grown.vdk grown.model
clean 'and the check is clean' grown.vdk

put second over.vdk 0
fails 1 'changed' 'a live base that was written to is refused' vdisk read deep.vdk 0 --key-file other
fails 1 'changed' 'and not written over' vdisk write deep.vdk 0 --key-file other
drive live.vdk 4M
put second live.vdk 0
vdisk create onlive.vdk --base live.vdk
holds 'an overlay on a live state' onlive.vdk live.model
cp live.vdk intact.vdk
hold live.vdk
fails 5 'use' 'needs it at rest' vdisk read onlive.vdk 0
kill -9 "$holder"
wait "$holder" 2>.err
mv intact.vdk elsewhere.vdk
t 'a base that moved can be named' vdisk read onlive.vdk 0 --base elsewhere.vdk
same 'and has the content' .out live.model
rm live.vdk
fails 1 'no such file|live.vdk' 'one that is gone is said to be' vdisk read onlive.vdk 0
vdisk create live.vdk --size 4M
fails 1 'another image|changed|key' 'another image in its place is refused' vdisk read onlive.vdk 0
fails 1 '.' 'a base that is none' vdisk create new.vdk --base first
fails 1 'no snapshot|golden2' 'a snapshot that is none' vdisk create new.vdk --base base.vdk@golden2
is 'neither leaves an image' "$(echo new.vdk*)" 'new.vdk*'
fails 1 'use|base|overlay|descend' 'an image is not its own base' vdisk read onlive.vdk 0 --base onlive.vdk
