# Sourced by the guests of tests/interop/tls.rs and tests/tls: Linux's own host under its kernel's TLS.
# /vmh/tlshd.tar has tlshd, which shakes hands for the kernel. ADDRESS is where the target listens.
# shellcheck shell=bash
HOST=nqn.2014-08.org.nvmexpress:uuid:6d646f66-0000-4000-8000-000000000003
ID=6d646f66-0000-4000-8000-000000000003
fail() {
    echo "FAIL: $*"
    for log in /tmp/tlshd.log /tmp/mdof.log; do
        [ ! -e $log ] || tail -n 20 $log
    done
    dmesg | tail -n 10
    exit 1
}
start_tlshd() {
    mkdir -p /tls && tar -xf /vmh/tlshd.tar -C /tls || fail "unpacking tlshd"
    mkdir -p /tls/proc /tls/dev /tls/etc /tls/tmp
    mount -t proc proc /tls/proc && mount --bind /dev /tls/dev || fail "a root for tlshd"
    printf '[debug]\nloglevel=1\n[authenticate]\nkeyrings=.nvme\n' >/tls/etc/tlshd.conf
    # From a keyring's session of its own, into which it links the kernel's keyring of NVMe.
    chroot /tls /usr/sbin/tlshd -s -c /etc/tlshd.conf >/tmp/tlshd.log 2>&1 &
    tries=0
    until grep -q "Built from\|Listening\|keyring" /tmp/tlshd.log || [ $tries = 40 ]; do
        tries=$((tries + 1))
        sleep 0.05
    done
}
# port, subsystem, more
go() {
    port=$1 nqn=$2
    shift 2
    nvme connect -t tcp -a "$ADDRESS" -s "$port" -n "$nqn" -q $HOST -I $ID --nr-io-queues=2 \
        --keep-alive-tmo=120 "$@" 2>&1
}
# Puts a configured key into the kernel's keyring, in the form that TLS takes: key, subsystem, version
# of the identity. It stays there, so each case has a subsystem of its own.
insert() {
    nvme check-tls-key --keydata="$1" --hostnqn=$HOST --subsysnqn="$2" --identity="$3" --insert ||
        fail "inserting a key"
}
# What is connected takes data and gives it back.
used() {
    tries=0
    until dev=$(ls /dev/nvme[0-9]n1 2>/dev/null); do
        tries=$((tries + 1))
        [ $tries -lt 400 ] || fail "$1: no namespace appeared"
        sleep 0.05
    done
    cat /sys/class/nvme/nvme[0-9]*/tls_key | grep -q . || fail "$1: the kernel names no key"
    head -c 262144 /dev/urandom >/tmp/data
    for size in 4096 131072; do
        dd if=/tmp/data of="$dev" bs=$size oflag=direct status=none || fail "$1: writing"
        dd if="$dev" bs=$size count=$((262144 / size)) iflag=direct status=none |
            cmp - /tmp/data || fail "$1: reading"
    done
}
