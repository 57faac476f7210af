#!/bin/bash
# Guest of tests/interop: Linux md takes over arrays of all levels that mdof made. /vmh/arrays lists
# them, one a line (name, how, write, members), /vmh/patterns what they must read (name, sector,
# sectors, tag). What is found is printed as "NAME KEY VALUE" and judged outside. How:
#   whole     as it is                     crashed   the kernel's counts at load are told as well
#   away      the last member was away when mdof wrote, and comes back
#   replaced  the last member is wiped and given to the array as a new one
#   plain     no redundancy, nothing to sync
md=/sys/block/md0/md
start_ro=/sys/module/md_mod/parameters/start_ro

bits() { tr '\n' ';' < $md/llbitmap/bits; }

wait_idle() {
    for _ in $(seq 200); do
        case "$(bits)" in
        *"need sync 0;syncing 0;"*) [ "$(cat $md/sync_action)" = idle ] && return ;;
        esac
        sleep 0.1
    done
    echo "$1 stuck $(cat $md/sync_action) $(bits)"
}

verify() {
    while read -r of first sectors tag; do
        [ $of = $1 ] || continue
        pat verify /dev/md0 $first $sectors $tag > /tmp/verify || cat /tmp/verify
        echo "$1 verify $? $(cat /tmp/verify)"
    done < /vmh/patterns
}

while read -r name how write members; do
    devices=$(for member in $members; do echo /dev/vmh/$member; done)
    last=${devices##*[[:space:]]}
    read -r uptime _ < /proc/uptime
    echo "== $name $how at $uptime s"
    if [ $how = crashed ]; then
        echo 1 > $start_ro
        mdadm --assemble --run /dev/md0 $devices 2>&1
        echo "$name loaded $(bits)"
        mdadm --stop /dev/md0 2>&1
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
        sleep 0.5
        wait_idle $name
        echo "$name degraded $(cat $md/degraded)"
    fi
    verify $name
    if [ "$write" != - ]; then
        pat write /dev/md0 $write 64 VMHGEN03
        sync
    fi
    if [ $how != plain ]; then
        sleep 0.2
        wait_idle $name
        echo check > $md/sync_action
        sleep 0.2
        wait_idle $name
        echo "$name mismatch $(cat $md/mismatch_cnt)"
    fi
    mdadm --stop /dev/md0 2>&1
done < /vmh/arrays
dmesg | grep -E "md0|llbitmap|WARN|BUG" | tail -80
echo "all done"
