#!/bin/bash
# Makes what the guest of the VM tests boots: a Debian kernel and an initramfs, both kept in the
# cache directory. Prints their two paths. Needs no root: packages are unpacked, not installed.
#
#   initramfs.sh CACHE_DIR
#
# The initramfs holds busybox, the host's own nvme-cli, fio and e2fsprogs with their shared
# libraries, and the kernel modules named below with all that they depend on. Its name carries
# the versions of everything in it, so that an upgrade of the host makes a new one.
set -euo pipefail

cache=${1:?usage: initramfs.sh CACHE_DIR}
here=$(cd "$(dirname "$0")" && pwd)
PATH=$PATH:/usr/sbin:/sbin

modules="virtio_pci virtio_console virtio_net nvme-tcp ext4 crc32c_generic crc32c_intel
nvmet nvmet-tcp"
tools="nvme fio mke2fs e2fsck blkdiscard sha256sum cmp dd"

mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9

note() { echo "initramfs.sh: $*" >&2; }

# The kernel: downloaded once, then whatever the cache holds.
kernel_fetch() {
    local work package attempt
    work=$(mktemp -d "$cache/work.XXXXXX")
    trap 'rm -rf "$work"' RETURN
    for attempt in 1 2 3; do
        package=$(apt-cache depends linux-image-amd64 2>/dev/null |
            awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }')
        if [ -n "$package" ] &&
            (cd "$work" && apt-get -qq -o APT::Sandbox::User="$(id -un)" download "$package" >&2); then
            break
        fi
        note "package '${package:-linux-image-amd64}' not to be had, attempt $attempt of 3"
        [ "$attempt" -lt 3 ] || { note "try 'apt-get update' and run again"; return 1; }
        if [ "$(id -u)" = 0 ]; then apt-get -qq update >&2 || true; fi
        sleep $((attempt * 2))
    done
    note "unpacking $package"
    # Modules lie in /lib or, since Debian 13, in /usr/lib. What no guest has is left out.
    dpkg-deb --fsys-tarfile "$work"/linux-image-*.deb | tar -x -C "$work" --wildcards \
        --exclude='*/kernel/sound' --exclude='*/kernel/drivers/gpu' \
        --exclude='*/kernel/drivers/media' --exclude='*/kernel/drivers/net/wireless' \
        './boot/*' '*/lib/modules/*'
    if [ -d "$work/usr/lib/modules" ]; then mv "$work/usr/lib" "$work/lib"; fi
    local version
    version=$(basename "$work"/lib/modules/*)
    # kmod's depmod knows every compression, busybox's is always there.
    if command -v depmod >/dev/null; then
        depmod -b "$work" "$version"
    else
        busybox depmod -b "$work" "$version"
    fi
    rm -rf "$cache/modules-$version"
    mv "$work/lib/modules/$version" "$cache/modules-$version"
    # Last, because its presence says that the rest is whole.
    unpack_kernel "$work/boot/vmlinuz-$version" "$work/kernel"
    mv "$work/kernel" "$cache/kernel-$version"
}

# The guest would need four seconds to unpack its kernel under emulation; the host needs one. QEMU
# starts an ELF kernel through PVH. Where this fails the guest unpacks it: slower, but it works.
unpack_kernel() {
    local packed=$1 out=$2 offset
    for offset in $(LC_ALL=C grep -abo -P '\xFD7zXZ\x00' "$packed" | cut -d: -f1); do
        # The image goes on behind the compressed part, about which xz complains.
        tail -c +$((offset + 1)) "$packed" | xz -dc --single-stream >"$out" 2>/dev/null || true
        if [ "$(head -c 4 "$out" | tail -c 3)" = ELF ]; then return; fi
    done
    cp "$packed" "$out"
}

newest_kernel() { find "$cache" -maxdepth 1 -name "kernel-*" -type f | sort -V | tail -n 1; }

kernel=$(newest_kernel)
if [ -z "$kernel" ]; then
    kernel_fetch
    kernel=$(newest_kernel)
fi
version=${kernel##*/kernel-}
depot=$cache/modules-$version

key=$({
    cat "$0" "$here/guest/init"
    echo "$version"
    for tool in busybox dash $tools; do stat -L -c '%n %s %Y' "$(command -v "$tool")"; done
} | sha256sum | cut -c 1-16)
initramfs=$cache/initramfs-$version-$key.cpio

# Paths of the modules named and of all that they need, each after what it needs.
module_closure() {
    awk -v wanted="$1" '
        function name(path) { sub(/.*\//, "", path); sub(/\.ko.*/, "", path); gsub(/-/, "_", path)
            return path }
        function add(path,  list, i, n) {
            if (path in seen) return
            seen[path] = 1
            n = split(needs[path], list, " ")
            for (i = n; i > 0; i--) add(list[i])
            print path
        }
        { path = $1; sub(/:$/, "", path); $1 = ""; needs[path] = $0; by_name[name(path)] = path }
        END {
            n = split(wanted, w, " ")
            for (i = 1; i <= n; i++) {
                m = w[i]; gsub(/-/, "_", m)
                if (m in by_name) add(by_name[m])
                else print "initramfs.sh: the kernel has no module " w[i] > "/dev/stderr"
            }
        }' "$2"
}

# A program and the shared libraries that the loader would give it, at their own paths.
put_program() {
    local root=$1 program=$2 library
    install -D "$program" "$root$program"
    { ldd "$program" 2>/dev/null || true; } | grep -o '/[^ ]*' | while read -r library; do
        [ -e "$root$library" ] || install -D "$library" "$root$library"
    done
}

build() {
    local root path tool
    root=$(mktemp -d "$cache/root.XXXXXX")
    trap 'rm -rf "$root"' RETURN
    mkdir -p "$root"/{bin,sbin,usr,etc,dev,proc,sys,run,tmp,mnt,lib64}
    # As on Debian, /bin and /lib are the same places as /usr/bin and /usr/lib.
    rm -r "$root"/{bin,sbin,lib64}
    mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
    ln -s usr/bin usr/sbin usr/lib usr/lib64 "$root"
    cp "$(command -v busybox)" "$root/usr/bin/busybox"
    busybox --list | while read -r tool; do
        [ "$tool" = busybox ] || ln -s /usr/bin/busybox "$root/usr/bin/$tool"
    done
    for tool in $tools; do
        path=$(command -v "$tool")
        rm -f "$root/usr/bin/$tool" "$root/usr/sbin/$tool"
        put_program "$root" "$path"
    done
    # busybox's own shell would take its applets before the programs above.
    rm -f "$root/usr/bin/sh"
    put_program "$root" "$(command -v dash)"
    ln -s "$(basename "$(command -v dash)")" "$root/usr/bin/sh"
    ln -sf mke2fs "$root$(dirname "$(command -v mke2fs)")/mkfs.ext4"
    [ ! -e /etc/mke2fs.conf ] || cp /etc/mke2fs.conf "$root/etc/"
    mkdir -p "$root/etc/nvme"
    echo nqn.2014-08.org.nvmexpress:uuid:6d646f66-0000-4000-8000-000000000001 >"$root/etc/nvme/hostnqn"
    echo 6d646f66-0000-4000-8000-000000000001 >"$root/etc/nvme/hostid"
    cp "$here/guest/init" "$root/init"
    chmod 755 "$root/init"

    local to=$root/usr/lib/modules/$version
    module_closure "$(echo $modules)" "$depot/modules.dep" >"$root/etc/modules.list"
    while read -r path; do
        mkdir -p "$to/$(dirname "$path")"
        case $path in
        *.xz) busybox xz -dc "$depot/$path" >"$to/${path%.xz}" ;;
        *.zst) zstd -qdc "$depot/$path" >"$to/${path%.zst}" ;;
        *) cp "$depot/$path" "$to/$path" ;;
        esac
    done <"$root/etc/modules.list"
    sed -i -e 's/\.xz$//' -e 's/\.zst$//' -e "s,^,/usr/lib/modules/$version/," "$root/etc/modules.list"

    (cd "$root" && find . | busybox cpio -o -H newc 2>/dev/null) >"$initramfs.part"
    rm -f "$cache"/initramfs-*.cpio
    mv "$initramfs.part" "$initramfs"
}

if [ ! -e "$initramfs" ]; then
    note "building $initramfs"
    build
fi
echo "$kernel"
echo "$initramfs"
