#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The main job from end to end, step by step with times: an encrypted image with a real file system
# in it, a snapshot, a change, what changed, an intruder, and back. Leaves nothing behind.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/build/bin:/usr/sbin:/sbin:$PATH"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 077

step() {
    printf '\n\033[1m%s\033[0m\n' "$*"
}
# Shows the command as one would type it, runs it, and tells how long it took.
run() {
    local from to status=0
    printf '  $ %s\n' "$*"
    from=$(date +%s%N)
    (cd "$work" && "$@") 2>&1 | sed 's/^/    /' || status=$?
    to=$(date +%s%N)
    printf '    (%d.%03d s)\n' $(((to - from) / 1000000000)) $(((to - from) / 1000000 % 1000))
    return "$status"
}
fail() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

step '1. A file system with real files, and a key'
mkdir "$work/files"
cp -a README.md SPEC.md libvdisk include "$work/files/"
echo 'the secret recipe' >"$work/files/secret.txt"
truncate -s 64M "$work/disk.raw"
run mke2fs -q -t ext4 -d files disk.raw
head -c 32 /dev/urandom >"$work/key"

step '2. Into an encrypted, compressed image'
run vdisk import disk.raw drive.vdk --format raw --key-file key --quiet
run vdisk info drive.vdk --key-file key
if grep -qaF 'the secret recipe' "$work/drive.vdk"; then
    fail 'the image shows its content'
fi
echo '  The file shows nothing of what is in it: grep finds no "secret recipe".'

step '3. A snapshot, then a change'
run vdisk snapshot create drive.vdk before --key-file key
# The file system is changed the way a guest would: read out, written to, and the blocks put back.
cp --sparse=always "$work/disk.raw" "$work/changed.raw"
echo 'all gone' >"$work/note"
run debugfs -w -R 'rm secret.txt' changed.raw
run debugfs -w -R 'write note note.txt' changed.raw
while read -r block; do
    dd if="$work/changed.raw" bs=4096 skip="$block" count=1 status=none |
        vdisk write "$work/drive.vdk" $((block * 4096)) --key-file "$work/key" --quiet
done < <(cmp -l "$work/disk.raw" "$work/changed.raw" | awk '{ print int(($1 - 1) / 4096) }' | uniq)

step '4. What changed since the snapshot'
run vdisk diff drive.vdk before --key-file key
run vdisk map drive.vdk --key-file key

step '5. Somebody tampers with the file'
cp "$work/drive.vdk" "$work/tampered.vdk"
size=$(stat -c %s "$work/tampered.vdk")
for ((at = 2 * 1024 * 1024 + 65536; at < size; at += 32768)); do # a byte here and there
    printf 'X' | dd of="$work/tampered.vdk" bs=1 seek="$at" conv=notrunc status=none
done
status=0
run vdisk check tampered.vdk --key-file key || status=$?
[ "$status" = 3 ] || fail "tampering was not noticed (exit status $status)"
echo '  Exit status 3: damage found, and where.'

step '6. And without the key'
head -c 32 /dev/urandom >"$work/wrong"
status=0
run vdisk export drive.vdk out.raw --key-file wrong || status=$?
[ "$status" = 4 ] || fail "a wrong key was accepted (exit status $status)"

step '7. Back to the snapshot'
run vdisk snapshot rollback drive.vdk before --key-file key
run vdisk export drive.vdk back.raw --key-file key --quiet
cmp "$work/disk.raw" "$work/back.raw" || fail 'the drive is not what it was'
run debugfs -R 'cat secret.txt' back.raw
run vdisk check drive.vdk --key-file key
printf '\nAll as it should be. Everything was made in a temporary folder, which is gone now.\n'
