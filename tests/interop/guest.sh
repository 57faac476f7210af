# Sourced by the guests of tests/interop that have arrays: what all of them do with /dev/md0. What is
# found is printed as "NAME KEY VALUE" and judged outside.
md=/sys/block/md0/md

# Devices of the members that a line of /vmh/arrays names.
devices_of() { for member in "$@"; do echo /dev/vmh/$member; done; }

# How many chunks of the lockless bitmap are in each state; nothing without one.
bits() { [ ! -e $md/llbitmap/bits ] || tr '\n' ';' < $md/llbitmap/bits; }

# Without other programs: each takes a while to start here.
is_calm() {
    local degraded action line
    read -r degraded < $md/degraded
    read -r action < $md/sync_action
    [ "$degraded $action" = "0 idle" ] || return
    [ -e $md/llbitmap/bits ] || return 0
    while read -r line; do
        case $line in
        "need sync "[1-9]* | "syncing "[1-9]*) return 1 ;;
        esac
    done < $md/llbitmap/bits
}

# Waits until no member is missing and nothing is in doubt or under way. md's own thread takes the work
# up some time after it was told: only what stays calm counts.
settle() {
    calm=0
    for _ in $(seq 600); do
        if is_calm; then calm=$((calm + 1)); else calm=0; fi
        [ $calm = 5 ] && return
        sleep 0.1
    done
    echo "$1 stuck degraded $(cat $md/degraded) $(cat $md/sync_action) $(bits)"
    dmesg | tail
}

# Reads all patterns of the array.
verify() {
    while read -r of first sectors tag; do
        [ $of = $1 ] || continue
        pat verify /dev/md0 $first $sectors $tag > /tmp/verify || cat /tmp/verify
        echo "$1 verify $? $(cat /tmp/verify)"
    done < /vmh/patterns
}

# md compares what the members hold.
check() {
    echo check > $md/sync_action
    settle $1
    echo "$1 mismatch $(cat $md/mismatch_cnt)"
}

# Lets the array go, also where somebody still looks at it.
stop() {
    for _ in 1 2 3 4 5; do
        mdadm --stop /dev/md0 2>&1 && return
        sleep 1
    done
}

# The kernel's words on it, and the line without which the run counts for nothing.
finish() {
    dmesg | grep -E "md0|llbitmap|WARN|BUG" | tail -80
    echo "all done"
}
