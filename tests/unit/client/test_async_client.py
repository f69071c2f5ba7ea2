"""The asyncio client with scripted services."""

import asyncio
import inspect

import pytest
from visionsplit import errors
from visionsplit_client import (
    AsyncClient,
    Client,
    Compression,
    Encoded,
    Finished,
    HealthStatus,
    Pruning,
    Retries,
    TextDelta,
)

from tests.unit.client.fakes import LAYERS, WORDS, FakeEncoder, start_encoder

QUICK = Retries(attempts=4, initial_delay=0.01, max_delay=0.02)


@pytest.fixture
async def async_client(services):
    async with AsyncClient(services.encoder_address, llm=services.llm_address, timeout=20, retries=QUICK) as client:
        yield client


async def wait_until(condition) -> None:
    while not condition():  # noqa: ASYNC110 - the condition becomes true in another thread
        await asyncio.sleep(0.01)


def test_both_clients_have_the_same_calls():
    def calls(cls):
        return {
            name: list(inspect.signature(member).parameters.values())
            for name, member in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_")
        }

    assert calls(Client) == calls(AsyncClient)


async def test_many_answers_at_once(async_client, image_path):
    answers = await asyncio.gather(*(async_client.generate(image_path, "What?") for _ in range(16)))
    assert {answer.text for answer in answers} == {"".join(WORDS)}
    assert len({answer.request_id for answer in answers}) == 16


async def test_stream_and_result(async_client, image_path):
    async with async_client.stream(image_path, "What?") as stream:
        events = [event async for event in stream]
        assert await stream.result() is events[-1]
    assert [event.text for event in events if isinstance(event, TextDelta)] == list(WORDS)
    assert isinstance(events[-1], Finished)


async def test_leaving_early_cancels(async_client, services, image_path):
    services.encoder.script.endless = True
    services.encoder.script.slow_seconds = 0.01
    async with async_client.stream(image_path, "What?") as stream:
        async for event in stream:
            if isinstance(event, TextDelta):
                break
    await wait_until(lambda: services.encoder.script.cancelled == 1)
    with pytest.raises(errors.CancelledError):
        await stream.result()


async def test_cancelling_the_task_cancels_the_call(async_client, services, image_path):
    services.encoder.script.endless = True
    services.encoder.script.slow_seconds = 0.01
    task = asyncio.create_task(async_client.generate(image_path, "What?"))
    await wait_until(lambda: services.encoder.script.requests)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await wait_until(lambda: services.encoder.script.cancelled == 1)


async def test_another_task_may_close_a_stream(async_client, services, image_path):
    services.encoder.script.endless = True
    services.encoder.script.slow_seconds = 0.01
    stream = async_client.stream(image_path, "What?")
    asyncio.get_running_loop().call_later(0.1, lambda: asyncio.ensure_future(stream.aclose()))
    async for _ in stream:
        pass
    await wait_until(lambda: services.encoder.script.cancelled == 1)


async def test_unavailable_is_repeated_before_text_only(async_client, services, image_path):
    services.encoder.script.failures = [errors.UnavailableError("draining")]
    assert (await async_client.generate(image_path, "What?")).text == "".join(WORDS)
    assert len(services.encoder.script.requests) == 2
    services.encoder.script.fail_after_text = errors.UnavailableError("replica lost")
    with pytest.raises(errors.UnavailableError, match="replica lost"):
        await async_client.generate(image_path, "What?")
    assert len(services.encoder.script.requests) == 3


async def test_deadline_and_service_error(async_client, services, image_path):
    services.encoder.script.failures = [errors.InvalidImageError("truncated")]
    with pytest.raises(errors.InvalidImageError, match="truncated"):
        await async_client.generate(image_path, "What?")
    services.encoder.script.endless = True
    services.encoder.script.slow_seconds = 0.05
    with pytest.raises(errors.DeadlineError):
        await async_client.generate(image_path, "What?", timeout=0.3)


async def test_missing_file(async_client):
    with pytest.raises(FileNotFoundError):
        await async_client.generate("no-such-file.png", "What?")


async def test_encode_and_ask_about_the_tokens(async_client, services, image_path):
    async with async_client.encode_stream(image_path, Compression(retention_ratio=0.5)) as stream:
        events = [event async for event in stream]
    assert isinstance(events[-1], Encoded)
    image = await async_client.encode(image_path, Compression(retention_ratio=0.5))
    assert image.tokens.features == events[-1].image.tokens.features
    answer = await async_client.generate_from_tokens([image, image], "Same?")
    assert answer.text == "".join(WORDS)
    assert [summary.index for summary in answer.images] == [0, 1]
    assert answer.layer_tokens == ()
    assert [tokens.features for tokens in services.llm.images] == [image.tokens.features] * 2


async def test_pruning(async_client, services, image_path):
    asked = {"pruning": Pruning("fastv", 0.5), "position_ids": "original"}
    answer = await async_client.generate(image_path, "What?", **asked)
    image = await async_client.encode(image_path, Compression(retention_ratio=0.5, quotas_only=True))
    again = await async_client.generate_from_tokens(image, "What?", **asked)
    assert answer.layer_tokens == again.layer_tokens == LAYERS
    (first, _), (second,) = services.encoder.script.requests, services.llm.script.requests
    assert first.prefill == second.prefill
    assert (first.prefill.pruning.method, first.prefill.position_ids) == ("fastv", 2)
    with pytest.raises(ValueError, match="renumbered, original exist"):
        await async_client.generate(image_path, "What?", position_ids="random")


async def test_an_upload_refused_midway_says_why(async_client, services, image_path):
    """The server ends the call while tokens are still being sent, which grpc.aio reports as an error that it made."""
    image = await async_client.encode(image_path, Compression(retention_ratio=0.5))
    for _ in range(20):
        services.llm.script.failures = [errors.InvalidPromptError("no placeholder")]
        with pytest.raises(errors.InvalidPromptError, match="no placeholder"):
            await async_client.generate_from_tokens([image] * 300, "What?")


async def test_info_and_health(async_client, services):
    assert (await async_client.encoder_info()).model == "fake"
    assert (await async_client.llm_info()).backend == "local"
    assert await async_client.health() == {
        services.encoder_address: HealthStatus.SERVING,
        services.llm_address: HealthStatus.SERVING,
    }


async def test_client_recovers_when_its_service_is_restarted(image_path):
    encoder = FakeEncoder()
    server, address = start_encoder(encoder)
    async with AsyncClient(address, retries=Retries(attempts=8, initial_delay=0.1)) as client:
        assert (await client.generate(image_path, "What?")).text
        server.stop(0).wait()
        with pytest.raises(errors.UnavailableError):
            await client.generate(image_path, "What?", timeout=0.3)
        server, _ = start_encoder(encoder, address)
        assert (await client.generate(image_path, "What?")).text == "".join(WORDS)
    server.stop(0).wait()


async def test_a_closed_client_says_so(services):
    client = AsyncClient(services.encoder_address)
    await client.close()
    with pytest.raises(RuntimeError, match="closed"):
        await client.generate(None, "Hello")
