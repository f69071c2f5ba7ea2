"""Starts the transformers library's continuous batching manager with three of its parts replaced.

The manager owns a thread that schedules, runs and samples. Before it starts, `Sampler` replaces the logits processors,
`SinkRouter` the output router and `CancelQueue` the queue of cancellations. The tests of this module pin the library's
internals that this relies on.
"""

import threading
from dataclasses import dataclass
from functools import partial

from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
from transformers.generation.continuous_batching.model_runner import infer_max_single_request_tokens

from llm_service.config import EngineConfig
from llm_service.engines.continuous.attention import BY_REQUEST_ATTENTION, LIBRARY_ATTENTION
from llm_service.engines.continuous.delivery import CancelQueue, SinkRouter
from llm_service.engines.continuous.sampler import Sampler


@dataclass(frozen=True)
class RunningManager:
    """A manager whose thread is running."""

    manager: ContinuousBatchingManager
    thread: threading.Thread  # kept here, because the manager drops its reference when it stops
    cancellations: CancelQueue
    capacity: int  # the most tokens, prompt and answer, of one request that the cache can hold

    @property
    def alive(self) -> bool:
        return self.thread.is_alive()

    def wait(self) -> object:
        """Block until the thread has ended; return the error that ended it."""
        self.thread.join()
        return self.manager.background_thread_status.fatal_error

    def stop(self) -> None:
        """End all requests. Blocks until the thread has ended."""
        self.manager.stop(block=True, hard_stop=True)


def start_manager(
    model: PreTrainedModel, config: EngineConfig, *, end_ids: tuple[int, ...], router: SinkRouter, sampler: Sampler
) -> RunningManager:
    """Allocate the cache and begin to serve."""
    on_cpu = model.device.type == "cpu"
    if on_cpu:
        model.set_attn_implementation(LIBRARY_ATTENTION)
    manager = model.init_continuous_batching(
        GenerationConfig(do_sample=False, eos_token_id=list(end_ids) or -1),
        ContinuousBatchingConfig(
            page_size=config.page_size,
            num_blocks=config.num_blocks,
            max_batch_tokens=config.max_batch_tokens,
            max_requests_per_batch=config.max_running,
            max_memory_percent=config.memory_fraction,  # despite its name, the library expects a fraction
            auto_switch_to_flash=model.device.type == "cuda",
        ),
    )
    cancellations = CancelQueue()
    # Cancelling a request that does not exist wakes the manager's loop.
    cancellations.wake = partial(manager.cancel_request, "")
    manager.cancel_queue = cancellations
    manager.output_router = router
    manager.logit_processor = sampler
    sampler.always_process = any(manager.continuous_batching_config.cuda_graph_booleans)
    manager.warmup()
    if on_cpu:
        model.set_attn_implementation(BY_REQUEST_ATTENTION)
    capacity = infer_max_single_request_tokens(manager.batch_processor.cache)
    manager.start()
    return RunningManager(manager, manager._generation_thread, cancellations, capacity)
