#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
# The first process of guests (tests/lib_told.sh): does what it is told at the serial port, a line each,
# and says what came of it.
# shellcheck source-path=SCRIPTDIR source=guest_steps.sh
. /steps

# cards ADDRESS...: of eth0, eth1, ...
cards() {
    card=0
    for address in "$@"; do
        ip addr add "$address/24" dev "eth$card" && ip link set "eth$card" up || return
        card=$((card + 1))
    done
}

# Has an address and a route given to the card.
leases() { # CARD
    cat >/tmp/leased <<'END'
#!/bin/sh
[ "$1" != bound ] || { ip addr add "$ip/$mask" dev "$interface" && ip route add default via "$router"; }
END
    chmod 755 /tmp/leased
    ip link set "$1" up && udhcpc -i "$1" -n -q -s /tmp/leased
}

serves() { # NAME MIB...: files
    mkdir -p /www
    while [ $# -gt 0 ]; do
        dd if=/dev/urandom of="/www/$1" bs=1M count="$2" && sha256sum <"/www/$1" >"/www/$1.sum" || return
        shift 2
    done
    httpd -h /www
}

now() { # in hundredths of a second
    cut -d ' ' -f 1 /proc/uptime | tr -d .
}

# fetches ADDRESS NAME: the file is whole. Says how long it took.
fetches() {
    begin=$(now)
    wget -q -O /tmp/got "http://$1/$2" || return
    echo $(($(now) - begin))
    [ "$(sha256sum </tmp/got)" = "$(wget -q -O - "http://$1/$2.sum")" ]
}

memory() { # that is to be had, in MiB
    awk '/^MemAvailable/ { print int($2 / 1024) }' /proc/meminfo
}

# Makes use of so much memory, and no more.
uses() { # MIB
    dd if=/dev/zero of=/tmp/used bs=1M count="$1" && rm /tmp/used
}

stty -onlcr
modprobe -a virtio_mmio virtio_net virtio_balloon
ip link set lo up
echo 'BOOT'
while read -r number line; do
    eval "$line" >/tmp/out 2>&1 </dev/null
    status=$?
    sed "s/^/$number: /" /tmp/out
    echo "DID $number $status"
done
