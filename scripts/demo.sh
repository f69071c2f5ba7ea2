#!/usr/bin/env bash
# Both services on this machine, the LLM half on Ray, then captions and answers for the sample images.
set -euo pipefail
cd "$(dirname "$0")/.."
visionsplit=${VISIONSPLIT:-.venv/bin/visionsplit}
replicas=${REPLICAS:-2}
out=${OUT:-out}
mkdir -p "$out"

ready=$(mktemp -u)
mkfifo "$ready"
"$visionsplit" up --backend ray --replicas "$replicas" --encoder 127.0.0.1:0 --llm 127.0.0.1:0 --quiet >"$ready" &
services=$!
stop() {
  rm -f "$ready"
  kill -INT "$services" 2>/dev/null || true
  wait "$services" || { echo "the services did not stop cleanly" >&2; exit 1; }
}
trap stop EXIT

echo "starting an encoder service and $replicas Ray replicas of the LLM service ..."
# The addresses come once both services are healthy; nothing comes if they could not be started.
while IFS= read -r line; do
  echo "$line"
  case $line in
    "LLM service: "*) llm=${line#*: } ;;
    "encoder service: "*) encoder=${line#*: }; break ;;
  esac
done <"$ready"
: "${encoder:?the services did not start}"
at=(--encoder "$encoder" --llm "$llm")

echo; echo "== every vision token"
"$visionsplit" caption "${at[@]}" --ratio 1 models/samples/*.png
echo; echo "== a quarter of them (globalcom2)"
"$visionsplit" caption "${at[@]}" --ratio 0.25 models/samples/*.png
echo; echo "== questions, a quarter of the tokens"
for question in "Is there a cat in the image?" "What color is the umbrella?" "Where is the umbrella?"; do
  printf '%s ' "$question"
  "$visionsplit" ask "${at[@]}" --ratio 0.25 models/samples/sign.png "$question"
done
"$visionsplit" visualize "${at[@]}" --ratios 1,0.5,0.25,0.1 models/samples/sign.png -o "$out/kept-tokens.png"
echo; echo "which tokens were kept: $out/kept-tokens.png"
