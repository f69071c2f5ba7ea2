"""A request's images on threads, and errors that name theirs."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TypeVar

from visionsplit.errors import InvalidCompressionError, InvalidImageError

_T = TypeVar("_T")


async def in_thread(pool: Executor, function: Callable[..., _T], *arguments: object) -> _T:
    """The result of a function that blocks."""
    return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


@contextmanager
def naming(index: int) -> Iterator[None]:
    """What is wrong with an image is said of the image."""
    try:
        yield
    except (InvalidImageError, InvalidCompressionError) as error:
        raise type(error)(f"image {index}: {error}") from error
