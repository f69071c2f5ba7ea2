"""Counts the files of an input that no row is made of, by reason, so that nothing is skipped silently."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Reason = Literal["format", "link", "folder", "special", "output", "hidden"]

WORDS: Mapping[Reason, tuple[str, str]] = {
    "format": ("file of another format", "files of another format"),
    "link": ("link that leads back to a folder above it", "links that lead back to a folder above them"),
    "folder": ("folder that cannot be read", "folders that cannot be read"),
    "special": ("pipe, socket, device or archived link", "pipes, sockets, devices or archived links"),
    "output": ("output of a batch job", "outputs of batch jobs"),
    "hidden": ("hidden or system file", "hidden or system files"),
}
EXPECTED: frozenset[Reason] = frozenset({"output", "hidden"})
"""Reasons that need no attention: users never mean such files by the input."""

_NAMES = 20  # names kept for each reason


@dataclass(frozen=True)
class LeftOut:
    """The files that were left out for one reason."""

    reason: Reason
    count: int
    names: tuple[str, ...]  # of the first files


class Tally:
    """Counts files that are left out while an input is listed."""

    def __init__(self) -> None:
        self._names: dict[Reason, list[str]] = {}
        self._counts: dict[Reason, int] = {}

    def add(self, name: str, reason: Reason) -> None:
        self._counts[reason] = self._counts.get(reason, 0) + 1
        names = self._names.setdefault(reason, [])
        if len(names) < _NAMES:
            names.append(name)

    @property
    def result(self) -> tuple[LeftOut, ...]:
        """The counts by reason, those that need attention first."""
        return tuple(
            LeftOut(reason, self._counts[reason], tuple(self._names[reason]))
            for reason in get_args(Reason)
            if reason in self._counts
        )


def in_words(all_left_out: Iterable[LeftOut], names: int = 5) -> str:
    """A description such as "2 files of another format ('a.txt', 'b.txt'), 1 hidden or system file ('.DS_Store')"."""
    return ", ".join(_words(one, names) for one in all_left_out)


def needs_attention(all_left_out: Iterable[LeftOut]) -> bool:
    return any(one.reason not in EXPECTED for one in all_left_out)


def _words(one: LeftOut, names: int) -> str:
    shown = [repr(name) for name in one.names[:names]] + (["..."] if one.count > names else [])
    return f"{one.count} {WORDS[one.reason][one.count != 1]} ({', '.join(shown)})"
