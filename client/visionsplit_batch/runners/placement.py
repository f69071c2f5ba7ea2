"""What runs on which device of a Ray cluster, and what comes out of it."""

from dataclasses import replace
from typing import cast

import torch
import visionsplit
from visionsplit.model.checkpoint import Checkpoint
from visionsplit.model.dtypes import DATA_TYPES_OF, DTYPES
from visionsplit_client import DataTypeName, IncompatibleServicesError

from encoder_service.config import EncoderConfig
from llm_service.config import LlmConfig
from visionsplit_batch.runners.base import RunnerIdentity, Work
from visionsplit_batch.runners.hosts import compression_of
from visionsplit_batch.runners.pools import Pools

# Of a step on a CPU. No reader waits for the next token here, so steps may be long, and most prompts go in whole.
_STEP_TOKENS = 2048


def placed_encoder(config: EncoderConfig, pools: Pools) -> EncoderConfig:
    """Its device is what Ray gives its process."""
    return replace(config, device=config.device or ("cuda" if pools.encoder_gpus else "cpu"))


def placed_llm(config: LlmConfig, pools: Pools) -> LlmConfig:
    device, engine = config.device or ("cuda" if pools.llm_gpus else "cpu"), config.engine
    engine = replace(engine, caller_share=1.0)  # the job is the only caller
    if device == "cpu" and engine.max_batch_tokens is None:
        engine = replace(engine, max_batch_tokens=_STEP_TOKENS)
    if device != "cpu" and pools.llm_gpus:  # the others on this GPU need memory too
        engine = replace(engine, memory_fraction=engine.memory_fraction * min(pools.llm_gpus, 1.0))
    return replace(config, device=device, engine=engine)


def identify_checkpoints(work: Work, encoder: EncoderConfig | None, llm: LlmConfig | None) -> RunnerIdentity:
    """What the pools will run, read from the checkpoints here.

    Raises:
        CheckpointError: a checkpoint cannot be read.
        IncompatibleServicesError: the language model expects other tokens.
    """
    versions = {"visionsplit": visionsplit.__version__}  # the services come with this very package
    language = None if llm is None else Checkpoint(llm.model, revision=llm.revision)
    if encoder is None:
        assert language is not None, "the work needs one of the two"
        return RunnerIdentity(None, language.encoder_fingerprint(), None, None, language.name, versions)
    vision = Checkpoint(encoder.model, revision=encoder.revision)
    fingerprint = vision.encoder_fingerprint()
    other = llm is not None and (llm.model, llm.revision) != (encoder.model, encoder.revision)
    if other and language is not None and language.encoder_fingerprint() != fingerprint:
        raise IncompatibleServicesError(
            "the language model expects the tokens of another vision tower or image processor"
        )
    dtype = DTYPES[encoder.dtype] if encoder.dtype else vision.dtype_on(torch.device(encoder.device or "cpu"))
    data_type = (encoder.data_type or DATA_TYPES_OF[dtype]).value
    return RunnerIdentity(
        vision.name,
        fingerprint,
        compression_of(encoder, work),
        work.data_type or cast("DataTypeName", data_type),
        None if language is None else language.name,
        versions,
    )
