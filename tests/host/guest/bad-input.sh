# What a host may get wrong, each with the status that the specification names for it; after all
# of it the target still serves.
refused "" nvme connect -t tcp -a "$ADDR" -s "$PORT" -n nqn.2014-08.org.example:nobody
connect
nsze=$(blockdev --getsize64 "$DEV")
block_bytes=$(cat "/sys/block/${DEV##*/}/queue/logical_block_size")
blocks=$((nsze / block_bytes))
refused "LBA Out of Range\|LBA_RANGE" nvme read "$DEV" -s "$blocks" -c 0 -z "$block_bytes"
refused "LBA Out of Range\|LBA_RANGE" nvme write "$DEV" -s "$((blocks - 1))" -c 1 \
    -z $((2 * block_bytes)) -d /dev/zero
refused "Invalid Command Opcode\|INVALID_OPCODE" nvme admin-passthru "$CTRL" -o 0xc7
refused "Invalid Command Opcode\|INVALID_OPCODE" nvme io-passthru "$DEV" -o 0xc7 -n 1
refused "Invalid\|INVALID" nvme get-feature "$CTRL" -f 0x7e
refused "Invalid\|INVALID" nvme get-log "$CTRL" -i 0x6e -l 512
dd if=/dev/urandom of=/run/block bs="$block_bytes" count=8 status=none
dd if=/run/block of="$DEV" bs="$block_bytes" count=8 oflag=direct status=none || fail "write"
dd if="$DEV" bs="$block_bytes" count=8 iflag=direct status=none | cmp - /run/block || fail "read"
disconnect
