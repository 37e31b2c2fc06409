#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Lines of libvdisk and the tools that the tests reached: coverage.sh BUILD, after a run of a
# build with COVERAGE=1. A table by gcovr where it is installed, else by gcov alone.
set -euo pipefail
cd "$(dirname "$0")/.."

build=$1
if command -v gcovr >/dev/null; then
    exec gcovr --root . --filter libvdisk/ --filter tools/ --exclude-throw-branches \
        --html-details "$build/index.html" --txt /dev/stdout "$build"
fi

find "$build/obj/libvdisk" "$build/obj/tools" -name '*.gcda' -print0 |
    xargs -0 --no-run-if-empty gcov --no-output |
    awk '
    /^File / { file = $2; gsub("\047", "", file) }
    /^Lines executed:/ && file ~ /^(libvdisk|tools)\/.*\.[ch]$/ {
        split($0, part, /[:% ]+/)
        percent = part[3]; lines = part[5]
        if (lines > total[file]) { total[file] = lines }
        if (percent * lines / 100 > reached[file]) { reached[file] = percent * lines / 100 }
        file = ""
    }
    END {
        for (file in total) {
            printf "%6.1f%% of %5d  %s\n", 100 * reached[file] / total[file], total[file], file | "sort -k4"
            all += total[file]; hit += reached[file]
        }
        close("sort -k4")
        if (all) { printf "%6.1f%% of %5d  in all\n", 100 * hit / all, all }
    }'
