#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `make demo`: Debian from its packages, as a guest on an encrypted drive, a live snapshot, and back.
# It fails when a step does; and it leaves nothing.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"

if [ -n "${VDISK_SANITIZER:-}" ]; then
    skip 'the demo' 'it shows what people get: without sanitizers'
    exit 0
fi

mkdir tmp
status=0
TMPDIR=$PWD/tmp timeout 800 bash "$VDISK_SRC/scripts/demo.sh" >.out 2>.err </dev/null || status=$?
if [ "$status" = 77 ]; then
    skip 'the demo' "$(tail -n 1 .err)"
    exit 0
fi
sed 's/^/# /' .out
is 'the demo comes to its end' "$status" 0
[ "$status" = 0 ] || sed 's/^/#   /' .err
is 'it has nothing to complain of' "$(wc -l <.err)" 0
verdict 'a snapshot is read back, and the present' \
    "$(grep -q "the secret recipe.*all gone" .out; echo $?)"
is 'nothing is left' "$(ls -A tmp)" ''
is 'nothing runs' "$(readlink /proc/[0-9]*/cwd 2>/dev/null | grep -F "$PWD/tmp")" ''
