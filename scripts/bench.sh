#!/usr/bin/env bash
# Measures dht-server, beside others where there are some; what it does is in scripts/bench.
set -euo pipefail

if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    printf 'bench.sh: Python 3.10 or newer does the measuring, and there is none\n' >&2
    exit 1
fi
# -B: no caches of bytecode among the sources.
exec python3 -B "$(dirname "${BASH_SOURCE[0]}")/bench" "$@"
