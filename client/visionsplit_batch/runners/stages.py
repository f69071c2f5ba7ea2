"""The stages of the pools as Ray Data calls them: one unit in, the same unit out."""

import atexit
import os
from collections.abc import Sequence
from typing import Any, cast

import pyarrow as pa

from encoder_service.config import EncoderConfig
from llm_service.config import LlmConfig
from visionsplit_batch.rows import Content, Failure
from visionsplit_batch.runners.base import Stage, Work
from visionsplit_batch.runners.hosts import EncoderHost, LlmHost
from visionsplit_batch.runners.poison import Guarded
from visionsplit_batch.runners.reading import through
from visionsplit_batch.runners.units import Row, Unit


class Encoding:
    """An encoder of the pool. Called by several threads."""

    def __init__(self, config: EncoderConfig, work: Work, cpus: float, feed: Any) -> None:  # noqa: ANN401
        _end_at_once()
        self._host = EncoderHost(config, work, cpus)
        self._feed = feed
        self._guarded = Guarded[Content | Failure]("encode", feed)
        self._following: Stage | None = "ask" if work.kind == "caption" else None

    def __call__(self, table: pa.Table) -> pa.Table:
        return through(table, "encode", self._encode, self._feed, self._following)

    def _encode(self, unit: Unit) -> list[Row]:
        return self._guarded.work(unit.number, cast("Sequence[Content | Failure]", unit.rows), self._host.encode)


class Asking:
    """A language model of the pool. Called by several threads."""

    def __init__(self, config: LlmConfig, work: Work, cpus: float, feed: Any) -> None:  # noqa: ANN401
        _end_at_once()
        self._host = LlmHost(config, work, cpus)
        self._feed = feed
        self._guarded = Guarded[Content | Failure]("ask", feed)

    def __call__(self, table: pa.Table) -> pa.Table:
        return through(table, "ask", self._ask, self._feed, None)

    def _ask(self, unit: Unit) -> list[Row]:
        return self._guarded.work(unit.number, cast("Sequence[Content | Failure]", unit.rows), self._host.ask)


def _end_at_once() -> None:
    """Let this process end with Python. Ray's destructors come after that, and now and then two of them wait for each
    other; such a process would stay behind when its cluster is gone, with all its memory and its GPU."""
    atexit.register(os._exit, 0)
