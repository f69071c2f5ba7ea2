"""The documentation site builds without a warning, and its API reference holds every public name."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
import visionsplit_client
import visionsplit_local

from tests.conftest import ROOT


def build(out: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """What `make docs` does, into another folder."""
    environment = {**os.environ, **variables}
    collect = [sys.executable, str(ROOT / "scripts" / "site_pages.py"), str(out)]
    subprocess.run(collect, env=environment, check=True)
    zensical = str(Path(sys.executable).with_name("zensical"))
    command = [zensical, "build", "--strict", "--config-file", str(out / "zensical.toml")]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    run = build(out, REPOSITORY_URL="https://code.example/visionsplit")
    assert run.returncode == 0, run.stdout + run.stderr
    return out / "site"


def inventory(site: Path) -> set[str]:
    """The names that the reference documents, of Sphinx's inventory."""
    content = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split(" ")[0] for line in zlib.decompress(content).decode().splitlines()}


def test_every_public_name_is_in_the_reference(site):
    names = inventory(site)
    for package in (visionsplit_client, visionsplit_local):
        assert not {name for name in package.__all__ if f"{package.__name__}.{name}" not in names}
    assert {"visionsplit_client.Client.generate", "visionsplit_local.VisionSplit.generate"} <= names


def test_every_page_of_the_documentation_is_in_the_navigation(site):
    home = (site / "index.html").read_text()
    pages = [page.relative_to(ROOT).with_suffix("").as_posix() for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f'href="./{page.removesuffix("/index")}/"' not in home] == []


def test_links_to_other_files_lead_to_the_repository(site):
    assert 'href="https://code.example/visionsplit/blob/main/proto/visionsplit/v1"' in (site / "index.html").read_text()


def test_a_wrong_link_fails_the_build(site):
    page = site.parent / "pages" / "README.md"
    page.write_text(page.read_text() + "\n\n[nothing](docs/nothing.md)\n")
    zensical = str(Path(sys.executable).with_name("zensical"))
    command = [zensical, "build", "--strict", "--config-file", str(site.parent / "zensical.toml")]
    assert subprocess.run(command, capture_output=True).returncode != 0
