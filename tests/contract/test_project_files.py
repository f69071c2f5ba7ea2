"""The files that a host's services and other programs read: workflows, templates, hooks and the project's metadata."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())


def read(path: Path) -> dict[str, Any]:
    content = yaml.safe_load(path.read_text())
    assert isinstance(content, dict)
    return content


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_names_targets_that_are_there(path):
    scripts = "\n".join(step["run"] for step in steps(path) if "run" in step)
    named = re.findall(r"\bmake ((?:[a-z-]+ ?)+)", scripts)
    assert {target for targets in named for target in targets.split()} <= TARGETS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_few_rights_and_an_end(path):
    # YAML reads `on` as true.
    assert read(path)[True]
    assert read(path)["permissions"] == {"contents": "read"}
    for name, job in read(path)["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 60, name
        assert "@" in "".join(step.get("uses", "@") for step in job["steps"])


def test_ci_runs_what_the_project_promises():
    (path,) = (path for path in WORKFLOWS if path.stem == "ci")
    run = " ".join(step.get("run", "") for step in steps(path))
    for target in (
        "types",
        "lint",
        "protocol",
        "tests",
        "test-proxy",
        "test-wheel",
        "test-lowest",
        "test-vllm",
        "breaking",
        "docs",
    ):
        assert re.search(rf"\bmake (?:[a-z-]+ )*{target}\b", run), target
    versions = read(path)["jobs"]["tests"]["strategy"]["matrix"]["python"]
    classifiers = PYPROJECT["project"]["classifiers"]
    assert versions == [name.rpartition(" ")[2] for name in classifiers if re.search(r":: 3\.\d+$", name)]


def test_only_the_release_may_publish():
    (path,) = (path for path in WORKFLOWS if path.stem == "release")
    assert read(path)[True] == {"push": {"tags": ["v*"]}}
    jobs = read(path)["jobs"]
    assert jobs["publish"]["permissions"] == {"id-token": "write"}
    assert jobs["publish"]["needs"] == "build"
    assert "secrets." not in path.read_text()


@pytest.mark.parametrize("name", ["bug.yml", "idea.yml"])
def test_an_issue_form_asks_something(name):
    form = read(ROOT / ".github" / "ISSUE_TEMPLATE" / name)
    assert form["name"]
    assert form["description"]
    asked = [part for part in form["body"] if part["type"] == "textarea"]
    assert asked
    assert all(part["attributes"]["label"] for part in asked)


def test_updates_are_looked_for_where_versions_are_pinned():
    updates = read(ROOT / ".github" / "dependabot.yml")["updates"]
    assert {update["package-ecosystem"] for update in updates} == {"uv", "github-actions", "docker"}
    for update in updates:
        assert (ROOT / update["directory"].lstrip("/")).is_dir()


@pytest.mark.parametrize("hook", HOOKS["repos"][0]["hooks"], ids=lambda hook: hook["id"])
def test_a_hook_runs_a_program_of_the_lock(hook):
    assert len(HOOKS["repos"]) == 1
    program, *words = hook["entry"].split()
    if program == "make":
        assert set(words) <= TARGETS
    else:
        assert (ROOT / program).exists()


def test_every_target_of_make_is_explained_or_internal():
    explained = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert TARGETS - explained == {"check-python"}


def test_the_published_package_holds_no_development_tools():
    project = PYPROJECT["project"]
    published = {re.split(r"[<>=\[]", name)[0] for names in project["optional-dependencies"].values() for name in names}
    assert not published & {"pytest", "mypy", "ruff", "hypothesis", "grpcio-tools", "lmms-eval", "matplotlib"}
    assert (ROOT / project["license-files"][0]).exists()
