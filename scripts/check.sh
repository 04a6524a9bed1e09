#!/usr/bin/env bash
# The gate before every change: formatting, lints, documentation, tests, instruction counts. It stops at the
# first fault, and needs Rust and python3 alone.
#
#     scripts/check.sh           the gate
#     scripts/check.sh --long    the gate with the tests that `cargo test` ignores because they take minutes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

case "$*" in
    "") tests=(cargo test) ;;
    # The one test that needs a seed from the environment cannot run here.
    --long) tests=(cargo test -- --include-ignored --skip the_schedule_of_a_seed) ;;
    *)
        echo "usage: scripts/check.sh [--long], found \`$*\`" >&2
        exit 2
        ;;
esac

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

run cargo fmt --check
run cargo clippy --all-targets -- -D warnings
run env RUSTDOCFLAGS="-D warnings" cargo doc --no-deps
run "${tests[@]}" 2>&1 | with_durations
run cargo build --release --bin dht-server
run python3 -B scripts/bench/instructions.py "${CARGO_TARGET_DIR:-target}/release/dht-server"
printf '\nall checks passed in %s s\n' "$SECONDS"
