#!/usr/bin/env bash
# The gate before every change: formatting, lints, tests. Stops at the first that fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

run() {
    printf '\n== %s\n' "$*"
    "$@"
}

run cargo fmt --check
run cargo clippy --all-targets -- -D warnings
run cargo test
run cargo build --release --bin dht-server
run python3 -B scripts/bench/instructions.py "${CARGO_TARGET_DIR:-target}/release/dht-server"
printf '\nall checks passed\n'
