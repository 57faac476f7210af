# Discard and write-zeroes: the range reads as zeroes, its neighbours keep their bytes.
connect
queue=/sys/block/${DEV##*/}/queue
[ "$(cat "$queue/discard_max_bytes")" -gt 0 ] || fail "the namespace offers no discard"
[ "$(cat "$queue/write_zeroes_max_bytes")" -gt 0 ] || fail "the namespace offers no write-zeroes"
for way in "" "-z"; do
    dd if=/dev/urandom of=/run/pattern bs=1M count=24 status=none
    dd if=/run/pattern of="$DEV" bs=1M oflag=direct status=none || fail "write"
    blkdiscard $way -f -o $((8 << 20)) -l $((8 << 20)) "$DEV" || fail "blkdiscard $way"
    all_zero 8 8
    # And a piece that is aligned to nothing but the block.
    blkdiscard $way -f -o $(((20 << 20) + 4096)) -l $((300 << 10)) "$DEV" || fail "blkdiscard $way"
    dd if=/dev/zero of=/run/pattern bs=1M seek=8 count=8 conv=notrunc status=none
    dd if=/dev/zero of=/run/pattern bs=4k seek=5121 count=75 conv=notrunc status=none
    dd if="$DEV" bs=1M count=24 iflag=direct status=none | cmp - /run/pattern ||
        fail "blkdiscard $way changed what it was not told to, or left what it was"
    echo "blkdiscard ${way:-(discard)}: zeroes inside, neighbours untouched"
    rm /run/pattern
done
disconnect
