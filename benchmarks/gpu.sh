#!/usr/bin/env bash
# Everything worth measuring on a GPU, within ten minutes, the most important first: benchmarks/gpu.sh. Needs PyTorch for the
# GPU. What else the machine lacks is installed from a folder of wheels that benchmarks/gpu_wheels.sh has filled:
# WHEELS=out/gpu-wheels benchmarks/gpu.sh. It needs no network and no checkpoint: weights are random.
# Each part appends its tables to $OUT/report.txt when it is done, and its log to $OUT/log.txt (default: out/gpu). The served
# measurements also save $OUT/served-*.json after every row.
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
if [[ -n ${WHEELS:-} ]]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --upgrade --target "$out/site" "$WHEELS"/*.whl || exit
  export PYTHONPATH="$PYTHONPATH:$(realpath "$out/site")"
fi
tower=(--device "$device" --dtype bfloat16 --repeats 20)
efficiency=(--shapes 7b 13b --methods globalcom2 --threads 8 --seconds 75)
served=(--cell-seconds 6)
shapes=(7b 13b)
evaluation=()
batch=8 # images
if [[ -n ${QUICK:-} ]]; then
  tower=(--device "$device" --repeats 1)
  efficiency=(--quick)
  served=(--cell-seconds 0.6 --new-tokens 4 --cells 2)
  shapes=(tiny)
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
served() { # shape, seconds for it
  run "served $1" $(($2 + 20)) benchmarks.served --shape "$1" --device "$device" --seconds "$2" --out "$out/served-$1.json" \
    "${served[@]}"
}
run device_check 60 benchmarks.device_check --device "$device"
served "${shapes[0]}" 190
run efficiency 90 benchmarks.efficiency --device "$device" --json "$out" "${efficiency[@]}"
[[ -z ${shapes[1]:-} ]] || served "${shapes[1]}" 110
run selection_cost 20 benchmarks.selection_cost "${tower[@]}"
run selection_of_a_batch 20 benchmarks.selection_cost "${tower[@]}" --images "$batch"
run thumbnail_pass 20 benchmarks.thumbnail_pass "${tower[@]}"
run evaluation 40 training.evaluation --device "$device" --out "$out/evaluation" "${evaluation[@]}"
cat "$out/report.txt"
exit $status
