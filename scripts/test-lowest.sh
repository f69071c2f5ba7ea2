#!/bin/sh
# Runs the unit and contract tests with the oldest versions that pyproject.toml allows of what it names. What it does not
# name gets the newest version that fits.
set -eu
cd "$(dirname "$0")/.."
uv=${UV:-uv}
folder=out/lowest
python=$PWD/$folder/venv/bin/python
mkdir -p "$folder/proto/visionsplit" "$folder/scripts"
test -x "$python" || "${PYTHON:-python3}" -m venv "$folder/venv"
cp pyproject.toml README.md LICENSE "$folder"
cp proto/visionsplit/__init__.py "$folder/proto/visionsplit"
cp scripts/locked.sh "$folder/scripts"

"$uv" lock --quiet --resolution lowest-direct --directory "$folder"
"$folder/scripts/locked.sh" --all-extras --no-extra vllm --all-groups >"$folder/locked.txt"
torch=$("$uv" export --frozen --quiet --no-hashes --all-extras --no-extra vllm --directory "$folder" | sed -n 's/^\(torch==[^ ]*\).*/\1/p')
pip="$python -m pip --quiet --disable-pip-version-check"
$pip install --no-deps --require-hashes --requirement "$folder/locked.txt"
$pip install "$torch"
$pip install --no-deps --no-build-isolation --editable .
OMP_NUM_THREADS=1 "$python" -m pytest -n auto --dist loadfile tests/unit tests/contract "$@"
