# Namespaces come and go on a controller that is connected and busy.
connect
rm -f /run/stop /run/bad
(
    while [ ! -e /run/stop ]; do
        fio --output=/run/fio.out --filename="$DEV" --direct=1 --ioengine=libaio --iodepth=8 \
            --size=1m --rw=randrw --bs=4k --name=busy || touch /run/bad /run/stop
    done
) &
busy=$!
has() { [ -b "/dev/nvme0n$1" ] && [ -e "/sys/block/nvme0n$1" ]; }
wait_for() {
    tries=0
    until eval "$2"; do
        tries=$((tries + 1))
        [ $tries -lt 1200 ] || fail "not in time: $1: $(ls /sys/block)"
        sleep 0.05
    done
}
for round in 1 2; do
    echo "add $round"
    wait_for "namespace 2 comes" "has 2"
    dd if=/dev/urandom of=/run/some bs=4096 count=4 status=none
    dd if=/run/some of=/dev/nvme0n2 oflag=direct bs=4096 status=none || fail "write to the new one"
    dd if=/dev/nvme0n2 bs=4096 count=4 iflag=direct status=none | cmp - /run/some ||
        fail "the new one keeps nothing"
    echo "remove $round"
    wait_for "namespace 2 goes" "! has 2"
done
touch /run/stop
wait $busy
[ ! -e /run/bad ] || fail "fio failed: $(cat /run/fio.out)"
grep -q 'err= 0' /run/fio.out || fail "fio counts errors: $(cat /run/fio.out)"
disconnect
