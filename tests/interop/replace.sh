#!/bin/bash
# Guest of tests/interop: Linux md finds a member that mdof was replacing, and goes on.
. /vmh/guest.sh

while read -r name how write members; do
    devices=$(devices_of $members)
    echo "== $name"
    mdadm --examine ${devices##*[[:space:]]}
    mdadm --assemble --run /dev/md0 $devices 2>&1 || { echo "$name refused"; dmesg | tail; continue; }
    for member in $md/dev-*; do
        echo "$name before $(cat $member/slot) $(cat $member/state)"
    done
    settle $name
    for member in $md/dev-*; do
        echo "$name after $(cat $member/slot) $(cat $member/state)"
    done
    echo "$name degraded $(cat $md/degraded)"
    verify $name
    pat write /dev/md0 $write 64 VMHGEN03
    settle $name
    check $name
    stop
done < /vmh/arrays
finish
