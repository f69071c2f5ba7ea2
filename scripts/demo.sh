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
  status=$?
  rm -f "$ready"
  # Not SIGINT: a shell starts its background jobs with that ignored, until they take it over themselves.
  kill -TERM "$services" 2>/dev/null || true
  if ! wait "$services" && [ "$status" -eq 0 ]; then
    echo "the services did not stop cleanly" >&2
    status=1
  fi
  exit "$status"
}
trap stop EXIT

echo "starting an encoder service and $replicas Ray replicas of the LLM service ..."
# The addresses come once both services are healthy; nothing comes if they could not be started.
encoder="" llm=""
while IFS= read -r line; do
  echo "$line"
  case $line in
    "LLM service: "*) llm=${line#*: } ;;
    "encoder service: "*) encoder=${line#*: }; break ;;
  esac
done <"$ready"
[ -n "$encoder" ] || exit 1 # `up` has said why
at=(--encoder "$encoder" --llm "$llm")

# Puts what an image shows under the caption, from the table in models/samples/README.md.
with_truth() {
  awk -F ' *[|] *' 'NR == FNR { if ($2 ~ /[.]png$/) truth["models/samples/" $2] = $5; next }
    { print } image in truth { print "  the image shows: " truth[image] } { image = $0 }' models/samples/README.md -
}

echo; echo "== captions with every vision token"
"$visionsplit" caption "${at[@]}" --ratio 1 models/samples/*.png | with_truth
echo; echo "== captions with a quarter of them (the default method, globalcom2-diverse); the small model errs here and there"
"$visionsplit" caption "${at[@]}" --ratio 0.25 models/samples/*.png | with_truth
echo; echo "== questions about models/samples/signs.png with a tenth of them, in int8"
for question in "What does the orange sign read?" "Is there a rocket?" "Is there a cat?"; do
  echo "$question"
  "$visionsplit" ask "${at[@]}" --ratio 0.1 --data-type int8 models/samples/signs.png "$question" 2>&1 | sed 's/^/  /'
done
"$visionsplit" visualize "${at[@]}" models/samples/signs.png -o "$out/kept-tokens.png" \
  --ask "What does the orange sign read?" >/dev/null
echo; echo "which tokens were kept, and what the model answers: $out/kept-tokens.png"
