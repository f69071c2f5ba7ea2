"""uv.lock and constraints.txt belong to pyproject.toml, and the images and make install what they say."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.conftest import ROOT

UV = str(Path(sys.executable).with_name("uv"))
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSIONS = {(package["name"], package["version"]) for package in LOCK["package"] if "version" in package}


def locked(*selection: str) -> str:
    """The list that scripts/locked.sh prints."""
    command = [str(ROOT / "scripts" / "locked.sh"), *selection]
    return subprocess.run(command, env={**os.environ, "UV": UV}, capture_output=True, text=True, check=True).stdout


def test_the_lock_is_that_of_pyproject(tmp_path):
    command = [UV, "lock", "--check", "--offline", "--cache-dir", str(tmp_path), "--python", sys.executable]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, f"run `make lock`: {run.stderr}"


def test_the_constraints_are_the_locked_versions():
    lines = (ROOT / "constraints.txt").read_text().splitlines()[1:]
    pinned = {tuple(line.split("==")) for line in lines}
    assert len(pinned) == len(lines) > 50
    assert pinned <= VERSIONS
    required = [re.split(r"[<>=\[]", requirement)[0] for requirement in PROJECT["project"]["dependencies"]]
    assert {"torch", "ray", *required} <= {name for name, _ in pinned}


def test_every_package_comes_from_the_public_index_with_hashes():
    for package in LOCK["package"]:
        if package["name"] == "visionsplit":
            continue
        assert package["source"] == {"registry": "https://pypi.org/simple"}
        files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
        assert files
        for file in files:
            assert file["url"].startswith("https://files.pythonhosted.org/")
            assert file["hash"].startswith("sha256:")


def test_a_list_for_pip_has_a_hash_for_every_package_and_leaves_the_build_of_pytorch_open():
    lines = locked("--all-extras", "--no-extra", "vllm", "--all-groups").splitlines()
    names = [line.split("==")[0] for line in lines if line and line[0] not in " #"]
    assert {"grpcio", "ray", "transformers", "pytest", "mypy", "lmms-eval"} <= set(names)
    assert not [name for name in names if name.startswith(("torch", "nvidia", "cuda", "visionsplit"))]
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line and line[0] not in " #":
            assert following.startswith("    --hash=sha256:"), line


def test_the_version_is_declared_once():
    assert "version" not in PROJECT["project"]
    source = (ROOT / PROJECT["tool"]["hatch"]["version"]["path"]).read_text()
    assert len(re.findall(r'^__version__ = "\d+\.\d+\.\d+"$', source, re.MULTILINE)) == 1
