#!/usr/bin/env bash
# Measures dht-server, and compares it with other servers. The code is in scripts/bench.
set -euo pipefail

if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    printf 'bench.sh: needs Python 3.10 or newer\n' >&2
    exit 1
fi
# -B: do not write bytecode caches into the source directory.
exec python3 -B "$(dirname "${BASH_SOURCE[0]}")/bench" "$@"
