#!/usr/bin/env bash
# Everything worth measuring on a GPU, within ten minutes: benchmarks/gpu.sh. Needs PyTorch, the transformers library and
# grpcio; a part that needs a newer version of one of them says so and the others run on.
# Tables come last and go to $OUT/report.txt, the rest to $OUT/log.txt (default: out/gpu).
# QUICK=1 asks every part for as little as it can do, to see whether it runs: DEVICE=cpu QUICK=1 benchmarks/gpu.sh
set -uo pipefail
cd "$(dirname "$0")/.."
out=${OUT:-out/gpu}
python=${PYTHON:-python3}
device=${DEVICE:-cuda}
mkdir -p "$out"
: >"$out/report.txt"
: >"$out/log.txt"
export PYTHONPATH="$PWD:$PWD/proto:$PWD/client${PYTHONPATH:+:$PYTHONPATH}"
tower=(--device "$device" --dtype bfloat16 --repeats 20)
efficiency=(--shapes mini 7b 13b --threads 8 --seconds 190)
evaluation=()
batch=8 # images
if [[ -n ${QUICK:-} ]]; then
  tower=(--device "$device" --repeats 1)
  efficiency=(--quick)
  evaluation=(--images 1)
  batch=2
fi
status=0
run() { # name, time limit in seconds, module and arguments; the limits add up to less than ten minutes
  local name=$1 limit=$2
  shift 2
  echo "== $name" | tee -a "$out/report.txt" >>"$out/log.txt"
  timeout "$limit" "$python" -m "$@" >>"$out/report.txt" 2>>"$out/log.txt" || {
    echo "$name failed ($?): $(tail -n 1 "$out/log.txt")" >>"$out/report.txt"
    status=1
  }
}
run device_check 90 benchmarks.device_check --device "$device"
run selection_cost 30 benchmarks.selection_cost "${tower[@]}"
run selection_of_a_batch 30 benchmarks.selection_cost "${tower[@]}" --images "$batch"
run thumbnail_pass 30 benchmarks.thumbnail_pass "${tower[@]}"
run wire_bytes 20 benchmarks.wire_bytes
run efficiency 230 benchmarks.efficiency --device "$device" "${efficiency[@]}"
run evaluation 160 training.evaluation --device "$device" --out "$out/evaluation" "${evaluation[@]}"
cat "$out/report.txt"
exit $status
