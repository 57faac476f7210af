# Verified writes while the array grows: the host sees the new size by itself, what is new reads as
# zeroes, and is written and verified across the old end. Prints "under way" when fio writes.
connect
size_of() { cat "/sys/block/${DEV##*/}/size"; }
# Name, then what is special about it.
verified() {
    name=$1
    shift
    fio --output="/run/$name.out" --filename="$DEV" --direct=1 --ioengine=libaio --rw=randrw \
        --rwmixread=40 --bsrange=4k-64k --blockalign=4k --verify=crc32c --verify_fatal=1 \
        --do_verify=1 "$@" --name="$name" || {
        tail -n 40 "/run/$name.out"
        fail "fio $name"
    }
    grep -q 'err= 0' "/run/$name.out" || fail "fio counts errors: $(cat "/run/$name.out")"
}
old=$(size_of)
rm -f /run/grown
(
    # As often as it takes, each time over what was left by the time before.
    round=0
    while [ ! -e /run/grown ]; do
        round=$((round + 1))
        verified before --offset=32m --size=12m --iodepth=16 --rate=,3m
    done
    echo "rounds: $round"
) &
busy=$!
sleep 1
echo "under way"
tries=0
until [ "$(size_of)" -gt "$old" ]; do
    tries=$((tries + 1))
    [ $tries -lt 1200 ] || fail "$DEV has $old sectors still: the host was not told"
    sleep 0.05
done
new=$(size_of)
echo "grown from $old to $new sectors"
touch /run/grown
wait $busy || fail "the writes that were under way"
# The first MiB behind the old end, and the last one of all.
first=$(((old + 2047) / 2048))
all_zero $first 1
all_zero $((new / 2048 - 1)) 1
verified across --offset=$((first - 8))m --size=16m --iodepth=32
disconnect
