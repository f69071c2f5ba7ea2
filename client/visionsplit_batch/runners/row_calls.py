"""Reads rows and asks services about them. Both runners work on their rows with this class."""

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from visionsplit_client import AsyncClient

from visionsplit_batch.rows.rows import Answers, Content, Failure, Question, Slice, Source, Tokens
from visionsplit_batch.runners.base import Stage, Work, WorkKind
from visionsplit_batch.runners.row import FAILS_ROW, answer_images, answer_tokens, encode_images, failure
from visionsplit_batch.runners.usage import StageClock


class RowCalls:
    """The reading and the calls of one job in one process. For one event loop.

    A question that is a row's only one goes through the encoder service, which passes the tokens on. Several are asked
    about one encoding, where the LLM service's address is known; without the address, each question is a call to the
    encoder, whose cache, or the encoding under way, serves all but the first.

    Args:
        has_llm: whether the clients given to `row` know the LLM service's address.
        in_flight: the most rows whose calls run at one time.
        read_threads: the most slices that are read at one time.
        clock: counts the seconds of each stage.
    """

    def __init__(
        self, source: Source, work: Work, *, has_llm: bool, in_flight: int, read_threads: int, clock: StageClock
    ) -> None:
        self._source = source
        self._work = work
        self._has_llm = has_llm
        self._clock = clock
        self.first = first_stage(work.kind)
        self._places = asyncio.Semaphore(in_flight)
        self._reading = asyncio.Semaphore(read_threads)
        self._readers = ThreadPoolExecutor(read_threads, thread_name_prefix="batch-read")

    def close(self) -> None:
        """End the threads that read."""
        self._readers.shutdown(cancel_futures=True)

    async def read(self, one: Slice) -> list[Content | Failure]:
        """The contents of a slice's rows."""
        async with self._reading:
            return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, one)

    async def row(self, client: AsyncClient, content: Content | Failure) -> Answers | Tokens | Failure:
        """The result of one row.

        Raises:
            VisionSplitError: one of `ENDS_JOB`, which says nothing about the row.
        """
        if isinstance(content, Failure):
            return content
        async with self._places:
            try:
                return await self._result(client, content)
            except FAILS_ROW as error:
                return failure(error, self.first)

    def _read(self, one: Slice) -> list[Content | Failure]:
        with self._clock.working("read"):
            return list(self._source.read(one.entries))

    async def _result(self, client: AsyncClient, content: Content) -> Answers | Tokens:
        if self._work.kind == "encode":
            return await self._encode(client, content)
        questions = self._work.questions(content)
        if self._work.kind == "ask":
            return await self._ask(client, content, questions)
        if len(questions) > 1 and self._has_llm:
            tokens = await self._encode(client, content)
            return await self._ask(client, replace(content, images=(), tokens=tokens.images), questions)
        return await self._ask_about_images(client, content, questions)

    async def _encode(self, client: AsyncClient, content: Content) -> Tokens:
        with self._clock.working("encode"):
            return await encode_images(client, self._work, content)

    async def _ask(self, client: AsyncClient, content: Content, questions: tuple[Question, ...]) -> Answers:
        with self._clock.working("ask"):
            return await answer_tokens(client, self._work, content, questions)

    async def _ask_about_images(
        self, client: AsyncClient, content: Content, questions: tuple[Question, ...]
    ) -> Answers:
        started = time.monotonic()
        answers = await answer_images(client, self._work, content, questions)
        elapsed = time.monotonic() - started
        # While the LLM service receives tokens, the row's time is the encoder's.
        asking = max(one.timings.total_seconds - one.timings.receive_seconds for one in answers.generations)
        self._clock.worked("ask", min(asking, elapsed))
        self._clock.worked("encode", max(elapsed - asking, 0.0))
        return answers


def first_stage(kind: WorkKind) -> Stage:
    """The stage that follows reading."""
    return "ask" if kind == "ask" else "encode"


def stage_places(kind: WorkKind, *, in_flight: int, read_threads: int) -> Mapping[Stage, int]:
    """How many rows, or slices to read, each stage of such work takes at one time."""
    places: dict[Stage, int] = {"read": read_threads}
    if kind != "ask":
        places["encode"] = in_flight
    if kind != "encode":
        places["ask"] = in_flight
    return places
