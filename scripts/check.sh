#!/usr/bin/env bash
# The gate before every change: formatting, lints, documentation, tests, instruction counts. It stops at the
# first fault, and needs Rust and python3 alone.
#
#     scripts/check.sh           the gate
#     scripts/check.sh --long    the gate with the tests that `cargo test` ignores because they take minutes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
target="${CARGO_TARGET_DIR:-target}"

case "$*" in
    "") tests=(cargo test) ;;
    # Two tests cannot run here: one needs a seed from the environment, the other builds the tests for each guard.
    --long) tests=(cargo test -- --include-ignored --skip the_schedule_of_a_seed --skip each_guard_that_is_removed) ;;
    *)
        echo "usage: scripts/check.sh [--long], found \`$*\`" >&2
        exit 2
        ;;
esac

# Tests of real servers mostly wait for a deadline or for another process: two per core use the cores better.
export RUST_TEST_THREADS="${RUST_TEST_THREADS:-$(python3 -c 'import os; print(2 * os.cpu_count())')}"

run() {
    printf '\n== %s\n' "$*"
    local begun=$SECONDS
    "$@"
    printf '== %s s\n' $((SECONDS - begun))
}

# Copies the output of `cargo test`, then prints the duration of each test binary, and their sum.
with_durations() {
    local line name="" report="" sum=0
    while IFS= read -r line; do
        printf '%s\n' "$line"
        if [[ "$line" =~ ^\ +(Running|Doc-tests)\ (unittests\ )?([^ ]+) ]]; then
            name="${BASH_REMATCH[3]}"
        elif [[ "$line" =~ ^test\ result:.*\;\ finished\ in\ ([0-9]+)\.([0-9][0-9])s$ ]]; then
            sum=$((sum + 10#${BASH_REMATCH[1]}${BASH_REMATCH[2]}))
            report+="$(printf '%9s s  %s' "${BASH_REMATCH[1]}.${BASH_REMATCH[2]}" "$name")"$'\n'
        fi
    done
    printf '\n%s%6d.%02d s  all test binaries\n' "$report" $((sum / 100)) $((sum % 100))
}

# The release build uses one core for most of its time, so it runs beside the other builds. It must not run
# beside the tests.
cargo build --release --bin dht-server --quiet &
release=$!
trap 'kill "$release" 2>/dev/null || true' EXIT

run cargo fmt --check
run cargo clippy --all-targets -- -D warnings
run env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
run cargo test --no-run
run wait "$release"
run "${tests[@]}" 2>&1 | with_durations
run python3 -B scripts/bench/instructions.py "$target/release/dht-server"
printf '\nall checks passed in %s s\n' "$SECONDS"
