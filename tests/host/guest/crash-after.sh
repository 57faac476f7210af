# After crash-lose.sh and a restart of the target: the journal replays, the file system is sound,
# and everything that was acknowledged is there.
connect
mount -t ext4 "$DEV" /mnt || fail "mount (journal replay)"
umount /mnt || fail "umount"
e2fsck -fn "$DEV" || fail "e2fsck finds damage"
mount -t ext4 -o ro "$DEV" /mnt || fail "mount"
sha256sum -c /run/sums >/run/checked 2>&1 || {
    grep -v ': OK$' /run/checked
    fail "acknowledged files are lost or differ"
}
echo "$(grep -c ': OK$' /run/checked) files"
read -r doubt newer </run/unanswered
awk '{ last[$1] = $2 } END { for (at in last) print at, last[at] }' /run/acked >/run/last
while read -r at pass; do
    dd if="$DEV" of=/run/read bs=4k skip=$((24576 + at)) count=1 iflag=direct status=none
    block_of "$at" "$pass" | cmp -s - /run/read && continue
    # The write that was never answered may have happened or not, but nothing else.
    [ "$at" = "$doubt" ] && block_of "$at" "$newer" | cmp -s - /run/read && continue
    fail "block $at does not hold what was acknowledged in pass $pass"
done </run/last
echo "$(wc -l </run/last) blocks"
umount /mnt
disconnect
