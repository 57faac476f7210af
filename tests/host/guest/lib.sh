# What every guest script stands on. The harness puts it in front of the script, behind the
# variables ADDR, PORT, NQN (the target) and CONNECT (further options of nvme connect).
set -eu
CONNECT=${CONNECT:-}

fail() {
    echo "FAIL: $*"
    echo "--- kernel log"
    dmesg | tail -n 15
    # Leave the guest usable for the next script.
    grep -q ' /mnt ' /proc/mounts && umount -l /mnt
    nvme disconnect -n "$NQN" >/dev/null 2>&1
    exit 1
}

# Runs a command that has to fail, and whose output has to hold the text.
refused() {
    text=$1
    shift
    if "$@" >/run/refused.out 2>&1; then
        cat /run/refused.out
        fail "was to be refused but went through: $*"
    fi
    grep -qi -- "$text" /run/refused.out || {
        cat /run/refused.out
        fail "was refused, but not with '$text': $*"
    }
}

# The block device of the connected namespace; the hidden paths of multipath have a 'c'.
device() {
    for block in /sys/block/nvme*; do
        case ${block##*/} in
        *c*n*) ;;
        nvme*n*) [ -b "/dev/${block##*/}" ] && echo "/dev/${block##*/}" && return 0 ;;
        esac
    done
    return 1
}

# Connects and sets DEV (the namespace) and CTRL (the controller's character device).
connect() {
    # The host waits for the target as long as it takes and asks each second.
    nvme connect -t tcp -a "$ADDR" -s "$PORT" -n "$NQN" --ctrl-loss-tmo=-1 --reconnect-delay=1 \
        $CONNECT "$@" || fail "nvme connect"
    tries=0
    until DEV=$(device); do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || fail "connected, but no namespace appeared"
        sleep 0.05
    done
    CTRL=$(ls -d /dev/nvme[0-9]* | grep -E '^/dev/nvme[0-9]+$' | head -n 1)
    echo "connected: $DEV, $(cat "/sys/block/${DEV##*/}/size") sectors"
}

disconnect() {
    nvme disconnect -n "$NQN" >/run/disconnect.out 2>&1 || {
        cat /run/disconnect.out
        fail "nvme disconnect"
    }
    grep -q 'disconnected 1 ' /run/disconnect.out || {
        cat /run/disconnect.out
        fail "nvme disconnect did not find its one controller"
    }
}

# One block of numbered content: block_of NUMBER PASS
block_of() {
    yes "mdof test block $1 pass $2" | head -c 4096
}

# Refuses a device whose bytes OFFSET+LENGTH (in MiB) are not all zero.
all_zero() {
    dd if="$DEV" bs=1M skip="$1" count="$2" iflag=direct status=none | cmp -n $(($2 << 20)) - /dev/zero ||
        fail "MiB $1+$2 of $DEV do not read as zeroes"
}
