#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# `vdisk ls` and `vdisk cp`: files on drives, compared with those the file systems were made of.
# shellcheck source=tests/lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source=tests/lib_files.sh
. "$VDISK_SRC/tests/lib_files.sh"
export TZ=UTC

make_tree tree

# copied NAME IMAGE...: all files come out as they were.
copied() {
    rm -rf out
    t "$1: all of it comes out" vdisk cp --recursive "$2:/" out "${@:3}"
    same_tree "$1: with the same content" tree out
    # A set-user-id bit is not kept, nor are owners.
    described tree | sed -E 's/ f 4/ f /' >want
    described out >have
    same "$1: names, kinds, permissions, sizes, targets and times" have want
}

# ---- file systems of all kinds, on a drive without partitions ----

kind() { # NAME SIZE OPTION...
    ext_image fs.img "$2" tree "${@:3}" || return
    vdisk import fs.img fs.vdk --quiet
    copied "$1" fs.vdk
    rm -f fs.vdk
}

kind 'ext2 with blocks of 1 KiB' 40M -t ext2 -b 1024
kind 'ext2 of the first revision' 60M -t ext2 -b 4096 -r 0
kind 'ext3' 60M -t ext3
kind 'ext4' 60M -t ext4
kind 'ext4 with inline data' 60M -t ext4 -O inline_data,metadata_csum,64bit -I 256
kind 'ext4 without checksums or extents' 60M -t ext4 -O '^extent,^64bit,^metadata_csum,^has_journal'
kind 'ext4 with big clusters' 120M -t ext4 -O bigalloc -C 16384
kind 'ext4 with meta groups' 60M -t ext4 -O meta_bg,^resize_inode -b 1024 -g 1024
kind 'ext4 with a seed for checksums and large folders' 60M -t ext4 -O metadata_csum_seed,large_dir

# ---- one of them, closely ----

ext_image fs.img 60M tree -t ext4 -L root
drive fs.vdk 60M
put fs.img fs.vdk 0

t 'a file to standard output' vdisk cp fs.vdk:/large -
same 'has its bytes' .out tree/large
t 'so has one with holes' vdisk cp fs.vdk:/sparse -
same 'with zeros for them' .out tree/sparse
t 'a file into a folder' vdisk cp fs.vdk:/sparse empty-name
mkdir into
t 'by its own name' vdisk cp fs.vdk:/sparse into
same 'is the same' into/sparse tree/sparse
is 'and is sparse' "$(($(du -k into/sparse | cut -f1) < 200))" 1
fails 1 'exists already, --force' 'a file is not written over' vdisk cp fs.vdk:/one into/sparse
t 'unless it is wanted' vdisk cp fs.vdk:/one into/sparse --force
same 'then it is' into/sparse tree/one
t 'a link leads to its file' vdisk cp fs.vdk:/deep/a/b/c/d/up/link -
same 'within the drive' .out tree/etc/fstab
t 'also an absolute one' vdisk cp fs.vdk:/deep/a/absolute -
same 'from the root of the drive' .out tree/etc/fstab
t 'and ../ ends there' vdisk cp fs.vdk:/../../etc/../etc/./fstab -
same 'too' .out tree/etc/fstab

t 'a folder is listed' vdisk ls fs.vdk:/etc
is 'as ls does' "$(awk '{print $1, $2, $5, $7, $8, $9}' .out | tr '\n' ';')" \
    "-rw------- 1 30 fstab  ;lrwxrwxrwx 1 5 link -> fstab;"
t 'a link is shown as one' vdisk ls fs.vdk:/deep/a/b/c/d/up
is 'with where it leads' "$(grep -c 'up -> ../../../../../etc' .out)" 1
t 'with a / behind it it is followed' vdisk ls fs.vdk:/deep/a/b/c/d/up/
is 'to the folder' "$(grep -c fstab .out)" 2
t 'without a path the root is meant' vdisk ls fs.vdk
is 'and is listed' "$(grep -c ' large$' .out)" 1
json 'as JSON' "[(e['name'], e['type'], e['size'], e['mode'], e.get('target')) for e in d['entries']]
    == [('fstab', 'file', 30, '0600', None), ('link', 'symlink', 5, '0777', 'fstab')]
    and d['filesystem'] == 'ext4' and d['partition'] == 0 and d['path'] == '/etc'" \
    vdisk ls --json fs.vdk:/etc
json 'names that are not UTF-8 come as hex, too' \
    "[e['name_hex'] for e in d['entries'] if 'name_hex' in e] == ['$(
        cd tree/many && printf '%s' caf* | od -An -tx1 | tr -d ' \n')'] and len(d['entries']) == 300" \
    vdisk ls --json fs.vdk:/many

fails 1 'no such file' 'a file that is not there' vdisk ls fs.vdk:/nowhere
fails 1 'no such file' 'a link to nowhere' vdisk cp fs.vdk:/dangling -
fails 1 'not a directory' 'a path through a file' vdisk ls fs.vdk:/one/two
fails 1 'is a folder' 'a folder without --recursive' vdisk cp fs.vdk:/etc out2
fails 1 'no ext2|no file system' 'a drive without a file system' bash -c \
    'vdisk create none.vdk --size 1M && vdisk ls none.vdk:/'
fails 2 'image is missing' 'no image' vdisk ls :/etc
fails 1 'no partition 3' 'a partition that is not there' vdisk ls fs.vdk:/ --partition 3
fails 2 'counted from 1' 'nor one that never is' vdisk ls fs.vdk:/ --partition 0
fails 1 'exists' 'a tree over a folder' vdisk cp --recursive fs.vdk:/ into
fails 4 'wrong key' 'a wrong key' bash -c 'head -c 32 /dev/urandom >wrong
    vdisk ls fs.vdk:/ --key-file wrong'
is 'nothing is left half-made' "$(find . -name '*.part' | wc -l)" 0

# ---- a snapshot ----

vdisk snapshot create fs.vdk before
cp fs.img later.img
debugfs -w -R 'rm /etc/fstab' later.img >.out 2>.err
vdisk write fs.vdk 0 <later.img
t 'a snapshot has the file that is deleted now' vdisk cp fs.vdk@before:/etc/fstab -
same 'as it was' .out tree/etc/fstab
fails 1 'no such file' 'the live state has not' vdisk cp fs.vdk:/etc/fstab -
fails 1 'no snapshot' 'a snapshot that is not there' vdisk ls fs.vdk@after:/

# ---- partitions ----

ext_image root.img 60M tree -t ext4
mkdir data && cp tree/text data/book && ln data/book data/copy
ext_image data.img 8M data -t ext2
truncate -s 4M boot.img
mkfs.vfat boot.img >.out 2>&1
truncate -s 90M gpt.img
sfdisk -q gpt.img >.out 2>.err <<'TABLE'
label: gpt
start=2048, size=8192, type=U, name="EFI system"
start=10240, size=122880, type=L, name="größe"
start=133120, size=16384, type=L
TABLE
for part in boot:2048 root:10240 data:133120; do
    dd if="${part%:*}.img" of=gpt.img bs=512 seek="${part#*:}" conv=notrunc,sparse status=none
done
vdisk import gpt.img gpt.vdk --quiet
copied 'the partition that looks like a root is meant' gpt.vdk
t 'another one' vdisk cp --recursive gpt.vdk:/ books --partition 3
same_tree 'if it is named' data books
fails 1 'partition 1 is vfat; only ext2' 'one of another kind is not read' vdisk ls gpt.vdk:/ --partition 1

sfdisk -q --delete gpt.img 2 >.out 2>.err
vdisk import gpt.img one.vdk --quiet
t 'the only one that can be read is meant' vdisk cp one.vdk:/book -
same 'even without /etc' .out tree/text
sfdisk -q --delete gpt.img 3 >.out 2>.err
vdisk import gpt.img vfat.vdk --quiet
fails 1 'but: 1 vfat' 'where there is none it says what there is' vdisk ls vfat.vdk:/

truncate -s 40M mbr.img
dd if=/dev/zero of=mbr.img bs=1M count=40 status=none
sfdisk -q mbr.img >.out 2>.err <<'TABLE'
label: dos
start=2048, size=16384, type=83
start=20480, size=60000, type=5
start=22528, size=16384, type=83
start=40960, size=8192, type=c
TABLE
for part in data:2048 data:22528 boot:40960; do
    dd if="${part%:*}.img" of=mbr.img bs=512 seek="${part#*:}" conv=notrunc,sparse status=none
done
vdisk import mbr.img mbr.vdk --quiet
fails 1 'choose with --partition: 1 ext2, 5 ext2' 'of several one must be chosen' vdisk ls mbr.vdk:/
t 'also among logical ones' vdisk cp mbr.vdk:/copy - --partition 5
same 'as sfdisk counts them' .out tree/text

# ---- damage ----

ext_image fs.img 20M data -t ext4 -b 4096
vdisk import fs.img hurt.vdk --quiet --compress none
hurt_file hurt.vdk /book
fails 4 'damaged or altered' 'a file whose data was altered is an error' \
    vdisk cp hurt.vdk:/book altered
t 'and leaves the others alone' vdisk ls hurt.vdk:/
is 'no part of it is left' "$(find . -name 'altered*' | wc -l)" 0
