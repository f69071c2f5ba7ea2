"""When a pool of encoders grows or shrinks."""

from collections import deque
from dataclasses import dataclass


@dataclass(frozen=True)
class ScaleRule:
    """One encoder is added when, for `grow_seconds`, each encoder had more than `grow_tiles` tiles to encode on
    average. One is removed when, for `shrink_seconds`, fewer than `shrink_tiles` tiles for each encoder would have been
    left with one encoder less. Tiles count from before an image is decoded until it is encoded.
    """

    grow_tiles: float = 32.0  # two batches of the vision tower: one is encoded, and one waits
    grow_seconds: float = 3.0
    shrink_tiles: float = 8.0  # half a batch
    shrink_seconds: float = 60.0


class Load:
    """The tiles that a pool had to encode lately."""

    def __init__(self, rule: ScaleRule) -> None:
        self._rule = rule
        self._seen: deque[tuple[float, int]] = deque()  # time and tiles, the latest last

    def note(self, now: float, tiles: int) -> None:
        """The tiles of all encoders at the time `now`, in seconds."""
        self._seen.append((now, tiles))
        while now - self._seen[0][0] > self._rule.shrink_seconds + self._rule.grow_seconds:
            self._seen.popleft()

    def clear(self) -> None:
        """Forget what was noted, because the pool has another size now."""
        self._seen.clear()

    def change(self, encoders: int) -> int:
        """How many encoders to add to a pool of this size: 1, 0 or -1."""
        grow = self._since(self._rule.grow_seconds)
        if grow and sum(grow) > self._rule.grow_tiles * encoders * len(grow):
            return 1
        shrink = self._since(self._rule.shrink_seconds)
        if shrink and max(shrink) < self._rule.shrink_tiles * (encoders - 1):
            return -1
        return 0

    def _since(self, seconds: float) -> list[int]:
        """The tiles of the last `seconds`; empty if they were watched for less time."""
        if not self._seen or self._seen[-1][0] - self._seen[0][0] < seconds:
            return []
        start = self._seen[-1][0] - seconds
        return [tiles for time, tiles in self._seen if time >= start]
