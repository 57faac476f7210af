#!/bin/bash
# Guest of tests/interop: Linux md takes over arrays that mdof made. /vmh/arrays lists them, one a
# line (name, how, write, members), /vmh/patterns what they must read (name, sector, sectors, tag).
. /vmh/guest.sh
start_ro=/sys/module/md_mod/parameters/start_ro

while read -r name how write members; do
    devices=$(devices_of $members)
    echo "== $name"
    echo 1 > $start_ro
    mdadm --assemble --run /dev/md0 $devices 2>&1 || { echo "$name refused"; dmesg | tail; continue; }
    echo "$name loaded $(bits)"
    echo "$name metadata $(tr '\n' ';' < $md/llbitmap/metadata)"
    echo "$name blocks $(cat /sys/block/md0/queue/logical_block_size)"
    stop
    echo 0 > $start_ro
    mdadm --assemble --run /dev/md0 $devices 2>&1
    if [ $how = degraded ]; then
        echo "$name missing $(cat $md/degraded)"
        mdadm /dev/md0 --re-add ${devices##*[[:space:]]} 2>&1
    fi
    settle $name
    echo "$name degraded $(cat $md/degraded)"
    verify $name
    [ "$write" = - ] || pat write /dev/md0 $write 64 VMHGEN03
    settle $name
    check $name
    stop
done < /vmh/arrays
finish
