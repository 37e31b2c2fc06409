#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# vdisk-vmm-peer in the KVM lab: QEMU's microvm, with vdisk-vmm's options, to compare with.
memory=512M cpus=1 drives=0 options=()
while [ $# -gt 0 ]; do
    case $1 in
    --kernel | --initrd) options+=("-${1#--}" "$2") ;;
    --command) options+=(-append "$2") ;;
    --memory) memory=$2 ;;
    --cpus) cpus=$2 ;;
    --console) [ "$2" = stdio ] || exit 2 ;;
    --drive)
        options+=(-chardev "socket,id=c$drives,path=${2%%,*},reconnect=1"
            -device "vhost-user-blk,chardev=c$drives,num-queues=$cpus")
        drives=$((drives + 1))
        ;;
    *) exit 2 ;;
    esac
    shift 2
done
exec qemu-system-x86_64 -global virtio-mmio.force-legacy=false -accel kvm -M microvm,acpi=on,rtc=on,memory-backend=m \
    -cpu host -smp "$cpus" -object "memory-backend-memfd,id=m,size=$memory,share=on" -m "$memory" \
    -device virtio-rng-device -nodefaults -display none -serial stdio "${options[@]}"
