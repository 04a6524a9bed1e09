#!/usr/bin/env bash
# Runs a network of N nodes on loopback until Ctrl-C.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/cluster.sh N [BASE_PORT]

Starts N nodes on 127.0.0.1; N is a number from 1 to 256. The first node serves clients on
BASE_PORT (7500) and peers on the next port, the second node uses the next two ports, and so on.
The first node founds the network, the others join through it. Ctrl-C ends all nodes.

DHT_SERVER   the program to run; without it, the script builds and uses the release program
RUST_LOG     log filter of the nodes (info); it must include the level info
TEXT
}

readonly NODES_MAX=256
readonly PORT_MAX=65535
readonly START_SECONDS_MAX=60

pids=()  # process ids, by node number, from 1
ended=() # exit statuses of the nodes that have ended, by node number

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
    (($# == 1 || $# == 2)) || fail_usage "found $# arguments, expected N and optionally BASE_PORT"
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

# Sets `server` to the program of the nodes.
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
        complain "$server is not an executable file"
        exit 1
    fi
}

api_address() { echo "127.0.0.1:$((base_port + 2 * ($1 - 1)))"; }
p2p_address() { echo "127.0.0.1:$((base_port + 2 * ($1 - 1) + 1))"; }
log_of() { echo "$directory/node$1/log"; }

# The founder has no bootstrap; each other node has the founder and the node before it.
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
    # In its own process group the node does not get the terminal's Ctrl-C; it gets one SIGTERM from this script.
    set -m
    RUST_LOG=${RUST_LOG:-info} "$server" -c "$home/config.ini" </dev/null >"$home/log" 2>&1 &
    pids[$1]=$!
    set +m
}

# Waits until node $1 has logged the event $2.
await_event() {
    local log deadline=$((SECONDS + START_SECONDS_MAX))
    log=$(log_of "$1")
    until grep -Eq "(^|[] ])$2( |\$)" "$log"; do
        if ! kill -0 "${pids[$1]}" 2>/dev/null; then
            complain "node $1 ended before \`$2\`; the end of its log:"
        elif ((SECONDS >= deadline)); then
            complain "node $1 did not log \`$2\` within $START_SECONDS_MAX s; the end of its log:"
        else
            sleep 0.05 # pause between two looks at the log
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

Logs and configurations: $directory

Try this in another terminal:
    $cli -a $(api_address 1) put hello world --confirm
    $cli -a $(api_address "$nodes") get hello
    python3 $root/scripts/dht_client.py -p $base_port -s -g

Ctrl-C ends all nodes.
TEXT
}

# Sends SIGTERM to all running nodes.
end_nodes() {
    local node
    for node in "${!pids[@]}"; do
        [[ -n ${ended[$node]-} ]] || kill -TERM "${pids[$node]}" 2>/dev/null || true
    done
}

# Waits for the end of node $1, even if signals interrupt the wait, and stores its exit status.
await_end() {
    local status
    while [[ -z ${ended[$1]-} ]]; do
        status=0
        wait "${pids[$1]}" 2>/dev/null || status=$?
        kill -0 "${pids[$1]}" 2>/dev/null || ended[$1]=$status
    done
}

# Runs at every exit: ends the nodes. Deletes their logs if all nodes ended with status 0.
finish() {
    local status=$? node
    trap - EXIT
    trap end_nodes INT TERM # a second signal goes to the nodes, which then end at once
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
        complain "the logs are in $directory"
    fi
    exit "$status"
}

main() {
    read_arguments "$@"
    root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
    find_server
    directory=$(mktemp -d "${TMPDIR:-/tmp}/dht-cluster.XXXXXX")
    trap finish EXIT
    trap 'exit 0' INT TERM # the normal way to end
    start_nodes
    describe_nodes
    local node
    for node in "${!pids[@]}"; do await_end "$node"; done
    complain "all nodes ended unexpectedly"
    exit 1
}

main "$@"
