#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Storage that cannot be written, or is full: said in one line, and nothing is lost by it.
# What is mounted here is so only for this script.
if [ -z "${VDISK_UNSHARED-}" ] && unshare -m true 2>/dev/null; then
    VDISK_UNSHARED=1 exec unshare -m "$0"
fi
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"

drive drive.vdk 8M
data first 3000000 1 mixed
put first drive.vdk 4096
cp drive.vdk sealed.vdk
chmod 400 sealed.vdk
if [ "$(id -u)" != 0 ]; then
    fails 1 'ermission' 'a file that may only be read' vdisk snapshot create sealed.vdk x
elif chattr +i sealed.vdk 2>/dev/null; then
    fails 1 'permitted|ermission' 'a file that may only be read' vdisk snapshot create sealed.vdk x
    t 'can be read' vdisk check sealed.vdk
    chattr -i sealed.vdk
else
    skip 'a file that may only be read' 'root may write it all the same, and there is no chattr'
fi
mkdir full
if mount -t tmpfs -o size=12m none full 2>/dev/null; then
    vdisk create full/drive.vdk --size 64M
    vdisk write full/drive.vdk 0 <first
    data much 16000000 2 random
    vdisk write full/drive.vdk 8M <much >.out 2>.err
    is 'a full disk' "$?" 1
    is 'is said in one line' "$(wc -l <.err) $(grep -cE 'pace|full' .err)" '1 1'
    clean 'it does no harm' full/drive.vdk
    vdisk read full/drive.vdk 0 3000000 >out
    same 'to what was there' out first
    t 'space can be made' vdisk resize full/drive.vdk 8M --shrink
    t 'and the drive is usable again' vdisk snapshot create full/drive.vdk x

    head -c 12M /dev/urandom >full/rest 2>.err
    fails 1 'pace|room' 'no room for new keys everywhere' vdisk key rotate full/drive.vdk
    clean 'is no harm either' full/drive.vdk
    vdisk read full/drive.vdk 0 3000000 >out
    same 'nor to the data' out first
    fails 1 'pace|room' 'no room for another drive' vdisk create full/new.vdk --size 1M
    rm full/rest
    t 'with room the keys are changed' vdisk key rotate full/drive.vdk
    clean 'and all is well' full/drive.vdk
    is 'and nothing else is there' "$(ls full)" drive.vdk
    rm -f full/*
    vdisk import much big.vdk --format raw
    fails 1 'pace|room' 'an import that does not fit' vdisk import much full/new.vdk --format raw
    fails 1 'pace|room' 'nor an export' vdisk export big.vdk full/out.raw
    is 'leaves nothing behind' "$(ls full)" ''
else
    skip 'a full disk' 'no tmpfs can be mounted here'
fi
if mountpoint -q full; then
    vdisk create full/drive.vdk --size 8M
    vdisk write full/drive.vdk 0 <first
    vdisk snapshot create full/drive.vdk one
    cp full/drive.vdk before
    head -c 32 /dev/urandom >new
    mount -o remount,ro full
    for words in 'snapshot create full/drive.vdk two' 'snapshot delete full/drive.vdk one' \
        'snapshot rollback full/drive.vdk one' 'resize full/drive.vdk 16M' 'compact full/drive.vdk' \
        'check full/drive.vdk --repair' 'key add full/drive.vdk --new-key-file new' \
        'key rotate full/drive.vdk' 'write full/drive.vdk 0' 'create full/new.vdk --size 1M' \
        'import first full/new.vdk --format raw' 'export drive.vdk full/out.raw'; do
        # shellcheck disable=SC2086  # words are meant
        fails 1 'read-only' "where nothing can be written: $words" vdisk $words
    done
    same 'leaves the image as it is' full/drive.vdk before
    clean 'which can be checked' full/drive.vdk
    vdisk read full/drive.vdk@one 0 3000000 >out
    same 'and read' out first
else
    skip 'a read-only filesystem' 'no tmpfs can be mounted here'
fi
