"""A request's images on threads, and errors that name theirs."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import TypeVar

from visionsplit.errors import InvalidCompressionError, InvalidImageError
from visionsplit.serving.async_helpers import finish_despite_cancellation

_T = TypeVar("_T")


async def in_thread(
    pool: Executor, function: Callable[..., _T], *arguments: object, on_cancel: Callable[[], object] | None = None
) -> _T:
    """The result of a function that blocks.

    A thread cannot be stopped. So a task that is cancelled here leaves only when the function has returned, and keeps
    its turn and its memory until then. Otherwise, calls that are given up could fill the threads and the memory.

    Args:
        pool: whose thread runs the function.
        function: is called with the arguments.
        on_cancel: called when the task is cancelled; it may make the function return sooner.
    """
    work = asyncio.get_running_loop().run_in_executor(pool, function, *arguments)
    return await finish_despite_cancellation(work, on_cancel=on_cancel)


@contextmanager
def naming(index: int) -> Iterator[None]:
    """What is wrong with an image is said of the image."""
    try:
        yield
    except (InvalidImageError, InvalidCompressionError) as error:
        raise type(error)(f"image {index}: {error}") from error
