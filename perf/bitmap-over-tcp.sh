#!/bin/sh
# What the bitmap costs a host: 4 KiB random writes over NVMe/TCP to a RAID1 of null bdevs, all of
# its chunks Dirty, against one without bitmap, by turns. The target polls on the first CPU and the
# host's thread on the second.
#
#   perf/bitmap-over-tcp.sh [OPTION OF mdof-perf ab...]      MDOF_PERF_PORT: 4431
set -eu
cd "$(dirname "$0")/.."
bin="${CARGO_TARGET_DIR:-target}/release"
cargo build --release --workspace 1>&2
address="127.0.0.1:${MDOF_PERF_PORT:-4431}"
nqn=nqn.2026-01.io.mdof:bitmap-cost
dir=$(mktemp -d)
target=
finish() {
    [ -z "$target" ] || { kill "$target" 2> /dev/null && wait "$target"; } || true
    rm -rf "$dir"
}
trap finish EXIT
{
    printf "[target]\ncores = [0]\n"
    for name in a0 a1 b0 b1; do
        printf '[[bdev]]\nname = "%s"\nkind = "null"\nblock_size_bytes = 4096\n' "$name"
        echo "size_mib = 32768"
    done
    for array in a:none b:lockless; do
        name=${array%:*}
        printf '[[array]]\nname = "%s"\nlevel = 1\nassume_clean = true\n' "$name"
        printf 'members = ["%s0", "%s1"]\nbitmap = "%s"\n' "$name" "$name" "${array#*:}"
    done
    printf '[[subsystem]]\nnqn = "%s"\nserial = "COST"\nallow_any_host = true\n' "$nqn"
    echo 'namespaces = [{ bdev = "a", nsid = 1 }, { bdev = "b", nsid = 2 }]'
    echo "listen = [\"$address\"]"
} > "$dir/config.toml"
"$bin/mdof" target --config "$dir/config.toml" --state-dir "$dir" \
    --rpc-socket "$dir/rpc.sock" > "$dir/out" 2>&1 &
target=$!
tries=0
until grep -qs ready "$dir/out"; do
    tries=$((tries + 1))
    if [ $tries -gt 100 ] || ! kill -0 "$target" 2> /dev/null; then
        cat "$dir/out" >&2
        exit 1
    fi
    sleep 0.1
done
# So many writes that every chunk gets one.
"$bin/mdof-perf" --addr "$address" --nqn "$nqn" --nsid 2 --core 1 --rw randwrite --time 3s > /dev/null
"$bin/mdof-perf" ab --a "nvme:$address/$nqn/1" --b "nvme:$address/$nqn/2" --core 1 \
    --rw randwrite "$@"
