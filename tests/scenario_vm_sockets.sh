#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Debian's kernel as a guest of vdisk-vmm: its programs and the host's talk over AF_VSOCK, and its card
# is passt's, which gives it an address and carries its connections out, and others in. Always in the
# KVM lab, as the network around is made for it; nothing of it gets out.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh" || exit
# shellcheck source-path=SCRIPTDIR source=lib_lab.sh
. "$VDISK_SRC/tests/lib_lab.sh" || exit
# shellcheck source-path=SCRIPTDIR source=lib_told.sh
. "$VDISK_SRC/tests/lib_told.sh" || exit

if lab_is_outside; then
    GUEST_PROGRAMS+=(socat)
    LAB_PROGRAMS+=(socat passt)
    lab_ready || exit 0
    lab_guest_initrd initrd "$VDISK_SRC/tests/guest_vm_told.sh"
    cp "$KERNEL_CACHE/cloud-amd64/vmlinuz" cloud
    lab "$0" serial initrd cloud
    exit
fi

: "${VDISK_LAB:?interfaces are made in the lab alone}"

# ---- the network: an interface with a default route, as passt wants one, that leads nowhere ----
modprobe -a bridge
ip link add out type bridge
ip addr add 10.9.0.2/24 dev out
ip link set out up
ip route add default via 10.9.0.1
ip addr add 10.9.0.3/32 dev lo

head -c $((4 << 20)) /dev/urandom >bytes
sum=$(sha256sum <bytes)
mkdir www loop
cp bytes www/bytes
head -c 100000 /dev/urandom >loop/bytes
httpd -p 10.9.0.3:80 -h "$PWD/www"
httpd -p 127.0.0.1:80 -h "$PWD/loop"

mkdir -m 777 cards # it becomes nobody
passt_begins() {
    passt --foreground --stderr --socket "$PWD/cards/a" --tcp-ports 8080 2>>passt.err &
    passt=$!
}
passt_begins
mkdir sockets
boot a --cpus 2 --vsock "5:$PWD/sockets" --net "socket=$PWD/cards/a"
t 'the guest comes up' waits has_said a ^BOOT
t 'with a socket device' told a 'modprobe vmw_vsock_virtio_transport'

# ---- from the guest to programs of the host ----
socat UNIX-LISTEN:sockets/vsock_700,fork EXEC:cat &
t 'the guest makes bytes' told a 'head -c 4194304 /dev/urandom >/tmp/bytes'
echoes() { # NAME: a shell command of the guest
    echo "socat -t 60 - VSOCK-CONNECT:2:700 </tmp/bytes >/tmp/$1 && cmp /tmp/bytes /tmp/$1"
}
t '4 MiB go to the host, and come back' told a "$(echoes one)"
four=
for i in 1 2 3 4; do four+="{ $(echoes "$i") && : >/tmp/done.$i; } & "; done
t 'by four connections at once as well' told a "$four wait; ls /tmp/done.1 /tmp/done.2 /tmp/done.3 /tmp/done.4"
cannot 'where no program listens the guest is refused' a 'socat -u VSOCK-CONNECT:2:701 -'

# ---- and the other way ----
t 'the guest listens' told a 'socat VSOCK-LISTEN:900,fork EXEC:cat >/tmp/listens 2>&1 &'
asks() { # PORT: what the guest gives back for bytes
    { printf 'CONNECT %s\n' "$1"; cat bytes; } | socat -t 60 - UNIX-CONNECT:sockets/vsock
}
listens() { printf 'CONNECT 900\n' | socat -t 5 - UNIX-CONNECT:sockets/vsock 2>.err | grep -q ^OK; }
t 'where the host finds it' waits listens
asks 900 >came 2>.err
{ read -r line; cat >back; } <came
is 'the host is let in' "${line% *}" OK
same 'and gets back its 4 MiB' bytes back
is 'where the guest does not listen it gets nothing' "$(asks 901 2>.err | wc -c)" 0
socat -u UNIX-LISTEN:sockets/vsock_702 - >came 2>.err &
ending=$!
t 'a program of the host' told a '{ (echo begins; sleep 1000) | socat -u - VSOCK-CONNECT:2:702; : >/tmp/ended; } >/dev/null 2>&1 &'
t 'hears from the guest' waits grep -q begins came
kill $ending
t 'its end is one in the guest as well' told a 'for i in 1 2 3 4 5 6 7 8 9 10; do ls /tmp/ended && break; sleep 1; done'

# ---- a card of passt's ----
gets() { # URL
    echo "wget -q -O /tmp/got $1 && sha256sum </tmp/got"
}
t 'it gives the guest an address' told a 'leases eth0'
is 'the host'"'"'s own' "$(told a 'ip addr show dev eth0' | sed -n 's/.*inet \([0-9.]*\).*/\1/p')" 10.9.0.2
is 'the guest fetches a file from a server that the host reaches' \
    "$(told a "$(gets http://10.9.0.3/bytes)")" "$sum"
is 'and one from the host itself' "$(told a "$(gets http://10.9.0.1/bytes)")" "$(sha256sum <loop/bytes)"
t 'the guest has files as well' told a 'mkdir /www && cp /tmp/bytes /www/ && httpd -p 8080 -h /www'
is 'which who asks the host gets' "$(wget -q -O - http://127.0.0.1:8080/bytes | sha256sum)" \
    "$(told a 'sha256sum </tmp/bytes')"
kill $passt
wait $passt
passt_begins
is 'with another passt the card goes on' \
    "$(told a "for _ in 1 2 3 4 5 6; do $(gets http://10.9.0.3/bytes) && break; sleep 1; done")" "$sum"
grep -v 'bytes to syslog' passt.err | tail -n 20 | sed 's/^/#   passt: /'

echo '0 poweroff -f' >&"${tell[a]}"
ends 'it powers off' a
