#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# No command reads what it did not write, writes where it should not, or loses memory.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"

if ! command -v valgrind >/dev/null; then
    skip 'valgrind is silent' 'valgrind is not installed'
    exit 0
fi
if [[ $VDISK == */asan/* || $VDISK == */tsan/* ]]; then
    skip 'valgrind is silent' 'a sanitizer is watching already'
    exit 0
fi
# Memory that is never freed at the end of a process is its own matter; what is lost is not.
checked() {
    t "$1" valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite \
        --errors-for-leak-kinds=definite "$VDISK" "${@:2}"
}
export VDISK_KEY_FILE=key
head -c 32 /dev/urandom >key
head -c 700000 /dev/urandom >data
truncate -s 3M disk.raw
dd if="$VDISK" of=disk.raw conv=notrunc bs=1M count=2 status=none

checked 'create' create drive.vdk --size 8M
writes() {
    valgrind --quiet --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite \
        "$VDISK" write drive.vdk 12345 --quiet <data
}
t 'write' writes
checked 'snapshot create' snapshot create drive.vdk one
checked 'resize' resize drive.vdk 12M
checked 'read' read drive.vdk@one 0 100000
checked 'diff' diff drive.vdk one
checked 'map' map drive.vdk --json
checked 'compact' compact drive.vdk
checked 'rollback' snapshot rollback drive.vdk one
checked 'snapshot delete' snapshot delete drive.vdk one
checked 'check' check drive.vdk
checked 'import' import disk.raw import.vdk --format raw --quiet
checked 'export' export import.vdk out.raw --quiet
checked 'key rotate' key rotate import.vdk
