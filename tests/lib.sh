# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the scenarios share; they source it first. It puts them into an empty folder with a key in
# `key`, which every vdisk command uses unless told otherwise, and prints the lines that tests/run
# counts. A name says what is true when the line is `ok`.

set -u
umask 077
: "${VDISK:?tests/run sets it}" "${VDISK_SRC:?}" "${TMPDIR:?}"
cd "$TMPDIR" || exit 1
VDISK_ROOT=$(dirname "$VDISK")
PATH=$VDISK_ROOT:/usr/sbin:/sbin:$PATH
: "${VDISK_TEST_SEED:=$$}"
RANDOM=$VDISK_TEST_SEED
echo "# seed $VDISK_TEST_SEED"
# Light enough that a passphrase costs nothing here.
# shellcheck disable=SC2034
CHEAP=(--kdf-memory 8K --kdf-passes 1)

ok() {
    echo "ok - $1"
}

not_ok() {
    echo "not ok - $1"
    [ ! -s .out ] || head -c 2000 .out | tr -d '\0' | sed 's/^/#   out: /' | head -20
    [ ! -s .err ] || sed 's/^/#   err: /' .err | head -20
}

verdict() { # NAME STATUS, for what is not one command
    if [ "$2" = 0 ]; then ok "$1"; else not_ok "$1"; fi
}

skip() { # NAME REASON
    echo "ok - $1 # SKIP $2"
}

# t NAME COMMAND...: the command succeeds. What it wrote is in .out and .err.
t() {
    local name=$1 status=0
    shift
    "$@" >.out 2>.err </dev/null || status=$?
    if [ "$status" = 0 ]; then
        ok "$name"
    else
        echo "#   status $status: $*"
        not_ok "$name"
    fi
    return "$status"
}

# fails STATUS TEXT NAME COMMAND...: the command ends with that status and says why in one line,
# which has TEXT (a regular expression) in it.
fails() {
    local want=$1 text=$2 name=$3 status=0
    shift 3
    "$@" >.out 2>.err </dev/null || status=$?
    if [ "$status" = "$want" ] && [ "$(wc -l <.err)" = 1 ] && grep -q '^vdisk: ' .err &&
        grep -qE -- "$text" .err && [ ! -s .out ]; then
        ok "$name"
    else
        echo "#   status $status, not $want, or not one line with '$text': $*"
        not_ok "$name"
    fi
}

# same NAME A B: the two files have the same bytes.
same() {
    if cmp "$2" "$3" >.err 2>&1; then ok "$1"; else not_ok "$1"; fi
}

# is NAME A B: the two words are the same.
is() {
    if [ "$2" = "$3" ]; then
        ok "$1"
    else
        printf '#   have %s\n#   want %s\n' "$2" "$3"
        echo "not ok - $1"
    fi
}

# json NAME EXPRESSION COMMAND...: the command prints JSON, of which (as `d`) the expression holds.
json() {
    local name=$1 expression=$2
    shift 2
    "$@" >.out 2>.err </dev/null
    if python3 - "$expression" .out >>.err 2>&1 <<'PYTHON'; then
import json, sys
with open(sys.argv[2], encoding="utf-8") as file:
    d = json.load(file)
sys.exit(0 if eval(f"({sys.argv[1]})") else 1)
PYTHON
        ok "$name"
    else
        echo "#   not so: $expression"
        not_ok "$name"
    fi
}

# data FILE SIZE SEED KIND: random, text (compressible), or mixed: both and zeros, in pieces of 48K.
data() {
    python3 - "$@" <<'PYTHON'
import random, sys
name, size, seed, kind = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
rng = random.Random(seed)
words = [rng.randbytes(6) for _ in range(40)]
def piece(kind, length):
    if kind == "mixed":
        kind = rng.choice(("random", "text", "text", "zero"))
    if kind == "random":
        return rng.randbytes(length)
    if kind == "zero":
        return bytes(length)
    return b"".join(rng.choices(words, k=length // 6 + 1))[:length]
with open(name, "wb") as file:
    while size:
        length = min(size, 48 << 10)
        file.write(piece(kind, length))
        size -= length
PYTHON
}

# put FILE IMAGE OFFSET: what a guest would write.
put() {
    vdisk write "$2" "$3" <"$1"
    dd if="$1" of="${2%.vdk}.model" bs=64K oflag=seek_bytes seek="$3" conv=notrunc status=none
}

# drive IMAGE SIZE OPTION...: an image, and beside it IMAGE.model, what the drive should hold.
drive() {
    local image=$1 size=$2
    shift 2
    vdisk create "$image" --size "$size" "$@" && truncate -s "$size" "${image%.vdk}.model"
}

# holds NAME IMAGE[@SNAPSHOT] MODEL: the drive has the bytes of the model, and so has every piece.
holds() {
    if vdisk read "$2" 0 2>.err | cmp - "$3" >.out 2>&1; then ok "$1"; else not_ok "$1"; fi
}

clean() { # NAME IMAGE
    t "$1" vdisk check "$2"
}

decoder() {
    python3 "$VDISK_SRC/tests/vdisk_decoder.py" "$@" --key-file "$VDISK_KEY_FILE"
}

# opened PID FILE: waits until the process has opened the file (but for root nobody can see it).
opened() {
    local try
    for try in {1..100}; do
        [ "$(id -u)" = 0 ] || [ "$try" -lt 40 ] || break
        readlink "/proc/$1/fd/"* 2>/dev/null | grep -qF "$2" && break
        sleep 0.05
    done
    sleep 0.1
}

# hold IMAGE OPTION...: a `vdisk write` ($holder) that has the image open and waits for input, which
# ends when descriptor 9 is closed.
hold() {
    rm -f .hold
    mkfifo .hold
    exec 9<>.hold
    vdisk write "$1" 0 "${@:2}" <.hold 9>&- &
    holder=$!
    opened "$holder" "$1"
}

flip() { # FILE OFFSET: changes one byte
    python3 - "$1" "$2" <<'PYTHON'
import sys
with open(sys.argv[1], "r+b") as file:
    file.seek(int(sys.argv[2]))
    byte = file.read(1) or b"\0"
    file.seek(int(sys.argv[2]))
    file.write(bytes([byte[0] ^ 1]))
PYTHON
}

head -c 32 /dev/urandom >key
export VDISK_KEY_FILE=$PWD/key
