#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What goes wrong: one line that says what and what to do, the right exit status, nothing lost and
# nothing left half-made.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"

drive drive.vdk 8M
data first 3000000 1 mixed
put first drive.vdk 4096
head -c 32 /dev/urandom >wrong

# --- keys and files that are none

fails 4 'wrong|opens|key' 'a wrong key' vdisk info drive.vdk --key-file wrong
fails 4 'wrong|opens|key' 'also for writing' vdisk write drive.vdk 0 --key-file wrong
fails 2 'no key is given' 'no key and no terminal' env -u VDISK_KEY_FILE vdisk check drive.vdk
fails 1 'no such file' 'no image' vdisk info none.vdk
fails 1 'no such file' 'no key file' vdisk info drive.vdk --key-file none
fails 1 'not a vdisk image' 'another file' vdisk info first
fails 1 'not a vdisk image' 'with a key too' vdisk info key
: >empty.vdk
fails 1 'not a vdisk image|empty' 'an empty file' vdisk check empty.vdk
mkdir folder
fails 1 'directory' 'a folder' vdisk check folder
fails 1 'directory' 'also without a key' env -u VDISK_KEY_FILE vdisk info folder
mkfifo fifo
fails 1 'regular|block device|file' 'a FIFO does not make it wait' timeout 10 vdisk check fifo
fails 1 'regular|block device|file' 'nor without a key' timeout 10 env -u VDISK_KEY_FILE vdisk info fifo
fails 1 'file|block device' 'nor when it is to be imported' timeout 10 vdisk import fifo new.vdk
fails 1 'character device' 'a device without blocks' timeout 10 vdisk check /dev/zero
fails 1 'not a directory' 'a file in a file' vdisk info drive.vdk/x
fails 2 'empty' 'an empty name' vdisk info ''
python3 - <<'PYTHON'
import hashlib
data = bytearray(open("drive.vdk", "rb").read())
for at in (0, 1 << 21):
    header = data[at:at + 8192]
    header[8] = 2
    header[4064:4096] = bytes(32)
    header[4064:4096] = hashlib.blake2b(header, digest_size=32).digest()
    data[at:at + 8192] = header
open("newer.vdk", "wb").write(data)
PYTHON
fails 1 'version 2' 'a newer version is named' vdisk info newer.vdk
for bytes in 100 4096 8192 70000 2200000; do
    head -c "$bytes" drive.vdk >short.vdk
    vdisk read short.vdk 0 >.out 2>.err
    status=$?
    if [ "$status" = 1 ] || [ "$status" = 4 ] && [ "$(wc -l <.err)" = 1 ]; then
        ok "a file cut off after $bytes bytes is refused"
    else
        not_ok "a file cut off after $bytes bytes is refused (status $status)"
    fi
done
# Wherever the end is: what is read is true, and the end of it is told; `check` tells it too.
size=$(stat -c %s drive.vdk)
untold=
for ((bytes = 0; bytes < size; bytes += RANDOM * 8 + 1)); do
    head -c "$bytes" drive.vdk >short.vdk
    vdisk read short.vdk 0 >.out 2>.err
    status=$?
    if [[ $status != [14] ]] || [ "$(wc -l <.err)" != 1 ] ||
        ! cmp -s -n "$(stat -c %s .out)" .out drive.model; then
        untold+=" read:$bytes"
    fi
    vdisk check short.vdk >.out 2>.err
    status=$?
    if [[ $status != [134] ]] || [ "$(wc -l <.err)" != 1 ]; then
        untold+=" check:$bytes"
    fi
done
is 'a file cut off anywhere gives true bytes and one line' "$untold" ''

# --- sizes and offsets

fails 2 'no size' 'a drive of 0 bytes' vdisk create new.vdk --size 0
fails 2 'at most' 'of 2^63' vdisk create new.vdk --size 9223372036854775808
fails 2 'no size' 'a drive that shrinks to nothing' vdisk resize drive.vdk 0 --shrink
fails 2 'at most' 'that grows to 2^63' vdisk resize drive.vdk 9223372036854775808
fails 2 'not a size' 'of 2^64 and more' vdisk create new.vdk --size 18446744073709551616
fails 2 'multiple of 512' 'of 1000 bytes' vdisk create new.vdk --size 1000
fails 2 'not a size' 'of 1.5G' vdisk create new.vdk --size 1.5G
fails 2 'not a size' 'of -1' vdisk create new.vdk --size=-1
fails 2 '16K to 1M' 'a cluster of 17K' vdisk create new.vdk --size 1M --cluster-size 17K
fails 2 'multiple of 1M' 'parts of 1M' vdisk create new.vdk --size 1M --split 1M
fails 2 'compress' 'zstd:20' vdisk create new.vdk --size 1M --compress zstd:20
t 'the largest drive' vdisk create large.vdk --size 65536T
json 'is 64 PiB' "d['size'] == 1 << 56" vdisk info large.vdk --json
printf x | vdisk write large.vdk $(((1 << 56) - 1))
is 'and has a last byte' "$(vdisk read large.vdk $(((1 << 56) - 1)))" x
fails 1 'past the end' 'reading past the end' vdisk read drive.vdk 8388600 9
fails 1 'past the end' 'an offset past the end' vdisk read drive.vdk 8388609
fails 1 'past the end' 'that overflows' vdisk read drive.vdk 18446744073709551615 1
fails 1 'past the end' 'a length of 2^63' vdisk read drive.vdk 4095 9223372036854775808
fails 2 'option' 'a negative offset' vdisk read drive.vdk -1 1
vdisk write drive.vdk 8388600 <first >.out 2>.err
is 'writing past the end' "$?" 1
printf 'a byte at an odd place' >odd
put odd drive.vdk 12345
holds 'nothing of that touched the drive' drive.vdk drive.model

# --- names

fails 1 'already' 'a snapshot twice' eval 'vdisk snapshot create drive.vdk one && vdisk snapshot create drive.vdk one'
for name in $'new\nline' a/b a@b $'\x80' ''; do
    vdisk snapshot create drive.vdk "$name" >.out 2>.err
    status=$?
    if [ "$status" != 0 ] && [ "$(wc -l <.err)" = 1 ]; then
        ok "the snapshot name $(printf %q "$name") is refused in one line"
    else
        not_ok "the snapshot name $(printf %q "$name") is refused in one line"
    fi
done
fails 1 'no snapshot' 'a snapshot that is not there' vdisk snapshot delete drive.vdk two
fails 1 'no snapshot' 'nor to be read' vdisk read drive.vdk@two 0 1
fails 1 'new\\x0aline' 'which is named in one line' vdisk snapshot delete drive.vdk $'new\nline'
fails 1 'new\\x0aline' 'a file name with a newline stays in one line' vdisk info $'new\nline.vdk'

# --- what is there already, or must not be written

cp drive.vdk before.vdk
fails 1 'exists' 'an image is not overwritten' vdisk create drive.vdk --size 1M
fails 1 'exists' 'nor by an import' vdisk import first drive.vdk --format raw
same 'and stays as it is' drive.vdk before.vdk
echo mine >out.raw
fails 1 'force' 'nor what an export would replace' vdisk export drive.vdk out.raw
is 'which also stays' "$(cat out.raw)" mine
fails 1 '.' 'a folder that is not there' vdisk create nowhere/new.vdk --size 1M
is 'nothing half-made is left' "$(echo new.vdk* nowhere* ./*.part)" 'new.vdk* nowhere* ./*.part'
hold drive.vdk
fails 5 'use' 'an image that is being written' vdisk info drive.vdk
fails 5 'use' 'whoever asks' vdisk write drive.vdk 0
exec 9>&-
wait "$holder"
t 'is free afterwards' vdisk check drive.vdk

# --- an output that takes nothing

for words in 'read drive.vdk 0' 'info drive.vdk' 'info drive.vdk --json' 'check drive.vdk' \
    'map drive.vdk' 'snapshot list drive.vdk --json' 'help'; do
    # shellcheck disable=SC2086  # words are meant
    vdisk $words >/dev/full 2>.err
    is "vdisk $words, onto a full disk, fails in one line" "$? $(wc -l <.err)" '1 1'
done
