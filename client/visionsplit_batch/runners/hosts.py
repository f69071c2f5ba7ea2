"""The real services, each in the process of a Ray actor: the tested way, with its batches, limits and errors."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from visionsplit_client import AsyncClient, Compression, InvalidCompressionError, Retries

from encoder_service.compression import compose
from encoder_service.config import CacheLimits, EncoderConfig
from encoder_service.server import EncoderServer
from llm_service.config import BackendKind, LlmConfig
from llm_service.server import LlmServer
from visionsplit_batch.rows import Answers, Content, Failure, Question, Tokens
from visionsplit_batch.runners.base import Work
from visionsplit_batch.runners.row import FAILS_ROW, answer_tokens, encode_images, failure

_T = TypeVar("_T")
_LISTEN = "127.0.0.1:0"
# The service is in this very process: what is lost once does not come back by waiting.
_RETRIES = Retries(attempts=5, overloaded=True)


class _Host:
    """A service and its client, on an event loop of their own. Any thread may call."""

    def __init__(self, server: EncoderServer | LlmServer, work: Work, cpus: float) -> None:
        """Start the service. Blocks.

        Args:
            cpus: the service's share of the machine: as many threads compute where there is no GPU. Several services
                whose threads are as many as the machine's cores slow each other down several times over.
        """
        torch.set_num_threads(max(round(cpus), 1))
        self._work = work
        self._server = server  # it serves for as long as somebody holds it
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="batch-host", daemon=True).start()
        port = self._await(server.start())
        self._client = self._await(self._connect(f"127.0.0.1:{port}"))

    async def _connect(self, address: str) -> AsyncClient:
        options: dict[str, Any] = {"timeout": self._work.timeout, "retries": _RETRIES}
        return AsyncClient(address, llm=address, **options)

    def _await(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


class EncoderHost(_Host):
    """An encoder service of this process."""

    def __init__(self, config: EncoderConfig, work: Work, cpus: float) -> None:
        # One caller is all there is, and a dataset has each image once.
        own = replace(config, listen=_LISTEN, llm=(), caller_share=1.0, cache=CacheLimits(memory_bytes=0))
        super().__init__(EncoderServer(own), work, cpus)
        self._compression = compression_of(config, work)
        self._guided = _reads_text(self._compression) and self._compression.guidance is None

    def encode(self, rows: Sequence[Content | Failure]) -> list[Content | Tokens | Failure]:
        """Rows with tokens in place of their images: what is left to ask where the work asks, else the end result.

        Raises:
            UnavailableError, UnauthenticatedError, IncompatibleServicesError: the service is of no use.
        """
        return self._await(_each([self._row(row) for row in rows]))

    async def _row(self, content: Content | Failure) -> Content | Tokens | Failure:
        if isinstance(content, Failure):
            return content
        try:
            if self._work.kind == "encode":
                return await encode_images(self._client, self._work, content)
            questions = self._work.questions(content)
            compression = self._guided_by(questions) if self._guided else None
            tokens = await encode_images(self._client, self._work, content, compression)
            return replace(content, images=(), tokens=tokens.images, questions=questions)
        except FAILS_ROW as error:
            return failure(error, "encode")

    def _guided_by(self, questions: Sequence[Question]) -> Compression:
        """The compression with the question as what it goes by, as when the encoder passes it on itself."""
        if len(questions) != 1 or questions[0].text is None:
            raise InvalidCompressionError("the compression looks at a text: ask one question, or give it guidance")
        return replace(self._compression, guidance=questions[0].text)


class LlmHost(_Host):
    """An LLM service of this process, with one replica."""

    def __init__(self, config: LlmConfig, work: Work, cpus: float) -> None:
        limits = replace(config.limits, caller_share=1.0)
        config = replace(config, listen=_LISTEN, limits=limits, backend=BackendKind.LOCAL, replicas=1)
        super().__init__(LlmServer(config), work, cpus)

    def ask(self, rows: Sequence[Content | Failure]) -> list[Answers | Failure]:
        """The answers about each row's tokens.

        Raises:
            UnavailableError, UnauthenticatedError, IncompatibleServicesError: the service is of no use.
        """
        return self._await(_each([self._row(row) for row in rows]))

    async def _row(self, content: Content | Failure) -> Answers | Failure:
        if isinstance(content, Failure):
            return content
        try:
            return await answer_tokens(self._client, self._work, content, self._work.questions(content))
        except FAILS_ROW as error:
            return failure(error, "ask")


def compression_of(config: EncoderConfig, work: Work) -> Compression:
    """The work's, or the encoder's default.

    Raises:
        InvalidCompressionError: there is no such compression, or it needs a text tower that the encoder does not have.
    """
    compression = work.compression or Compression(config.default_method, config.retention_ratio)
    if _reads_text(compression) and config.text_tower is None:
        raise InvalidCompressionError(f"method {compression.method!r} looks at the prompt; it needs a text tower")
    return compression


def _reads_text(compression: Compression) -> bool:
    return compose(compression).reads_text


async def _each(rows: list[Coroutine[Any, Any, _T]]) -> list[_T]:
    """All rows together, in their order. The first error that is no row's ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(row) for row in rows]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    return [task.result() for task in tasks]
