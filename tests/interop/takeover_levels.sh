#!/bin/bash
# Guest of tests/interop: Linux md takes over arrays of all levels that mdof made. /vmh/arrays lists
# them, one a line (name, how, write, members), /vmh/patterns what they must read (name, sector,
# sectors, tag). How:
#   whole     as it is                     crashed   the kernel's counts at load are told as well
#   away      the last member was away when mdof wrote, and comes back
#   replaced  the last member is wiped and given to the array as a new one
#   plain     no redundancy, nothing to sync
. /vmh/guest.sh
start_ro=/sys/module/md_mod/parameters/start_ro

while read -r name how write members; do
    devices=$(devices_of $members)
    last=${devices##*[[:space:]]}
    read -r uptime _ < /proc/uptime
    echo "== $name $how at $uptime s"
    if [ $how = crashed ]; then
        echo 1 > $start_ro
        mdadm --assemble --run /dev/md0 $devices 2>&1
        echo "$name loaded $(bits)"
        stop
        echo 0 > $start_ro
    fi
    if [ $how = replaced ]; then
        mdadm --zero-superblock $last 2>&1
        devices=${devices%"$last"}
    fi
    mdadm --assemble --run /dev/md0 $devices 2>&1 || { echo "$name refused"; dmesg | tail; continue; }
    if [ $how = away ] || [ $how = replaced ]; then
        verify $name
    fi
    if [ $how != plain ]; then
        echo "$name missing $(cat $md/degraded)"
        [ $how = away ] && mdadm /dev/md0 --re-add $last 2>&1
        [ $how = replaced ] && mdadm /dev/md0 --add $last 2>&1
        settle $name
        echo "$name degraded $(cat $md/degraded)"
    fi
    verify $name
    if [ "$write" != - ]; then
        pat write /dev/md0 $write 64 VMHGEN03
        sync
    fi
    if [ $how != plain ]; then
        settle $name
        check $name
    fi
    stop
done < /vmh/arrays
finish
