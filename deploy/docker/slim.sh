#!/bin/sh
# Takes out of the environment in $1 what only building, testing or other products need, then compiles what the services
# import (the command after $1), so that a container that cannot write there starts as quickly as one that can.
set -eu
packages=$(echo "$1"/lib/python3*/site-packages)
python=$1/bin/python
shift
cuda=$("$python" -c 'import torch; print(torch.version.cuda or "")')
find "$packages" -depth -type d \( -name tests -o -name __pycache__ \) -exec rm -rf {} +
rm -rf "$packages/torch/test" "$packages/torch/share" "$packages/caffe2"
find "$packages/torch/bin" -type f ! -name torch_shm_manager -delete
# A GPU's compilers may want the headers; a CPU build has no use for them.
[ -n "$cuda" ] || rm -rf "$packages/torch/include"
find "$packages/torch/lib" -name '*.a' -delete
rm -rf "$packages/ray/jars" "$packages/ray/rllib" "$packages/ray/cpp"
"$python" -c "$*"
