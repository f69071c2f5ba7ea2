"""One row's calls, and which of their errors fail the row."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from visionsplit.serving.async_helpers import gather_or_cancel
from visionsplit_client import (
    AsyncClient,
    CancelledError,
    EncodedImage,
    Generation,
    IncompatibleServicesError,
    InvalidCompressionError,
    InvalidImageError,
    InvalidTokensError,
    OverloadedError,
    UnauthenticatedError,
    UnavailableError,
    VisionSplitError,
)

from visionsplit_batch.errors import BatchError
from visionsplit_batch.rows.rows import Answers, Content, Failure, Question, Tokens
from visionsplit_batch.runners.base import Stage, TemplateError, Work

_T = TypeVar("_T")

# They say nothing about the row, so they end the job, which can be resumed.
ENDS_JOB = (UnavailableError, UnauthenticatedError, IncompatibleServicesError, CancelledError)
# What may be wrong with one row: the services' errors, and Python's own for what the client refuses before it calls.
FAILS_ROW = (VisionSplitError, ValueError, TypeError, OSError)


class NoImagesError(BatchError):
    """A row without the images or tokens that the work needs."""


async def answer_images(client: AsyncClient, work: Work, content: Content, questions: tuple[Question, ...]) -> Answers:
    """Ask the encoder service, which passes on to its LLM service: one call for each question."""
    _check_images(content)
    ask = partial(client.generate, content.images, compression=work.compression, data_type=work.data_type)
    return await _answers(ask, work, content, questions)


async def encode_images(client: AsyncClient, work: Work, content: Content) -> Tokens:
    """The tokens of each of a row's images."""
    _check_images(content)

    async def encode(image: bytes) -> EncodedImage:
        return await _once_there_is_room(lambda: client.encode(image, work.compression, data_type=work.data_type))

    images = await gather_or_cancel([encode(image) for image in content.images])
    return Tokens(tuple(images), content.fields)


async def answer_tokens(client: AsyncClient, work: Work, content: Content, questions: tuple[Question, ...]) -> Answers:
    """Ask the LLM service about tokens: one call for each question, all at once."""
    if not content.tokens:
        raise InvalidTokensError("the row has no vision tokens")
    return await _answers(partial(client.generate_from_tokens, content.tokens), work, content, questions)


def failure(error: Exception, stage: Stage) -> Failure:
    """What a row's error makes of the row.

    Raises:
        VisionSplitError: the error itself, where it is not the row's.
    """
    if isinstance(error, ENDS_JOB):
        raise error
    if isinstance(error, TemplateError | NoImagesError):
        stage = "read"
    elif isinstance(error, InvalidImageError | InvalidCompressionError):
        stage = "encode"
    return Failure.of(error, stage)


async def _answers(
    generate: Callable[..., Awaitable[Generation]], work: Work, content: Content, questions: tuple[Question, ...]
) -> Answers:
    """Every question at once, by a call of the client that has the images or tokens already."""

    async def ask(question: Question) -> Generation:
        return await _once_there_is_room(
            lambda: generate(
                question.text,
                messages=question.messages,
                pruning=work.pruning,
                position_ids=work.position_ids,
                sampling=question.sampling or work.sampling,
            )
        )

    return Answers(questions, tuple(await gather_or_cancel([ask(question) for question in questions])), content.fields)


def _check_images(content: Content) -> None:
    if not content.images:
        raise NoImagesError("the row has no image")


async def _once_there_is_room(call: Callable[[], Awaitable[_T]]) -> _T:
    """The result of a call, which is made again while the service is full and names a time after which to ask."""
    while True:
        try:
            return await call()
        except OverloadedError as error:
            if error.retry_after_seconds is None:
                raise
            await asyncio.sleep(error.retry_after_seconds)
