#!/bin/sh
# Instructions that the bitmap adds to one host write when its chunk is open (Dirty and durable).
# Needs valgrind. Prints instructions per write with and without bitmap, and the difference; and
# those of a channel when resync takes and frees one window beside 32 writes in flight.
set -eu
cd "$(dirname "$0")/.."
cargo build --release -p mdof-perf --bin gate-cost
bin="${CARGO_TARGET_DIR:-target}/release/gate-cost"
count() { # mode, writes
    valgrind --tool=callgrind --callgrind-out-file=/dev/null "$bin" "$1" "$2" 2>&1 |
        sed -n 's/.*Collected : //p'
}
# The difference of two runs leaves out what a run costs at all.
for mode in none lockless read windows; do
    more=$(count $mode 200000)
    less=$(count $mode 100000)
    eval "$mode=$(( (more - less) * 100 / 100000 ))"
done
show() { printf '%d.%02d\n' $(($1 / 100)) $(($1 % 100)); }
echo "instructions per write: none $(show "$none"), lockless $(show "$lockless")," \
    "added $(show $((lockless - none)))"
if [ $((lockless - none)) -le 2000 ]; then kept='kept'; else kept='NOT KEPT'; fi
echo "promised: at most 20 added: $kept"
echo "instructions per read: $(show "$read")"
echo "instructions per window taken and freed: $(show "$windows")"
