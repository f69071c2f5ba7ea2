"""The first stage as Ray Data calls it: one unit in, the same unit out.

Apart from the others, whose models would cost each process that only reads some seconds and 300 MB.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyarrow as pa
from visionsplit_client import VisionSplitError

from visionsplit_batch.rows import Entry, Source
from visionsplit_batch.runners.base import Stage
from visionsplit_batch.runners.poison import Guarded
from visionsplit_batch.runners.units import Row, Unit, pack, unpack


def read(table: pa.Table, *, source: Source, feed: Any, following: Stage) -> pa.Table:  # noqa: ANN401 - an actor's handle
    """What the unit's entries hold. A Ray task."""

    def contents(unit: Unit) -> list[Row]:
        return Guarded[Entry]("read", feed).work(
            unit.number, unit.slice.entries, lambda entries: list(source.read(entries))
        )

    return through(table, "read", contents, feed, following)


def through(
    table: pa.Table,
    stage: Stage,
    work: Callable[[Unit], list[Row]],
    feed: Any,  # noqa: ANN401
    following: Stage | None,
) -> pa.Table:
    """A unit through one stage. An error that ends the job travels with it: Ray would wrap it, log it, and retry."""
    unit = unpack(table)
    if unit is None or unit.error is not None:
        return table
    started = time.monotonic()
    try:
        rows = work(unit)
    except VisionSplitError as error:
        return pack(replace(unit, error=error))
    if following is not None:
        feed.moved.remote(unit.number, following)  # for the display only, so nobody waits for it
    return pack(unit.after(stage, rows, started))
