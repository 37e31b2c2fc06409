# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# For scenarios with mounts, after lib.sh. Whatever is left mounted in the test's folder is taken away
# at its end, and its server with it.

fuse_missing() { # says what there is none of; nothing when all is there
    command -v fusermount3 >/dev/null || echo 'no fusermount3 (package fuse3)'
    [ -c /dev/fuse ] || echo 'no /dev/fuse here'
}

need_fuse() {
    [ -n "$(fuse_missing)" ] || return 0
    skip 'mounts' "$(fuse_missing | head -1)"
    exit 0
}

fuse_clean() {
    local folder
    while read -r folder; do
        kill -9 "$(server_of "$folder" 2>/dev/null)" 2>/dev/null
        fusermount3 -uz -- "$folder" 2>/dev/null || umount -l -- "$folder" 2>/dev/null
    done < <(awk -v top="$PWD/" 'index($5, top) == 1 && / - fuse.vdisk / { print $5 }' \
        /proc/self/mountinfo)
}
trap fuse_clean EXIT

server_of() { # DIR: the process that serves it
    readlink "$1/.server"
}

mounted() { # DIR
    grep -qF " $(realpath -m "$1" 2>/dev/null || echo "$PWD/$1") " /proc/self/mountinfo
}

# until_true SECONDS COMMAND...
until_true() {
    local try
    for ((try = 0; try < $1 * 20; try++)); do
        "${@:2}" && return 0
        sleep 0.05
    done
    return 1
}

gone() { ! mounted "$1"; }

ended() { # PID: there is none, or only its memory
    [ ! -e "/proc/$1" ] || [ "$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -c1)" = Z ]
}

# seek_map FILE: `start end` of each range of data, by SEEK_DATA and SEEK_HOLE.
seek_map() {
    python3 - "$1" <<'PYTHON'
import os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
at, size = 0, os.fstat(fd).st_size
while at < size:
    try:
        begin = os.lseek(fd, at, os.SEEK_DATA)
    except OSError:
        break
    at = os.lseek(fd, begin, os.SEEK_HOLE)
    print(begin, at)
PYTHON
}

# told_map IMAGE[@SNAPSHOT]: the same, as `vdisk map` tells it.
told_map() {
    vdisk map "$1" --json >.map && python3 - <<'PYTHON'
import json
ranges = []
for extent in json.load(open(".map", encoding="utf-8")):
    if extent["kind"] in ("hole", "zero"):
        continue
    end = extent["offset"] + extent["length"]
    if ranges and ranges[-1][1] == extent["offset"]:
        ranges[-1][1] = end
    else:
        ranges.append([extent["offset"], end])
for begin, end in ranges:
    print(begin, end)
PYTHON
}
