#!/bin/bash
# A Linux host comes to mdof under its kernel's TLS. /vmh/tlshd.tar has tlshd, which shakes hands for
# the kernel. /vmh/keys sets PORT, PLAIN_PORT (where no TLS is due), KEYS (each that of HOST at two
# subsystems, NQN0 and NQN1, NQN2 and NQN3; one more has the first) and WRONG_KEY.
set -u
. /vmh/keys
NQN=nqn.2026-01.io.mdof:tls
HOST=nqn.2014-08.org.nvmexpress:uuid:6d646f66-0000-4000-8000-000000000003
ID=6d646f66-0000-4000-8000-000000000003
fail() {
    echo "FAIL: $*"
    tail -n 20 /tmp/tlshd.log
    dmesg | tail -n 10
    exit 1
}
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

# port, subsystem, more
go() {
    port=$1 nqn=$2
    shift 2
    nvme connect -t tcp -a 10.0.2.2 -s "$port" -n "$nqn" -q $HOST -I $ID --nr-io-queues=2 \
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
# GnuTLS before 3.8.11 computes the binder of every key with SHA-256, which is wrong for keys of
# SHA-384; tlshd says which hash function it wants where GnuTLS can be told.
knows_sha384() { grep -q gnutls_psk_allocate_client_credentials2 /tls/usr/sbin/tlshd; }
number=0
for key in $KEYS; do
    for identity in 1 0; do
        nqn=$NQN$number
        if [ $number -ge 2 ] && ! knows_sha384; then
            echo "LEFT OUT: $nqn: this tlshd can't offer keys of SHA-384"
            number=$((number + 1))
            continue
        fi
        insert "$key" "$nqn" $identity
        for digests in "" "--hdr-digest --data-digest"; do
            # shellcheck disable=SC2086 # none or two words
            go "$PORT" "$nqn" --tls $digests || fail "$nqn, identity $identity, $digests"
            used "$nqn, identity $identity"
            nvme disconnect -n "$nqn" >/dev/null
        done
        grep "Using psk identity" /tmp/tlshd.log | tail -n 1 | grep -q "NVMe${identity}R.* $nqn" ||
            fail "the kernel did not offer the identity of version $identity for $nqn"
        echo "passed $nqn, identity $identity"
        number=$((number + 1))
    done
done
grep -q "(TLS1.3)--(AES-128-GCM)" /tmp/tlshd.log || fail "another cipher suite"
if knows_sha384; then
    grep -q "(TLS1.3)--(AES-256-GCM)" /tmp/tlshd.log || fail "the same suite for both"
fi
last=$NQN$number
go "$PORT" "$last" --tls && fail "connected without a key"
insert "$WRONG_KEY" "$last" 1
go "$PORT" "$last" --tls && fail "a wrong key was taken"
go "$PORT" "$last" && fail "connected without TLS"
go "$PLAIN_PORT" "$last" && fail "a host with a key came without TLS"
ls /dev/nvme[0-9]n1 2>/dev/null && fail "something is connected"
echo "all done"
