"""Delivers tokens from the engine's thread to the event loops that wait for them."""

import asyncio
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from transformers.generation.continuous_batching.requests import GenerationOutput, RequestState, RequestStatus
from visionsplit.errors import InternalError, VisionSplitError

from llm_service.engines.token_buffer import TokenBuffer, post
from llm_service.job import TokenEvent


@dataclass
class Sink:
    """The destination of one request's tokens."""

    arrived: float  # time.perf_counter() when the job reached the engine
    loop: asyncio.AbstractEventLoop
    on_end: Callable[[], None]  # called on the loop once decoding has ended, even if the events are not being read
    events: TokenBuffer = field(default_factory=TokenBuffer)
    sent: int = 0  # tokens delivered; written only by the engine's thread


class SinkRouter:
    """Replaces the engine's output router: output for a closed request is dropped instead of being kept."""

    def __init__(self) -> None:
        self._sinks: dict[str, Sink] = {}
        self._lock = threading.Lock()

    def open(self, request_id: str, *, arrived: float, on_end: Callable[[], None]) -> Sink:
        """Open a sink on the running event loop."""
        sink = Sink(arrived, asyncio.get_running_loop(), on_end)
        with self._lock:
            self._sinks[request_id] = sink
        return sink

    def close(self, request_id: str) -> bool:
        """Stop delivering; return whether the request may still be running."""
        with self._lock:
            return self._sinks.pop(request_id, None) is not None

    def fail_all(self, error: VisionSplitError) -> None:
        """End every request with an error."""
        with self._lock:
            sinks, self._sinks = list(self._sinks.values()), {}
        for sink in sinks:
            _post(sink, error)

    # The interface of the engine's own router, which the engine calls on its thread.

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
    """The engine's queue of cancelled requests. The engine drains it between steps, so it also shows when steps end."""

    # Rounds of the engine's loop after which no step can use a request that is cancelled now. The drain that begins the
    # next round applies the cancellation. One step with the request may be running then, and one more may be prepared
    # already where the engine prepares steps ahead; both have ended when the third drain begins.
    _ROUNDS = 3

    def __init__(self) -> None:
        super().__init__()
        self.wake: Callable[[], None] = lambda: None  # makes an idle engine begin its next round at once
        self._rounds = 0
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._waiting_lock = threading.Lock()

    def after_steps(self, callback: Callable[[], None]) -> None:
        """Call `callback` on the engine's thread when no step prepared before this call can run any more."""
        with self._waiting_lock:
            self._waiting.append((self._rounds + self._ROUNDS, callback))

    def release_all(self) -> None:
        """Call all pending callbacks, because the engine's thread has ended."""
        self._call(lambda round_: True)

    def empty(self) -> bool:
        """Whether no cancellation is queued; the engine asks in a loop until a drain has emptied the queue.

        The answer True therefore marks the end of one drain. Counting rounds here is a side effect that the engine
        offers no other hook for: nothing of it runs between steps except this queue.
        """
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
