# Two paths to one namespace, whose ANA states change while fio writes and verifies. CONNECT is the
# second path's port.
PORT2=$CONNECT
CONNECT=
connect
first=$CTRL
nvme connect -t tcp -a "$ADDR" -s "$PORT2" -n "$NQN" --ctrl-loss-tmo=-1 --reconnect-delay=1 ||
    fail "nvme connect to the second path"
paths() { ls -d /sys/block/nvme*c*n* 2>/dev/null | wc -l; }
tries=0
until [ "$(paths)" = 2 ]; do
    tries=$((tries + 1))
    [ $tries -lt 200 ] || fail "two paths were to appear: $(ls /sys/block)"
    sleep 0.05
done
[ "$(device)" = "$DEV" ] || fail "both paths are to be one device"
nvme ana-log "$first" >/run/ana || fail "nvme ana-log"
cat /run/ana
states() { cat /sys/block/nvme*c*n*/ana_state | tr '\n' ' '; }
echo "states: $(states)"
round=0
while [ $round -lt 6 ]; do
    round=$((round + 1))
    echo "round $round: $(states)"
    fio --output=/run/fio.out --filename="$DEV" --direct=1 --ioengine=libaio --iodepth=16 \
        --numjobs=2 --offset_increment=8m --size=6m --rw=randwrite --bsrange=4k-64k \
        --blockalign=4k --verify=crc32c --verify_fatal=1 --do_verify=1 --verify_backlog=16 \
        --randseed=$round --group_reporting --name=verify || {
        tail -n 40 /run/fio.out
        fail "fio, round $round: $(states)"
    }
    grep -q 'err= 0' /run/fio.out || fail "fio counts errors in round $round"
done
echo "states at the end: $(states)"
nvme disconnect -n "$NQN" || fail "nvme disconnect"
