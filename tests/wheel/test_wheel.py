"""What is published: the wheel's files, and each of its parts installed by itself, imported and used."""

import json
import re
from pathlib import Path

import pytest
import visionsplit

from tests.conftest import ROOT
from tests.wheel.conftest import Addresses
from tests.wheel.environments import Environment, contents

# Packages are downloaded and installed for some minutes.
pytestmark = pytest.mark.timeout(1800)

IMAGE = ROOT / "models" / "samples" / "signs.png"
QUESTION = "What does the orange sign read?"
ASK = """
import sys
from visionsplit_client import Client, Compression, Sampling
encoder, llm, image, question = sys.argv[1:]
with Client(encoder, llm=llm) as client:
    answer = client.generate(image, question, compression=Compression(retention_ratio=0.5))
    tokens = client.encode(image, Compression(retention_ratio=0.5))
    again = client.generate_from_tokens(tokens, question, sampling=Sampling(max_new_tokens=20))
print(answer.text, again.text, answer.usage.vision_tokens, sep="|")
"""
METADATA = """
import importlib.metadata, json
print(json.dumps(importlib.metadata.metadata("visionsplit").json))
"""
# Some modules need a package that only some installations have: Triton comes with PyTorch's builds for GPUs,
# vLLM with an extra that excludes "llm".
IMPORT_ALL = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            try:
                importlib.import_module(module.name)
            except ModuleNotFoundError as error:
                if error.name not in ("triton", "vllm"):
                    raise
    print(name, package.__file__)
"""


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = contents(wheel)
    assert wheel.name == f"visionsplit-{visionsplit.__version__}-py3-none-any.whl"
    packages = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert packages >= {"visionsplit", "visionsplit_client", "visionsplit_cli", "encoder_service", "llm_service"}
    assert not packages & {"tests", "training", "benchmarks", "proto", "client", "docs", "scripts"}
    for package in packages:
        assert f"{package}/py.typed" in names
    assert {f"visionsplit/v1/tensor{end}" for end in (".proto", "_pb2.py", "_pb2.pyi")} <= set(names)
    assert [name for name in names if name.endswith("/licenses/LICENSE")]


def test_the_metadata_say_what_it_is(sdk: Environment) -> None:
    shown = json.loads(sdk.run("python", "-c", METADATA))
    assert shown["version"] == visionsplit.__version__
    assert shown["license_expression"] == "Apache-2.0"
    assert shown["requires_python"] == ">=3.11"
    assert shown["description"].startswith("# visionsplit\n")


def test_the_sdk_comes_without_what_a_service_needs(sdk: Environment) -> None:
    assert not {"torch", "transformers", "ray", "safetensors", "pytest"} & sdk.installed
    sdk.pip("check")
    imported = sdk.run("python", "-c", IMPORT_ALL, "visionsplit_client")
    assert str(sdk.folder) in imported


def test_the_sdk_asks_services_that_run_from_the_wheel(sdk: Environment, services: Addresses) -> None:
    answer = sdk.run("python", "-c", ASK, services.encoder, services.llm, IMAGE, QUESTION)
    text, again, tokens = answer.strip().split("|")
    assert text
    assert again == text
    assert int(tokens) > 0


def test_the_command_line_asks_them(sdk: Environment, services: Addresses) -> None:
    assert sdk.run("visionsplit", "--version") == f"visionsplit {visionsplit.__version__}\n"
    answer = sdk.run("visionsplit", "ask", "--json", "--encoder", services.encoder, IMAGE, QUESTION)
    assert json.loads(answer)["text"]
    sdk.run("visionsplit", "health", services.llm)


@pytest.mark.parametrize(
    ("name", "packages", "absent"),
    [
        ("encoder", ["encoder_service", "visionsplit"], {"ray", "pytest"}),
        ("llm", ["llm_service", "visionsplit"], {"pi-heif", "pytest"}),
    ],
)
def test_a_service_imports_all_of_itself(name, packages, absent, request) -> None:
    environment: Environment = request.getfixturevalue(name)
    imported = environment.run("python", "-c", IMPORT_ALL, *packages)
    assert all(re.search(rf"^{package} {environment.folder}", imported, re.MULTILINE) for package in packages)
    assert not absent & environment.installed
    environment.pip("check")
