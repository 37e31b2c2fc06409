#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The life of a drive on the command line, as the manual tells it.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"

t 'an image is made' vdisk create drive.vdk --size 16M
truncate -s 16M drive.model
json 'without a key, what is public' \
    "d['version'] == 1 and d['cluster_bytes'] == 131072 and not d['opened'] and 'size' not in d" \
    env -u VDISK_KEY_FILE vdisk info drive.vdk --json
json 'with a key, everything' "d['opened'] and d['size'] == 16 << 20 and d['compress'] == 'zstd' and
    d['compress_level'] == 4 and d['snapshots'] == 0 and d['base'] is None" \
    vdisk info drive.vdk --json
json 'an image has one keyslot' "[s['kind'] for s in d['keyslots']] == ['key-file']" \
    vdisk key list drive.vdk --json
json 'a new drive is one hole' \
    "d == [{'offset': 0, 'length': 16 << 20, 'kind': 'hole', 'depth': 0}]" vdisk map drive.vdk --json
holds 'and reads as zeros' drive.vdk drive.model

data first 3000000 1 mixed
put first drive.vdk 1000000
holds 'what is written is read' drive.vdk drive.model
vdisk read drive.vdk 999990 2000000 >part
same 'any range can be read' part <(tail -c +999991 drive.model | head -c 2000000)
t 'LENGTH may be left out' vdisk read drive.vdk 16777000
is 'and means up to the end' "$(wc -c <.out)" 216
t 'sizes may have a unit' vdisk read drive.vdk 1M 4K

t 'a snapshot is made' vdisk snapshot create drive.vdk 'before öl'
cp --sparse=always drive.model before.model
data second 70000 2 random
put second drive.vdk 1200000
json 'the list has it' \
    "[(s['name'], s['parent'], s['size']) for s in d['snapshots']] == [('before öl', None, 16 << 20)]" \
    vdisk snapshot list drive.vdk --json
holds 'the snapshot has what was' 'drive.vdk@before öl' before.model
holds 'the drive what is' drive.vdk drive.model
json 'the difference is what was written' "d['ranges'][0]['offset'] == 1196032 and
    d['changed_bytes'] == sum(r['length'] for r in d['ranges']) == 77824" \
    vdisk diff drive.vdk 'before öl' --json
json 'the map shows patches' "{'hole', 'zstd', 'patched'} <= {e['kind'] for e in d}" vdisk map drive.vdk --json
json 'and covers the drive' "d[0]['offset'] == 0 and d[-1]['offset'] + d[-1]['length'] == 16 << 20 and
    all(a['offset'] + a['length'] == b['offset'] for a, b in zip(d, d[1:]))" \
    vdisk map drive.vdk --json

json 'a check tells what it read' \
    "d['clean'] and d['findings'] == [] and d['extents'] > 20 and d['leaked_blocks'] == 0" \
    vdisk check drive.vdk --json

t 'a snapshot of later' vdisk snapshot create drive.vdk later
json 'nothing has changed since' "d == {'ranges': [], 'changed_bytes': 0}" vdisk diff drive.vdk later --json
t 'the drive goes back' vdisk snapshot rollback drive.vdk 'before öl'
holds 'and is what it was' drive.vdk before.model
holds 'the later snapshot stays' drive.vdk@later drive.model
json 'the difference of two snapshots' "d['changed_bytes'] == 77824" \
    vdisk diff drive.vdk 'before öl' later --json
t 'snapshots are deleted' vdisk snapshot delete drive.vdk later
t 'in any order' vdisk snapshot delete drive.vdk 'before öl'
json 'and are gone' "d == {'snapshots': []}" vdisk snapshot list drive.vdk --json
holds 'the drive stays' drive.vdk before.model

cp --sparse=always before.model drive.model
put second drive.vdk 1200000
t 'patches are folded' vdisk compact drive.vdk
json 'none is left' "'patched' not in {e['kind'] for e in d}" vdisk map drive.vdk --json
holds 'the drive is the same' drive.vdk drive.model
mv drive.model before.model

t 'a drive can grow' vdisk resize drive.vdk +256M
truncate -s 272M before.model
holds 'the new end is zeros' drive.vdk before.model
fails 1 'give --shrink' 'it does not shrink unasked' vdisk resize drive.vdk 2M
t 'but shrinks when asked' vdisk resize drive.vdk 2M --shrink
truncate -s 2M before.model
holds 'and keeps its beginning' drive.vdk before.model
vdisk resize drive.vdk 4M
truncate -s 4M before.model
holds 'what was cut off is gone for good' drive.vdk before.model
clean 'the image is in order' drive.vdk

for command in create info check resize diff map compact import export read write 'snapshot create' \
    'snapshot list' 'snapshot delete' 'snapshot rollback' 'key generate' 'key list' 'key add' \
    'key remove' 'key rotate'; do
    # shellcheck disable=SC2086
    vdisk $command --help >.out 2>.err
    is "$command explains itself and takes --quiet" \
        "$(grep -c "^usage: vdisk $command " .out) $(grep -c -- ' --quiet' .out)" '1 1'
done
t 'help lists the commands' vdisk help
t '--version' vdisk --version
fails 2 'no command' 'an unknown command is wrong usage' vdisk frobnicate
fails 2 'no option' 'so is an unknown option' vdisk info drive.vdk --frobnicate
fails 2 'needs' 'and a missing operand' vdisk info
vdisk read drive.vdk 0 --quiet >part
same '--quiet changes nothing but remarks' part before.model
