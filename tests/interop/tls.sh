#!/bin/bash
# A Linux host comes to mdof under its kernel's TLS. /vmh/keys sets PORT, PLAIN_PORT (where no TLS is
# due), KEYS (each that of HOST at two subsystems, NQN0 and NQN1, NQN2 and NQN3; one more has the first)
# and WRONG_KEY.
set -u
. /vmh/keys
. /vmh/tls_host.sh
ADDRESS=10.0.2.2
NQN=nqn.2026-01.io.mdof:tls
start_tlshd
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
