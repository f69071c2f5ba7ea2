"""The engine that decodes with vLLM, whose engine core runs in processes beside the replica."""

import asyncio
import gc
import itertools
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

import torch
from visionsplit.errors import InternalError, VisionSplitError
from visionsplit.families.checkpoint import Checkpoint, CheckpointError
from vllm import AsyncEngineArgs, SamplingParams
from vllm.outputs import RequestOutput
from vllm.v1.engine.exceptions import EngineDeadError

from llm_service.config import EngineConfig
from llm_service.engines.admission import Admission, Place
from llm_service.engines.base import EngineRequest, MainEngine, check_fits
from llm_service.engines.supervisor import STEP_FAILED, Supervisor
from llm_service.engines.token_buffer import TokenBuffer, post, read_ahead
from llm_service.engines.vllm.arguments import engine_arguments
from llm_service.engines.vllm.core import RunningCore, start_core
from llm_service.engines.vllm.prompt import PromptMaker, VllmPrompt, num_image_rows
from llm_service.engines.vllm.sampling import sampling_params
from llm_service.job import EngineUse, TokenEvent

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class PromptPlace(Place):
    """What a request holds that is admitted."""

    rows: int = 0  # of embeddings
    prompt: VllmPrompt | None = None


class PromptAdmission(Admission[PromptPlace]):
    """Bounds the embeddings that admitted requests hold, since vLLM keeps them as long as a request runs."""

    def __init__(self, config: EngineConfig, maker: PromptMaker) -> None:
        super().__init__(config)
        self._maker = maker
        self._rows = config.slab_tokens
        self.rows_in_use = 0

    def _new_place(self, request: EngineRequest) -> PromptPlace:
        return PromptPlace(caller=request.caller)

    async def _fill(self, request: EngineRequest, place: PromptPlace) -> None:
        rows = num_image_rows(request)
        await self._when_free(lambda: True if self.rows_in_use + rows <= self._rows else None)
        self.rows_in_use += rows
        place.rows = rows
        place.prompt = await asyncio.to_thread(self._maker.make, request)

    def _empty(self, place: PromptPlace) -> None:
        self.rows_in_use -= place.rows
        place.rows, place.prompt = 0, None


class VllmEngine(MainEngine):
    """Passes requests to vLLM, and starts its engine core again when one of its processes has died."""

    name = "vllm"

    def __init__(
        self,
        checkpoint: Checkpoint,
        config: EngineConfig,
        *,
        device: torch.device,
        dtype: torch.dtype,
        end_ids: tuple[int, ...],
    ) -> None:
        """Nothing is loaded before `start`.

        Raises:
            CheckpointError: the image token is not in the language model's vocabulary.
            ConfigError: vLLM has no such argument, or refuses its value.
        """
        text, image_token_id = checkpoint.config.text_config, checkpoint.settings.image_token_id
        if not 0 <= image_token_id < text.vocab_size:
            raise CheckpointError(
                f"checkpoint {checkpoint.name!r} has image token {image_token_id} and {text.vocab_size} tokens; "
                "vLLM needs the image token to be one of them"
            )
        self._slab_tokens = config.slab_tokens
        self._end_ids = end_ids
        maker = PromptMaker(
            image_token_id=image_token_id, vocabulary_size=text.vocab_size, width=text.hidden_size, dtype=dtype
        )
        self._admission = PromptAdmission(config, maker)
        arguments = engine_arguments(checkpoint, config, device=device, dtype=dtype)
        self._supervisor = Supervisor(
            partial(self._start_core, arguments), on_end=self._end_requests, free_memory=gc.collect
        )
        self._context = 0
        self._numbers = itertools.count()
        self._calls: dict[asyncio.Task[None], TokenBuffer] = {}  # changed on the event loop only
        self._loop: asyncio.AbstractEventLoop | None = None  # the one that the first request came from

    def start(self) -> None:
        self._supervisor.start()

    def stop(self) -> None:
        self._supervisor.stop()

    @property
    def healthy(self) -> bool:
        return self._supervisor.healthy

    @property
    def context_length(self) -> int:
        return self._context

    @property
    def use(self) -> EngineUse:
        """Rows of embeddings that requests hold, and the share of the KV cache that running requests have taken."""
        running = self._supervisor.running
        kv = 0.0 if running is None else running.statistics.kv_used_ratio
        return EngineUse(self._admission.rows_in_use, self._slab_tokens, kv)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[TokenEvent, None]:
        arrived = time.perf_counter()
        rows = num_image_rows(request)
        check_fits(request, context=self._context, image_rows=rows, max_image_rows=self._slab_tokens)
        params = sampling_params(request.sampling, end_ids=self._end_ids)
        place = await self._admission.admit(request)
        try:
            decode = partial(self._decode, request, params, place, arrived)
            async with aclosing(read_ahead(decode, request.pause_seconds)) as events:
                async for event in events:
                    yield event
        finally:
            self._admission.release(place)  # again: a task that is cancelled before its first step returns nothing

    async def _decode(
        self, request: EngineRequest, params: SamplingParams, place: PromptPlace, arrived: float, buffer: TokenBuffer
    ) -> None:
        """Fill the buffer with the answer or the error that ends it, and return the place."""
        task = asyncio.current_task()
        assert task is not None
        try:
            running = await self._supervisor.get()
            self._loop = asyncio.get_running_loop()
            self._calls[task] = buffer
            await self._submit(running, request, params, place, arrived, buffer)
        except VisionSplitError as error:
            buffer.put(error)
        except EngineDeadError:
            buffer.put(self._supervisor.error())
        except Exception:
            _log.exception("request %s failed", request.request_id)
            buffer.put(InternalError(STEP_FAILED))
        finally:
            self._calls.pop(task, None)
            self._admission.release(place)

    async def _submit(
        self,
        running: RunningCore,
        request: EngineRequest,
        params: SamplingParams,
        place: PromptPlace,
        arrived: float,
        buffer: TokenBuffer,
    ) -> None:
        assert place.prompt is not None, "an admitted request has a prompt"
        # Made unique, since a caller may use a request id twice.
        request_id = f"{request.request_id}#{next(self._numbers)}"
        waited = time.perf_counter() - arrived
        async with aclosing(running.llm.generate(place.prompt, params, request_id)) as outputs:
            async for output in outputs:
                buffer.put(_event(output, waited))

    def _start_core(self, arguments: AsyncEngineArgs) -> RunningCore:
        running = start_core(arguments)
        self._context = running.llm.model_config.max_model_len
        return running

    def _end_requests(self, ended: RunningCore | None, error: VisionSplitError) -> None:
        """End what an ended core was asked for: it may have no reader left that would say so."""
        if self._loop is not None:
            post(self._loop, partial(self._fail_all, error))

    def _fail_all(self, error: VisionSplitError) -> None:
        for task, buffer in list(self._calls.items()):
            buffer.put(error)
            task.cancel()


def _event(output: RequestOutput, waited: float) -> TokenEvent:
    """An output's new tokens; `waited` is the time in seconds before vLLM received the request."""
    metrics = output.metrics
    queued = 0.0 if metrics is None else max(metrics.scheduled_ts - metrics.queued_ts, 0.0)
    return TokenEvent(tuple(output.outputs[0].token_ids), output.finished, waited + queued)
