"""The transformers library's continuous batching, fed with virtual ids.

Its manager owns a thread that schedules, runs and samples. Three of its parts are replaced before it starts: the logits
processors by `Sampler`, the output router by `SinkRouter` and the queue of cancellations by `CancelQueue`.
"""

import asyncio
import gc
import logging
import threading
import time
import uuid
from collections.abc import AsyncGenerator
from functools import partial

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
from transformers.generation.continuous_batching.model_runner import infer_max_single_request_tokens
from visionsplit.errors import InternalError, PromptTooLongError, UnavailableError, VisionSplitError

from llm_service.config import EngineConfig
from llm_service.engines.admission import Admission, Place
from llm_service.engines.base import Engine, EngineRequest
from llm_service.engines.delivery import CancelQueue, Sink, SinkRouter, post
from llm_service.engines.sampler import SAMPLING_KEY, Sampler
from llm_service.engines.slab import SlabAllocator, VirtualEmbedding
from llm_service.job import TokenEvent

_log = logging.getLogger(__name__)


class ContinuousBatchingEngine(Engine):
    """Decodes on one device, restarting the manager when a step fails."""

    name = "transformers-continuous-batching"

    def __init__(
        self,
        model: PreTrainedModel,
        config: EngineConfig,
        *,
        image_token_id: int,
        end_ids: tuple[int, ...],
    ) -> None:
        """Take the model over: its input embedding is replaced."""
        self._model = model
        self._config = config.for_device(model.device)
        self._end_ids = end_ids
        self._context: int = model.config.max_position_embeddings
        embedding = VirtualEmbedding(model.get_input_embeddings(), rows=config.slab_tokens)
        model.set_input_embeddings(embedding)
        self._slab = SlabAllocator(
            first_id=embedding.vocabulary_size, rows=config.slab_tokens, max_id=config.max_virtual_id
        )
        self._sampler = Sampler(
            vocabulary_size=model.config.vocab_size, slots=2 * config.max_running, device=model.device
        )
        self._admission = Admission(
            embedding=embedding,
            slab=self._slab,
            sampler=self._sampler,
            image_token_id=image_token_id,
            # One step's worth decodes and the next one's worth is ready to take its places.
            max_running=2 * config.max_running,
            max_waiting=config.max_waiting,
            forget_ids=self._forget_cached_blocks,
        )
        self._router = SinkRouter()
        self._manager: ContinuousBatchingManager | None = None
        self._thread: threading.Thread | None = None
        self._cancellations = CancelQueue()
        self._capacity = 0
        self._state_lock = threading.Lock()
        self._stopping = False
        self._broken = False
        self._supervisor: threading.Thread | None = None

    def start(self) -> None:
        self._start_manager()
        self._supervisor = threading.Thread(target=self._supervise, name="engine-supervisor")
        self._supervisor.start()

    def stop(self) -> None:
        with self._state_lock:
            self._stopping = True
            manager = self._manager
        if manager is not None:
            manager.stop(block=True, hard_stop=True)
        if self._supervisor is not None:
            self._supervisor.join()

    @property
    def healthy(self) -> bool:
        return not (self._broken or self._stopping)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[TokenEvent, None]:
        arrived = time.perf_counter()
        self._check_size(request)
        place = await self._admission.admit(request)
        request_id = uuid.uuid4().hex
        try:
            manager = await self._running_manager()
            sink = self._router.open(request_id, arrived=arrived)
            self._submit(manager, request_id, request, place)
            async for event in _events(sink):
                yield event
        finally:
            if self._router.close(request_id) and (manager := self._manager) is not None:
                manager.cancel_request(request_id)
            self._release_after_steps(place)

    def _submit(
        self, manager: ContinuousBatchingManager, request_id: str, request: EngineRequest, place: Place
    ) -> None:
        accepted = manager.add_request(
            place.token_ids,
            request_id=request_id,
            max_new_tokens=request.sampling.max_new_tokens,
            streaming=True,
            eos_token_id=list(self._end_ids),
            **{SAMPLING_KEY: place.sampling},
        )
        if accepted is None:
            raise UnavailableError("the decoding engine is stopping")

    def _check_size(self, request: EngineRequest) -> None:
        """Refuse what can never run: a request too large for the cache would end the manager's thread."""
        prompt, new = request.num_prompt_tokens, request.sampling.max_new_tokens
        limit = min(self._context, self._capacity)
        if prompt + new > limit:
            raise PromptTooLongError(
                f"prompt of {prompt} tokens and {new} new tokens need {prompt + new}; this replica holds {limit}"
            )
        vision = sum({image.key: image.num_tokens for image in request.images}.values())
        if vision > self._slab.rows:
            raise PromptTooLongError(
                f"the images take {vision} vision tokens and newlines; this replica holds {self._slab.rows}"
            )

    async def _running_manager(self) -> ContinuousBatchingManager:
        """The manager, waiting for it while it is being replaced."""
        while self.healthy:
            if (manager := self._manager) is not None:
                return manager
            await asyncio.sleep(0.01)
        raise UnavailableError("the decoding engine is not running")

    def _release_after_steps(self, place: Place) -> None:
        """Give the place back when no step can read its rows any more."""
        release = partial(post, asyncio.get_running_loop(), partial(self._admission.release, place))
        self._cancellations.after_steps(release)
        if (manager := self._manager) is None or not manager.is_running():
            self._cancellations.release_all()
        else:
            self._cancellations.wake()

    def _forget_cached_blocks(self) -> None:
        manager = self._manager
        if manager is None or manager.batch_processor is None:
            return  # a new manager has an empty cache
        with manager.pause():
            manager.batch_processor.cache.evict_cached_blocks()

    def _start_manager(self) -> None:
        config = self._config
        manager = self._model.init_continuous_batching(
            GenerationConfig(do_sample=False, eos_token_id=list(self._end_ids) or -1),
            ContinuousBatchingConfig(
                page_size=config.page_size,
                num_blocks=config.num_blocks,
                max_batch_tokens=config.max_batch_tokens,
                max_requests_per_batch=config.max_running,
                max_memory_percent=config.max_memory_percent,
                auto_switch_to_flash=self._model.device.type == "cuda",
            ),
        )
        cancellations = CancelQueue()
        # A cancellation, of no request, wakes the manager's loop up.
        cancellations.wake = partial(manager.cancel_request, "")
        manager.cancel_queue = cancellations
        manager.output_router = self._router
        manager.logit_processor = self._sampler
        self._sampler.always_process = any(manager.continuous_batching_config.cuda_graph_booleans)
        manager.warmup()
        self._capacity = infer_max_single_request_tokens(manager.batch_processor.cache)
        manager.start()
        with self._state_lock:
            # The manager forgets its thread when it stops; the supervisor waits for it.
            self._thread = manager._generation_thread
            self._cancellations, self._manager = cancellations, manager

    def _supervise(self) -> None:
        """Waits for the manager's thread to end, and replaces it unless the engine is being stopped."""
        while (manager := self._manager) is not None and self._thread is not None:
            self._thread.join()
            with self._state_lock:
                self._manager = None
            error: VisionSplitError = (
                UnavailableError("the service is stopping")
                if self._stopping
                else InternalError("a decoding step failed; the service's log has the details")
            )
            self._router.fail_all(error)
            self._cancellations.release_all()
            if self._stopping:
                return
            self._replace(manager)

    def _replace(self, manager: ContinuousBatchingManager) -> None:
        _log.error("decoding failed (%s); starting anew", manager.background_thread_status.fatal_error)
        manager.stop(block=True)
        del manager
        gc.collect()
        if self._model.device.type == "cuda":
            torch.cuda.empty_cache()
        try:
            self._start_manager()
        except Exception:
            _log.exception("the decoding engine could not be started again")
            self._broken = True
            self._router.fail_all(UnavailableError("the decoding engine is not running"))


async def _events(sink: Sink) -> AsyncGenerator[TokenEvent, None]:
    """Everything delivered until the request ends."""
    finished = False
    while not finished:
        event = await sink.events.get()
        if isinstance(event, VisionSplitError):
            raise event
        finished = event.finished
        yield event
