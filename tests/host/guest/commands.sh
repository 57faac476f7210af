# What a host can ask of a drive beside reading and writing, by nvme-cli.
connect
value() { sed -n "s/^$1 *: *//p" "$2" | head -n 1; }
block_bytes=$(cat "/sys/block/${DEV##*/}/queue/logical_block_size")

nvme id-ctrl "$CTRL" >/run/id-ctrl || fail "nvme id-ctrl"
oncs=$(($(value oncs /run/id-ctrl)))
# Compare, Write Zeroes, Select, Reservations, Verify, Copy.
[ $((oncs & 0x1b9)) = $((0x1b9)) ] || fail "oncs is $oncs"
[ $(($(value fuses /run/id-ctrl))) = 1 ] || fail "no fused Compare and Write"
[ $(($(value ctratt /run/id-ctrl) & 0x40)) = 64 ] || fail "no Traffic Based Keep Alive"
nvme id-ns "$DEV" >/run/id-ns || fail "nvme id-ns"
[ $(($(value rescap /run/id-ns))) = 255 ] || fail "rescap is $(value rescap /run/id-ns)"
[ $(($(value mssrl /run/id-ns))) -gt 0 ] || fail "no mssrl"

# Compare, Verify, Copy, Write Zeroes.
dd if=/dev/urandom of=/run/pattern bs="$block_bytes" count=8 status=none
dd if=/run/pattern of="$DEV" bs="$block_bytes" seek=16 oflag=direct status=none || fail "write"
bytes=$((8 * block_bytes))
nvme compare "$DEV" -s 16 -c 7 -z "$bytes" -d /run/pattern || fail "nvme compare"
refused "compare" nvme compare "$DEV" -s 17 -c 7 -z "$bytes" -d /run/pattern
nvme verify "$DEV" -s 16 -c 7 || fail "nvme verify"
nvme copy "$DEV" --sdlba=64 --slbs=20,16 --blocks=3,3 || fail "nvme copy"
dd if=/run/pattern of=/run/swapped bs="$block_bytes" skip=4 count=4 status=none
dd if=/run/pattern of=/run/swapped bs="$block_bytes" count=4 seek=4 status=none
nvme compare "$DEV" -s 64 -c 7 -z "$bytes" -d /run/swapped || fail "nvme copy copied something else"
nvme write-zeroes "$DEV" -s 64 -c 3 || fail "nvme write-zeroes"
nvme write-zeroes "$DEV" -s 68 -c 3 --deac || fail "nvme write-zeroes --deac"
dd if=/dev/zero of=/run/zeroes bs="$block_bytes" count=8 status=none
nvme compare "$DEV" -s 64 -c 7 -z "$bytes" -d /run/zeroes || fail "zeroes are none"
nvme dsm "$DEV" -d -s 16 -b 8 || fail "nvme dsm"
nvme compare "$DEV" -s 16 -c 7 -z "$bytes" -d /run/zeroes || fail "deallocated blocks are no zeroes"

# What is not supported says so.
refused "" nvme format "$DEV" --force
refused "" nvme create-ns "$CTRL" -s 1 -c 1
refused "" nvme telemetry-log "$CTRL" -O /run/telemetry
refused "" nvme ana-log "$CTRL"

# Logs and features.
nvme smart-log "$CTRL" >/run/smart || fail "nvme smart-log"
read=$(sed -n 's/^host_read_commands[[:space:]]*: *//p' /run/smart | tr -d ,)
[ "$read" -gt 0 ] || fail "smart-log counts no reads: $(cat /run/smart)"
nvme error-log "$CTRL" -e 4 >/run/errors || fail "nvme error-log"
grep -q '^error_count[[:space:]]*: *[1-9]' /run/errors || fail "the error log is empty"
nvme effects-log "$CTRL" >/dev/null || fail "nvme effects-log"
# Verify is I/O command 0Ch: dword 256 + 12 of the page.
nvme get-log "$CTRL" -i 5 -l 4096 -b >/run/effects || fail "nvme get-log"
verify=$(dd if=/run/effects bs=1 skip=1072 count=1 status=none | od -An -tu1 | tr -d ' ')
[ "$verify" = 1 ] || fail "the effects log knows no Verify: '$verify'"
for feature in 0x01 0x05 0x06 0x07 0x0b 0x0f 0x82 0x83; do
    nvme get-feature "$DEV" -n 1 -f "$feature" || fail "get-feature $feature"
done

# Reservations.
nvme resv-register "$DEV" --nrkey=0xab --rrega=0 || fail "resv-register"
nvme resv-acquire "$DEV" --crkey=0xab --rtype=2 --racqa=0 || fail "resv-acquire"
nvme resv-report "$DEV" --eds >/run/report || fail "resv-report"
grep -q '^rtype[[:space:]]*: *2' /run/report || fail "resv-report: $(cat /run/report)"
grep -q 'rkey[[:space:]]*: *0xab\|rkey[[:space:]]*: *ab' /run/report || fail "$(cat /run/report)"
dd if=/run/pattern of="$DEV" bs="$block_bytes" oflag=direct status=none || fail "the holder writes"
nvme resv-release "$DEV" --crkey=0xab --rtype=2 --rrela=0 || fail "resv-release"
refused "conflict" nvme resv-acquire "$DEV" --crkey=0xff --rtype=2 --racqa=0
nvme resv-register "$DEV" --crkey=0xab --rrega=1 || fail "resv-register (unregister)"
disconnect
