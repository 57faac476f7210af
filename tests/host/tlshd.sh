#!/bin/bash
# Makes what a guest needs to shake hands for its kernel's TLS: tlshd of Debian's package ktls-utils
# with all the libraries it loads, as a tar archive for a root of its own. Prints the archive's path.
# Installs nothing and needs no root.
#
#   tlshd.sh CACHE_DIR
#
# A Debian older than 13 (trixie) has no such package: it is then taken, with what it needs, from that
# release's archive at the mirror that this machine uses. Fails where there is none.
set -euo pipefail

cache=${1:?usage: tlshd.sh CACHE_DIR}
PATH=$PATH:/usr/sbin:/sbin
release=trixie

mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
exec 9>"$cache/tlshd.lock"
flock 9
archive=$cache/tlshd-1.tar
if [ -e "$archive" ]; then
    echo "$archive"
    exit
fi
work=$(mktemp -d "$cache/tlshd.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
mkdir -p "$root/usr/sbin" "$root/usr/lib" "$root/usr/lib64"
ln -s usr/sbin usr/lib usr/lib64 "$root"

# The program of this machine and the libraries that its loader gives it.
take_own() {
    local library
    install -D "$(command -v tlshd)" "$root/usr/sbin/tlshd"
    ldd "$(command -v tlshd)" | grep -o '/[^ ]*' | while read -r library; do
        install -D "$library" "$root$library"
    done
}

# apt with lists, cache and status of its own, so that nothing of the machine's is touched.
apt_private() {
    apt-get -qq -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State="$work" -o Dir::State::Lists="$work/lists" -o Dir::State::Status="$work/status" \
        -o Dir::Cache="$work/cache" -o APT::Sandbox::User="$(id -un)" -o Debug::NoLocking=1 \
        -o Acquire::Languages=none -o Acquire::http::Timeout=30 -o Acquire::Retries=2 "$@"
}

download() {
    local mirror keyring package
    # shellcheck disable=SC2016 # apt fills in the names
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(LABEL) $(COMPONENT)' |
        awk '$2 == "Debian" && $3 == "Debian" && $4 == "main" { print $1; exit }')
    [ -n "$mirror" ] || { echo "tlshd.sh: this machine names no mirror of Debian" >&2; return 1; }
    for keyring in "/usr/share/keyrings/debian-archive-$release-stable.gpg" \
        /usr/share/keyrings/debian-archive-keyring.gpg; do
        [ ! -e "$keyring" ] || break
    done
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    : >"$work/status"
    echo "deb [signed-by=$keyring] $mirror $release main" >"$work/sources.list"
    apt_private update >&2
    apt_private -y --no-install-recommends --download-only install ktls-utils >&2
    for package in "$work"/cache/archives/*.deb; do
        dpkg-deb -x "$package" "$work/unpacked"
    done
    (cd "$work/unpacked" && find . \( -path './usr/lib/*-linux-gnu/*.so*' -o -path './usr/lib64/*' \
        -o -path './usr/sbin/tlshd' \) -not -type d -not -path '*/gconv/*' -not -path '*/gio/*' \
        -print0 | tar --null -cf - -T -) | tar -C "$root" -xf -
}

if command -v tlshd >/dev/null; then
    take_own
else
    echo "tlshd.sh: fetching ktls-utils of $release" >&2
    download
fi
[ -x "$root/usr/sbin/tlshd" ]
tar -C "$root" -cf "$work/tlshd.tar" .
mv "$work/tlshd.tar" "$archive"
echo "$archive"
