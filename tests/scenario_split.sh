#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# An image in several files.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"

drive drive.vdk 128M --split 16M --compress none
data much 36000000 1 random
put much drive.vdk 1000
holds 'an image in parts holds its drive' drive.vdk drive.model
parts=(drive.vdk.*.00?)
is 'in files of that size' "$(stat -c %s drive.vdk)" 16777216
is 'as many as it takes' "${#parts[@]}" 2
json 'its size is that of all' "d['split_bytes'] == 16 << 20 and d['file_bytes'] > 36000000" \
    vdisk info drive.vdk --json
vdisk snapshot create drive.vdk here
clean 'the check goes through all' drive.vdk
decoder read drive.vdk >.out 2>.err
same 'the second decoder reads it' .out drive.model
decoder check drive.vdk >.out 2>.err
is 'and finds nothing wrong' "$?" 0
t 'one of them is imported' vdisk import drive.model import.vdk --format raw --split 32M
holds 'whole' import.vdk drive.model
t 'and exported' vdisk export import.vdk out.raw
same 'as it was' out.raw drive.model
t 'a resize' vdisk resize drive.vdk 4M --shrink
vdisk snapshot delete drive.vdk here
t 'and a compaction' vdisk compact drive.vdk
is 'give the space back' "$(($(du -sk --total drive.vdk* | tail -1 | cut -f1) < 20000))" 1
truncate -s 4M drive.model
holds 'and keep what is left' drive.vdk drive.model

parts=(import.vdk.*.001)
mv "${parts[0]}" kept
vdisk read import.vdk 0 >.out 2>.err
is 'a missing part is no zeros' "$?" 4
vdisk check import.vdk >.out 2>.err
is 'the check finds it' "$?" 3
cp kept "${parts[0]}"
holds 'with it all is well' import.vdk out.raw
flip "${parts[0]}" 4000000
vdisk check import.vdk >.out 2>.err
is 'damage in a part is found' "$?" 3
mkdir elsewhere
mv import.vdk* elsewhere
mv kept "elsewhere/${parts[0]}"
t 'parts move together' vdisk check elsewhere/import.vdk

: >"new.vdk"
fails 1 'exists' 'what is there is not overwritten' vdisk create new.vdk --size 64M --split 16M
rm new.vdk
vdisk import much broken.vdk --format raw --split 16M --compress zstd:19 >.out 2>.err &
until compgen -G 'broken.vdk.*.001' >/dev/null || ! kill -0 $! 2>/dev/null; do sleep 0.01; done
kill -TERM $!
wait $! 2>/dev/null
is 'an import can be interrupted' "$?" 143
is 'and leaves no part' "$(echo broken.vdk*)" 'broken.vdk*'
