#!/usr/bin/env bash
# Runs a network of N nodes on loopback until Ctrl-C.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/cluster.sh N [BASE_PORT]

Starts N nodes on 127.0.0.1, from 1 to 256. The first serves modules on BASE_PORT, which is 7500
if not given, and peers on the port above it, the second on the next two ports, and so on. The
first node founds the network, the others join through it. Ctrl-C ends them all.

DHT_SERVER   the program to run; without it, the release build is made and used
RUST_LOG     what the nodes log (info); must let info through
TEXT
}

readonly NODES_MAX=256
readonly PORT_MAX=65535
readonly START_SECONDS_MAX=60

pids=()  # of the nodes, by number, from 1
ended=() # exit statuses of those that were waited for, by number

complain() {
    printf 'cluster.sh: %s\n' "$*" >&2
}

fail_usage() {
    complain "$*"
    usage >&2
    exit 2
}

read_arguments() {
    if [[ ${1-} == -h || ${1-} == --help ]]; then
        usage
        exit 0
    fi
    (($# == 1 || $# == 2)) || fail_usage "found $# arguments, expected N and perhaps BASE_PORT"
    nodes=$1
    base_port=${2:-7500}
    if ! [[ $nodes =~ ^[1-9][0-9]{0,4}$ ]] || ((nodes > NODES_MAX)); then
        fail_usage "found \`$nodes\` for N, expected a number from 1 to $NODES_MAX"
    fi
    local port_max=$((PORT_MAX - 2 * nodes + 1))
    if ! [[ $base_port =~ ^[1-9][0-9]{0,4}$ ]] || ((base_port > port_max)); then
        fail_usage "found \`$base_port\` for BASE_PORT, expected a number from 1 to $port_max for $nodes nodes"
    fi
}

# Sets `server` to the program that the nodes run.
find_server() {
    if [[ -n ${DHT_SERVER-} ]]; then
        server=$DHT_SERVER
    else
        (cd "$root" && cargo build --release) || {
            complain "cargo build --release failed"
            exit 1
        }
        server=$(cd "$root" && cd "${CARGO_TARGET_DIR:-target}/release" && pwd)/dht-server
    fi
    if ! [[ -f $server && -x $server ]]; then
        complain "$server is no program"
        exit 1
    fi
}

api_address() { echo "127.0.0.1:$((base_port + 2 * ($1 - 1)))"; }
p2p_address() { echo "127.0.0.1:$((base_port + 2 * ($1 - 1) + 1))"; }
log_of() { echo "$directory/node$1/log"; }

# The founder has no bootstrap; the others have the founder and the node before them.
bootstrap_of() {
    case $1 in
        1) ;;
        2) echo "bootstrap = $(p2p_address 1)" ;;
        *) echo "bootstrap = $(p2p_address 1), $(p2p_address $(($1 - 1)))" ;;
    esac
}

start_node() {
    local home=$directory/node$1
    mkdir "$home"
    cat >"$home/config.ini" <<TEXT
[dht]
api_address = $(api_address "$1")
p2p_address = $(p2p_address "$1")
data_dir = "$home/data"
$(bootstrap_of "$1")
TEXT
    # A process group of its own keeps the terminal's Ctrl-C from the node: it gets one SIGTERM, from us.
    set -m
    RUST_LOG=${RUST_LOG:-info} "$server" -c "$home/config.ini" </dev/null >"$home/log" 2>&1 &
    pids[$1]=$!
    set +m
}

# Returns once node $1 has logged the event $2.
await_event() {
    local log deadline=$((SECONDS + START_SECONDS_MAX))
    log=$(log_of "$1")
    until grep -Eq "(^|[] ])$2( |\$)" "$log"; do
        if ! kill -0 "${pids[$1]}" 2>/dev/null; then
            complain "node $1 ended before \`$2\`; the end of its log:"
        elif ((SECONDS >= deadline)); then
            complain "node $1 did not log \`$2\` within $START_SECONDS_MAX s; the end of its log:"
        else
            sleep 0.05 # between two looks at the log
            continue
        fi
        tail -n 15 "$log" >&2
        exit 1
    done
}

start_nodes() {
    local node
    start_node 1
    await_event 1 listening
    for ((node = 2; node <= nodes; node++)); do start_node "$node"; done
    for ((node = 2; node <= nodes; node++)); do await_event "$node" listening; done
    for ((node = 2; node <= nodes; node++)); do await_event "$node" joined; done
}

describe_nodes() {
    local node cli
    cli=$(dirname "$server")/dht-cli
    printf '%-6s %-22s %-22s %s\n' node api p2p pid
    for ((node = 1; node <= nodes; node++)); do
        printf '%-6s %-22s %-22s %s\n' "$node" "$(api_address "$node")" "$(p2p_address "$node")" "${pids[$node]}"
    done
    cat <<TEXT

logs and configurations: $directory

Try, in another terminal:
    $cli -a $(api_address 1) put hello world --confirm
    $cli -a $(api_address "$nodes") get hello
    python3 $root/scripts/dht_client.py -p $base_port -s -g

Ctrl-C ends all nodes.
TEXT
}

# Sends SIGTERM to the nodes that still run.
end_nodes() {
    local node
    for node in "${!pids[@]}"; do
        [[ -n ${ended[$node]-} ]] || kill -TERM "${pids[$node]}" 2>/dev/null || true
    done
}

# Waits for node $1, through any number of interruptions, and keeps its exit status.
await_end() {
    local status
    while [[ -z ${ended[$1]-} ]]; do
        status=0
        wait "${pids[$1]}" 2>/dev/null || status=$?
        kill -0 "${pids[$1]}" 2>/dev/null || ended[$1]=$status
    done
}

# Runs at every exit: ends the nodes, and keeps their logs unless all went well.
finish() {
    local status=$? node
    trap - EXIT
    trap end_nodes INT TERM # a second signal is passed on, and ends a node at once
    end_nodes
    for node in "${!pids[@]}"; do
        await_end "$node"
        if ((ended[node] != 0)); then
            complain "node $node ended with status ${ended[$node]}"
            status=1
        fi
    done
    if ((status == 0)); then
        rm -r -- "$directory"
    else
        complain "logs are kept in $directory"
    fi
    exit "$status"
}

main() {
    read_arguments "$@"
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    find_server
    directory=$(mktemp -d "${TMPDIR:-/tmp}/dht-cluster.XXXXXX")
    trap finish EXIT
    trap 'exit 0' INT TERM # the ordinary end
    start_nodes
    describe_nodes
    local node
    for node in "${!pids[@]}"; do await_end "$node"; done
    complain "all nodes have ended by themselves"
    exit 1
}

main "$@"
