#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# vdisk mount: a drive, its partitions and its snapshots as files, to read.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_fuse.sh
. "$VDISK_SRC/tests/lib_fuse.sh"
need_fuse

# ---- a disk as a guest has it, in three states ----

truncate -s 96M disk
printf 'label: gpt\nstart=2048,size=20480\nstart=24576,size=40960\nstart=81920,size=81920\n' |
    sfdisk -q disk
data mixed $((40 << 20)) 1 mixed
dd if=mixed of=disk bs=1M seek=14 conv=notrunc status=none
cp disk old
vdisk create a.vdk --size 96M
vdisk write a.vdk 0 <disk
vdisk snapshot create a.vdk monday
data random $((2 << 20)) 2 random
dd if=random of=disk bs=1M seek=60 conv=notrunc status=none
vdisk write a.vdk 60M <random
told_map a.vdk >map
told_map a.vdk@monday >map.old
vdisk info a.vdk --json >told
mkdir m

t 'it is mounted' vdisk mount a.vdk m --log log
is 'it shows' "$(cd m && find . | sort | tr '\n' ' ')" \
    '. ./disk ./info.json ./partitions ./partitions/1 ./partitions/2 ./partitions/3 ./snapshots ./snapshots/monday ./snapshots/monday/disk ./snapshots/monday/partitions ./snapshots/monday/partitions/1 ./snapshots/monday/partitions/2 ./snapshots/monday/partitions/3 '
same 'the drive' m/disk disk
same 'the drive as it was' m/snapshots/monday/disk old
t 'what is exported is the same' vdisk export a.vdk exported --quiet
same 'and so are its bytes' m/disk exported
part() { # NUMBER START SIZE FROM FILE: in sectors
    dd if="$4" bs=512 skip="$2" count="$3" status=none | cmp - "$5" >.out 2>&1
    verdict "partition $1 of $4" $?
}
part 1 2048 20480 disk m/partitions/1
part 2 24576 40960 disk m/partitions/2
part 3 81920 81920 disk m/partitions/3
part 3 81920 81920 old m/snapshots/monday/partitions/3
same 'info.json is what vdisk info tells' m/info.json told
is 'there is no way around' "$(cd m && cat ./nothing partitions/4 snapshots/tuesday/disk 2>&1 | grep -c 'No such file')" 3

# ---- holes ----

seek_map m/disk >seek
same 'holes are where the map says' seek map
seek_map m/snapshots/monday/disk >seek
same 'of the snapshot as well' seek map.old
stored() { awk '{ n += $2 - $1 } END { print n / 512 }' "$1"; }
# Compressed it takes less, of the file as a whole.
at_most() { [ "$(stat -c %b m/disk)" -le "$(stored map)" ] && [ "$(stat -c %b m/disk)" -gt 0 ]; }
t 'the size that it takes is what is stored' at_most
is 'an empty partition takes nothing' "$(stat -c '%s %b' m/partitions/1)" "$((20480 * 512)) 0"
t 'a copy is made' cp --sparse=auto m/disk copy
same 'of all of it' copy disk
sparse() { [ "$(stat -c %b "$1")" -le "$(($(stored map) + 256))" ]; }
t 'and is as sparse' sparse copy

# ---- many readers ----

readers() { # each reads its own way, over all of the drive
    python3 - <<'PYTHON'
import mmap, os, random, sys, threading
want = open("disk", "rb").read()
bad = []
def reader(seed):
    rng = random.Random(seed)
    fd = os.open("m/disk", os.O_RDONLY)
    for _ in range(120):
        length = rng.choice((1, 512, 4096, 100000, 1 << 20))
        at = rng.randrange(len(want))
        if os.pread(fd, length, at) != want[at : at + length]:
            bad.append(at)
    os.close(fd)
threads = [threading.Thread(target=reader, args=(n,)) for n in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
with open("m/disk", "rb") as file:
    with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        if mapped[60 << 20 : 62 << 20] != want[60 << 20 : 62 << 20]:
            bad.append("mmap")
sys.exit(bool(bad))
PYTHON
}
t 'eight readers at a time see the same' readers

# ---- what is refused ----

refuses() { ! { echo x >"$1"; } 2>/dev/null; }
t 'nobody writes' refuses m/disk
t 'nor to a snapshot' refuses m/snapshots/monday/disk
t 'nor makes files' refuses m/new
fails 1 'mounted there already' 'a second mount at the same place' vdisk mount a.vdk m
t 'others may look at the image as well' vdisk info a.vdk --key-file key
fails 5 'in use' 'and nobody may write it' vdisk snapshot create a.vdk tuesday
exec 8<m/disk
fails 5 'are open' 'an open file keeps it' vdisk umount m
exec 8<&-
server=$(server_of m)
is 'no core dumps' "$(awk '/^Max core file size/ { print $5, $6 }' "/proc/$server/limits")" '0 0'
status() { awk -v name="$1:" '$1 == name { print $2 }' "/proc/$server/status"; }
is 'no new privileges' "$(status NoNewPrivs)" 1
is 'system calls are filtered' "$(status Seccomp)" 2
t 'it is unmounted' vdisk umount m
t 'its server has ended by then' ended "$server"
t 'the image is free' vdisk snapshot create a.vdk tuesday
t 'what is not mounted is no failure' vdisk umount m
is 'nothing was wrong' "$(grep -c 'level=error' log)" 0

t 'a snapshot is mounted' vdisk mount a.vdk@monday m
same 'it is the drive' m/disk old
is 'beside all others' "$(cd m/snapshots && echo *)" 'monday tuesday'
t 'it is unmounted again' vdisk umount m

head -c 32 /dev/urandom >other
fails 4 'wrong key' 'a wrong key' vdisk mount a.vdk m --key-file other
fails 1 'no such file' 'no image' vdisk mount b.vdk m
fails 1 'mkdir' 'no folder' vdisk mount a.vdk n
ln -s m link
t 'a link to one' vdisk mount a.vdk link
t 'mounts there' mounted m
t 'and is unmounted by it' vdisk umount link
rm link
fails 1 'no folder' 'a file is no folder' vdisk mount a.vdk key
fails 1 'no snapshot' 'no such snapshot' vdisk mount a.vdk@friday m
fails 2 'which nobody may write' 'a snapshot is not written' vdisk mount a.vdk@monday m --write
fails 1 'no such file' 'nothing to unmount' vdisk umount n
hold a.vdk
fails 5 'vdiskd:EXPORT' 'an image in use' vdisk mount a.vdk m
exec 9>&-
wait "$holder"

# ---- ends that nobody asked for ----

t 'it is mounted again' vdisk mount a.vdk m
server=$(server_of m)
kill "$server"
t 'SIGTERM ends it' until_true 10 ended "$server"
t 'and the mount with it' until_true 10 gone m
t 'it is mounted once more' vdisk mount a.vdk m
kill -9 "$(server_of m)"
t 'kill -9 leaves no mount' until_true 10 gone m
t 'it is mounted for the last time' vdisk mount a.vdk m
server=$(server_of m)
mapfile -t helpers < <(pgrep -P "$server") # who would take it away
kill -9 "${helpers[@]}" "$server"
until_true 10 ended "$server"
fails 1 'whose server has ended' 'what is left of it is told' vdisk mount a.vdk m
t 'a dead mount is taken away' vdisk umount m
t 'and the place is as before' rmdir m
mkdir m
t 'a name with anything in it' mkdir 'a, b\040"c'
t 'is mounted at' vdisk mount a.vdk 'a, b\040"c'
same 'and read' 'a, b\040"c/disk' disk
t 'and unmounted' vdisk umount 'a, b\040"c/'

# ---- a byte that somebody changed ----

vdisk create t.vdk --size 32M --compress none
head -c 16M random >t.model
head -c 14M /dev/urandom >>t.model
truncate -s 32M t.model
vdisk write t.vdk 0 <t.model
flip t.vdk $(($(stat -c %s t.vdk) / 2))
vdisk check t.vdk --json >verdict 2>/dev/null
t 'a damaged image is mounted' vdisk mount t.vdk m --log damage
damage() { # every good block is read, no bad one, and the log says which
    python3 - <<'PYTHON'
import json, os, re, sys
found = [f for f in json.load(open("verdict"))["findings"] if "offset" in f]
bad = set()
for f in found:
    bad.update(range(f["offset"] // 4096, (f["offset"] + f["length"] + 4095) // 4096))
assert 0 < len(bad) <= 32, bad
want = open("t.model", "rb").read()
fd = os.open("m/disk", os.O_RDONLY)
failed = set()
for block in range(len(want) // 4096):
    try:
        got = os.pread(fd, 4096, block * 4096)
        assert got == want[block * 4096 : block * 4096 + 4096], block
    except OSError as error:
        assert error.errno == 5, error
        failed.add(block)
assert failed == bad, (failed, bad)
first = min(bad) * 4096
for line in open("damage"):
    if "event=read-failed" in line and f"offset={first} " in line:
        sys.exit(0)
sys.exit("no line in the log")
PYTHON
}
t 'only what is damaged cannot be read, and the log says what' damage
t 'it is unmounted all the same' vdisk umount m
rm damage
t 'it is mounted to be written' vdisk mount t.vdk m --write --log damage
t 'then, too, only that cannot be read' damage
t 'and it is unmounted' vdisk umount m

# ---- without rights ----

# In a place that nobody can reach, and with a /dev/fuse for all, as udev makes it.
as_nobody() { setpriv --reuid 65534 --regid 65534 --clear-groups "$@"; }
without_rights() {
    local server
    mknod dev-fuse c 10 229 && chmod 666 dev-fuse && mount --bind dev-fuse /dev/fuse || return
    cd "$1" || return
    t 'who has no rights mounts, too' as_nobody ./vdisk mount a.vdk m
    as_nobody cat m/disk | cmp - "$OLDPWD/disk" >.out 2>.err
    verdict 'and reads' $?
    is 'and nobody else' "$(head -c 1 m/disk 2>/dev/null | wc -c)" 0
    server=$(as_nobody readlink m/.server)
    t 'and unmounts' as_nobody ./vdisk umount m
    t 'with the server gone' ended "$server"
    t 'once more' as_nobody ./vdisk mount a.vdk m
    as_nobody kill -9 "$(as_nobody readlink m/.server)"
    t 'its dead mount goes as well' until_true 10 gone "$1/m"
}
if [ "$(id -u)" != 0 ]; then
    ok 'all of this was without rights'
elif ! command -v setpriv >/dev/null || ! unshare --mount true 2>/dev/null; then
    skip 'who has no rights mounts, too' 'no setpriv, or no namespaces'
else
    place=$(mktemp -d /tmp/vdisk-fuse.XXXXXX)
    # shellcheck disable=SC2064 # its name is known now
    trap "fuse_clean; rm -rf '$place'" EXIT
    cp "$VDISK" "$VDISK_ROOT/vdisk-fuse" a.vdk key "$place"
    mkdir "$place/m"
    chown -R 65534:65534 "$place"
    chmod 755 "$place" "$place/vdisk" "$place/vdisk-fuse"
    export -f as_nobody without_rights t ok not_ok verdict is until_true gone mounted ended
    VDISK_KEY_FILE=$place/key unshare --mount bash -c "without_rights '$place'"
fi
