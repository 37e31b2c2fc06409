#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs libFuzzer targets one after the other: fuzz.sh BUILD SECONDS NAME...
#
# NAME is fuzz/fuzz_NAME.c. The corpus in the tree (fuzz/corpus/NAME) is read, never written; what
# is found goes to BUILD/corpus/NAME, an input that crashes to BUILD/found/NAME-*. SECONDS 0 only
# replays both corpora. Exit status 1 if any target failed.
set -euo pipefail
cd "$(dirname "$0")/.."

build=$1 seconds=$2
shift 2
[ $# -gt 0 ] || { echo "fuzz: there are no targets" >&2; exit 1; }

failed=()
for name in "$@"; do
    name=${name#fuzz_}
    program=$build/fuzz_$name
    [ -x "$program" ] || { echo "fuzz: no target $name" >&2; exit 1; }
    corpora=("$build/corpus/$name")
    mkdir -p "${corpora[0]}" "$build/found"
    [ ! -d "fuzz/corpus/$name" ] || corpora+=("fuzz/corpus/$name")
    options=(-artifact_prefix="$build/found/$name-" -timeout=25 -rss_limit_mb=2048 -verbosity=0)
    [ ! -f "fuzz/$name.dict" ] || options+=(-dict="fuzz/$name.dict")
    if [ "$seconds" -gt 0 ]; then
        options+=(-max_total_time="$seconds" -print_final_stats=1)
    else
        options+=(-runs=0)
    fi
    echo "fuzz_$name: $seconds s"
    log=$build/found/$name.log
    if "$program" "${options[@]}" "${corpora[@]}" >"$log" 2>&1; then
        sed -n 's/^stat::\(number_of_executed_units\|new_units_added\): */    \1 /p' "$log"
    else
        tail -n 60 "$log"
        failed+=("$name")
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    echo "fuzz: failed: ${failed[*]} (inputs and logs in $build/found)" >&2
    exit 1
fi
