"""The engine for requests that need separate layers: pruning between them, or original position ids."""

import logging
import threading
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, nullcontext

import torch
from visionsplit.errors import InternalError, OverloadedError, PromptTooLongError, UnavailableError, VisionSplitError
from visionsplit.serving.fairness import FairQueue
from visionsplit.serving.overload import ServiceRate

from llm_service.engines.base import Engine, EngineRequest
from llm_service.engines.layerwise.model import LayerwiseModel
from llm_service.engines.layerwise.run import Run
from llm_service.job import TokenEvent

_log = logging.getLogger(__name__)
_MAX_RUNNING = 4
# Part of the GPU memory left by the continuous engine; the rest is for the activations of a prompt.
_MEMORY_FRACTION = 0.5


class LayerwiseEngine(Engine):
    """Decodes a few requests at a time on one thread, by one step of each request in turn."""

    name = "layerwise"

    def __init__(
        self,
        model: LayerwiseModel,
        *,
        image_token_id: int,
        end_ids: tuple[int, ...],
        max_waiting: int,
        max_running: int = _MAX_RUNNING,
    ) -> None:
        """Holds keys and values of at most `max_running` whole contexts, or fewer if the GPU's memory is short."""
        self._model = model
        self._image_token_id = image_token_id
        self._end_ids = frozenset(end_ids)
        self._max_waiting = max_waiting
        self._max_running = max_running
        self._kv_tokens = max_running * model.context_length
        self._waiting: FairQueue[Run] = FairQueue()
        self._running: list[Run] = []
        self._rate = ServiceRate()
        self._changed = threading.Condition()  # guards both collections and wakes the thread
        self._stopping = False
        self._thread = threading.Thread(target=self._serve, name="layerwise-engine")

    def start(self) -> None:
        device = self._model.device
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            room = int(free * _MEMORY_FRACTION) // self._model.kv_bytes_per_token
            self._kv_tokens = min(self._kv_tokens, room)
        self._thread.start()

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def healthy(self) -> bool:
        return self._thread.is_alive() and not self._stopping

    @property
    def context_length(self) -> int:
        return min(self._model.context_length, self._kv_tokens)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[TokenEvent, None]:
        self._check_size(request)
        run = Run(request)
        self._enter(run)
        try:
            async for event in run.events.events(request.pause_seconds):
                yield event
        finally:
            self._leave(run)

    def _check_size(self, request: EngineRequest) -> None:
        prompt, positions, new = request.num_prompt_tokens, request.num_positions, request.sampling.max_new_tokens
        if prompt + new > self.context_length:
            raise PromptTooLongError(
                f"prompt of {prompt} tokens and {new} new tokens need {prompt + new}; "
                f"this replica holds {self.context_length}"
            )
        if positions + new > self._model.context_length:
            raise PromptTooLongError(
                f"prompt of {positions} original positions and {new} new tokens need {positions + new}; "
                f"the model has {self._model.context_length}"
            )

    def _enter(self, run: Run) -> None:
        with self._changed:
            if not self.healthy:
                raise UnavailableError("the layerwise engine is not running")
            if len(self._waiting) >= self._max_waiting:
                later = self._rate.retry_after(1)
                raise OverloadedError(f"{len(self._waiting)} requests are waiting for a replica already", later)
            self._waiting.put(run.request.caller, run)
            self._changed.notify()

    def _leave(self, run: Run) -> None:
        with self._changed:
            run.cancelled = True
            self._waiting.remove(run.request.caller, run)
            self._changed.notify()

    def _serve(self) -> None:
        """The engine's thread: run steps until the engine is stopped."""
        try:
            with _own_stream(self._model.device):
                while self._step():
                    pass
        finally:
            with self._changed:
                self._stopping = True
                left = [*self._running, *self._waiting]
                self._running.clear()
                self._waiting = FairQueue()
            for run in left:
                run.fail(UnavailableError("the service is stopping"))

    def _step(self) -> bool:
        """Run one step of each running request; return whether there were any.

        This is a separate function so that the waiting thread keeps no reference to finished requests and their keys
        and values.
        """
        running = self._admit()
        for run in running:
            self._advance(run)
        return bool(running)

    def _admit(self) -> list[Run]:
        """The requests to advance, waiting until there are some; an empty list when the engine is stopping."""
        with self._changed:
            while not self._stopping:
                self._running = [run for run in self._running if not run.cancelled]
                while self._waiting and self._has_room(self._waiting.first()):
                    self._running.append(self._waiting.pop())
                if self._running:
                    return list(self._running)
                self._changed.wait()
        return []

    def _has_room(self, run: Run) -> bool:
        held = sum(other.kv_tokens for other in self._running)
        return len(self._running) < self._max_running and held + run.kv_tokens <= self._kv_tokens

    def _advance(self, run: Run) -> None:
        if run.cancelled:
            return
        try:
            finished = run.advance(self._model, image_token_id=self._image_token_id, end_ids=self._end_ids)
        except VisionSplitError as error:
            run.fail(error)
            finished = True
        except Exception:
            # A failed step ends its own request and no other.
            _log.exception("a step of request %s failed", run.request.request_id)
            run.fail(InternalError("a decoding step failed; the service's log has the details"))
            finished = True
        if finished:
            with self._changed:
                self._running.remove(run)
                self._rate.record(1, busy=len(self._waiting) > 0)


def _own_stream(device: torch.device) -> AbstractContextManager[object]:
    """A separate CUDA stream, so that this thread and others neither wait for nor delay each other on the device."""
    if device.type != "cuda":
        return nullcontext()
    stream: AbstractContextManager[object] = torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
    return stream
