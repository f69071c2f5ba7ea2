"""The encoder as a process with default settings, and callers that keep it busy over a socket."""

import asyncio
import itertools
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visionsplit_client import AsyncClient, Compression

from benchmarks.load.system import Service


@dataclass(frozen=True)
class Condition:
    """What the callers ask for."""

    name: str
    compression: Compression


CONDITIONS = (
    Condition("none, 100%", Compression("none")),
    Condition("globalcom2, 10%", Compression("globalcom2", 0.1)),
    Condition("globalcom2-diverse, 10%", Compression("globalcom2-diverse", 0.1)),
)


@dataclass(frozen=True)
class Served:
    """One measurement of the encoder's process."""

    condition: str
    tiles: float  # per second
    images: float  # per second
    cpu: float  # CPU seconds of the encoder's process per image
    callers_cpu: float  # the same of the callers' process


@dataclass(frozen=True)
class _Mark:
    """The counts at one moment."""

    seconds: float
    tiles: int
    images: int
    encoder_cpu: float
    callers_cpu: float


class _Counts:
    """What the callers have received so far."""

    def __init__(self, encoder: Service) -> None:
        self._encoder = encoder
        self.tiles = self.images = 0

    def mark(self) -> _Mark:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        own = usage.ru_utime + usage.ru_stime
        return _Mark(time.monotonic(), self.tiles, self.images, self._encoder.cpu_seconds(), own)


def read(folder: Path) -> list[bytes]:
    """The files of a folder."""
    return [path.read_bytes() for path in sorted(folder.iterdir())]


async def keep_busy(
    encoder: Service, images: Sequence[bytes], condition: Condition, *, callers: int, number: int
) -> Served:
    """Encode `number` images, more than twice as many as there are callers, each caller one after the other.

    Only the middle is measured: from when every caller has received an image on average until a caller finds no
    further image to ask for, so that the encoder always has enough to do.
    """
    waiting = itertools.islice(itertools.cycle(images), number)
    counts, marks = _Counts(encoder), list[_Mark]()
    async with AsyncClient(encoder.address) as client:

        async def call() -> None:
            for data in waiting:
                image = await client.encode(data, condition.compression)
                counts.images += 1
                counts.tiles += image.tokens.grid.num_tiles
                if counts.images == callers:
                    marks.append(counts.mark())
            if len(marks) == 1:
                marks.append(counts.mark())

        await asyncio.gather(*(call() for _ in range(callers)))
    return _between(condition.name, marks)


def _between(condition: str, marks: Sequence[_Mark]) -> Served:
    first, last = marks
    seconds, images = last.seconds - first.seconds, last.images - first.images
    return Served(
        condition,
        (last.tiles - first.tiles) / seconds,
        images / seconds,
        (last.encoder_cpu - first.encoder_cpu) / images,
        (last.callers_cpu - first.callers_cpu) / images,
    )
