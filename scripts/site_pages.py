"""Collect what the documentation site is built from: `site_pages.py OUT`, then zensical with OUT/zensical.toml.

The pages are the repository's Markdown files, at the paths that they have here, so that their links work in both
places. The navigation names the pages of docs/ in the order in which the README links them, and then the others.
REPOSITORY_URL, where it is set, is the address that links to other files of the repository lead to.
"""

import json
import os
import re
import shutil
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_FOLDERS = ("docs", "deploy", "models")
_PROJECT = ("CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "CHANGELOG.md")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#\s]+)((?:#[^)\s]*)?)\)")


def main() -> None:
    out = Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    pages = ["README.md", *(name for name in _PROJECT if (_ROOT / name).exists()), *_in_folders("*.md")]
    for name in (*pages, *_in_folders("*.png")):
        copy = out / "pages" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".md"):
            copy.write_text(_with_links(name, pages))
        else:
            shutil.copy(_ROOT / name, copy)
    configuration = (_ROOT / "zensical.toml").read_text().replace("ROOT/", f"{_ROOT}/")
    navigation = f"[project]\nnav = {_navigation(pages)}\n"
    (out / "zensical.toml").write_text(configuration.replace("[project]\n", navigation, 1))


def _in_folders(pattern: str) -> list[str]:
    """Files of the documented folders, by their paths from the repository's root."""
    return sorted(path.relative_to(_ROOT).as_posix() for folder in _FOLDERS for path in (_ROOT / folder).rglob(pattern))


def _with_links(name: str, pages: list[str]) -> str:
    """A page's text, in which links to files that are no pages lead to the repository, or are plain text."""
    repository = os.environ.get("REPOSITORY_URL", "").rstrip("/")

    def resolved(link: re.Match[str]) -> str:
        text, target, _ = link.groups()
        path = os.path.normpath(Path(name).parent / target)
        if ":" in target or path in pages or not (_ROOT / path).exists():
            return link[0]  # a wrong link stays as it is, and the build reports it
        return f"[{text}]({repository}/blob/main/{path})" if repository else text

    return _LINK.sub(resolved, (_ROOT / name).read_text())


def _navigation(pages: list[str]) -> str:
    """The value of `nav`, in TOML."""
    links = _LINK.findall((_ROOT / "README.md").read_text())
    position = {target: number for number, (_, target, _) in enumerate(links)}  # the last one counts
    docs = [page for page in pages if page.startswith("docs/") and not page.startswith("docs/reference/")]
    sections = {
        "Guide": sorted(docs, key=lambda page: position.get(page, len(links))),
        "API reference": [page for page in pages if page.startswith("docs/reference/")],
        "Deployment and model": [page for page in pages if page.startswith(("deploy/", "models/"))],
        "Project": [page for page in pages if page in _PROJECT],
    }
    entries = [f"{{ {json.dumps(title)} = {json.dumps(names)} }}" for title, names in sections.items() if names]
    return f'["README.md", {", ".join(entries)}]'


if __name__ == "__main__":
    main()
