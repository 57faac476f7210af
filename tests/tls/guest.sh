#!/bin/bash
# The kernel does the TLS of a target in this guest. /vmh/own.tar is a root with the tests of TLS and
# mdof, /vmh/keys sets PORT, NQN and KEY. Without /vmh/tlshd.tar Linux's own host stays away.
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
# Both ends are in this guest: the host's is always the kernel's.
visit() {
    go "$PORT" "$NQN" --tls || fail "connecting"
    used "$1"
    "$2"
    echo "$1: open $(counter TlsCurrTxSw) $(counter TlsCurrRxSw)"
    mdof rpc nvmf_subsystem_get_qpairs "{\"nqn\": \"$NQN\"}" --socket /state/mdof.sock >/tmp/qpairs
    for who in kernel openssl; do
        echo "$1: $who $(tr -d ' \n' </tmp/qpairs | grep -o "\"tls\":\"$who\"" | wc -l)"
    done
    nvme disconnect -n "$NQN" >/dev/null
    tries=0
    until [ "$(counter TlsCurrTxSw)" = 0 ]; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || fail "$1: a connection is left"
        sleep 0.05
    done
}
visit with crowded
mdof rpc nvmf_set_config '{"kernel_tls": false}' --socket /state/mdof.sock || fail "setting"
visit without :
echo "both: bad $(counter TlsDecryptError)"
kill $mdof
wait $mdof
echo "mdof ended: $?"
cat /tmp/mdof.log
echo "all done"
