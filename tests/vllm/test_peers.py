"""The comparison's contestant: vLLM's own server with the whole model answers as the transformers library does."""

import asyncio
import io
import sys
from pathlib import Path

from PIL import Image

from benchmarks.batch.loop import Loop
from benchmarks.peers import inputs
from benchmarks.peers.contestants import Settings, running
from benchmarks.peers.plan import PROPORTIONED, VLLM, Condition

NEW_TOKENS = 6


async def test_vllms_server_answers_as_the_whole_model_does(tmp_path: Path):
    settings = Settings(
        inputs.proportioned(tmp_path, tiny=True),
        NEW_TOKENS,
        ends=False,
        timeout=60,
        batch=2,
        cores=[0],
        vllm_python=Path(sys.executable),
    )
    requests = inputs.Requests(PROPORTIONED, 0).between(0, 3)
    async with running(VLLM, settings) as contestant:
        samples = await asyncio.gather(*(contestant.ask(one, Condition()) for one in requests))
    loop = Loop(str(settings.model), "", NEW_TOKENS)
    for request, sample in zip(requests, samples, strict=True):
        image = Image.open(io.BytesIO(request.image)).convert("RGB")
        prepared = loop.prepare([image], [request.prompt])
        (answer,) = loop.answers(prepared, NEW_TOKENS)
        assert sample.error is None
        assert len(sample.tokens) == len(sample.ids) == NEW_TOKENS
        assert sample.prompt_tokens == prepared["input_ids"].shape[1]
        assert list(sample.ids) == answer
