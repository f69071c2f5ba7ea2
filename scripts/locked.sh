#!/bin/sh
# Prints what uv.lock holds of a selection, with hashes, for `pip install --no-deps --require-hashes --requirement`:
# locked.sh SELECTION..., where SELECTION are options of `uv export` such as --extra encoder
#
# PyTorch and what only PyTorch needs are left out. PyTorch's builds (for CPUs, for each CUDA version) share a version but not
# their hashes, so it is installed by itself: `pip install --constraint constraints.txt torch`.
set -eu
cd "$(dirname "$0")/.."
"${UV:-uv}" export --frozen --quiet --no-default-groups --no-emit-project --no-annotate --prune torch "$@"
