"""From the engine's thread to the event loops that wait for tokens."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from transformers.generation.continuous_batching.requests import GenerationOutput, RequestState, RequestStatus
from visionsplit.errors import InternalError, VisionSplitError

from llm_service.engines.token_buffer import TokenBuffer
from llm_service.job import TokenEvent

_log = logging.getLogger(__name__)


@dataclass
class Sink:
    """Where one request's tokens go."""

    arrived: float  # time.perf_counter() when the job reached the engine
    loop: asyncio.AbstractEventLoop
    on_end: Callable[[], None]  # called on the loop once decoding has ended, whether or not anybody reads the events
    events: TokenBuffer = field(default_factory=TokenBuffer)
    sent: int = 0  # tokens delivered; written by the engine's thread alone


class SinkRouter:
    """Takes the place of the engine's output router: outputs nobody waits for are dropped, not kept."""

    def __init__(self) -> None:
        self._sinks: dict[str, Sink] = {}
        self._lock = threading.Lock()

    def open(self, request_id: str, *, arrived: float, on_end: Callable[[], None]) -> Sink:
        """A sink on the running event loop."""
        sink = Sink(arrived, asyncio.get_running_loop(), on_end)
        with self._lock:
            self._sinks[request_id] = sink
        return sink

    def close(self, request_id: str) -> bool:
        """Listen no more. Whether the request may still run."""
        with self._lock:
            return self._sinks.pop(request_id, None) is not None

    def fail_all(self, error: VisionSplitError) -> None:
        """End every request with an error."""
        with self._lock:
            sinks, self._sinks = list(self._sinks.values()), {}
        for sink in sinks:
            _post(sink, error)

    # The interface of the engine's own router, called on the engine's thread.

    def deliver(self, output: GenerationOutput) -> None:
        self.deliver_batch([output])

    def deliver_batch(self, outputs: list[GenerationOutput]) -> None:
        for output in outputs:
            with self._lock:
                take = self._sinks.pop if output.is_finished() else self._sinks.get
                sink = take(output.request_id, None)
            if sink is not None:
                _post(sink, _event(sink, output))

    def fail_and_deliver(self, state: RequestState, error: Exception) -> None:
        state.status = RequestStatus.FAILED
        state.error = str(error)
        self.deliver(state.to_generation_output())


class CancelQueue(queue.Queue[str]):
    """The engine's queue of cancelled requests, which it drains between steps: so it also tells when steps are over."""

    # The drain that begins a round applies the cancellations queued before it. One step may be under way then, and one
    # more where the engine prepares steps ahead; both are over when the third drain begins.
    _ROUNDS = 3

    def __init__(self) -> None:
        super().__init__()
        self.wake: Callable[[], None] = lambda: None  # makes an idle engine begin its next round at once
        self._rounds = 0
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._waiting_lock = threading.Lock()

    def after_steps(self, callback: Callable[[], None]) -> None:
        """Call back, on the engine's thread, when no step prepared before now can run any more."""
        with self._waiting_lock:
            self._waiting.append((self._rounds + self._ROUNDS, callback))

    def release_all(self) -> None:
        """Call back everybody: the engine's thread has ended."""
        self._call(lambda round_: True)

    def empty(self) -> bool:
        """Asked by the engine at the end of each drain."""
        empty = super().empty()
        if empty:
            self._rounds += 1
            if self._waiting:
                self._call(lambda round_: round_ <= self._rounds)
                if self._waiting:
                    self.wake()
        return empty

    def _call(self, due: Callable[[int], bool]) -> None:
        with self._waiting_lock:
            ready = [callback for round_, callback in self._waiting if due(round_)]
            self._waiting = [(round_, callback) for round_, callback in self._waiting if not due(round_)]
        for callback in ready:
            callback()


def post(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Run on an event loop, from any thread; a loop that has closed has nobody left to care."""
    try:
        loop.call_soon_threadsafe(callback)
    except RuntimeError:
        _log.debug("an event loop closed before its requests ended")


def _post(sink: Sink, event: TokenEvent | VisionSplitError) -> None:
    post(sink.loop, partial(sink.events.put, event))
    if isinstance(event, VisionSplitError) or event.finished:
        post(sink.loop, sink.on_end)


def _event(sink: Sink, output: GenerationOutput) -> TokenEvent | VisionSplitError:
    if output.error is not None:
        return InternalError("a decoding step failed; the service's log has the details")
    new = tuple(output.generated_tokens[sink.sent :])
    sink.sent = len(output.generated_tokens)
    return TokenEvent(new, output.is_finished(), max(output.lifespan[0] - sink.arrived, 0.0))
