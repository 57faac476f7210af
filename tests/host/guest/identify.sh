# A host's first look: discovery, connect, and every question nvme-cli usually asks.
nvme discover -t tcp -a "$ADDR" -s "$PORT" >/run/discovered || fail "nvme discover"
cat /run/discovered
grep -q "^subnqn: *$NQN\$" /run/discovered || fail "discovery does not name $NQN"
grep -q "^trtype: *tcp" /run/discovered || fail "discovery names no tcp transport"
grep -q "^trsvcid: *$PORT\$" /run/discovered || fail "discovery names another port"

connect
nvme list >/run/list
cat /run/list
grep -q "^$DEV " /run/list || fail "nvme list does not show $DEV"
nvme list-subsys | grep -q "$NQN" || fail "nvme list-subsys does not show $NQN"

nvme id-ctrl "$CTRL" >/run/id-ctrl || fail "nvme id-ctrl"
grep -q "^subnqn *: $NQN\$" /run/id-ctrl || fail "id-ctrl has another subnqn"
grep -E '^(vid|sn|mn|fr|mdts|cntlid|ver|oncs|vwc|sgls|ioccsz|iorcsz|kas|cntrltype) ' /run/id-ctrl
value() { sed -n "s/^$1 *: *//p" "$2" | head -n 1; }
[ -n "$(value mn /run/id-ctrl)" ] || fail "no model number"
[ -n "$(value sn /run/id-ctrl)" ] || fail "no serial number"
[ $(($(value kas /run/id-ctrl))) -gt 0 ] || fail "no keep-alive"
[ $(($(value ioccsz /run/id-ctrl))) -ge 4 ] || fail "IOCCSZ below the size of a command"

nvme id-ns "$DEV" >/run/id-ns || fail "nvme id-ns"
grep -E '^(nsze|ncap|nuse|flbas|nguid|eui64|lbaf)' /run/id-ns
sectors=$(cat "/sys/block/${DEV##*/}/size")
block_bytes=$(cat "/sys/block/${DEV##*/}/queue/logical_block_size")
nsze=$(($(value nsze /run/id-ns)))
[ $((nsze * block_bytes)) = $((sectors * 512)) ] || fail "nsze $nsze is not $sectors sectors"
nvme list-ns "$CTRL" | grep -q '0x1' || fail "list-ns does not name namespace 1"
nvme ns-descs "$DEV" | grep -Eq 'uuid|nguid|eui64' || fail "no namespace descriptor"

nvme smart-log "$CTRL" >/run/smart || fail "nvme smart-log"
grep -Eq '^critical_warning[[:space:]]*: *0' /run/smart || fail "smart-log warns"
nvme error-log "$CTRL" >/dev/null || fail "nvme error-log"
nvme fw-log "$CTRL" >/dev/null || fail "nvme fw-log"
for feature in 0x06 0x07 0x0b 0x0f; do
    nvme get-feature "$CTRL" -f "$feature" || fail "get-feature $feature"
done
nvme set-feature "$CTRL" -f 0x0f -v 5000 >/dev/null || fail "set-feature keep-alive"

nvme flush "$DEV" >/dev/null || fail "nvme flush"
nvme reset "$CTRL" || fail "nvme reset"
dd if="$DEV" of=/dev/null bs=64k count=4 iflag=direct status=none || fail "read after a reset"
disconnect
! device || fail "the namespace is still there after disconnect"
