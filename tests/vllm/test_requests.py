"""Requests to a service with vLLM: what it refuses so that vLLM lives, prefixes found again, and what it cannot do."""

import asyncio
from dataclasses import replace

import grpc
import numpy as np
import pytest
from visionsplit.errors import InvalidPromptError, InvalidTokensError
from visionsplit.options.sampling import ResolvedSampling
from visionsplit.v1 import generation_pb2, llm_service_pb2

from llm_service.job import Job
from tests.integration.llm.engines import engine_of, holds_nothing, settles
from tests.integration.llm.support import Answer, Services, Whole, picture, together

pytestmark = pytest.mark.asyncio(loop_scope="session")
ASK = "USER: <image>\n{} ASSISTANT:"


async def test_the_service_says_what_decodes_and_that_it_cannot_prune(services: Services, llama: Whole):
    _, caller = await services.get(llama)
    info = await caller.stub.GetLlmInfo(llm_service_pb2.GetLlmInfoRequest())
    assert (info.engine, info.device, list(info.pruning_methods)) == ("vllm", "cpu", [])


@pytest.mark.parametrize("what", ["pruning", "position_ids"])
async def test_what_needs_the_layers_one_by_one_is_refused_at_its_header(services: Services, llama: Whole, what: str):
    _, caller = await services.get(llama)
    header = caller.header(ASK.format("What?"), [llama.tokens(picture(112, 90))], max_new_tokens=4)
    if what == "pruning":
        header.header.prefill.pruning.CopyFrom(
            generation_pb2.Pruning(method="fastv", retention_ratio=0.5, parameters={"layer": 1})
        )
    else:
        header.header.prefill.position_ids = generation_pb2.POSITION_IDS_ORIGINAL
    call = caller.stub.Generate()  # its stream of tokens stays open
    await call.write(header)
    with pytest.raises(grpc.aio.AioRpcError, match="need a service that was started with --engine transformers"):
        await call.read()


async def test_a_second_question_about_an_image_finds_the_first_ones_keys(services: Services, llama: Whole):
    server, caller = await services.get(llama)
    tokens = llama.tokens(picture(224, 224, 30))
    statistics = engine_of(server)._supervisor.running.statistics
    first = await caller.generate(ASK.format("What is this?"), [tokens], max_new_tokens=8)
    looked_up, found = statistics.prefix_tokens, statistics.prefix_tokens_found
    second = await caller.generate(ASK.format("How many are there?"), [tokens], max_new_tokens=8)
    prompt = second.summary.usage.prompt_tokens
    assert statistics.prefix_tokens - looked_up == prompt
    image = second.summary.usage.vision_tokens + second.summary.usage.newline_tokens
    # Whole pages of 32 tokens are found; what is left is the question and the image's last, unfilled page.
    assert statistics.prefix_tokens_found - found >= image - 32 > 32
    assert first.token_ids == llama.generate(ASK.format("What is this?"), [picture(224, 224, 30)], max_new_tokens=8)
    expected = llama.generate(ASK.format("How many are there?"), [picture(224, 224, 30)], max_new_tokens=8)
    assert second.token_ids == expected
    # One number differs: nothing of that image is found.
    features = np.frombuffer(tokens.features.data, "<f4").copy()
    features[0] += 1
    other = replace(tokens, features=replace(tokens.features, data=features.tobytes()))
    found = statistics.prefix_tokens_found
    await caller.generate(ASK.format("What is this?"), [other], max_new_tokens=8)
    assert statistics.prefix_tokens_found - found < 32


async def events_of(server, job: Job) -> list[int]:
    return [token async for event in server._backend.generate(job) for token in event.token_ids]


async def test_what_would_end_the_engine_core_is_refused_and_others_go_on(services: Services, llama: Whole):
    server, caller = await services.get(llama)
    options = ResolvedSampling(max_new_tokens=4)
    tokens = llama.tokens(picture(112, 90))
    features = np.frombuffer(tokens.features.data, "<f4").copy()
    features[5] = np.nan
    wrong = replace(tokens, features=replace(tokens.features, data=features.tobytes()))
    other = asyncio.create_task(caller.generate("Hi", max_new_tokens=200))
    vocabulary = llama.model.config.text_config.vocab_size
    for ids in ((2, vocabulary), (2, 2**31 - 1), (2, -1), ()):
        with pytest.raises(InvalidPromptError, match=f"the model has {vocabulary}"):
            await events_of(server, Job("wrong", ids, (), "spatial", options))
    with pytest.raises(InvalidTokensError, match="not finite"):
        await events_of(server, Job("wrong", (2, 4, 300), (wrong,), "spatial", options))
    assert len((await other).token_ids) == 200
    await settles(lambda: holds_nothing(server))


async def test_samples_follow_their_temperature(services: Services, llama: Whole):
    """A low temperature gives nearly the greedy answer, a high one many others; vLLM takes none above 2."""
    _, caller = await services.get(llama)
    greedy = (await caller.generate("Tell me", max_new_tokens=1)).token_ids

    async def samples(temperature: float) -> list[Answer]:
        options = {"max_new_tokens": 1, "temperature": temperature}
        return await together(*(caller.generate("Tell me", seed=seed, **options) for seed in range(20)))

    cold, hot = await samples(0.02), await samples(2.0)
    assert sum(answer.token_ids == greedy for answer in cold) >= 18
    assert len({tuple(answer.token_ids) for answer in hot}) >= 5
    status, details, name = await caller.status_of(caller.upload("Tell me", max_new_tokens=1, temperature=2.5))
    assert (status, name) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidSamplingError")
    assert "2.5" in details
