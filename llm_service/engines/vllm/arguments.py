"""Arguments of vLLM's engine: what follows from this service's settings, and what the operator adds."""

import dataclasses
import math
from difflib import get_close_matches
from functools import partial
from typing import Any

import torch
from transformers import PretrainedConfig
from visionsplit.command_line.settings import ConfigError
from visionsplit.families.checkpoint import Checkpoint
from vllm import AsyncEngineArgs

from llm_service.config import EngineConfig
from llm_service.engines.vllm.weights import LOAD_FORMAT, text_config

# Tokens in a page of the KV cache. Fewer find more of a prefix again. vLLM's CPU kernels take multiples of 32.
_CPU_PAGE = 32
_GPU_PAGE = 16
# The engine depends on these, so other settings of the service decide them, or nothing can.
_FIXED = {
    "model": "--model",
    "revision": "--revision",
    "dtype": "--dtype",
    "load_format": "",
    "hf_overrides": "",
    "skip_tokenizer_init": "",
    "enable_prompt_embeds": "",
    "generation_config": "",
    "disable_log_stats": "",
    "stream_interval": "",
}


def engine_arguments(
    checkpoint: Checkpoint, config: EngineConfig, *, device: torch.device, dtype: torch.dtype
) -> AsyncEngineArgs:
    """vLLM's arguments for the language half of a checkpoint.

    Raises:
        ConfigError: an option that vLLM does not have, that belongs to another setting, or whose value vLLM refuses.
    """
    options = dict(config.vllm_options or {})
    _check_names(options)
    arguments = {
        "model": checkpoint.source,
        "revision": checkpoint.revision,
        "dtype": str(dtype).removeprefix("torch."),
        "load_format": LOAD_FORMAT,
        "hf_overrides": partial(text_config, tied=checkpoint.tied_embeddings()),
        "skip_tokenizer_init": True,
        "enable_prompt_embeds": True,
        "generation_config": "vllm",  # nothing from the checkpoint: requests say everything
        "max_model_len": -1,  # the model's, or as many as the KV cache holds
        "max_num_seqs": config.max_running,
        "max_num_batched_tokens": config.max_batch_tokens,
        "gpu_memory_utilization": config.memory_fraction,
        **_cache_size(checkpoint.config.text_config, config, device=device, dtype=dtype),
        **options,
    }
    try:
        return AsyncEngineArgs(**arguments)
    except (ValueError, TypeError) as error:  # among them pydantic's
        raise ConfigError(f"vLLM refuses its arguments: {error}") from error


def _check_names(options: dict[str, Any]) -> None:
    names = [field.name for field in dataclasses.fields(AsyncEngineArgs) if not field.name.startswith("_")]
    for name in options:
        if name not in names:
            close = get_close_matches(name, names, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"vLLM's engine has no argument {name!r}{hint}")
        if name in _FIXED:
            instead = f"; {_FIXED[name]} says it" if _FIXED[name] else " and cannot be changed"
            raise ConfigError(f"the service sets vLLM's argument {name!r} itself{instead}")


def _cache_size(
    text: PretrainedConfig, config: EngineConfig, *, device: torch.device, dtype: torch.dtype
) -> dict[str, int]:
    """The KV cache's arguments; none where vLLM is to take the GPU memory that it finds free."""
    sizes = config.for_device(device)
    if sizes.kv_tokens is None:
        return {} if config.page_size is None else {"block_size": config.page_size}
    page = config.page_size or (_CPU_PAGE if device.type == "cpu" else _GPU_PAGE)
    pages = math.ceil(sizes.kv_tokens / page) + 1  # vLLM keeps one page for itself
    heads = text.num_key_value_heads or text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    token_bytes = 2 * text.num_hidden_layers * heads * head_size * dtype.itemsize
    return {
        "block_size": page,
        "num_gpu_blocks_override": pages,
        # Without it vLLM on a CPU insists on a share of the machine's memory.
        "kv_cache_memory_bytes": pages * page * token_bytes,
    }
