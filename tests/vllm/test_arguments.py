"""The service's settings and the operator's options as vLLM's arguments and parameters. Nothing is started."""

from pathlib import Path

import pytest
import torch
from visionsplit.command_line.settings import ConfigError
from visionsplit.errors import InvalidSamplingError
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.options.sampling import ResolvedSampling

from llm_service.config import EngineConfig, EngineKind
from llm_service.engines.vllm.arguments import engine_arguments
from llm_service.engines.vllm.core import start_core
from llm_service.engines.vllm.sampling import sampling_params
from tests.integration.llm.support import Whole

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def arguments(whole: Whole, device: torch.device = CPU, *, dtype: torch.dtype = torch.float32, **engine):
    config = EngineConfig(kind=EngineKind.VLLM, **engine)
    return engine_arguments(Checkpoint(str(whole.path)), config, device=device, dtype=dtype)


def test_settings_become_arguments(llama: Whole):
    made = arguments(llama, kv_tokens=1000, max_running=7, max_batch_tokens=96)
    assert (made.max_num_seqs, made.max_num_batched_tokens, made.dtype) == (7, 96, "float32")
    assert (made.block_size, made.num_gpu_blocks_override) == (32, 33)  # 1000 tokens and vLLM's own page
    layer = 2 * 1 * 32 * 4  # keys and values of one head of 32 in float32
    assert made.kv_cache_memory_bytes == 33 * 32 * 2 * layer


def test_on_a_gpu_vllm_sizes_its_cache_unless_told(llama: Whole):
    made = arguments(llama, GPU, dtype=torch.bfloat16, memory_fraction=0.6)
    assert (made.gpu_memory_utilization, made.kv_cache_memory_bytes, made.block_size) == (0.6, None, None)
    assert arguments(llama, GPU, page_size=64).block_size == 64
    assert arguments(llama, GPU, kv_tokens=160).num_gpu_blocks_override == 11


def test_options_override_what_follows_from_settings(llama: Whole):
    options = {"tensor_parallel_size": 2, "max_model_len": 512, "gpu_memory_utilization": 0.3}
    made = arguments(llama, GPU, vllm_options=options)
    assert {name: getattr(made, name) for name in options} == options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tensor_paralel_size": 2}, "no argument 'tensor_paralel_size'; did you mean tensor_parallel_size?"),
        ({"dtype": "float16"}, "sets vLLM's argument 'dtype' itself; --dtype says it"),
        ({"load_format": "auto"}, "sets vLLM's argument 'load_format' itself and cannot be changed"),
    ],
)
def test_options_that_are_refused(llama: Whole, options: dict, says: str):
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        arguments(llama, vllm_options=options)


def test_a_value_that_vllm_refuses_is_a_wrong_setting(llama: Whole):
    with pytest.raises(ConfigError, match=r"vLLM refuses its arguments: .*block_size"):
        start_core(arguments(llama, vllm_options={"block_size": -3}))


def test_sampling():
    made = sampling_params(
        ResolvedSampling(9, temperature=0.7, top_p=0.9, top_k=5, seed=2**64 - 1, repetition_penalty=1.2), end_ids=(3, 7)
    )
    assert (made.max_tokens, made.temperature, made.top_p, made.top_k) == (9, 0.7, 0.9, 5)
    assert (made.seed, made.repetition_penalty, made.stop_token_ids) == (2**64 - 1, 1.2, [3, 7])
    assert (made.ignore_eos, made.detokenize) == (True, False)
    greedy = sampling_params(ResolvedSampling(1, temperature=1e-30, seed=5, top_k=2**32 - 1), end_ids=())
    assert (greedy.temperature, greedy.seed) == (0.0, None)
    assert sampling_params(ResolvedSampling(1, temperature=5.0, top_k=1), end_ids=()).temperature == 0.0
    with pytest.raises(InvalidSamplingError, match="temperature 5 is more than 2"):
        sampling_params(ResolvedSampling(1, temperature=5.0), end_ids=())


def test_the_image_token_must_be_in_the_vocabulary(tmp_path: Path):
    from visionsplit.families.checkpoint import CheckpointError

    from llm_service.engines.vllm.engine import VllmEngine
    from tests.checkpoints import tiny_checkpoint

    checkpoint = Checkpoint(str(tiny_checkpoint(tmp_path, model={"image_token_index": 4000})))
    with pytest.raises(CheckpointError, match="image token 4000"):
        VllmEngine(checkpoint, EngineConfig(kind=EngineKind.VLLM), device=CPU, dtype=torch.float32, end_ids=())
