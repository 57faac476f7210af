#!/bin/bash
# Guest of tests/interop/ppl.rs: a RAID5 of Linux md with a partial parity log. /vmh/arrays has one
# line: name, how, write, members.
#   cut    made, filled, and written to in the first strip of every row until power fails
#   check  assembled after mdof had it, read and checked
. /vmh/guest.sh
read -r name how write members < /vmh/arrays
devices=$(devices_of $members)

if [ $how = cut ]; then
    mdadm --create /dev/md0 --run --level=5 --chunk=64 --raid-devices=4 \
        --consistency-policy=ppl --assume-clean $devices 2>&1
    while read -r _ first sectors tag; do
        pat write /dev/md0 $first $sectors $tag
    done < /vmh/patterns
    sync
    echo "$name policy $(cat $md/consistency_policy)"
    fio --filename=/dev/md0 --direct=1 --rw=randwrite --size=12m --numjobs=2 --ioengine=psync \
        --zonemode=strided --zonesize=64k --zonerange=64k --zoneskip=128k --time_based \
        --runtime=60 --name=a --bs=512 --name=b --bs=4k --name=c --bs=16k > /tmp/fio 2>&1 &
    sleep 6
    echo "$name state $(cat $md/array_state)"
    tail -3 /tmp/fio
    echo '@@''CUT@@'
    sleep 60
fi

mdadm --assemble --run /dev/md0 $devices 2>&1 || dmesg | tail
echo "$name policy $(cat $md/consistency_policy)"
echo "$name missing $(cat $md/degraded)"
verify $name
pat write /dev/md0 60 40 VMHGEN03
sync
settle $name
check $name
stop
finish
