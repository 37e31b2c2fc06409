#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The limits of `vdisk run` that a cgroup holds: they are set as they were asked for, a guest that is
# busy with both processors gets half of one, one that uses more memory than it may is ended, and the
# group goes with the guest. Always in the KVM lab, whose groups are its own.
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

: "${VDISK_LAB:?the groups of the system are not touched}"
mount -t cgroup2 cgroup /sys/fs/cgroup
group=/sys/fs/cgroup/vdisk

run() { # GUEST OPTION...
    vdisk create "$1.vdk" --size 16M
    launch "$1" vdisk run "$1.vdk" --name "$1" --kernel cloud --initrd initrd --memory 384M "${@:2}"
}
limit() { cat "$group/a/$1"; } # FILE
used() { sed -n 's/^usage_usec //p' $group/a/cpu.stat; }
now() { cut -d ' ' -f 1 /proc/uptime | tr -d .; } # in hundredths of a second

run a --cpus 2 --cpu-limit 50/20 --memory-limit 320M --weight 250
t 'the guest comes up' waits has_said a ^BOOT
is 'of a processor it gets half' "$(limit cpu.max)" '50000 100000'
is 'and may save up for later' "$(limit cpu.max.burst)" 20000
is 'its weight among others is set' "$(limit cpu.weight)" 250
is 'and its memory' "$(limit memory.max)" $((320 << 20))
monitor=$(vdisk ctl --vm a info | sed -n 's/.*"pid": \([0-9]*\).*/\1/p')
# With a thread of the kernel's.
t 'its process is in the group' grep -x "$monitor" $group/a/cgroup.procs
is 'vdisk run is not' "$(sed -n 's/^0:://p' "/proc/${pid[a]}/cgroup")" /
told a 'for i in 1 2; do (while :; do :; done) & done >/dev/null 2>&1' >.out
sleep 1 # what it had saved up
begin=$(now) before=$(used)
sleep 8
percent=$((($(used) - before) / ($(now) - begin) / 100))
verdict "a guest with two busy processors gets half of one ($percent %)" \
    "$([ "$percent" -ge 40 ] && [ "$percent" -le 60 ]; echo $?)"
more 'it was held up' "$(sed -n 's/^nr_throttled //p' $group/a/cpu.stat)" 50
t 'it is stopped' vdisk ctl --vm a stop
ends 'and ends' a
verdict 'and so does its group' "$([ ! -e $group/a ]; echo $?)"

run b --memory-limit 192M
t 'another comes up' waits has_said b ^BOOT
is 'without limits of processors' "$(cat $group/b/cpu.max 2>/dev/null)" 'max 100000'
echo '0 uses 180' >&"${tell[b]}"
wait "${pid[b]}"
is 'it is ended where it uses more memory than it may' $? 1
is 'which is told' "$(cat b/err)" 'vdisk: b: vdisk-vmm was ended by signal 9'
verdict 'its group is gone as well' "$([ ! -e $group/b ]; echo $?)"
