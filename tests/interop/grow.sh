#!/bin/bash
# Guest of tests/interop/grow.rs: an array of mdof whose members have become larger. /vmh/arrays has
# one line: name, how, write, members.
#   grow    Linux grows it, uses it and checks it
#   refuse  its growth was cut off: whether Linux starts it
. /vmh/guest.sh
read -r name how write members < /vmh/arrays

if [ $how = refuse ]; then
    mdadm --assemble --run /dev/md0 $(devices_of $members) 2>&1
    if [ -e $md/array_state ]; then
        echo "$name started $(cat $md/array_state)"
        stop
    else
        echo "$name started no"
    fi
    finish
    exit
fi

mdadm --assemble --run /dev/md0 $(devices_of $members) 2>&1 || dmesg | tail
settle $name
mdadm --grow /dev/md0 --size=max 2>&1
settle $name
size=$(cat /sys/block/md0/size)
echo "$name size $size"
verify $name
pat write /dev/md0 $((size - 64)) 64 VMHGEN03
sync
check $name
stop
finish
