"""The SDK and the command line's parsers need the base dependencies only; what needs an extra names it."""

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Hides all packages but those named on the command line, as in an environment that has only these.
HIDE = """
import importlib.abc, json, sys

hidden, words = map(json.loads, sys.argv[1:3])


class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


sys.meta_path.insert(0, Hidden())
"""


def installed_with(names: list[str]) -> set[str]:
    """The distributions that these requirements bring, without those of extras."""
    found: set[str] = set()
    waiting = [Requirement(name) for name in names]
    while waiting:
        name = canonicalize_name(waiting.pop().name)
        if name not in found:
            found.add(name)
            needed = [Requirement(one) for one in requires(name) or ()]
            waiting += [one for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


INSTALLED = packages_distributions()
BASE = installed_with(PROJECT["dependencies"]) | {"visionsplit"}
HIDDEN = [module for module, owners in INSTALLED.items() if not BASE & set(map(canonicalize_name, owners))]


def run_with_base_dependencies(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    arguments = [json.dumps(HIDDEN), json.dumps(words)]
    return subprocess.run([sys.executable, "-c", HIDE + code, *arguments], capture_output=True, text=True, check=False)


def test_the_sdk_and_the_parsers_need_the_base_dependencies_and_no_more():
    """The SDK uses each of them when it is imported, but for idna, which urllib3 takes for hosts beyond ASCII."""
    code = """
import visionsplit_client
loaded = sorted({name.partition(".")[0] for name in sys.modules})
import visionsplit_cli
visionsplit_cli.build_parser()
print(json.dumps(loaded))
"""
    ended = run_with_base_dependencies(code)
    assert (ended.returncode, ended.stderr) == (0, "")
    # Several distributions share the name "google"; it counts for all of them.
    loaded = {canonicalize_name(owner) for module in json.loads(ended.stdout) for owner in INSTALLED.get(module, ())}
    assert {Requirement(one).name for one in PROJECT["dependencies"]} - loaded <= {"idna"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["top"], "visionsplit: `visionsplit top` needs visionsplit[cli]: No module named 'prometheus_client'"),
        (
            ["batch", "caption", "photos", "-o", "out"],
            "visionsplit: batch jobs need visionsplit[batch]: No module named 'fsspec'",
        ),
        (["plan", "photos"], "visionsplit: planning needs visionsplit[batch]: No module named 'fsspec'"),
    ],
    ids=["top", "batch", "plan"],
)
def test_a_missing_extra_is_named(words, message):
    ended = run_with_base_dependencies("import visionsplit_cli; sys.exit(visionsplit_cli.main(words))", *words)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert re.sub("'(pyarrow|tqdm)'", "'fsspec'", ended.stderr) == message + "\n"
