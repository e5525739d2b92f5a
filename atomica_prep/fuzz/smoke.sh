#!/usr/bin/env bash
# Every fuzz target over its seeds, then for some seconds (default 5) on its own: fuzz/smoke.sh [SECONDS]
# Without cargo-fuzz and a nightly compiler, the same targets in an ordinary test.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5}

if ! cargo fuzz --version >/dev/null 2>&1 || ! cargo +nightly --version >/dev/null 2>&1; then
    echo "no cargo-fuzz or no nightly compiler: the targets as an ordinary test"
    exec cargo test --quiet --test fuzz
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ATOMICA_FUZZ_SEEDS="$work" cargo test --quiet --test fuzz write_seeds -- --ignored
cargo +nightly fuzz build
for target in $(cargo +nightly fuzz list); do
    echo "=== $target"
    cargo +nightly fuzz run "$target" "$work/$target" -- \
        -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=10 -max_len=16384 -verbosity=0
done
