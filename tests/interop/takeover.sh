#!/bin/bash
# Guest of tests/interop: Linux md takes over arrays that mdof made. /vmh/arrays lists them, one a
# line (name, how, write, members), /vmh/patterns what they must read (name, sector, sectors, tag).
# What is found is printed as "NAME KEY VALUE" and judged outside.
md=/sys/block/md0/md
start_ro=/sys/module/md_mod/parameters/start_ro

bits() { tr '\n' ';' < $md/llbitmap/bits; }

wait_idle() {
    for _ in $(seq 300); do
        case "$(bits)" in
        *"need sync 0;syncing 0;"*) [ "$(cat $md/sync_action)" = idle ] && return ;;
        esac
        sleep 0.2
    done
    echo "$1 stuck $(cat $md/sync_action) $(bits)"
}

while read -r name how write members; do
    devices=$(for member in $members; do echo /dev/vmh/$member; done)
    echo "== $name"
    echo 1 > $start_ro
    mdadm --assemble --run /dev/md0 $devices 2>&1 || { echo "$name refused"; dmesg | tail; continue; }
    echo "$name loaded $(bits)"
    echo "$name metadata $(tr '\n' ';' < $md/llbitmap/metadata)"
    echo "$name blocks $(cat /sys/block/md0/queue/logical_block_size)"
    mdadm --stop /dev/md0 2>&1
    echo 0 > $start_ro
    mdadm --assemble --run /dev/md0 $devices 2>&1
    if [ $how = degraded ]; then
        echo "$name missing $(cat $md/degraded)"
        mdadm /dev/md0 --re-add ${devices##*[[:space:]]} 2>&1
        sleep 1
    fi
    sleep 0.5
    wait_idle $name
    echo "$name degraded $(cat $md/degraded)"
    while read -r of first sectors tag; do
        [ $of = $name ] || continue
        pat verify /dev/md0 $first $sectors $tag > /tmp/verify || cat /tmp/verify
        echo "$name verify $? $(cat /tmp/verify)"
    done < /vmh/patterns
    [ "$write" = - ] || pat write /dev/md0 $write 64 VMHGEN03
    echo check > $md/sync_action
    sleep 0.5
    wait_idle $name
    echo "$name mismatch $(cat $md/mismatch_cnt)"
    mdadm --stop /dev/md0 2>&1
done < /vmh/arrays
dmesg | grep -E "md0|llbitmap|WARN|BUG" | tail -60
echo "all done"
