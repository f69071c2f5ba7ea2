"""The transformers library's internals that the engine relies on: fails if a new version works differently."""

import inspect
import threading

import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.generation.continuous_batching import continuous_api
from transformers.generation.continuous_batching.utils import drain_queue

from llm_service.config import EngineConfig
from llm_service.engines.continuous.attention import LIBRARY_ATTENTION
from llm_service.engines.continuous.delivery import CancelQueue, SinkRouter
from llm_service.engines.continuous.manager import RunningManager, start_manager
from llm_service.engines.continuous.sampler import Sampler


@pytest.fixture
def model() -> PreTrainedModel:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=20, **sizes)).eval()


@pytest.fixture
def running(model: PreTrainedModel):
    config = EngineConfig(kv_tokens=64).for_device(torch.device("cpu"))
    sampler = Sampler(vocabulary_size=20, slots=2, device=torch.device("cpu"))
    running = start_manager(model, config, end_ids=(), router=SinkRouter(), sampler=sampler)
    yield running
    running.stop()


def test_the_parts_that_are_replaced_are_those_in_use(running: RunningManager):
    """`init_continuous_batching` makes them, the batch processor takes them over only when it is made."""
    manager, processor = running.manager, running.manager.batch_processor
    assert processor.cancel_queue is manager.cancel_queue is running.cancellations
    assert processor.output_router is manager.output_router
    assert processor.logit_processor is manager.logit_processor
    assert isinstance(manager.logit_processor, Sampler)
    assert manager.is_running()


def test_the_names_that_are_read(running: RunningManager):
    manager = running.manager
    assert running.thread is manager._generation_thread
    assert running.thread.is_alive()
    assert manager.background_thread_status.fatal_error is None
    assert callable(manager.batch_processor.cache.evict_cached_blocks)
    assert isinstance(manager.continuous_batching_config.cuda_graph_booleans, tuple | list)
    assert 0 < running.capacity <= 64


def test_a_manager_is_not_kept_by_its_model(running: RunningManager, model: PreTrainedModel):
    """A second call must make a new one: the first has failed."""
    model.set_attn_implementation(LIBRARY_ATTENTION)
    other = model.init_continuous_batching(GenerationConfig(do_sample=False, eos_token_id=-1))
    assert other is not running.manager


def test_a_drain_asks_once_whether_the_queue_is_empty_after_all_it_took():
    """Rounds are counted there: `empty` is true exactly once a drain, at its end."""
    queue = CancelQueue()
    for taken in (["a", "b"], [], ["c"]):
        for request in taken:
            queue.put(request)
        before = queue._rounds
        assert drain_queue(queue) == taken
        assert queue._rounds == before + 1


def test_a_step_drains_the_cancellations_first():
    source = inspect.getsource(continuous_api.ContinuousBatchProcessor.prepare_next_batch)
    assert source.index("_update_tp_group_state") < source.index("clear_cancelled_requests")
    assert "drain_queue(self.cancel_queue)" in inspect.getsource(
        continuous_api.ContinuousBatchProcessor._update_tp_group_state
    )


def test_places_come_free_in_an_idle_engine_within_three_drains(running: RunningManager):
    freed = threading.Event()
    running.cancellations.after_steps(freed.set)
    before = running.cancellations._rounds
    running.cancellations.wake()
    assert freed.wait(10)
    assert running.cancellations._rounds - before >= CancelQueue._ROUNDS
