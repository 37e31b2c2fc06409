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
    rm -f full/*
    vdisk import much big.vdk --format raw
    fails 1 'pace|room' 'an import that does not fit' vdisk import much full/new.vdk --format raw
    fails 1 'pace|room' 'nor an export' vdisk export big.vdk full/out.raw
    is 'leaves nothing behind' "$(ls full)" ''
else
    skip 'a full disk' 'no tmpfs can be mounted here'
fi
