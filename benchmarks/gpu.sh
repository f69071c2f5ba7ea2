#!/usr/bin/env bash
# Everything worth measuring on a GPU, within ten minutes: benchmarks/gpu.sh. Needs PyTorch, the transformers library and
# grpcio; a part that needs a newer version of one of them says so and the others run on.
# Tables come last and go to $OUT/report.txt, the rest to $OUT/log.txt (default: out/gpu).
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-out/gpu}
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
mkdir -p "$out"
: >"$out/report.txt"
: >"$out/log.txt"
export PYTHONPATH="$PWD:$PWD/proto:$PWD/client${PYTHONPATH:+:$PYTHONPATH}"
status=0
run() { # name, time limit in seconds, module and arguments
  local name=$1 limit=$2
  shift 2
  echo "== $name" | tee -a "$out/report.txt" >>"$out/log.txt"
  timeout "$limit" "$python" -m "$@" >>"$out/report.txt" 2>>"$out/log.txt" || {
    echo "$name failed ($?): $(tail -n 1 "$out/log.txt")" >>"$out/report.txt"
    status=1
  }
}
run device_check 120 benchmarks.device_check --device "$device"
run selection_cost 90 benchmarks.selection_cost --device "$device" --dtype bfloat16 --repeats 20
run thumbnail_pass 90 benchmarks.thumbnail_pass --device "$device" --dtype bfloat16 --repeats 20
run wire_bytes 30 benchmarks.wire_bytes
run evaluation 240 training.evaluation --device "$device" --out "$out/evaluation"
cat "$out/report.txt"
exit $status
