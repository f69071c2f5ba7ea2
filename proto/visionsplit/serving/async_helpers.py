"""What asyncio leaves to its users about tasks and cancellation."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    """The results in order. The first error ends the others; those that have not begun never do."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def to_its_end(work: Awaitable[T], *, on_cancel: Callable[[], object] | None = None) -> T:
    """The result of work that must not stop midway: who is cancelled here leaves only when it is over.

    Args:
        work: is not cancelled.
        on_cancel: called at each cancellation here; it may make the work end sooner.
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
        task.exception()  # nobody is left to hear it
    raise cancelled
