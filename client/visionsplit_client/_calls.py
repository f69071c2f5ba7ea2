"""Blocking calls: started, repeated while that is allowed, and cancelled."""

import threading
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, Self, TypeVar

import grpc
from visionsplit.errors import CancelledError

from visionsplit_client._retry import Attempts
from visionsplit_client._tracing import CallTrace

MessageT = TypeVar("MessageT")
MessageT_contra = TypeVar("MessageT_contra", contravariant=True)
MessageT_co = TypeVar("MessageT_co", covariant=True)
EventT = TypeVar("EventT")
EventT_co = TypeVar("EventT_co", covariant=True)
LastT = TypeVar("LastT")
LastT_co = TypeVar("LastT_co", covariant=True)


class Call(Protocol[MessageT_co]):
    """A running gRPC call that streams its answer."""

    def __iter__(self) -> Iterator[MessageT_co]: ...

    def cancel(self) -> object: ...


class Collector(Protocol[MessageT_contra, EventT_co, LastT_co]):
    """Makes events of a stream's messages."""

    request_id: str

    def begin(self) -> None: ...

    def commits(self, message: MessageT_contra) -> bool: ...

    def take(self, message: MessageT_contra) -> EventT_co: ...

    def end(self) -> LastT_co: ...


class EventStream(Generic[EventT, LastT]):
    """The events of one call, as they come. Iterate it once, best inside `with`, so that leaving early cancels.

    What arrives before a call is past repeating (images' summaries, an encoding's header) is given out together with
    the first event after it, so an event is never seen twice.
    """

    def __init__(
        self,
        attempts: Attempts,
        start: Callable[[str, float | None], Call[MessageT]],
        collector: Collector[MessageT, EventT, LastT],
        trace: CallTrace,
    ) -> None:
        self.request_id = collector.request_id
        self._trace = trace
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._call: Call[object] | None = None
        self._last: LastT | None = None
        self._events = self._run(attempts, start, collector)

    def __iter__(self) -> Iterator[EventT]:
        return self

    def __next__(self) -> EventT:
        return next(self._events)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def result(self) -> LastT:
        """The last event; reads what has not been read yet.

        Raises:
            CancelledError: the stream was closed before its end.
        """
        for _ in self:
            pass
        if self._last is None:
            raise CancelledError("the stream was closed before its end")
        return self._last

    def close(self) -> None:
        """Cancel the call if it still runs; iteration then ends. Any thread may do this, any number of times."""
        with self._lock:
            self._stop.set()
            if self._call is not None:
                self._call.cancel()

    def _run(
        self,
        attempts: Attempts,
        start: Callable[[str, float | None], Call[MessageT]],
        collector: Collector[MessageT, EventT, LastT],
    ) -> Iterator[EventT]:
        collector.begin()
        try:
            with self._trace.running():
                for message in self._messages(attempts, start, collector.commits):
                    yield collector.take(message)
                if not self._stop.is_set():
                    self._last = collector.end()
        finally:
            self.close()

    def _messages(
        self,
        attempts: Attempts,
        start: Callable[[str, float | None], Call[MessageT]],
        commits: Callable[[MessageT], bool],
    ) -> Iterator[MessageT]:
        held: list[MessageT] = []  # what may still be thrown away with its try
        committed = False
        while True:
            try:
                for message in self._begin(attempts, start):
                    held.append(message)
                    if committed or commits(message):
                        if not committed:
                            attempts.succeeded()
                        committed = True
                        yield from held
                        held.clear()
                attempts.succeeded()
                yield from held
                return
            except grpc.RpcError as error:
                if self._stop.is_set():
                    return
                held.clear()
                delay = attempts.failed(error, repeatable=not committed)
            if self._stop.wait(delay):
                return

    def _begin(self, attempts: Attempts, start: Callable[[str, float | None], Call[MessageT]]) -> Iterator[MessageT]:
        address, timeout = attempts.begin()
        with self._lock:
            if self._stop.is_set():
                return iter(())
            call = start(address, timeout)
            self._call = call
        return iter(call)


def unary(attempts: Attempts, start: Callable[[str, float | None], MessageT]) -> MessageT:
    """One question, one answer. `start` blocks until it has the answer."""
    pause = threading.Event()
    while True:
        address, timeout = attempts.begin()
        try:
            answer = start(address, timeout)
        except grpc.RpcError as error:
            delay = attempts.failed(error, repeatable=True)
        else:
            attempts.succeeded()
            return answer
        pause.wait(delay)
