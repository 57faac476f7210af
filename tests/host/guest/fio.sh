# Random reads and writes at queue depth 32 from four jobs, each written block then verified.
connect
fio --output=/run/fio.out --filename="$DEV" --direct=1 --ioengine=libaio --iodepth=32 \
    --numjobs=4 --offset_increment=16m --size="${FIO_SIZE:-8m}" --rw=randrw --rwmixread=30 \
    --bsrange=4k-128k --blockalign=4k --verify=crc32c --verify_fatal=1 \
    --do_verify=1 --group_reporting --name=verify || {
    tail -n 40 /run/fio.out
    fail "fio"
}
grep -E 'read:|write:|err=' /run/fio.out
grep -q 'err= 0' /run/fio.out || fail "fio counts errors"

# Commands as large as the target takes them.
KIB=$(cat "/sys/block/${DEV##*/}/queue/max_hw_sectors_kb")
[ "$KIB" -ge 1024 ] || fail "the host may send only $KIB KiB a command"
echo 1024 > "/sys/block/${DEV##*/}/queue/max_sectors_kb"
fio --output=/run/fio.out --filename="$DEV" --direct=1 --ioengine=libaio --iodepth=4 --size=8m \
    --rw=write --bs=1m --verify=crc32c --verify_fatal=1 --do_verify=1 --name=large || {
    tail -n 40 /run/fio.out
    fail "fio with large commands"
}
disconnect
