# After ext4.sh and a restart of the target: the same files, the same checksums.
connect
e2fsck -fn "$DEV" || fail "e2fsck finds damage"
mount -t ext4 -o ro "$DEV" /mnt || fail "mount"
(cd /mnt && sha256sum -c /run/sums >/run/checked) || {
    grep -v ': OK$' /run/checked
    fail "checksums differ after the restart"
}
[ "$(grep -c ': OK$' /run/checked)" = 16 ] || fail "16 files were written"
umount /mnt
disconnect
