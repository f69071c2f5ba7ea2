"""The transformers library's continuous batching, with images passed to it as virtual token ids."""

import asyncio
import gc
import itertools
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial

import torch
from transformers import PreTrainedModel
from visionsplit.errors import InternalError, PromptTooLongError, UnavailableError, VisionSplitError

from llm_service.config import EngineConfig
from llm_service.engines.base import EngineRequest, MainEngine
from llm_service.engines.continuous.delivery import SinkRouter, post
from llm_service.engines.continuous.manager import RunningManager, start_manager
from llm_service.engines.continuous.request_slots import Admission, Place
from llm_service.engines.continuous.sampler import SAMPLING_KEY, Sampler
from llm_service.engines.continuous.slab import SlabAllocator, VirtualEmbedding
from llm_service.job import EngineUse, TokenEvent

_log = logging.getLogger(__name__)
_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 30.0


class ContinuousBatchingEngine(MainEngine):
    """Decodes on one device, and restarts the library's manager when a step fails."""

    name = "transformers-continuous-batching"

    def __init__(
        self,
        model: PreTrainedModel,
        config: EngineConfig,
        *,
        image_token_id: int,
        end_ids: tuple[int, ...],
    ) -> None:
        """Take over the model, whose input embedding is replaced."""
        self._model = model
        self._config = config.for_device(model.device)
        self._end_ids = end_ids
        self._context: int = model.config.max_position_embeddings
        table = model.get_input_embeddings()
        # Limited by the ids: a row can be used only through a virtual id.
        rows = min(config.slab_tokens, config.max_virtual_id - table.num_embeddings + 1)
        embedding = VirtualEmbedding(table, rows=rows)
        model.set_input_embeddings(embedding)
        self._slab = SlabAllocator(first_id=embedding.vocabulary_size, rows=rows, max_id=config.max_virtual_id)
        self._sampler = Sampler(
            vocabulary_size=model.config.vocab_size, slots=2 * config.max_running, device=model.device
        )
        self._admission = Admission(
            embedding=embedding,
            slab=self._slab,
            sampler=self._sampler,
            image_token_id=image_token_id,
            # One step's requests decode while as many others are ready to take their places in the next step.
            max_running=2 * config.max_running,
            max_running_of_caller=config.max_running_of_caller,
            max_waiting=config.max_waiting,
            forget_ids=self._forget_cached_blocks,
        )
        self._router = SinkRouter()
        self._running: RunningManager | None = None  # None before the start and while a manager is being replaced
        self._capacity = 0
        self._numbers = itertools.count()
        self._state_lock = threading.Lock()
        self._stopping = threading.Event()
        self._broken = False
        self._supervisor: threading.Thread | None = None

    def start(self) -> None:
        self._start_manager()
        self._supervisor = threading.Thread(target=self._supervise, name="engine-supervisor")
        self._supervisor.start()

    def stop(self) -> None:
        with self._state_lock:
            self._stopping.set()
            running = self._running
        if running is not None:
            running.stop()
        if self._supervisor is not None:
            self._supervisor.join()

    @property
    def healthy(self) -> bool:
        return not (self._broken or self._stopping.is_set())

    @property
    def context_length(self) -> int:
        return min(self._context, self._capacity)

    @property
    def use(self) -> EngineUse:
        running = self._running
        processor = None if running is None else running.manager.batch_processor
        taken = 0.0 if processor is None else 1.0 - processor.cache.compute_free_capacity(relative=True)
        return EngineUse(self._slab.rows_in_use, self._slab.rows, taken)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[TokenEvent, None]:
        arrived = time.perf_counter()
        self._check_size(request)
        place = await self._admission.admit(request)
        # Made unique, since a caller may use a request id twice.
        request_id = f"{request.request_id}#{next(self._numbers)}"
        # Called once, as soon as decoding has ended, so that a caller that does not read its events blocks no other.
        release = _Once(partial(self._release_after_steps, place))
        try:
            running = await self._running_manager()
            sink = self._router.open(request_id, arrived=arrived, on_end=release)
            self._submit(running, request_id, request, place)
            async for event in sink.events.events(request.pause_seconds):
                yield event
        finally:
            # True if no final event has come: the request may be running in the present manager.
            if self._router.close(request_id) and (current := self._running) is not None:
                current.manager.cancel_request(request_id)
            release()

    def _submit(self, running: RunningManager, request_id: str, request: EngineRequest, place: Place) -> None:
        accepted = running.manager.add_request(
            place.token_ids,
            request_id=request_id,
            max_new_tokens=request.sampling.max_new_tokens,
            streaming=True,
            eos_token_id=list(self._end_ids),
            **{SAMPLING_KEY: place.sampling},
        )
        if accepted is None:
            raise UnavailableError("the decoding engine has stopped")

    def _check_size(self, request: EngineRequest) -> None:
        """Refuse a request that can never run: one too large for the cache would end the manager's thread."""
        prompt, new = request.num_prompt_tokens, request.sampling.max_new_tokens
        if prompt + new > self.context_length:
            raise PromptTooLongError(
                f"prompt of {prompt} tokens and {new} new tokens need {prompt + new}; "
                f"this replica holds {self.context_length}"
            )
        vision = sum({image.key: image.num_tokens for image in request.images}.values())
        if vision > self._slab.rows:
            raise PromptTooLongError(
                f"the images take {vision} vision tokens and newlines; this replica holds {self._slab.rows}"
            )

    async def _running_manager(self) -> RunningManager:
        """The manager; waits while it is being replaced."""
        while self.healthy:
            if (running := self._running) is not None:
                return running
            await asyncio.sleep(0.01)
        raise UnavailableError("the decoding engine is not running")

    def _release_after_steps(self, place: Place) -> None:
        """Release the place when no step can read its rows any more."""
        release = partial(post, asyncio.get_running_loop(), partial(self._admission.release, place))
        running = self._running
        if running is None:
            release()
            return
        running.cancellations.after_steps(release)
        if running.manager.is_running():
            running.cancellations.wake()
        else:
            # The thread has ended and drains no more. The supervisor may have called the callbacks before this one was
            # added; calling them again is harmless, since each is called only once.
            running.cancellations.release_all()

    def _forget_cached_blocks(self) -> None:
        running = self._running
        if running is None or running.manager.batch_processor is None:
            return  # a new manager has an empty cache
        with running.manager.pause():
            running.manager.batch_processor.cache.evict_cached_blocks()

    def _start_manager(self) -> None:
        running = start_manager(
            self._model, self._config, end_ids=self._end_ids, router=self._router, sampler=self._sampler
        )
        with self._state_lock:
            self._running, self._capacity, self._broken = running, running.capacity, False
            stopped_meanwhile = self._stopping.is_set()
        # A `stop` during the start found no manager to stop, so it is stopped here. The lock orders the two: either
        # `stop` sees the manager, or this sees the flag.
        if stopped_meanwhile:
            running.stop()

    def _supervise(self) -> None:
        """Wait for the manager's thread to end, and replace the manager unless the engine is being stopped."""
        while (running := self._running) is not None:
            running.thread.join()
            with self._state_lock:
                self._running = None
            stopping = self._stopping.is_set()
            error: VisionSplitError = (
                UnavailableError("the service is stopping")
                if stopping
                else InternalError("a decoding step failed; the service's log has the details")
            )
            self._router.fail_all(error)
            running.cancellations.release_all()
            if stopping:
                return
            _log.error("decoding failed (%s); restarting", running.manager.background_thread_status.fatal_error)
            running.manager.stop(block=True)
            del running  # with its cache, so that the next manager finds the memory free
            self._replace()

    def _replace(self) -> None:
        """Start a new manager, with growing delays, until one starts or the engine is stopped."""
        delay = _FIRST_RETRY_SECONDS
        while not self._stopping.is_set():
            gc.collect()
            if self._model.device.type == "cuda":
                torch.cuda.empty_cache()
            try:
                self._start_manager()
                return
            except Exception:
                _log.exception("the decoding engine could not be started again; the next attempt is in %g s", delay)
                self._broken = True
                self._router.fail_all(UnavailableError("the decoding engine is not running"))
            self._stopping.wait(delay)
            delay = min(2 * delay, _LONGEST_RETRY_SECONDS)


class _Once:
    """Calls a function at most once. Belongs to one event loop."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._done = False

    def __call__(self) -> None:
        if not self._done:
            self._done = True
            self._call()
