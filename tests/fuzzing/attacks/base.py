"""The interface of an attack."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from tests.fuzzing.attacks.target import Target


def _nothing(_: Target) -> list[str]:
    return []


@dataclass(frozen=True)
class Attack:
    """`run` attacks for about this many seconds, or until its calls have ended, and summarises what they received."""

    name: str
    run: Callable[[Target, float], Awaitable[str]]
    check: Callable[[Target], list[str]] = _nothing  # what else must hold afterwards: the faults
    quick: bool = False  # part of the test suite
    left_to_a_proxy: bool = False  # a flood that gRPC reads below Python: it may slow others down while it lasts


def counted(outcomes: Iterable[str]) -> str:
    """Outcomes with their numbers: `3 OK, 2 INVALID_ARGUMENT`."""
    return ", ".join(f"{number} {name}" for name, number in Counter(outcomes).most_common()) or "nothing"
