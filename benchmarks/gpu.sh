#!/usr/bin/env bash
# Everything worth measuring on a GPU, within ten minutes: benchmarks/gpu.sh. Needs PyTorch, transformers and grpcio.
# Full output goes to $OUT (default: out/gpu), the tables come last.
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-out/gpu}
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
mkdir -p "$out"
export PYTHONPATH="$PWD:$PWD/proto:$PWD/client"
status=0
run() { # name, time limit in seconds, module and arguments
  local name=$1 limit=$2
  shift 2
  timeout "$limit" "$python" -m "$@" >"$out/$name.txt" 2>"$out/$name.log" || { echo "$name failed: $?" >>"$out/$name.txt"; status=1; }
}
run device_check 180 benchmarks.device_check --device "$device"
run selection_cost 120 benchmarks.selection_cost --device "$device" --dtype bfloat16 --repeats 20
run thumbnail_pass 120 benchmarks.thumbnail_pass --device "$device" --dtype bfloat16 --repeats 20
run wire_bytes 60 benchmarks.wire_bytes
for name in device_check selection_cost thumbnail_pass wire_bytes; do
  echo "== $name"
  cat "$out/$name.txt"
done
exit $status
