"""Works with running services: reads the rows in this process, and asks the services."""

import asyncio
import contextlib
import queue
from collections.abc import Iterator, Sequence
from typing import Any, Self

from visionsplit.serving.background_loop import BackgroundLoop
from visionsplit_client import AsyncClient, CancelledError, ClientSecurity, Retries, UnavailableError

from visionsplit_batch.rows.rows import Answers, Content, Failure, Outcome, Slice, Source, Tokens
from visionsplit_batch.runners.base import RunnerIdentity, StageUse, Work
from visionsplit_batch.runners.row_calls import RowCalls, stage_places
from visionsplit_batch.runners.services_identity import identify
from visionsplit_batch.runners.usage import StageClock

_TRIES = 3  # of each row, where a service goes away; each includes the client's own tries
_PLAIN = ClientSecurity()
# About 45 seconds for a service that restarts, three times over for each row.
DEFAULT_RETRIES = Retries(attempts=30, overloaded=True)


class ServicesRunner:
    """Keeps `in_flight` rows with the services, whose batches and queues do the rest.

    Args:
        encoders: addresses of equal encoder services, used in turn; for "ask" none are needed.
        llm: address of the LLM service; "ask" needs it.
        in_flight: rows whose calls run at once. About twice as many are held in memory.
        read_threads: slices that are read at once.
        retries: of each call, with `overloaded` set or not: the runner waits for services that are full in any case.

    Raises:
        ValueError: an address that the work needs is missing, or has another form.
        CredentialsError: a certificate or token that cannot be used.
    """

    def __init__(
        self,
        source: Source,
        work: Work,
        encoders: str | Sequence[str] = (),
        llm: str | None = None,
        *,
        in_flight: int = 32,
        read_threads: int = 4,
        security: ClientSecurity = _PLAIN,
        retries: Retries = DEFAULT_RETRIES,
    ) -> None:
        if min(in_flight, read_threads) < 1:
            raise ValueError(f"in_flight is {in_flight} and read_threads {read_threads}; at least 1 is needed")
        self._work = work
        self._encoders = (encoders,) if isinstance(encoders, str) else tuple(encoders)
        self._llm = llm
        self._in_flight = in_flight
        self._security = security
        self._retries = retries
        if work.kind == "ask" and llm is None:
            raise ValueError("asking about tokens needs the LLM service's address")
        if work.kind != "ask" and not self._encoders:
            raise ValueError("images need an encoder service's address")
        self._clock = StageClock(stage_places(work.kind, in_flight=in_flight, read_threads=read_threads))
        self._calls = RowCalls(
            source,
            work,
            has_llm=llm is not None,
            in_flight=in_flight,
            read_threads=read_threads,
            clock=self._clock,
        )
        self._loop = BackgroundLoop("batch-calls")
        self._tasks: set[asyncio.Task[None]] = set()  # the loop's
        self._client: AsyncClient | None = None
        self._identity: RunnerIdentity | None = None

    def identity(self) -> RunnerIdentity:
        if self._identity is None:
            raise RuntimeError("the runner is not entered")
        return self._identity

    def stages(self) -> tuple[StageUse, ...]:
        return self._clock.take()

    def __enter__(self) -> Self:
        self._loop.start()
        try:
            self._client = self._loop.run(self._connect())
            self._identity = self._loop.run(
                identify(self._work, self._encoders, self._llm, security=self._security, retries=self._retries)
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cancel_all()
        if self._client is not None:
            self._loop.run(self._client.close())
        self._loop.close()
        self._calls.close()

    def run(self, slices: Iterator[Slice]) -> Iterator[Outcome]:
        done: queue.SimpleQueue[Outcome | Exception] = queue.SimpleQueue()
        on_way, more = 0, True
        try:
            while on_way or more:
                while more and on_way < 2 * self._in_flight:
                    one = next(slices, None)
                    more = one is not None
                    if one is not None:
                        on_way += len(one.entries)
                        self._clock.move(len(one.entries), into="read")
                        self._loop.call(self._start, one, done)
                if on_way:
                    outcome = done.get()
                    if isinstance(outcome, Exception):
                        raise outcome
                    on_way -= 1
                    yield outcome
        finally:
            self._cancel_all()

    def _start(self, one: Slice, done: "queue.SimpleQueue[Outcome | Exception]") -> None:
        task = asyncio.create_task(self._slice(one, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _cancel_all(self) -> None:
        """Cancel what runs. An abandoned iterator calls this once more, perhaps after everything is closed."""
        if not self._loop.closed:
            self._loop.run(_cancel(self._tasks))
        self._clock.clear()

    async def _connect(self) -> AsyncClient:
        options: dict[str, Any] = {
            "llm": self._llm,
            "timeout": self._work.timeout,
            "retries": self._retries,
            "security": self._security,
        }
        return AsyncClient(self._encoders, **options) if self._encoders else AsyncClient(**options)

    async def _slice(self, one: Slice, done: "queue.SimpleQueue[Outcome | Exception]") -> None:
        async def work_on(index: int, id: str, content: Content | Failure) -> None:
            result = await self._row(content)
            self._clock.move(1, out=self._calls.first)
            done.put(Outcome(one.part, index, id, result))

        try:
            contents = await self._calls.read(one)
            self._clock.move(len(contents), out="read", into=self._calls.first)
            async with asyncio.TaskGroup() as rows:
                for index, entry, content in zip(one.indices, one.entries, contents, strict=True):
                    rows.create_task(work_on(index, entry.id, content))
        except ExceptionGroup as errors:
            done.put(errors.exceptions[0])
        except Exception as error:  # of any class: the caller's thread waits for a result
            done.put(error)

    async def _row(self, content: Content | Failure) -> Answers | Tokens | Failure:
        """A row's result. A service that goes away ends the calls inside it, and the client does not repeat a call that
        has begun to answer. The job can, since it has not passed on any part of the answer."""
        for _ in range(_TRIES - 1):
            with contextlib.suppress(UnavailableError, CancelledError):
                return await self._calls.row(self._connected, content)
        return await self._calls.row(self._connected, content)

    @property
    def _connected(self) -> AsyncClient:
        if self._client is None:
            raise RuntimeError("the runner is not entered")
        return self._client


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    left = list(tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
