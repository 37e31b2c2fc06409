#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The rules of the tree that a compiler does not know: tidy.sh LIBRARY.
#
#   - libvdisk/LAYERS lists the modules of libvdisk bottom up, a module or a group to a line (`#`
#     begins a comment). A module includes only itself, its own group and lines above its own in
#     that file; programs and public headers include nothing of libvdisk/.
#   - A file has at most 1,000 lines; a function at most 80 (more than 70 is a warning).
#   - A C file opens with its licence line.
#   - The library exports vdisk_* and vd_* only, has no writable globals, and neither prints,
#     exits, aborts nor knows threads.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C

library=$1
problems=0
found=
refuse() {
    printf 'tidy: %s\n' "$1" >&2
    problems=$((problems + 1))
}
# Each line of $1; it is a variable, not a pipe, so that the search cannot fail unseen.
refuse_each() {
    local line
    while IFS= read -r line; do
        [ -z "$line" ] || refuse "$line"
    done <<<"$1"
}

sources() {
    find . \( -path ./build -o -path ./.git -o -name __pycache__ \) -prune -o \
        -type f \( "$@" \) -printf '%P\n' | sort
}

check_layers() {
    if [ ! -f libvdisk/LAYERS ]; then
        refuse 'libvdisk/LAYERS is missing'
        return
    fi
    local files
    mapfile -t files < <(sources -path './libvdisk/*.[chS]')
    found=$(awk '
        function module(path) { sub(/^.*\//, "", path); sub(/\.[chS]$/, "", path); return path }
        FILENAME == "libvdisk/LAYERS" {
            sub(/#.*/, "")
            for (i = 1; i <= NF; i++) {
                if ($i in layer) { print "libvdisk/LAYERS:" FNR ": " $i " is listed twice" }
                layer[$i] = FNR
            }
            next
        }
        FNR == 1 {
            here = module(FILENAME)
            if (!(here in layer)) { print FILENAME ": module " here " is not in libvdisk/LAYERS" }
        }
        /^[ \t]*#[ \t]*include[ \t]*"/ {
            split($0, part, "\""); there = part[2]
            if (there ~ /^vdisk\//) { next }
            if (there ~ /\//) { print FILENAME ":" FNR ": includes " there ", not of the library"; next }
            there = module(there)
            if (there != here && (here in layer) && (there in layer) && layer[there] > layer[here]) {
                print FILENAME ":" FNR ": " here " includes " there ", which is above it"
            }
        }' libvdisk/LAYERS "${files[@]}")
    refuse_each "$found"
    # Not an error: a list may be ahead of the code, but not for long.
    local name
    while read -r name; do
        compgen -G "libvdisk/$name.[chS]" >/dev/null ||
            echo "tidy: warning: libvdisk/LAYERS lists $name, which does not exist" >&2
    done < <(sed 's/#.*//' libvdisk/LAYERS | tr -s '[:space:]' '\n' | sed '/^$/d')
}

# Whoever is outside the library reaches it through include/vdisk/ only; tests may look inside.
check_doors() {
    # shellcheck disable=SC2016  # awk's own $0
    found=$(sources -name '*.[ch]' | sed -E '/^(libvdisk|tests|fuzz)\//d' | xargs -r awk '
        function exists(path,    line, found) {
            found = (getline line < path) >= 0
            close(path)
            return found
        }
        /^[ \t]*#[ \t]*include[ \t]*"/ {
            split($0, part, "\""); header = part[2]
            beside = FILENAME; sub(/[^\/]*$/, header, beside)
            name = header; sub(/^.*\//, "", name)
            inside = header ~ /(^|\/)libvdisk\// ||
                     (header !~ /\// && !exists(beside) && exists("libvdisk/" name))
            if (inside) { print FILENAME ":" FNR ": includes " header " of libvdisk/" }
        }')
    refuse_each "$found"
}

check_sizes() {
    found=$(sources -name '*.[chS]' -o -name '*.py' -o -name '*.sh' |
        xargs -r awk 'FNR == 1001 { print FILENAME ": has more than 1,000 lines" }')
    refuse_each "$found"
    local long
    long=$(sources -name '*.[ch]' | xargs -r awk '
        FNR == 1 { start = 0 }
        /^\{/ { start = FNR }
        /^\}/ { if (start && FNR - start > 70) { print FNR - start, FILENAME ":" start; } start = 0 }')
    local lines where
    while read -r lines where; do
        [ -n "$lines" ] || continue
        if [ "$lines" -gt 80 ]; then
            refuse "$where: a function of $lines lines, the limit is 80"
        else
            echo "tidy: warning: $where: a function of $lines lines, should be at most 70" >&2
        fi
    done <<<"$long"
}

check_licences() {
    local wanted='/* SPDX-License-Identifier: Apache-2.0 */'
    # shellcheck disable=SC2016  # awk's own $0
    found=$(sources -name '*.[chS]' | xargs -r awk -v wanted="$wanted" '
        FNR == 1 && $0 != wanted { print FILENAME ": does not open with " wanted }')
    refuse_each "$found"
}

check_symbols() {
    found=$(nm --extern-only --defined-only "$library" | awk -v name="$library" '
        NF == 3 && $3 !~ /^(vdisk|vd)_/ { print name ": exports " $3 ", neither vdisk_* nor vd_*" }')
    refuse_each "$found"
    # FORTIFY renames printf to __printf_chk and its like.
    found=$(nm --undefined-only --print-file-name "$library" | awk '
        {
            symbol = $NF; plain = symbol
            sub(/@.*/, "", plain); sub(/^__/, "", plain); sub(/_chk$/, "", plain)
            if (plain ~ /^(v?f?printf|v?dprintf|f?puts|f?putc|putchar|perror|fwrite|stdout|stderr)$/) {
                what = "prints"
            } else if (plain ~ /^(exit|_exit|_Exit|quick_exit|abort)$/) {
                what = "ends the process"
            } else if (plain ~ /^(pthread|thrd|mtx|cnd)_/) {
                what = "knows threads"
            } else {
                next
            }
            print $1 " " what " (" symbol ")"
        }')
    refuse_each "$found"
    # Constants with addresses in them are in .data.rel.ro, which is read-only once running.
    found=$(objdump --syms "$library" | awk '
        /:  +file format / { file = $1; sub(/:$/, "", file) }
        NF > 3 && $(NF - 2) ~ /^(\.data|\.bss|\.tdata|\.tbss|\*COM\*)/ && $(NF - 2) !~ /^\.data\.rel\.ro/ &&
            $NF !~ /^\./ { print file ": writable global " $NF }')
    refuse_each "$found"
}

check_layers
check_doors
check_sizes
check_licences
check_symbols

if [ $problems -gt 0 ]; then
    echo "tidy: $problems problem(s)" >&2
    exit 1
fi
