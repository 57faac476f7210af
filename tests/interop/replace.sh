#!/bin/bash
# Guest of tests/interop: Linux md finds a member that mdof was replacing, and goes on. What is found
# is printed as "NAME KEY VALUE" and judged outside.
md=/sys/block/md0/md

wait_idle() {
    for _ in $(seq 300); do
        [ "$(cat $md/sync_action)" = idle ] && return
        sleep 0.2
    done
    echo "$1 stuck $(cat $md/sync_action)"
}

while read -r name how write members; do
    devices=$(for member in $members; do echo /dev/vmh/$member; done)
    echo "== $name"
    mdadm --examine ${devices##*[[:space:]]}
    mdadm --assemble --run /dev/md0 $devices 2>&1 || { echo "$name refused"; dmesg | tail; continue; }
    for member in $md/dev-*; do
        echo "$name before $(cat $member/slot) $(cat $member/state)"
    done
    sleep 1
    wait_idle $name
    sleep 1
    for member in $md/dev-*; do
        echo "$name after $(cat $member/slot) $(cat $member/state)"
    done
    echo "$name degraded $(cat $md/degraded)"
    while read -r of first sectors tag; do
        [ $of = $name ] || continue
        pat verify /dev/md0 $first $sectors $tag > /tmp/verify || cat /tmp/verify
        echo "$name verify $? $(cat /tmp/verify)"
    done < /vmh/patterns
    pat write /dev/md0 $write 64 VMHGEN03
    echo check > $md/sync_action
    sleep 0.5
    wait_idle $name
    echo "$name mismatch $(cat $md/mismatch_cnt)"
    mdadm --stop /dev/md0 2>&1
done < /vmh/arrays
dmesg | grep -E "md0|llbitmap|WARN|BUG" | tail -60
echo "all done"
