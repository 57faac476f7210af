# A file system with files, whose checksums hold over disconnect and reconnect.
connect
mke2fs -q -t ext4 -F "$DEV" || fail "mkfs.ext4"
mkdir -p /mnt
mount -t ext4 "$DEV" /mnt || fail "mount"
for n in 1 2 3 4 5 6 7 8; do
    dd if=/dev/urandom of="/mnt/small-$n" bs=777 count=$((n * 3)) status=none
    mkdir "/mnt/dir-$n"
    dd if=/dev/urandom of="/mnt/dir-$n/large" bs=64k count=$((n * 4)) status=none
done
(cd /mnt && find . -type f | sort | xargs sha256sum) >/run/sums
[ "$(wc -l </run/sums)" = 16 ] || fail "16 files were to be written"
umount /mnt || fail "umount"
disconnect

connect
e2fsck -fn "$DEV" || fail "e2fsck finds damage"
mount -t ext4 -o ro "$DEV" /mnt || fail "second mount"
# From the target, not from the guest's memory.
echo 3 >/proc/sys/vm/drop_caches
(cd /mnt && sha256sum -c /run/sums >/run/checked) || {
    grep -v ': OK$' /run/checked
    fail "checksums differ"
}
grep -c ': OK$' /run/checked
umount /mnt || fail "umount"
disconnect
