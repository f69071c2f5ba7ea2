"""Reads the rows on a Ray cluster, and calls the services about them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from visionsplit.serving.async_helpers import gather_or_cancel
from visionsplit_client import AsyncClient, CancelledError, Retries, UnavailableError

from visionsplit_batch.rows.rows import Answers, Content, Failure, Slice, Source, Tokens
from visionsplit_batch.runners.base import Stage, Work
from visionsplit_batch.runners.row_calls import RowCalls, stage_places
from visionsplit_batch.runners.usage import StageClock

Result = Answers | Tokens | Failure

_READ_THREADS = 4
# The job repeats a lost row itself, at the addresses of that time: the row may be the reason for the loss.
_RETRIES = Retries(attempts=1, overloaded=True)


@dataclass(frozen=True)
class Lost:
    """A row without a result, because the process that worked on it ended or could not be reached."""

    stage: Stage
    reason: str


@dataclass(frozen=True)
class Worked:
    """The results of one call of a reader."""

    results: tuple[Result | Lost, ...]  # one for each row of the slice
    seconds: Mapping[Stage, float]  # of work since the last call


@dataclass
class _Held:
    """A client for some addresses."""

    encoders: tuple[str, ...]
    client: AsyncClient
    calls: int = 0  # of `work`


class Reader:
    """A Ray actor with an event loop: Ray calls `work` for several slices at one time."""

    def __init__(self, source: Source, work: Work, llm: str | None, in_flight: int) -> None:
        """
        Args:
            llm: the LLM service's address.
            in_flight: the most rows whose calls run at the same time.
        """
        self._work = work
        self._llm = llm
        self._clock = StageClock(stage_places(work.kind, in_flight=in_flight, read_threads=_READ_THREADS))
        self._calls = RowCalls(
            source, work, has_llm=llm is not None, in_flight=in_flight, read_threads=_READ_THREADS, clock=self._clock
        )
        self._held: _Held | None = None

    async def ready(self) -> None:
        """Return once the actor has started."""

    async def work(self, one: Slice, encoders: tuple[str, ...]) -> Worked:
        """Read the rows of a slice and ask about them.

        Args:
            encoders: the present addresses of the encoders.

        Raises:
            VisionSplitError: the services refuse the job as a whole.
        """
        contents = await self._calls.read(one)
        async with self._client(encoders) as client:
            results = await gather_or_cancel([self._row(client, content) for content in contents])
        return Worked(tuple(results), self._clock.take_seconds())

    async def _row(self, client: AsyncClient, content: Content | Failure) -> Result | Lost:
        try:
            return await self._calls.row(client, content)
        except (UnavailableError, CancelledError) as error:
            return Lost(self._calls.first, str(error))

    @asynccontextmanager
    async def _client(self, encoders: tuple[str, ...]) -> AsyncIterator[AsyncClient]:
        """The client for these addresses. The client for the last addresses is closed once it has no calls."""
        old = self._held
        if old is None or old.encoders != encoders:
            options: dict[str, Any] = {"llm": self._llm, "timeout": self._work.timeout, "retries": _RETRIES}
            client = AsyncClient(encoders, **options) if encoders else AsyncClient(**options)
            self._held = _Held(encoders, client)
            if old is not None and not old.calls:
                await old.client.close()
        held = self._held
        assert held is not None, "it was made above"
        held.calls += 1
        try:
            yield held.client
        finally:
            held.calls -= 1
            if held is not self._held and not held.calls:
                await held.client.close()
