# Writes until the target is gone, then gives the connection up as after a long outage: what was
# in flight fails. /run/sums and /run/acked keep what was acknowledged; crash-after.sh checks it.
connect --ctrl-loss-tmo=2
mke2fs -q -t ext4 -F "$DEV" 65536k || fail "mkfs.ext4"
mount -t ext4 "$DEV" /mnt || fail "mount"
(
    n=0
    : >/run/sums
    while [ $n -lt 5000 ]; do
        n=$((n + 1))
        dd if=/dev/urandom of=/run/file bs=4k count=$((n % 8 + 1)) status=none
        dd if=/run/file of=/mnt/file-$n bs=64k conv=fsync status=none 2>/dev/null || exit 0
        sum=$(sha256sum </run/file)
        echo "${sum%% *}  /mnt/file-$n" >>/run/sums
    done
) &
files=$!
# Many writes in flight, so that the members differ where the target dies.
fio --output=/run/fio.out --filename="$DEV" --offset=64m --size=24m --direct=1 --ioengine=libaio \
    --iodepth=32 --rw=randwrite --bs=16k --time_based --runtime=600 --name=flood &
fio=$!
n=0
: >/run/acked
while :; do
    at=$((n * 37 % 300))
    block_of $at $n >/run/one
    dd if=/run/one of="$DEV" bs=4k seek=$((24576 + at)) oflag=direct,dsync status=none 2>/dev/null ||
        break
    echo "$at $n" >>/run/acked
    n=$((n + 1))
    [ $((n % 20)) != 0 ] || echo "acked $n"
    [ $n -lt 20000 ] || fail "nobody killed the target"
done
echo "$at $n" >/run/unanswered
echo "lost after $n acknowledged blocks"
wait $files $fio || true
umount /mnt 2>/dev/null || umount -l /mnt
nvme disconnect -n "$NQN" >/dev/null 2>&1 || true
tries=0
while device >/dev/null; do
    tries=$((tries + 1))
    [ $tries -lt 200 ] || fail "the namespace does not go away"
    sleep 0.1
done
[ -s /run/sums ] && [ -s /run/acked ] || fail "the target died before anything was acknowledged"
