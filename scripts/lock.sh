#!/bin/sh
# Writes uv.lock from pyproject.toml, then constraints.txt from uv.lock: lock.sh [options of `uv lock`]
# A locked version stays as it is until --upgrade-package NAME, or --upgrade for all, asks for a newer one.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-uv}
"$uv" lock "$@"
# constraints.txt is for pip: the package and its extras, without hashes. Each build of PyTorch requires GPU libraries of its
# own, so these are left to it.
{
  echo "# Written by \`make lock\` from uv.lock: the versions that make test was run with."
  "$uv" export --frozen --quiet --no-default-groups --all-extras --no-emit-project --no-hashes --no-header --no-annotate |
    sed 's/ ;.*//' | grep -v -E '^(nvidia|cuda)-|^triton='
} >constraints.txt.new
mv constraints.txt.new constraints.txt
