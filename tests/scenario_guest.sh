#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A Linux guest on a drive of vdiskd, over vhost-user-blk: Debian's kernel in QEMU's software
# emulation makes a file system, writes and verifies, discards; meanwhile vdiskd is killed and
# started again, and the guest notices nothing.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh"
# shellcheck source-path=SCRIPTDIR source=lib_serve.sh
. "$VDISK_SRC/tests/lib_serve.sh"
# shellcheck source-path=SCRIPTDIR source=lib_guest.sh
. "$VDISK_SRC/tests/lib_guest.sh"

lacks=$(guest_lacks)
if [ -z "$lacks" ] && ! guest_kernel; then
    sed 's/^/#   /' .err
    lacks='the kernel could not be fetched'
fi
if [ -n "$lacks" ]; then
    skip 'a guest' "$lacks"
    exit 0
fi

kills=3
[ "${VDISK_TEST_LONG:-0}" != 1 ] || kills=50
patience=600 # seconds for what takes a few

serve_guest() { serve a.vdk --vhost-user "$PWD/vhost"; }
kib() { du -k a.vdk | cut -f 1; }
round() { sed -n 's/^ROUND //p' serial | tail -n 1 | tr -d '\r'; }
stepped() { # NAME: the guest did that step, and well
    if says serial "^STEP $1 " "$patience" && grep -q "^STEP $1 ok" serial; then
        ok "guest: $1"
    else
        tail -n 40 serial | sed 's/^/#   serial: /'
        sed 's/^/#   qemu: /' qemu.err
        not_ok "guest: $1"
    fi
}

drive a.vdk 512M
guest_initramfs initrd "$VDISK_SRC/tests/guest_init.sh"
t 'vdiskd starts' serve_guest
guest "$PWD/vhost" initrd serial
for name in modules features mkfs mount fio_files fio_bare; do stepped "$name"; done
says serial '^KILL' "$patience" || not_ok 'guest: it gets to the rounds'

# Each time somewhere in a round that writes, flushes and verifies; then a round that is whole.
for ((i = 1; i <= kills; i++)); do
    sleep "0.$((RANDOM % 10))$((RANDOM % 10))"
    before=$(round)
    kill -9 "$server"
    wait "$server" 2>/dev/null
    serve_guest || not_ok "vdiskd starts again, kill $i"
    if says serial "^ROUND $((${before:-0} + 2))[^0-9]" "$patience"; then
        ok "the guest goes on, kill $i, round $((${before:-0} + 2))"
    else
        not_ok "the guest goes on, kill $i"
        break
    fi
done
kib=$(kib)
echo stop >&8
for name in rounds sync fio_files_again fio_bare_again fstrim umount blkdiscard discarded_reads_zeros no_errors; do stepped "$name"; done
if says serial '^DONE' "$patience"; then wait "$guest"; fi
down 'vdiskd ends'
clean 'the image is clean' a.vdk
now=$(kib)
echo "# $kib KiB before the guest discarded, $now after"
verdict 'what the guest discarded is free again' "$([ "$now" -lt $((kib / 2)) ]; echo $?)"

t 'the drive is exported' vdisk export a.vdk out.raw
t 'e2fsck: the file system is clean' e2fsck -fn out.raw
t 'debugfs: a file is read' debugfs -R 'dump /busybox busybox' out.raw
is 'it has what the guest wrote' "SUM $(sha256sum <busybox)" "$(grep '^SUM' serial | tr -d '\r')"
