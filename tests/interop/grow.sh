#!/bin/bash
# Guest of tests/interop/grow.rs: an array of mdof whose members have become larger. /vmh/arrays has
# one line: name, how, write, members. Linux grows it, uses it and checks it. What is found is printed
# as "NAME KEY VALUE" and judged outside.
md=/sys/block/md0/md
read -r name how write members < /vmh/arrays
devices=$(for member in $members; do echo /dev/vmh/$member; done)

idle() {
    sleep 0.3
    for _ in $(seq 600); do
        [ "$(cat $md/sync_action)" = idle ] && break
        sleep 0.1
    done
}

mdadm --assemble --run /dev/md0 $devices 2>&1 || dmesg | tail
idle
mdadm --grow /dev/md0 --size=max 2>&1
idle
size=$(cat /sys/block/md0/size)
echo "$name size $size"
while read -r _ first sectors tag; do
    pat verify /dev/md0 $first $sectors $tag > /tmp/verify || cat /tmp/verify
    echo "$name verify $?"
done < /vmh/patterns
pat write /dev/md0 $((size - 64)) 64 VMHGEN03
sync
echo check > $md/sync_action
idle
echo "$name mismatch $(cat $md/sync_action) $(cat $md/mismatch_cnt)"
mdadm --stop /dev/md0 2>&1
echo "all done"
