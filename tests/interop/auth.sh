#!/bin/bash
# A Linux host proves itself to mdof, and mdof to it. /vmh/targets has a line for each target: port,
# hash and DH group that it allows. /vmh/keys sets KEY, CTRL_KEY, WRONG_KEY and FAR_KEY.
set -u
. /vmh/keys
NQN=nqn.2026-01.io.mdof:interop
HOST=nqn.2014-08.org.nvmexpress:uuid:6d646f66-0000-4000-8000-000000000002
ID=6d646f66-0000-4000-8000-000000000002
fail() {
    echo "FAIL: $*"
    dmesg | tail -n 20
    exit 1
}
go() {
    port=$1
    shift
    nvme connect -t tcp -a 10.0.2.2 -s "$port" -n $NQN -q "$HOST" -I $ID --nr-io-queues=2 "$@" 2>&1
}
leave() { nvme disconnect -n $NQN >/dev/null; }
# What is connected takes data and gives it back.
used() {
    tries=0
    until dev=$(ls /dev/nvme[0-9]n1 2>/dev/null); do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || fail "$1: no namespace appeared"
        sleep 0.05
    done
    head -c 65536 /dev/urandom >/tmp/data
    dd if=/tmp/data of="$dev" bs=4096 oflag=direct status=none || fail "$1: writing"
    dd if="$dev" bs=4096 count=16 iflag=direct status=none | cmp - /tmp/data || fail "$1: reading"
}
agreed() {
    dmesg | grep "authenticated with hash" | tail -n 1 | grep "hmac($2) dhgroup $3\$" ||
        fail "$1: the kernel did not agree on $2 and $3"
}
while read -r port hash group; do
    go "$port" --dhchap-secret="$KEY" || fail "$hash $group one way"
    used "$hash $group one way"
    agreed "one way" "$hash" "$group"
    leave
    go "$port" --dhchap-secret="$KEY" --dhchap-ctrl-secret="$CTRL_KEY" || fail "$hash $group both ways"
    used "$hash $group both ways"
    dmesg | tail -n 12 | grep -q "controller authenticated" || fail "the kernel has no proof of us"
    # Authenticated anew.
    ctrl=$(ls -d /sys/class/nvme/nvme[0-9]* | head -n 1)
    cat "$ctrl/dhchap_secret" >/tmp/secret && cat /tmp/secret >"$ctrl/dhchap_secret" || fail "anew"
    sleep 1
    used "$hash $group anew"
    leave
    echo "passed $hash $group"
done </vmh/targets
read -r port hash group </vmh/targets
go "$port" --dhchap-secret="$WRONG_KEY" && fail "a wrong key was taken"
go "$port" && fail "no key was taken"
go "$port" --dhchap-secret="$KEY" --dhchap-ctrl-secret="$WRONG_KEY" && fail "a wrong proof was taken"
ls /dev/nvme[0-9]n1 2>/dev/null && fail "something is connected"
dmesg | grep -i "dhchap\|authent" | tail -n 8
echo "all done"
