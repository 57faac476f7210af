# After degrade.sh and a restart on what is left: the acknowledged blocks are still read.
connect
n=0
while [ $n -lt 100 ]; do
    block_of $n first >/run/one
    dd if="$DEV" bs=4k skip=$((24576 + n)) count=1 iflag=direct status=none | cmp -s - /run/one ||
        fail "block $n reads differently from the survivor"
    n=$((n + 1))
done
disconnect
