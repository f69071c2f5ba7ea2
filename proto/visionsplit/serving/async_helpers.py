"""Two helpers for tasks and cancellation that asyncio does not provide."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def gather_or_cancel(work: Iterable[Awaitable[T]]) -> list[T]:
    """Run awaitables concurrently and return their results in order. The first error cancels the others.

    An awaitable that has not been started when the error occurs never starts.
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def finish_despite_cancellation(work: Awaitable[T], *, on_cancel: Callable[[], object] | None = None) -> T:
    """Await work that must not stop midway: if the caller is cancelled, the cancellation is raised when the work ends.

    Args:
        work: the work, which is not cancelled.
        on_cancel: called at each cancellation of the caller; it may make the work end sooner.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
            if on_cancel is not None:
                on_cancel()
    if cancelled is None:
        return task.result()
    if not task.cancelled():
        task.exception()  # retrieved so that asyncio does not warn: the cancellation is raised instead
    raise cancelled
