# Everything that discovery names, with one command. CONNECT has the second subsystem.
OTHER=$CONNECT
CONNECT=
nvme discover -t tcp -a "$ADDR" -s "$PORT" >/run/discovered || fail "nvme discover"
cat /run/discovered
nvme connect-all -t tcp -a "$ADDR" -s "$PORT" || fail "nvme connect-all"
tries=0
until [ "$(ls -d /dev/nvme[0-9]n[0-9] 2>/dev/null | wc -l)" = 2 ]; do
    tries=$((tries + 1))
    [ $tries -lt 200 ] || fail "two namespaces were to appear: $(ls /dev | grep nvme)"
    sleep 0.05
done
nvme list-subsys
for nqn in "$NQN" "$OTHER"; do
    nvme list-subsys | grep -q "$nqn" || fail "$nqn is not connected"
done
for block in /dev/nvme[0-9]n[0-9]; do
    dd if=/dev/urandom of="$block" bs=64k count=8 oflag=direct status=none || fail "write $block"
done
nvme disconnect-all || fail "nvme disconnect-all"
! device || fail "something is left"
