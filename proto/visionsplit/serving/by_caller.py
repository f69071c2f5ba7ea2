"""Groups items by caller, so that one can be taken from the caller that holds the most."""

from collections.abc import Iterator
from typing import Generic, TypeVar

_T = TypeVar("_T")


class ByCaller(Generic[_T]):
    """Items by caller, oldest first. Items must be hashable; equal items are the same item."""

    def __init__(self) -> None:
        self._of: dict[str, dict[_T, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[_T]:
        for items in self._of.values():
            yield from items

    def add(self, caller: str, item: _T) -> None:
        """Add an item that is not present."""
        self._of.setdefault(caller, {})[item] = None
        self._count += 1

    def remove(self, caller: str, item: _T) -> None:
        """Remove an item, if it is present."""
        own = self._of.get(caller, {})
        if item in own:
            del own[item]
            self._count -= 1
        if not own:
            self._of.pop(caller, None)

    def oldest_of_busiest(self) -> _T:
        """The oldest item of the caller that holds the most items.

        Raises:
            ValueError: there are no items.
        """
        return next(iter(self._of[max(self._of, key=lambda caller: len(self._of[caller]))]))
