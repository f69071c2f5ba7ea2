#!/usr/bin/env bash
# Downloads what benchmarks/gpu.sh needs beside PyTorch and NumPy, for a GPU machine without a network:
# benchmarks/gpu_wheels.sh [FOLDER] (default: out/gpu-wheels; 50 MB). PYTHON_VERSION is the GPU machine's (3.12).
set -euo pipefail
cd "$(dirname "$0")/.."
folder=${1:-out/gpu-wheels}
python=${PYTHON:-.venv/bin/python}
# pip compares the name of a platform as a whole, so each one is named.
platforms=(manylinux_2_34_x86_64 manylinux_2_31_x86_64 manylinux_2_28_x86_64 manylinux_2_27_x86_64 manylinux_2_17_x86_64)
platforms+=(manylinux2014_x86_64 manylinux1_x86_64)
packages=(transformers safetensors grpcio grpcio-health-checking grpcio-reflection protobuf googleapis-common-protos)
packages+=(opentelemetry-api prometheus-client pillow pi-heif cryptography idna urllib3 psutil jinja2 pyyaml)
mkdir -p "$folder"
"$python" -m pip download --quiet --disable-pip-version-check --only-binary=:all: --implementation cp \
  --python-version "${PYTHON_VERSION:-3.12}" "${platforms[@]/#/--platform=}" --constraint constraints.txt --dest "$folder" \
  "${packages[@]}"
rm -f "$folder"/numpy-*.whl # PyTorch's own fits it
du -sh "$folder"
