#!/bin/bash
# The kernel does the TLS of a target in this guest. /vmh/own.tar is a root with the tests of TLS and
# mdof, /vmh/keys sets PORT, NQN and KEY, and CONCAT_PORT, CONCAT_NQN and CHAP_KEY for a secure channel
# made of the authentication. Without /vmh/tlshd.tar Linux's own host stays away.
# What is counted is printed, and judged outside.
set -u
. /vmh/keys
. /vmh/tls_host.sh
ADDRESS=127.0.0.1
counter() { awk -v name="$1" '$1 == name { print $2 }' /proc/net/tls_stat; }
mkdir -p /own && tar -xf /vmh/own.tar -C /own || fail "unpacking"
mkdir -p /own/proc /own/sys /own/dev /own/tmp /own/state
for folder in proc sys dev; do
    mount --bind /$folder /own/$folder || fail "a root for mdof"
done
chroot /own /tests --skip guest:: --test-threads=1 || fail "the tests of TLS"
echo "tests: begun $(counter TlsTxSw) $(counter TlsRxSw)"
echo "tests: rekeyed $(counter TlsTxRekeyOk) $(counter TlsRxRekeyOk)"
echo "tests: bad $(counter TlsDecryptError)"

[ -e /vmh/tlshd.tar ] || { echo "all done"; exit; }
start_tlshd
mdof() { chroot /own /mdof "$@"; }
chroot /own /mdof target --config /mdof.toml --state-dir /state >/tmp/mdof.out 2>/tmp/mdof.log &
mdof=$!
tries=0
until grep -q ^ready /tmp/mdof.out; do
    tries=$((tries + 1))
    [ $tries -lt 300 ] || { cat /tmp/mdof.log; fail "mdof did not start"; }
    sleep 0.1
done
insert "$KEY" "$NQN" 1
# Random reads and writes of every size at once, each written block then verified.
crowded() {
    fio --output=/tmp/fio --filename="$dev" --direct=1 --ioengine=libaio --iodepth=32 --numjobs=2 \
        --offset_increment=4m --size=2m --rw=randrw --rwmixread=30 --bsrange=4k-128k \
        --blockalign=4k --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting \
        --name=verify && grep -q 'err= 0' /tmp/fio || { tail -n 40 /tmp/fio; fail "fio"; }
}
# Both ends are in this guest: the host's is always the kernel's. What is said of it, what else is done,
# where, and how.
visit() {
    name=$1 more=$2 port=$3 nqn=$4
    shift 4
    go "$port" "$nqn" "$@" || fail "$name: connecting"
    used "$name"
    "$more"
    echo "$name: open $(counter TlsCurrTxSw) $(counter TlsCurrRxSw)"
    mdof rpc nvmf_subsystem_get_qpairs "{\"nqn\": \"$nqn\"}" --socket /state/mdof.sock >/tmp/qpairs
    tr -d ' \n' </tmp/qpairs >/tmp/words
    for who in kernel openssl; do
        echo "$name: $who $(grep -o "\"tls\":\"$who\"" /tmp/words | wc -l)"
    done
    echo "$name: generated $(grep -o '"tls_key":"generated"' /tmp/words | wc -l)"
    nvme disconnect -n "$nqn" >/dev/null
    tries=0
    until [ "$(counter TlsCurrTxSw)" = 0 ]; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || fail "$name: a connection is left"
        sleep 0.05
    done
}
key_id() { cat /sys/class/nvme/nvme[0-9]*/tls_key; }
# A controller that is reset comes in the clear again, and makes another key.
renewed() {
    before=$(key_id)
    echo 1 >"$(ls -d /sys/class/nvme/nvme[0-9]* | head -n 1)/reset_controller"
    tries=0
    until [ "$(key_id)" != "$before" ] && [ "$(cat /sys/class/nvme/nvme[0-9]*/state)" = live ]; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || fail "the key is $(key_id) as it was"
        sleep 0.1
    done
    used "after a reset"
    crowded
    # The same secret once more: the host proves itself on its admin queue, and replaces its key.
    ctrl=$(ls -d /sys/class/nvme/nvme[0-9]* | head -n 1)
    cat "$ctrl/dhchap_secret" >/tmp/secret && cat /tmp/secret >"$ctrl/dhchap_secret" || fail "anew"
    tries=0
    until [ "$(grep -c "has a new key for TLS" /tmp/mdof.log)" -gt "$replaced" ]; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || fail "the key was not replaced"
        sleep 0.1
    done
    replaced=$((replaced + 1))
    used "after a replacement"
}
replaced=0
concat() {
    visit "$1" "$2" "$CONCAT_PORT" "$CONCAT_NQN" --concat --dhchap-secret="$CHAP_KEY"
}
visit with crowded "$PORT" "$NQN" --tls
concat "concat with" renewed
nvme discover -t tcp -a $ADDRESS -s "$CONCAT_PORT" -q $HOST -I $ID >/tmp/log || fail "discovering"
grep -A 12 "$CONCAT_NQN" /tmp/log >/dev/null && grep -q "treq: *not required" /tmp/log &&
    grep -q "sectype: *tls" /tmp/log || { cat /tmp/log; fail "the log does not tell of TLS"; }
wrong=DHHC-1:00:AAcOFRwjKjE4P0ZNVFtiaXB3foWMk5qhqK+2vcTL0tk/PUPo:
go "$CONCAT_PORT" "$CONCAT_NQN" --dhchap-secret="$CHAP_KEY" && fail "connected in the clear"
go "$CONCAT_PORT" "$CONCAT_NQN" --concat --dhchap-secret=$wrong && fail "a wrong key was taken"
mdof rpc nvmf_set_config '{"kernel_tls": false}' --socket /state/mdof.sock || fail "setting"
visit without : "$PORT" "$NQN" --tls
concat "concat without" renewed
echo "both: bad $(counter TlsDecryptError)"
kill $mdof
wait $mdof
echo "mdof ended: $?"
cat /tmp/mdof.log
echo "all done"
