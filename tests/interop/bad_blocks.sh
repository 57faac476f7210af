#!/bin/bash
# Guest of tests/interop/bad_blocks.rs: a mirror of mdof whose member 1 has listed bad blocks.
# /vmh/arrays has one line: name, how, sector and members. Linux reads it with member 0 for a last
# resort, checks it, and writes one of the listed ranges. What is found is printed as
# "NAME KEY VALUE" and judged outside.
md=/sys/block/md0/md
read -r name how write members < /vmh/arrays
devices=$(for member in $members; do echo /dev/vmh/$member; done)

idle() {
    sleep 0.3
    for _ in $(seq 600); do
        [ "$(cat $md/sync_action)" = idle ] && return
        sleep 0.1
    done
    echo "$name stuck $(cat $md/sync_action)"
}

listed() {
    for member in $md/dev-*; do
        while read -r start length; do
            echo "$name $1 $(cat $member/slot) $start $length"
        done < $member/bad_blocks
    done
}

sectors_read() {
    awk '{ print $3 }' /sys/block/${1##*/dev-}/stat
}

for device in $devices; do
    mdadm --examine-badblocks $device 2>&1 | sed -n "s/^ *\([0-9]*\) for \([0-9]*\) sectors.*/$name examined ${device##*/} \1 \2/p"
done
mdadm --assemble --run /dev/md0 $devices 2>&1 || dmesg | tail
idle
echo "$name degraded $(cat $md/degraded)"
listed loaded
for member in $md/dev-*; do
    case "$(cat $member/slot)" in
    0) first=$member ;;
    1) second=$member ;;
    esac
done
echo writemostly > $first/state
while read -r _ sector sectors tag; do
    before="$(sectors_read $first) $(sectors_read $second)"
    dd if=/dev/md0 of=/dev/null bs=512 skip=$sector count=$sectors iflag=direct 2> /tmp/dd || cat /tmp/dd
    set -- $before $(sectors_read $first) $(sectors_read $second)
    echo "$name read $sector $(($3 - $1)) $(($4 - $2))"
    pat verify /dev/md0 $sector $sectors $tag > /tmp/verify || cat /tmp/verify
    echo "$name verify $? $sector"
done < /vmh/patterns
echo check > $md/sync_action
idle
echo "$name mismatch $(cat $md/mismatch_cnt)"
listed checked
pat write /dev/md0 $write 64 VMHGEN03
sync
sleep 1
listed written
mdadm --stop /dev/md0 2>&1
dmesg | grep -E "md0|md/raid1|llbitmap|WARN|BUG" | tail -40
echo "all done"
