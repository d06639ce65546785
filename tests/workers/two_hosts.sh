#!/usr/bin/env bash
# Two hosts, as network namespaces joined by a veth pair, two processes on each: all processes of the second host are
# killed on the way, and the job is started again. Needs root and iproute2.
# Usage: tests/workers/two_hosts.sh FOLDER. Results: FOLDER/rank{0,1,2,3}.pt; logs beside them.
# Nothing leaves the two namespaces; they are removed at the end, and no process runs longer than LIMIT seconds.
set -euo pipefail
cd "$(dirname "$0")/../.."
folder=$1
python=${PYTHON:-python}
LIMIT=${LIMIT:-150}
hosts=("uncertainty-a-$$" "uncertainty-b-$$")

remove() {
    for host in "${hosts[@]}"; do
        ip netns pids "$host" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
        ip netns del "$host" 2>/dev/null || true
    done
}
trap remove EXIT

ip netns add "${hosts[0]}"
ip netns add "${hosts[1]}"
ip link add veth0 netns "${hosts[0]}" type veth peer name veth0 netns "${hosts[1]}"
for i in 0 1; do
    ip -n "${hosts[i]}" address add "10.77.0.$((i + 1))/24" dev veth0
    ip -n "${hosts[i]}" link set veth0 up
    ip -n "${hosts[i]}" link set lo up
done

start() { # host number: what a user types on each host
    ip netns exec "${hosts[$1]}" env \
        GLOO_SOCKET_IFNAME=veth0 OMP_NUM_THREADS=1 PYTHONPATH="$PWD" \
        timeout --kill-after=5 "$LIMIT" \
        "$python" -m torch.distributed.run --nnodes 2 --nproc-per-node 2 --node-rank "$1" \
        --master-addr 10.77.0.1 --master-port 29500 \
        -m tests.workers.two_hosts "$folder" >>"$folder/host$1.log" 2>&1 &
}

mkdir -p "$folder"
start 0; survivor=$!
start 1; lost=$!
until [ -e "$folder/step=50.ckpt" ]; do
    kill -0 "$survivor" 2>/dev/null || { echo "the first host ended too early"; exit 1; }
    sleep 0.02
done
ip netns pids "${hosts[1]}" | xargs kill -9
wait "$lost" 2>/dev/null || true
if wait "$survivor"; then echo "the first host did not notice that the second was gone"; exit 1; fi
echo "the first host ended with an error, as it should"
start 0; first=$!
start 1; second=$!
wait "$first" && wait "$second"
