"""Works with services that run already: reads here, asks there."""

import asyncio
import queue
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

from visionsplit_client import AsyncClient, ClientSecurity, Retries

from visionsplit_batch.rows import Answers, Content, Failure, Outcome, Question, Slice, Source, Tokens
from visionsplit_batch.runners.base import RunnerIdentity, Stage, StageUse, Work
from visionsplit_batch.runners.row import FAILS_ROW, answer_images, answer_tokens, encode_images, failure
from visionsplit_batch.runners.services_identity import identify
from visionsplit_batch.runners.usage import StageClock

_T = TypeVar("_T")
_PLAIN = ClientSecurity()
# About 45 seconds for a service that restarts, three times over for each row.
DEFAULT_RETRIES = Retries(attempts=30, overloaded=True)


class ServicesRunner:
    """Keeps `in_flight` rows with the services, whose batches and queues do the rest.

    A question that is a row's only one goes through the encoder service, which passes the tokens on. Several are asked
    of one encoding, where the LLM service's address is known; without it each is a call of its own, and the encoder's
    cache, or the encoding under way, serves all but the first.

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
        self._source = source
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
        stages: dict[Stage, int] = {"read": read_threads}
        stages |= {} if work.kind == "ask" else {"encode": in_flight}
        stages |= {} if work.kind == "encode" else {"ask": in_flight}
        self._first: Stage = "ask" if work.kind == "ask" else "encode"  # after reading
        self._clock = StageClock(stages)
        self._readers = ThreadPoolExecutor(read_threads, thread_name_prefix="batch-read")
        self._reading = asyncio.Semaphore(read_threads)
        self._places = asyncio.Semaphore(in_flight)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="batch-calls", daemon=True)
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
        self._thread.start()
        try:
            self._client = self._await(self._connect())
            self._identity = self._await(
                identify(self._work, self._encoders, self._llm, security=self._security, retries=self._retries)
            )
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._give_up()
        if self._client is not None:
            self._await(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._readers.shutdown(cancel_futures=True)

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
                        self._loop.call_soon_threadsafe(self._start, one, done)
                if on_way:
                    outcome = done.get()
                    if isinstance(outcome, Exception):
                        raise outcome
                    on_way -= 1
                    yield outcome
        finally:
            self._give_up()

    def _start(self, one: Slice, done: "queue.SimpleQueue[Outcome | Exception]") -> None:
        task = self._loop.create_task(self._slice(one, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _give_up(self) -> None:
        """End what runs. An iterator that was left behind comes here once more, perhaps after everything is closed."""
        if not self._loop.is_closed():
            self._await(_cancel(self._tasks))
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
            async with self._places:
                result = content if isinstance(content, Failure) else await self._row(content)
            self._clock.move(1, out=self._first)
            done.put(Outcome(one.part, index, id, result))

        try:
            async with self._reading:
                contents = await self._loop.run_in_executor(self._readers, self._read, one)
            self._clock.move(len(contents), out="read", into=self._first)
            async with asyncio.TaskGroup() as rows:
                for index, entry, content in zip(one.indices, one.entries, contents, strict=True):
                    rows.create_task(work_on(index, entry.id, content))
        except ExceptionGroup as errors:
            done.put(errors.exceptions[0])
        except Exception as error:  # whatever it is, the caller's thread waits for it
            done.put(error)

    def _read(self, one: Slice) -> list[Content | Failure]:
        with self._clock.working("read"):
            return list(self._source.read(one.entries))

    async def _row(self, content: Content) -> Answers | Tokens | Failure:
        try:
            if self._work.kind == "encode":
                return await self._encode(content)
            questions = self._work.questions(content)
            if self._work.kind == "ask":
                return await self._ask(content, questions)
            if len(questions) > 1 and self._llm is not None:
                tokens = await self._encode(content)
                return await self._ask(replace(content, images=(), tokens=tokens.images), questions)
            return await self._ask_about_images(content, questions)
        except FAILS_ROW as error:
            return failure(error, self._first)

    async def _encode(self, content: Content) -> Tokens:
        with self._clock.working("encode"):
            return await encode_images(self._connected, self._work, content)

    async def _ask(self, content: Content, questions: tuple[Question, ...]) -> Answers:
        with self._clock.working("ask"):
            return await answer_tokens(self._connected, self._work, content, questions)

    async def _ask_about_images(self, content: Content, questions: tuple[Question, ...]) -> Answers:
        started = time.monotonic()
        answers = await answer_images(self._connected, self._work, content, questions)
        elapsed = time.monotonic() - started
        # While the LLM service receives, it waits for the encoder.
        asking = max(one.timings.total_seconds - one.timings.receive_seconds for one in answers.generations)
        self._clock.worked("ask", min(asking, elapsed))
        self._clock.worked("encode", max(elapsed - asking, 0.0))
        return answers

    @property
    def _connected(self) -> AsyncClient:
        if self._client is None:
            raise RuntimeError("the runner is not entered")
        return self._client

    def _await(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    left = list(tasks)
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
