#!/bin/sh
# Instructions of the target a 4 KiB read and write over NVMe/TCP, with 4 connections and with 256,
# counted by callgrind; and what the bitmap adds. Needs valgrind.
#
#   perf/command-cost.sh [--quick]
set -eu
cd "$(dirname "$0")/.."
cargo build --release -p mdof-perf --bin command-cost
exec "${CARGO_TARGET_DIR:-target}/release/command-cost" "$@"
