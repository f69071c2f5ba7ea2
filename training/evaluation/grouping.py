"""Groups a sequence into batches of whole items."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

_T = TypeVar("_T")


def grouped(items: Iterable[_T], size: Callable[[_T], int], most: int) -> Iterator[list[_T]]:
    """The items in order, in groups of at most `most` in total size; an item that is larger forms its own group."""
    batch: list[_T] = []
    total = 0
    for item in items:
        if batch and total + size(item) > most:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item)
    if batch:
        yield batch
