# Verified writes while the harness makes one member fail: the host may not notice.
# Prints "under way" once the first blocks are acknowledged.
connect
n=0
: >/run/acked
while [ $n -lt 100 ]; do
    block_of $n first >/run/one
    dd if=/run/one of="$DEV" bs=4k seek=$((24576 + n)) oflag=direct,dsync status=none ||
        fail "write of block $n"
    n=$((n + 1))
done
fio --output=/run/fio.out --filename="$DEV" --offset=32m --size=32m --direct=1 --ioengine=libaio \
    --iodepth=32 --rw=randwrite --bsrange=4k-32k --blockalign=4k --verify=crc32c --verify_fatal=1 \
    --do_verify=1 --rate=2m --name=degrade &
fio=$!
sleep 2
echo "under way"
wait $fio || {
    tail -n 40 /run/fio.out
    fail "the host saw the failure of one member"
}
n=0
while [ $n -lt 100 ]; do
    block_of $n first >/run/one
    dd if="$DEV" bs=4k skip=$((24576 + n)) count=1 iflag=direct status=none | cmp -s - /run/one ||
        fail "block $n, acknowledged before the failure, reads differently"
    n=$((n + 1))
done
disconnect
