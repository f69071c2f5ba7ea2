#!/usr/bin/env bash
# Draws the figures of README.md and docs/methods.md with the shipped model.
set -euo pipefail
cd "$(dirname "$0")/.."
visionsplit=${VISIONSPLIT:-.venv/bin/visionsplit}
out=${OUT:-docs}

ready=$(mktemp -u)
mkfifo "$ready"
"$visionsplit" up --device cpu --encoder 127.0.0.1:0 --llm 127.0.0.1:0 --quiet >"$ready" &
services=$!
stop() {
  status=$?
  rm -f "$ready"
  kill -TERM "$services" 2>/dev/null || true
  wait "$services" || true
  exit "$status"
}
trap stop EXIT

encoder="" llm=""
while IFS= read -r line; do
  case $line in
    "LLM service: "*) llm=${line#*: } ;;
    "encoder service: "*) encoder=${line#*: }; break ;;
  esac
done <"$ready"
[ -n "$encoder" ] || exit 1 # `up` has said why

visualize() { "$visionsplit" visualize --encoder "$encoder" --llm "$llm" "$@"; }

visualize models/samples/signs.png -o "$out/kept-tokens.png" --ask "What does the orange sign read?"
# The first method sets the number of tokens, the others follow it.
equal=(--ratios 0.15 --equal)
visualize models/samples/street.png -o "$out/methods.png" "${equal[@]}" --columns 3 \
  --compare={globalcom2,globalcom2-diverse,globalcom2-cover,globalcom2:budget=uniform} \
  --compare={fastervlm,hired,prumerge,prumerge+,visionzip,scope,divprune,cenprune,uniform,random}
visualize models/samples/prices.png -o "$out/budgets.png" "${equal[@]}" --compare={globalcom2,fastervlm,hired,divprune}
