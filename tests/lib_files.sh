# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the scenarios about files on drives share, on top of lib.sh.

# make_tree DIR: a folder with what file systems can hold, as far as it needs no rights.
make_tree() {
    mkdir -p "$1"/etc "$1"/many "$1"/deep/a/b/c/d/e "$1/empty"
    echo 'UUID=1234 / ext4 defaults 0 1' >"$1/etc/fstab"
    data "$1/large" 3000001 7 random
    data "$1/text" 400000 8 text
    truncate -s 80M "$1/sparse"
    printf 'middle' | dd of="$1/sparse" bs=1 seek=41943040 conv=notrunc status=none
    printf 'end' | dd of="$1/sparse" bs=1 seek=83886077 conv=notrunc status=none
    truncate -s 1M "$1/hole"
    : >"$1/nothing"
    printf x >"$1/one"
    head -c 59 /dev/urandom >"$1/inline"
    head -c 100 /dev/urandom >"$1/inline-more"
    ln -s fstab "$1/etc/link"
    ln -s /etc/fstab "$1/deep/a/absolute"
    ln -s ../../../../../etc "$1/deep/a/b/c/d/up"
    ln -s nowhere "$1/dangling"
    ln -s "/deep/$(printf 'a/%.0s' {1..60})" "$1/long-link"
    ln "$1/text" "$1/deep/a/b/hard"
    local i
    for i in {1..298}; do echo "$i" >"$1/many/file-number-$i"; done
    echo odd >"$1/many/$(printf 'caf\303\251 \360\237\230\200 \377 name')"
    echo longest >"$1/many/$(printf 'n%.0s' {1..255})"
    chmod 4755 "$1/one"
    chmod 0600 "$1/text"
    chmod 0755 "$1/many"
    touch -d '2001-02-03 04:05:06.789 UTC' "$1/one" "$1/empty"
    touch -h -d '1999-12-31 23:59:59 UTC' "$1/dangling"
}

# described DIR: of each file in it a line with what a copy should keep.
described() {
    (cd "$1" && find . -mindepth 1 -path ./lost+found -prune -o -type d -printf '%P d %m %Ts\n' \
        -o -printf '%P %y %m %s %Ts %l\n' | sort)
}

# same_tree NAME A B: the same files with the same content.
same_tree() {
    if diff -r --no-dereference -x lost+found "$2" "$3" >.out 2>&1; then ok "$1"; else not_ok "$1"; fi
}

# ext_image FILE SIZE DIR OPTION...: a file system with the files of DIR, made without mounting it.
ext_image() {
    rm -f "$1"
    truncate -s "$2" "$1"
    mke2fs -q -F -d "$3" "${@:4}" "$1" >.out 2>.err || { not_ok "mke2fs ${*:4}"; return 1; }
}

# hurt_file IMAGE PATH: changes bytes of the image, such that the file cannot be read and the rest
# can. Places are tried one after the other.
hurt_file() {
    local at size
    size=$(stat -c %s "$1")
    cp "$1" whole.vdk
    for ((at = size / 4; at < size; at += 150001)); do
        cp whole.vdk "$1"
        printf 'altered!' | dd of="$1" bs=8 seek="$((at / 8))" conv=notrunc status=none
        vdisk cp "$1:$2" - >.out 2>.err
        [ $? = 4 ] && vdisk ls "$1:/lost+found" >.out 2>.err && break
    done
    rm whole.vdk
}
