#!/bin/sh
# One part of the Ray cluster, by its first argument; the rest goes to the program that it ends in.
#   head      keeps the cluster together, runs no replica
#   worker    runs replicas
#   gateway   the LLM service: a node without resources, for its own connection to Ray
# All processes are replaced by the last command, so that a signal reaches it.
set -eu
role=${1:?head, worker or gateway}
shift
head=${RAY_HEAD:-ray-head:6379}
# Fixed, and outside the range that the kernel hands out, so that none of them can take a service's port.
ports="--node-manager-port=6380 --object-manager-port=6381 --runtime-env-agent-port=6382
  --dashboard-agent-grpc-port=6383 --dashboard-agent-listen-port=6384 --metrics-export-port=6385"
common="$ports --object-store-memory=${RAY_OBJECT_STORE_BYTES:-268435456} --disable-usage-stats"

wait_for_head() {
  until python -c 'import socket, sys; h, _, p = sys.argv[1].rpartition(":"); socket.create_connection((h, int(p)), 2)' \
    "$head" 2>/dev/null; do
    sleep 1
  done
}

# shellcheck disable=SC2086 # $common is a list of words
case $role in
head) exec ray start --head --port="${head##*:}" --num-cpus=0 --include-dashboard=false --block $common "$@" ;;
worker)
  wait_for_head
  exec ray start --address="$head" --num-cpus="${RAY_WORKER_CPUS:-1}" --block $common "$@"
  ;;
gateway)
  wait_for_head
  ray start --address="$head" --num-cpus=0 --num-gpus=0 $common >/dev/null
  exec visionsplit-llm --backend ray --ray-address auto "$@"
  ;;
*)
  echo "ray-node.sh: $role is not head, worker or gateway" >&2
  exit 2
  ;;
esac
