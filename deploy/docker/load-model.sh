#!/bin/sh
# load-model MODEL: makes a checkpoint ready for the services, which only read it. Safe to run in several containers that
# share the volumes.
#   MODEL is a folder in /models    copies visionsplit-mini there if the volume does not have it yet
#   MODEL is a name on the hub      downloads it to $HF_HOME unless it is there; HF_TOKEN opens gated checkpoints
# MODELS and CHECKPOINTS replace /models and /checkpoints, the folder in the image with visionsplit-mini.
set -eu
model=${1:?the checkpoint, as the services get it in --model}
models=${MODELS:-/models}
checkpoints=${CHECKPOINTS:-/checkpoints}

case $model in
"$models"/*)
  name=${model#"$models"/}
  if [ -e "$model/config.json" ]; then
    echo "$model is there"
    exit 0
  fi
  if [ ! -e "$checkpoints/$name/config.json" ]; then
    echo "load-model: the volume has no $name, and this image contains only:" "$(ls "$checkpoints")" >&2
    exit 1
  fi
  # Readers see the whole folder or none: it gets its name last, in one step.
  partial=$(mktemp -d "$models/.loading.XXXXXX")
  cp -R "$checkpoints/$name/." "$partial/"
  chmod 755 "$partial"
  if mv -T "$partial" "$model" 2>/dev/null; then
    echo "copied $name to $models"
  else
    rm -rf "$partial"
    [ -e "$model/config.json" ] || { echo "load-model: cannot make $model" >&2; exit 1; }
    echo "another container has copied $name"
  fi
  ;;
/* | .*)
  echo "load-model: $model is not a folder in $models" >&2
  exit 1
  ;;
*)
  exec python -c '
import sys
from huggingface_hub import snapshot_download
patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
print("downloaded to", snapshot_download(sys.argv[1], allow_patterns=patterns))' "$model"
  ;;
esac
