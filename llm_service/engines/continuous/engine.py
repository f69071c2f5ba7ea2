"""The transformers library's continuous batching, with images passed to it as virtual token ids."""

import asyncio
import gc
import itertools
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial

import torch
from transformers import PreTrainedModel
from visionsplit.errors import UnavailableError, VisionSplitError

from llm_service.config import EngineConfig
from llm_service.engines.base import EngineRequest, MainEngine, check_fits
from llm_service.engines.continuous.delivery import SinkRouter
from llm_service.engines.continuous.manager import RunningManager, start_manager
from llm_service.engines.continuous.request_slots import SlotAdmission, SlotPlace
from llm_service.engines.continuous.sampler import SAMPLING_KEY, Sampler
from llm_service.engines.continuous.slab import SlabAllocator, VirtualEmbedding
from llm_service.engines.supervisor import Supervisor
from llm_service.engines.token_buffer import post
from llm_service.job import EngineUse, TokenEvent


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
        self._admission = SlotAdmission(
            config,
            embedding=embedding,
            slab=self._slab,
            sampler=self._sampler,
            image_token_id=image_token_id,
            forget_ids=self._forget_cached_blocks,
        )
        self._router = SinkRouter()
        self._supervisor = Supervisor(self._start_manager, on_end=self._end_requests, free_memory=self._free_memory)
        self._capacity = 0
        self._numbers = itertools.count()

    def start(self) -> None:
        self._supervisor.start()

    def stop(self) -> None:
        self._supervisor.stop()

    @property
    def healthy(self) -> bool:
        return self._supervisor.healthy

    @property
    def context_length(self) -> int:
        return min(self._context, self._capacity)

    @property
    def use(self) -> EngineUse:
        running = self._supervisor.running
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
            running = await self._supervisor.get()
            sink = self._router.open(request_id, arrived=arrived, on_end=release)
            self._submit(running, request_id, request, place)
            async for event in sink.events.events(request.pause_seconds):
                yield event
        finally:
            # True if no final event has come: the request may be running in the present manager.
            if self._router.close(request_id) and (current := self._supervisor.running) is not None:
                current.manager.cancel_request(request_id)
            release()

    def _submit(self, running: RunningManager, request_id: str, request: EngineRequest, place: SlotPlace) -> None:
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
        rows = sum({image.key: image.num_tokens for image in request.images}.values())  # equal images share rows
        check_fits(request, context=self.context_length, image_rows=rows, max_image_rows=self._slab.rows)

    def _release_after_steps(self, place: SlotPlace) -> None:
        """Release the place when no step can read its rows any more."""
        release = partial(post, asyncio.get_running_loop(), partial(self._admission.release, place))
        running = self._supervisor.running
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
        running = self._supervisor.running
        if running is None or running.manager.batch_processor is None:
            return  # a new manager has an empty cache
        with running.manager.pause():
            running.manager.batch_processor.cache.evict_cached_blocks()

    def _start_manager(self) -> RunningManager:
        running = start_manager(
            self._model, self._config, end_ids=self._end_ids, router=self._router, sampler=self._sampler
        )
        self._capacity = running.capacity
        return running

    def _end_requests(self, ended: RunningManager | None, error: VisionSplitError) -> None:
        self._router.fail_all(error)
        if ended is not None:
            ended.cancellations.release_all()

    def _free_memory(self) -> None:
        gc.collect()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()


class _Once:
    """Calls a function at most once. Belongs to one event loop."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._done = False

    def __call__(self) -> None:
        if not self._done:
            self._done = True
            self._call()
