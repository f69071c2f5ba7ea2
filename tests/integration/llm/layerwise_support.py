"""Replicas of deeper random checkpoints, called directly, and the library's output for the same prompts."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from visionsplit.options.prefill import Pruning
from visionsplit.options.sampling import ResolvedSampling
from visionsplit.wire.vision_tokens import VisionTokens

from llm_service.config import EngineConfig, ReplicaConfig
from llm_service.engines.layerwise.engine import LayerwiseEngine
from llm_service.job import Job, TokenEvent
from llm_service.pruning import compose
from llm_service.replica.replica import Replica
from tests.checkpoints import tiny_checkpoint
from tests.integration.llm.support import Whole

ASK = "USER: <image>\nWhat do you see? ASSISTANT:"
LAYERS = 6
FASTV = Pruning("fastv", 0.25)


def deep_checkpoint(folder: Path, text: str) -> Whole:
    """A random checkpoint with layers enough for three stages."""
    return Whole(tiny_checkpoint(folder / text, text, language={"num_hidden_layers": LAYERS}, seed=5))


@contextmanager
def replica_of(whole: Whole, **engine) -> Iterator[Replica]:
    replica = Replica(ReplicaConfig(str(whole.path), device="cpu", engine=EngineConfig(**engine)))
    try:
        yield replica
    finally:
        replica.stop()


def job(
    whole: Whole,
    images: list[VisionTokens],
    prompt: str = ASK,
    *,
    sampling: dict | None = None,
    pruning: Pruning | None = None,
    **fields,
) -> Job:
    """A job as the gateway makes it: with the pruning composed for the checkpoint."""
    ids = tuple(whole.processor.tokenizer(prompt).input_ids)
    options = ResolvedSampling(**{"max_new_tokens": 16, **(sampling or {})})
    quotas = any(image.quotas is not None for image in images)
    composed = None if pruning is None else compose(pruning, LAYERS, quotas=quotas)
    return Job("test", ids, tuple(images), fields.pop("layout", "spatial"), options, pruning=composed, **fields)


async def events(replica: Replica, asked: Job) -> list[TokenEvent]:
    async with asyncio.timeout(60):
        return [event async for event in replica.generate(asked)]


async def answer(replica: Replica, asked: Job) -> list[int]:
    return [token for event in await events(replica, asked) for token in event.token_ids]


def layerwise(replica: Replica) -> LayerwiseEngine:
    assert isinstance(replica._layerwise, LayerwiseEngine)
    return replica._layerwise


def whole_embeddings(whole: Whole, image, prompt: str = ASK) -> tuple[torch.Tensor, torch.Tensor]:
    """What the library's whole model gives its language model, [N, Dl], and which of it is of the image, [N] bool."""
    captured = {}

    def capture(_module, _args, kwargs):
        captured["embeddings"] = kwargs["inputs_embeds"][0]

    handle = whole.model.model.language_model.register_forward_pre_hook(capture, with_kwargs=True)
    inputs = whole.processor(text=prompt, images=image, return_tensors="pt")
    with torch.no_grad():
        whole.model(**inputs)
    handle.remove()
    return captured["embeddings"], inputs["input_ids"][0] == whole.model.config.image_token_id


@torch.no_grad()
def plain_decoding(whole: Whole, embeddings: torch.Tensor, positions: torch.Tensor, count: int) -> list[int]:
    """Greedy decoding that computes everything again for every token."""
    half, tokens = whole.model.model.language_model, []
    for _ in range(count):
        # Without a mask the library takes a gap between places for the border of two prompts.
        mask = torch.ones(1, len(positions), dtype=torch.long)
        hidden = half(inputs_embeds=embeddings[None], position_ids=positions[None], attention_mask=mask)
        hidden = hidden.last_hidden_state
        tokens.append(int(whole.model.lm_head(hidden[0, -1]).argmax()))
        embeddings = torch.cat([embeddings, half.embed_tokens(torch.tensor(tokens[-1:]))])
        positions = torch.cat([positions, positions[-1:] + 1])
    return tokens
