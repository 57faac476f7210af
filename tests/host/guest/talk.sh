# A short conversation with everything that a host says in a day, to be recorded.
nvme discover -t tcp -a "$ADDR" -s "$PORT" >/run/discovered || fail "nvme discover"
connect --nr-io-queues=1 --queue-size=16
nvme id-ctrl "$CTRL" >/dev/null || fail "nvme id-ctrl"
nvme smart-log "$CTRL" >/dev/null || fail "nvme smart-log"
yes "mdof" | head -c 65536 >/run/text
dd if=/run/text of="$DEV" bs=4k count=2 seek=1 oflag=direct status=none || fail "small writes"
dd if=/run/text of="$DEV" bs=32k count=1 seek=1 oflag=direct status=none || fail "a large write"
dd if="$DEV" bs=32k count=1 skip=1 iflag=direct status=none | cmp -n 32768 - /run/text ||
    fail "what was read is not what was written"
nvme flush "$DEV" >/dev/null || fail "nvme flush"
nvme write-zeroes "$DEV" -s 64 -c 7 || fail "nvme write-zeroes"
nvme dsm "$DEV" -d -s 72 -b 8 || fail "nvme dsm"
nvme resv-register "$DEV" --nrkey=0xab --rrega=0 || fail "resv-register"
nvme resv-report "$DEV" --eds >/dev/null || fail "resv-report"
nvme resv-register "$DEV" --crkey=0xab --rrega=1 || fail "resv-register (unregister)"
disconnect
