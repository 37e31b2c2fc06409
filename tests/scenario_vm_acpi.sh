#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The ACPI tables in the eyes of Intel's compiler: it takes them apart without a complaint, and
# makes the same bytes of what it has read.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"

dump=$VDISK_BUILD/tests/test_vm_acpi
if [ ! -x "$dump" ]; then
    skip 'ACPI tables are read by iasl' 'the VMM is not built here'
    exit
fi
if ! command -v iasl >/dev/null; then
    skip 'ACPI tables are read by iasl' 'iasl is not installed (Debian: acpica-tools)'
    exit
fi

# Without what the compiler says of itself: checksum, its name and version.
body() {
    { head -c 9 "$1"; tail -c +11 "$1" | head -c 18; tail -c +37 "$1"; } >"$1.body"
}

t 'tables of a small and a large machine are written' "$dump" .
is 'all of them' "$(echo ./*.dat | wc -w)" 10
for table in *.dat; do
    name=${table%.dat}
    t "iasl takes $name apart" iasl -d "$table"
    is "and has nothing to say to $name" "$(cat .out .err | grep -ciE 'error|warning')" 0
    # Names are as they were written: with nothing made shorter.
    t "it makes $name again" iasl -oa -p "again_$name" "$name.dsl"
    is "without errors or warnings in $name" \
        "$(grep -c '0 Errors, 0 Warnings, 0 Remarks' .out)" 1
    body "$table"
    body "again_$name.aml"
    same "and $name has the same bytes" "$table.body" "again_$name.aml.body"
done
