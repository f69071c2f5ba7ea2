"""Runs many calls concurrently and returns their answers in the order of the questions."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from visionsplit_client import OverloadedError

Q = TypeVar("Q")
A = TypeVar("A")

_FIRST_WAIT, _LONGEST_WAIT = 0.5, 15.0  # seconds


def answers(ask: Callable[[Q], A], questions: Iterable[Q], *, concurrency: int) -> Iterator[A]:
    """Ask every question, `concurrency` of them at a time.

    Questions are drawn by the caller's thread, and only twice as many as are asked at once lie ready: a benchmark's
    images do not fit into memory all together.

    Raises:
        Exception: what the first failing call raised; questions not yet begun are dropped.
    """
    with ThreadPoolExecutor(concurrency, thread_name_prefix="visionsplit-benchmark") as pool:
        waiting: deque[Future[A]] = deque()
        try:
            for question in questions:
                waiting.append(pool.submit(ask, question))
                if len(waiting) >= 2 * concurrency:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def patiently(call: Callable[[], A], *, seconds: float, wait: Callable[[float], object] = time.sleep) -> A:
    """Repeat a call that a service had no room for. Other failures are left to the client's retries.

    Raises:
        OverloadedError: `seconds` of waiting were not enough.
    """
    waited, delay = 0.0, _FIRST_WAIT
    while True:
        try:
            return call()
        except OverloadedError:
            if waited + delay > seconds:
                raise
        wait(delay)
        waited, delay = waited + delay, min(2 * delay, _LONGEST_WAIT)
