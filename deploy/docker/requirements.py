"""Prints what the named extras of pyproject.toml require, one requirement a line.

So that an image's dependencies are a layer of their own, built again only when this list changes.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

_OWN_EXTRAS = re.compile(r"visionsplit\[(.*)\]")


def requirements(project: dict[str, object], extra: str) -> Iterator[str]:
    """What one extra requires, the project's own extras in it unfolded."""
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict)
    for requirement in extras[extra]:
        own = _OWN_EXTRAS.fullmatch(requirement)
        if own is None:
            yield requirement
            continue
        for name in own[1].split(","):
            yield from requirements(project, name.strip())


def main() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    found = set(project["dependencies"])
    for extra in sys.argv[1:]:
        found.update(requirements(project, extra))
    print("\n".join(sorted(found)))


if __name__ == "__main__":
    main()
