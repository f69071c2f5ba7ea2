"""Where Ray Data gets its input from: as it needs it, not all at the start."""

import asyncio
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from visionsplit_batch.rows import Slice
from visionsplit_batch.runners.base import Stage
from visionsplit_batch.runners.units import Unit, pack

WHOLE = -1  # in place of a row's number: the unit


class Feed:
    """Holds the units that are not finished, on the driver's node. A Ray actor.

    A unit is known by its number, so that Ray, when it has lost a table, may make it again: it asks for the numbers
    from 0 on, and gets each unit that is still wanted, and nothing in place of the others.
    """

    def __init__(self) -> None:
        self._slices: dict[int, Slice] = {}
        self._stages: dict[int, Stage] = {}
        self._begun: dict[int, Counter[tuple[Stage, int]]] = {}
        self._count = 0
        self._ended = False
        self._changed = asyncio.Condition()

    async def put(self, number: int, one: Slice) -> None:
        """The next unit; `number` is one more than the last."""
        async with self._changed:
            self._slices[number], self._stages[number], self._begun[number] = one, "read", Counter()
            self._count = number + 1
            self._changed.notify_all()

    async def end(self, least: int) -> None:
        """There are no more. Ray Data warns of inputs of fewer than `least` tables: it gets empty ones."""
        async with self._changed:
            self._ended = True
            self._count = max(self._count, least)
            self._changed.notify_all()

    async def take(self, number: int) -> tuple[bool, Slice | None]:
        """Whether there is such a unit, once that is known, and what it is; None where it is finished."""
        async with self._changed:
            await self._changed.wait_for(lambda: number < self._count or self._ended)
            return number < self._count, self._slices.get(number)

    async def begin(self, number: int, stage: Stage, row: int = WHOLE) -> int:
        """Note that a stage begins with a unit, or one row of it alone; returns how often it had and did not end."""
        begun = self._begun.get(number, Counter())
        before = begun[stage, row]
        begun[stage, row] += 1
        return before

    async def ended(self, number: int, stage: Stage, row: int) -> None:
        """Note that the process is still there after this row."""
        if number in self._begun:
            del self._begun[number][stage, row]

    async def moved(self, number: int, stage: Stage) -> None:
        """A unit now waits for this stage."""
        if number in self._stages:
            self._stages[number] = stage

    async def finish(self, number: int) -> None:
        """A unit is through."""
        self._slices.pop(number, None)
        self._stages.pop(number, None)
        self._begun.pop(number, None)

    async def rows(self) -> dict[Stage, int]:
        """Rows that wait for each stage or are in it."""
        counts: dict[Stage, int] = {}
        for number, stage in list(self._stages.items()):
            counts[stage] = counts.get(stage, 0) + len(self._slices[number].entries)
        return counts


class FeedDatasource(Datasource):  # type: ignore[misc]  # Ray has no types
    """A stream of units as Ray Data's input.

    Ray Data wants to know its input beforehand: a list of tasks or of tables, which for millions of rows fills the
    driver's memory, or a dataset for each piece of the list, which loads the models anew each time and drains the
    pools in between. Here the input is one task that gives a table whenever the stages behind it have room.
    """

    def __init__(self, feed: Any) -> None:  # noqa: ANN401 - an actor's handle
        super().__init__()
        self._feed = feed

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *args: object, **options: object) -> list[ReadTask]:
        feed = self._feed
        metadata = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(lambda: _units(feed), metadata)]


def _units(feed: Any) -> Iterator[pa.Table]:  # noqa: ANN401
    for number in itertools.count():
        there, one = ray.get(feed.take.remote(number))
        if not there:
            return
        yield pack(None if one is None else Unit(number, one))
