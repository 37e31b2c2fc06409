#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Keys: every kind opens, no other does, slots come and go, and no secret is ever seen outside.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"
unset VDISK_KEY_FILE

printf 'correct horse\n' >pass
printf 'battery staple' >pass2
printf 'short' >short
head -c 32 /dev/urandom >other
t 'a key pair is made' vdisk key generate me
is 'its secret half for its owner alone' "$(stat -c %a me)" 600
is 'its public half is printed' "$(cat .out)" "$(cat me.pub)"
fails 1 'exists' 'and is not overwritten' vdisk key generate me
vdisk key generate you >.out

# --- each kind of key

t 'an image for a passphrase' vdisk create pass.vdk --size 1M --passphrase-file pass "${CHEAP[@]}"
t 'opens with it' vdisk check pass.vdk --passphrase-file pass
printf 'correct horse' >bare
t 'a newline at its end is no part of it' vdisk check pass.vdk --passphrase-file bare
fails 4 'key|opens' 'not with another' vdisk check pass.vdk --passphrase-file pass2
fails 4 'key|opens' 'nor as a key file' vdisk check pass.vdk --key-file pass
t 'one for a key file' vdisk create file.vdk --size 1M --key-file key
t 'opens with it' vdisk check file.vdk --key-file key
fails 4 'key|opens' 'not with another' vdisk check file.vdk --key-file other
t 'a short key file is stretched' vdisk create short.vdk --size 1M --key-file short "${CHEAP[@]}"
json 'by Argon2id' "d['keyslots'][0]['kdf_passes'] == 1 and d['keyslots'][0]['kdf_memory_bytes'] == 8192" \
    vdisk key list short.vdk --json
t 'and opens too' vdisk check short.vdk --key-file short
t 'one for a public key' vdisk create pair.vdk --size 1M --recipient me.pub
t 'opens with the secret half' vdisk check pair.vdk --identity me
fails 4 'key|opens' 'not with another' vdisk check pair.vdk --identity you
fails 2 'opens nothing' 'not with the public half' vdisk check pair.vdk --recipient me.pub
t 'the public key can stand on the command line' vdisk create pair2.vdk --size 1M --recipient "$(cat me.pub)"
fails 1 'identity' 'what is no identity is said to be none' vdisk check pair.vdk --identity key
vdisk check file.vdk --key-file - <key >.out 2>.err
is 'a key comes from standard input' "$?" 0
t 'or from a descriptor' bash -c 'vdisk check file.vdk --key-file <(cat key)'
t 'or from the file that VDISK_KEY_FILE names' env VDISK_KEY_FILE=key vdisk check file.vdk
t 'an option goes before it' env VDISK_KEY_FILE=other vdisk check file.vdk --key-file key
fails 2 'no key' 'no key at all' vdisk check file.vdk
fails 2 'one of' 'two keys' vdisk check file.vdk --key-file key --identity me
: >empty
fails 1 'empty' 'an empty key' vdisk create new.vdk --size 1M --key-file empty
fails 1 'longer' 'a key of 2 MiB' vdisk create new.vdk --size 1M --key-file <(head -c 2M /dev/zero)
chmod 644 other
vdisk create loose.vdk --size 1M --key-file other 2>.err
is 'a key that others can read is warned of' "$(grep -c 'chmod 600' .err)" 1
chmod 600 other

# --- slots

t 'a passphrase is added' vdisk key add file.vdk --key-file key --new-passphrase-file pass "${CHEAP[@]}"
is 'the slot is said' "$(cat .out)" 'slot 1'
t 'and a recipient' vdisk key add file.vdk --passphrase-file pass --new-recipient me.pub --quiet
json 'the list has three' "[(s['slot'], s['kind']) for s in d['keyslots']] ==
    [(0, 'key-file'), (1, 'passphrase'), (2, 'recipient')] and d['keyslots'][2]['recipient'] == '$(cat me.pub)'" \
    vdisk key list file.vdk --json
t 'the recipient opens it' vdisk check file.vdk --identity me
cp file.vdk old.vdk
t 'the first key goes' vdisk key remove file.vdk --slot 0 --identity me
fails 4 'key|opens' 'and opens no more' vdisk check file.vdk --key-file key
t 'but does an older copy' vdisk check old.vdk --key-file key
fails 1 'empty' 'an empty slot cannot be removed' vdisk key remove file.vdk --slot 0 --identity me
t 'nor does the passphrase stay' vdisk key remove file.vdk --slot 1 --identity me
fails 1 'last' 'the last key does' vdisk key remove file.vdk --slot 2 --identity me
t 'which still opens' vdisk check file.vdk --identity me
for slot in {0..15}; do
    [ "$slot" = 2 ] || vdisk key add file.vdk --identity me --new-key-file key --quiet
done
fails 1 'slot' 'there are 16 slots' vdisk key add file.vdk --identity me --new-key-file key
flip file.vdk 4200
t 'a damaged slot harms no other' vdisk info file.vdk --identity me

# --- nothing is seen from outside

secret=0123456789abcdef0123456789abcdef
printf %s "$secret" >seen.key
vdisk create seen.vdk --size 1M --key-file seen.key
ulimit -c unlimited
hold seen.vdk --key-file seen.key
cat "/proc/$holder/cmdline" "/proc/$holder/environ" >seen 2>.err
is 'no secret is among the arguments or in the environment' \
    "$(grep -ca 'vdisk.write' seen) $(grep -caF "$secret" seen)" '1 0'
is 'no core can be dumped' "$(awk '/Max core file size/ { print $5, $6 }' "/proc/$holder/limits")" '0 0'
is 'and nobody may trace it' "$(stat -c %u "/proc/$holder/mem" 2>.err)" 0
kill "$holder"
wait "$holder" 2>.err
is 'the file has the key nowhere' "$(grep -caF "$secret" seen.vdk)" 0
