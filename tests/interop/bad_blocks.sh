#!/bin/bash
# Guest of tests/interop/bad_blocks.rs: a mirror of mdof whose member 1 has listed bad blocks.
# /vmh/arrays has one line: name, how, write, members. Linux reads it from member 1 as far as that
# may be read, checks it, and writes one of the listed ranges.
. /vmh/guest.sh
read -r name how write members < /vmh/arrays
devices=$(devices_of $members)

# What the kernel says that members have listed.
listed() {
    for member in $md/dev-*; do
        while read -r start sectors; do
            echo "$name $1 $(cat $member/slot) $start $sectors"
        done < $member/bad_blocks
    done
}

# Sectors that were read of a member.
sectors_read() { awk '{ print $3 }' /sys/block/${1##*/dev-}/stat; }

for device in $devices; do
    mdadm --examine-badblocks $device 2>&1 |
        awk -v said="$name examined ${device##*/}" '$2 == "for" { print said, $1, $3 }'
done
mdadm --assemble --run /dev/md0 $devices 2>&1 || dmesg | tail
settle $name
echo "$name degraded $(cat $md/degraded)"
listed loaded
for member in $md/dev-*; do
    case "$(cat $member/slot)" in
    0) zero=$member ;;
    1) one=$member ;;
    esac
done
echo writemostly > $zero/state
echo 0 > /sys/block/md0/queue/read_ahead_kb
while read -r _ sector sectors tag; do
    echo 3 > /proc/sys/vm/drop_caches
    before_zero=$(sectors_read $zero) before_one=$(sectors_read $one)
    dd if=/dev/md0 of=/dev/null bs=512 count=$sectors skip=$sector 2> /tmp/dd || cat /tmp/dd
    echo "$name read $sector $(($(sectors_read $zero) - before_zero))" \
        "$(($(sectors_read $one) - before_one))"
done < /vmh/patterns
verify $name
check $name
listed checked
pat write /dev/md0 $write 64 VMHGEN03
sync
settle $name
listed written
mdadm --stop /dev/md0 2>&1
finish
