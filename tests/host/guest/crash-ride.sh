# Three writers at work while the harness kills and restarts the target. The host keeps the
# controller and repeats what was not answered, so none of the writers may see an error:
#   a file system whose files are synced one by one, fio at queue depth 32, and numbered blocks,
#   each written durably before the next and recorded once acknowledged.
# Prints "acked N" for the harness to time its kills by.
connect
mke2fs -q -t ext4 -F "$DEV" 65536k || fail "mkfs.ext4"
mount -t ext4 "$DEV" /mnt || fail "mount"

(
    n=0
    : >/run/sums
    while [ ! -e /run/enough ] && [ $n -lt 600 ]; do
        n=$((n + 1))
        dd if=/dev/urandom of=/run/file bs=4k count=$((n % 8 + 1)) status=none
        dd if=/run/file of=/mnt/file-$n bs=64k conv=fsync status=none || exit 1
        sum=$(sha256sum </run/file)
        echo "${sum%% *}  /mnt/file-$n" >>/run/sums
    done
) &
files=$!
fio --output=/run/fio.out --filename="$DEV" --offset=64m --size=32m --direct=1 --ioengine=libaio \
    --iodepth=32 --rw=randwrite --bsrange=4k-32k --blockalign=4k --verify=crc32c --verify_fatal=1 \
    --do_verify=1 --rate=1500k --name=ride &
fio=$!

blocks=${BLOCKS:-240}
n=0
: >/run/acked
while [ $n -lt "$blocks" ]; do
    # The second half writes over blocks of the first, so that old content can be told from new.
    at=$((n * 37 % (blocks / 2)))
    block_of $at $n >/run/one
    dd if=/run/one of="$DEV" bs=4k seek=$((24576 + at)) oflag=direct,dsync status=none ||
        fail "write of block $at"
    echo "$at $n" >>/run/acked
    n=$((n + 1))
    [ $((n % 20)) != 0 ] || echo "acked $n"
done
: >/run/enough
wait $files || fail "the writer of files saw an error"
wait $fio || {
    tail -n 40 /run/fio.out
    fail "fio saw an error or wrong data"
}
umount /mnt || fail "umount"
e2fsck -fn "$DEV" || fail "e2fsck finds damage"
mount -t ext4 -o ro "$DEV" /mnt || fail "mount"
sha256sum -c /run/sums >/run/checked || {
    grep -v ': OK$' /run/checked
    fail "files differ"
}
echo "$(grep -c ': OK$' /run/checked) files, $(wc -l </run/acked) block writes"
awk '{ last[$1] = $2 } END { for (at in last) print at, last[at] }' /run/acked >/run/last
while read -r at pass; do
    block_of "$at" "$pass" >/run/one
    dd if="$DEV" bs=4k skip=$((24576 + at)) count=1 iflag=direct status=none | cmp -s - /run/one ||
        fail "block $at does not hold what was acknowledged in pass $pass"
done </run/last
umount /mnt
disconnect
