#!/bin/bash
# Guest of tests/interop/ppl.rs: a RAID5 of Linux md with a partial parity log. /vmh/arrays has one
# line: name, how, write, members. What is found is printed as "NAME KEY VALUE" and judged outside.
#   cut    made, filled, and written to in the first strip of every row until power fails
#   check  assembled after mdof had it, read and checked
md=/sys/block/md0/md
read -r name how write members < /vmh/arrays
devices=$(for member in $members; do echo /dev/vmh/$member; done)

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
while read -r _ first sectors tag; do
    pat verify /dev/md0 $first $sectors $tag > /tmp/verify || cat /tmp/verify
    echo "$name verify $?"
done < /vmh/patterns
pat write /dev/md0 60 40 VMHGEN03
sync
for _ in $(seq 100); do
    [ "$(cat $md/sync_action)" = idle ] && break
    sleep 0.1
done
echo check > $md/sync_action
sleep 0.3
for _ in $(seq 300); do
    [ "$(cat $md/sync_action)" = idle ] && break
    sleep 0.1
done
echo "$name mismatch $(cat $md/sync_action) $(cat $md/mismatch_cnt)"
mdadm --stop /dev/md0 2>&1
echo "all done"
