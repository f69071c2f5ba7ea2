"""Starts the transformers library's manager of continuous batching with three of its parts replaced.

The manager owns a thread that schedules, runs and samples. Replaced before it starts: the logits processors by
`Sampler`, the output router by `SinkRouter` and the queue of cancellations by `CancelQueue`. What this relies on of the
library's inside is pinned by the tests of this module.
"""

import threading
from dataclasses import dataclass
from functools import partial

from transformers import ContinuousBatchingConfig, GenerationConfig, PreTrainedModel
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
from transformers.generation.continuous_batching.model_runner import infer_max_single_request_tokens

from llm_service.config import EngineConfig
from llm_service.engines.continuous.attention import BY_REQUEST, LIBRARYS
from llm_service.engines.continuous.delivery import CancelQueue, SinkRouter
from llm_service.engines.continuous.sampler import Sampler


@dataclass(frozen=True)
class RunningManager:
    """A manager that serves."""

    manager: ContinuousBatchingManager
    thread: threading.Thread  # the manager's own; it forgets it when it stops
    cancellations: CancelQueue
    capacity: int  # tokens of one request, prompt and answer, that the cache can hold

    def stop(self) -> None:
        """End what runs. Blocks until the thread has ended."""
        self.manager.stop(block=True, hard_stop=True)


def start_manager(
    model: PreTrainedModel, config: EngineConfig, *, end_ids: tuple[int, ...], router: SinkRouter, sampler: Sampler
) -> RunningManager:
    """Take memory for the cache and begin to serve."""
    on_cpu = model.device.type == "cpu"
    if on_cpu:
        model.set_attn_implementation(LIBRARYS)
    manager = model.init_continuous_batching(
        GenerationConfig(do_sample=False, eos_token_id=list(end_ids) or -1),
        ContinuousBatchingConfig(
            page_size=config.page_size,
            num_blocks=config.num_blocks,
            max_batch_tokens=config.max_batch_tokens,
            max_requests_per_batch=config.max_running,
            max_memory_percent=config.memory_fraction,  # the library's name for a fraction
            auto_switch_to_flash=model.device.type == "cuda",
        ),
    )
    cancellations = CancelQueue()
    # A cancellation, of no request, wakes the manager's loop up.
    cancellations.wake = partial(manager.cancel_request, "")
    manager.cancel_queue = cancellations
    manager.output_router = router
    manager.logit_processor = sampler
    sampler.always_process = any(manager.continuous_batching_config.cuda_graph_booleans)
    manager.warmup()
    if on_cpu:
        model.set_attn_implementation(BY_REQUEST)
    capacity = infer_max_single_request_tokens(manager.batch_processor.cache)
    manager.start()
    return RunningManager(manager, manager._generation_thread, cancellations, capacity)
