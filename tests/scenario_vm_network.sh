#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Two guests of vdisk-vmm on one bridge, their cards in VLANs whose tags they do not see: who reaches
# whom, and how fast it may; one is paused, gives memory back, loses a card. Always in the KVM lab, as
# the bridge is the system's.
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$VDISK_SRC/tests/lib.sh" || exit
# shellcheck source-path=SCRIPTDIR source=lib_lab.sh
. "$VDISK_SRC/tests/lib_lab.sh" || exit
# shellcheck source-path=SCRIPTDIR source=lib_told.sh
. "$VDISK_SRC/tests/lib_told.sh" || exit

if lab_is_outside; then
    lab_ready || exit 0
    lab_guest_initrd initrd "$VDISK_SRC/tests/guest_vm_told.sh"
    cp "$KERNEL_CACHE/cloud-amd64/vmlinuz" cloud
    lab "$0" serial initrd cloud
    exit
fi

: "${VDISK_LAB:?interfaces are made in the lab alone}"
ctl() { vdisk ctl --socket "$PWD/$1/control" "${@:2}"; }
info() { ctl "$1" info | sed -n "s/^  \"$2\": \"*\([^\",]*\).*/\1/p"; } # GUEST KEY
info_is() { [ "$(info "$1" "$2")" = "$3" ]; }
card() { # GUEST COMMAND NUMBER: what the reply has of this card, as a line
    ctl "$1" "$2" | tr -d ' \n' | sed 's/.*"networks"://' | grep -oE '\{"(up|mac)"[^}]*\}[^}]*\}\}' |
        sed -n "$(($3 + 1))p"
}
counts() { # GUEST CARD in|out frames|bytes|drops
    card "$1" metrics "$2" | sed "s/.*\"$3\":{[^}]*\"$4\":\([0-9]*\).*/\1/"
}

# ---- the network: all ports of the bridge get all tags ----
modprobe -a tun bridge 8021q
ip link add br0 type bridge
ip link set br0 up
for tap in a0 a1 b0 b1; do
    tunctl -t $tap >/dev/null
    ip link set $tap master br0
    ip link set $tap up
done
ip link add link br0 name br0.10 type vlan id 10
ip link set br0.10 up
ip addr add 10.0.10.9/24 dev br0.10
ip addr add 10.0.20.9/24 dev br0

boot a --net tap=a0,vlan=10,mac=02:00:00:00:00:0a,in=1M --net tap=a1,vlan=20 --cpus 2
boot b --net tap=b0,vlan=10 --net tap=b1,vlan=30
t 'a comes up' waits has_said a ^BOOT
t 'b comes up' waits has_said b ^BOOT
t 'a has both cards' told a 'cards 10.0.10.1 10.0.20.1'
t 'b has both cards' told b 'cards 10.0.10.2 10.0.20.2'
t 'the address is the one that was given' told a 'grep 02:00:00:00:00:0a /sys/class/net/eth0/address'

# ---- who reaches whom ----
t 'in one VLAN they reach each other' told a 'ping -c 3 -W 10 10.0.10.2'
t 'with frames of full size' told b 'ping -c 3 -W 10 -s 1472 10.0.10.1'
t 'and who is in that VLAN reaches them' ping -c 1 -W 10 10.0.10.1
sent=$(cat /sys/class/net/b1/statistics/tx_packets)
cannot 'from one VLAN to another nothing passes' a 'ping -c 3 -W 1 10.0.20.2'
more 'though the bridge sends it there' "$(cat /sys/class/net/b1/statistics/tx_packets)" "$sent"
is 'the other guest is given nothing' "$(counts b 1 in frames)" 0
ping -c 1 -W 1 10.0.20.1 >.out 2>.err
is 'nor does who has no tag reach a VLAN' $? 1
is 'the guest is given nothing of that' "$(counts a 1 in frames)" 0

# ---- how fast it may ----
t 'b has files' told b 'serves small 2 large 8'
t 'a has files' told a 'serves large 8'
t 'a file comes whole, by a card that takes 1 MiB a second' told a 'fetches 10.0.10.2 small'
in=$(head -n 1 .out)
t 'the limit is lifted' ctl a limits 0
t 'and set for what the other sends' ctl b limits 0 --out 1M
t 'a file comes whole' told a 'fetches 10.0.10.2 small'
out=$(head -n 1 .out)
t 'this limit is lifted' ctl b limits 0
t 'a file comes whole' told a 'fetches 10.0.10.2 small'
free=$(head -n 1 .out)
t 'a large one as well' told a 'fetches 10.0.10.2 large'
echo "# 8 MiB in $(head -n 1 .out) hundredths of a second"
t 'and the other way' told b 'fetches 10.0.10.1 large'
# 2 MiB, but for the burst of a tenth of a second.
more 'what it may take holds' $((2 * 200 + 3 * free)) "$in" 188
more 'what it may send holds' $((2 * 200 + 3 * free)) "$out" 188

# ---- the management socket ----
card a info 0 >told
t 'info tells the card' grep -F '"mac":"02:00:00:00:00:0a","tap":"a0","vlan":10,"in":{"rate":0,' told
is 'the guest as well' "$(info a name) $(info a state) $(info a cpus) $(info a pid)" "a running 2 ${pid[a]}"
more 'what it received is counted' "$(counts a 0 in bytes)" $((14 << 20)) "$(counts a 0 in frames)" 100
more 'and what it sent' "$(counts a 0 out bytes)" $((8 << 20)) "$(counts a 0 out frames)" 100
is 'nothing is dropped' "$(counts a 0 in drops) $(counts a 0 out drops)" '0 0'

# ---- a pause ----
t 'a limit makes time' ctl b limits 0 --out 512K
t 'a begins to fetch' told a '(fetches 10.0.10.2 small; echo $? >/tmp/fetched) >/dev/null 2>&1 &'
before=$(counts a 0 in bytes)
more_came() { [ "$(counts a 0 in bytes)" -gt $((before + (100 << 10))) ]; }
t 'of which some comes' waits more_came
t 'b is paused' ctl b pause
is 'and says so' "$(info b state)" paused
before=$(counts b 0 out bytes)
sleep 2
is 'nothing comes from it' "$(counts b 0 out bytes)" "$before"
t 'it is resumed' ctl b resume
is 'and says so' "$(info b state)" running
t 'what was on its way comes whole' told a 'wait; grep -x 0 /tmp/fetched'
t 'without a limit again' ctl b limits 0

# ---- memory ----
resident() { sed -n 's/^RssShmem:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/${pid[b]}/status"; }
t 'b uses its memory' told b 'uses 128'
used=$(resident) all=$(told b memory)
t 'it is to have 256 MiB' ctl b balloon 256M
t 'it follows' waits info_is b given_back_bytes $((128 << 20))
more 'and can use so much less' $((all - 110)) "$(told b memory)"
more 'which the host has' $((used - (64 << 10))) "$(resident)"
t 'it is to have all' ctl b balloon 384M
t 'it follows' waits info_is b given_back_bytes 0
t 'and can use it again' told b 'uses 128'
more 'as it knows' "$(told b memory)" $((all - 20))
t 'it still reaches the other' told b 'ping -c 1 -W 10 10.0.10.1'

# ---- the end ----
ip link del a1
is_down() { card a metrics 1 | grep -qF '"up":false'; }
t 'a loses a card' waits is_down
t 'of which it knows' told a 'for _ in 1 2 3 4 5; do grep -x 0 /sys/class/net/eth1/carrier && break; sleep 1; done'
t 'the other one works' told a 'ping -c 1 -W 10 10.0.10.2'
echo '0 poweroff -f' >&"${tell[a]}"
ends 'it powers off' a
t 'the other is stopped' ctl b stop
ends 'and ends' b
