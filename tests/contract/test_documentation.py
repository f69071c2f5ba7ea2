"""The documentation's links lead somewhere, its words are the glossary's, and its lines can be read in a terminal."""

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.contract.test_help import PARSERS

_PATTERNS = ("*.md", "docs/**/*.md", "deploy/*/README.md", "models/*/README.md")
PAGES = sorted(path for pattern in _PATTERNS for path in ROOT.glob(pattern))
# docs/glossary.md has the words to write instead. "is no longer" and "is no more than" are plain English.
DIALECT = re.compile(
    r"\b(nobody|anew|whoever|of its own|of their own|of theirs|so many|told of|counted through|by lot|pictures?"
    r"|is no(?! longer\b| more\b| less\b))\b",
    re.IGNORECASE,
)
LONGEST = 125  # characters of a line of prose; tables and links may be longer


def prose(text: str) -> str:
    """The page without code, addresses and comments; its lines stay where they are."""

    def blank(found: re.Match[str]) -> str:
        return re.sub(r"[^\n]", " ", found[0])

    text = re.sub(r"^```.*?^```|<!--.*?-->", blank, text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`]+`", blank, text)
    return re.sub(r"(?<=\])\([^)\s]+\)", blank, text)


def anchors(text: str) -> set[str]:
    """The names that GitHub gives the headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        while name in found:
            name += "-1"
        found.add(name)
    return found | set(re.findall(r'<a id="([^"]+)"', text))


def broken(page: Path, target: str) -> str | None:
    """What is wrong with a link, or None."""
    if re.match(r"[a-z]+:", target):
        return None
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.exists():
        return f"{target}: no such file"
    if anchor and anchor not in anchors(file.read_text()):
        return f"{target}: no such heading"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert [problem for target in targets if (problem := broken(page, target))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_words_are_plain(page: Path) -> None:
    text = prose(page.read_text())
    found = [
        f"line {number}: {word[0]!r}"
        for number, line in enumerate(text.splitlines(), start=1)
        for word in DIALECT.finditer(line)
    ]
    assert found == []


@pytest.mark.parametrize("program", PARSERS)
def test_the_words_of_a_help_text_are_plain(program: str) -> None:
    assert [word[0] for word in DIALECT.finditer(PARSERS[program].format_help())] == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.parent.name == "docs"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_a_line_of_prose_can_be_read_in_a_terminal(page: Path) -> None:
    lines = prose(page.read_text()).splitlines()
    long = [f"line {n}" for n, line in enumerate(lines, start=1) if len(line.rstrip()) > LONGEST and line[0] != "|"]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_that_is_named_exists(page: Path) -> None:
    folders = "encoder_service|llm_service|proto|client|tests|benchmarks|training|scripts|deploy|docs"
    named = re.findall(rf"`((?:{folders})/[\w./*-]+)`", page.read_text())
    assert [name for name in named if not list(ROOT.glob(name.rstrip("/")))] == []


def test_every_page_is_in_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    named = set(re.findall(r"[\w-]+\.md\b", index.read_text()))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {index.name} - named == set()


def test_the_names_in_the_glossary_are_in_the_code() -> None:
    folders = ("encoder_service", "llm_service", "proto/visionsplit", "client")
    words: set[str] = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*"):
            words.add(path.stem)
            if path.suffix in {".py", ".proto"} and "_pb2" not in path.name:
                words.update(re.findall(r"\w+", path.read_text()))
    rows = re.findall(r"^\|[^|]*\|[^|]*\| (.*) \|$", (ROOT / "docs" / "glossary.md").read_text(), re.MULTILINE)
    names = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert len(names) > 40
    assert {name for name in names if not {name, f"_{name}"} & words} == set()


def test_a_paper_that_the_code_cites_is_in_the_documentation() -> None:
    """So that a mistyped number shows: the documentation gives titles and links with the numbers."""
    number = re.compile(r"\b\d{4}\.\d{5}\b")
    linked = {found for page in PAGES for found in re.findall(r"arxiv\.org/abs/(\d{4}\.\d{5})", page.read_text())}
    folders = ("encoder_service", "llm_service", "training", "benchmarks", "client")
    cited = {
        found
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        for found in number.findall(path.read_text())
    }
    assert len(cited) > 12
    assert cited - linked == set()


@pytest.mark.parametrize(
    ("text", "name"),
    [("## What a caller can cost and learn\n", "what-a-caller-can-cost-and-learn"), ("# `a` [b](c), d\n", "a-b-d")],
)
def test_a_heading_has_the_name_that_github_gives_it(text: str, name: str) -> None:
    assert anchors(text) == {name}


def test_a_broken_link_is_found() -> None:
    page = ROOT / "README.md"
    assert broken(page, "docs/index.md") is None
    assert broken(page, "docs/index.md#nothing") == "docs/index.md#nothing: no such heading"
    assert broken(page, "docs/none.md") == "docs/none.md: no such file"
