"""Health, reflection, information, draining, and the command line."""

import asyncio
import logging
import signal
import sys
from contextlib import suppress

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from visionsplit.v1 import llm_service_pb2

from llm_service.config import EngineConfig
from tests.integration.llm.support import Caller, Whole, collect, picture, running

SERVICE = "visionsplit.v1.LlmService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_information(llama_caller: Caller, llama: Whole):
    info = await llama_caller.stub.GetLlmInfo(llm_service_pb2.GetLlmInfoRequest())
    assert info.format.encoder_fingerprint == llama.fingerprint
    assert info.format.feature_size == llama.feature_size
    assert (info.context_length, info.image_placeholder, info.backend) == (1024, "<image>", "local")
    assert (info.replicas, info.device, info.model) == (1, "cpu", llama.path.name)


async def test_information_is_what_can_be_served(llama: Whole):
    """The cache is smaller than the model's context: its size is what counts."""
    async with running(llama, engine=EngineConfig(kv_tokens=320)) as (_, caller):
        info = await caller.stub.GetLlmInfo(llm_service_pb2.GetLlmInfoRequest())
        assert info.context_length <= 320
        prompt = "Hi"
        used = (await caller.generate(prompt, max_new_tokens=1)).summary.usage.prompt_tokens
        assert info.max_new_tokens == info.context_length - 1
        longest = await caller.generate(prompt, max_new_tokens=info.context_length - used)
        assert longest.token_ids == llama.generate(prompt, [], max_new_tokens=info.context_length - used)
        status, details, name = await caller.status_of(
            caller.upload(prompt, max_new_tokens=info.context_length - used + 1)
        )
        assert (status, name) == (grpc.StatusCode.INVALID_ARGUMENT, "PromptTooLongError")
        assert str(info.context_length) in details


async def test_every_call_leaves_one_line_and_no_prompt(llama_caller: Caller, caplog: pytest.LogCaptureFixture):
    def lines(request_id: str) -> list[str]:
        return [record.getMessage() for record in caplog.records if request_id in record.getMessage()]

    caplog.set_level(logging.INFO, logger="llm_service")
    for request_id, options in (("fine-1", {"max_new_tokens": 3}), ("wrong-1", {"top_p": 2.0})):
        call = llama_caller.call(llama_caller.upload("my secret", **options), metadata=[("x-request-id", request_id)])
        with suppress(grpc.aio.AioRpcError):
            await collect(call)
    held = llama_caller.call(
        llama_caller.upload("my secret", max_new_tokens=900), metadata=[("x-request-id", "left-1")]
    )
    await held.read()
    held.cancel()
    async with asyncio.timeout(5):
        while not lines("left-1"):  # noqa: ASYNC110 - the server learns of it a moment later
            await asyncio.sleep(0.01)
    assert [line for line in lines("fine-1") if "done" in line and "3 generated" in line] == lines("fine-1")
    assert len(lines("fine-1")) == len(lines("wrong-1")) == len(lines("left-1")) == 1
    assert "InvalidSamplingError" in lines("wrong-1")[0]
    assert "top_p 2" in lines("wrong-1")[0]
    assert "given up" in lines("left-1")[0]
    assert "secret" not in caplog.text


async def test_health_and_reflection(llama_caller: Caller):
    health = health_pb2_grpc.HealthStub(llama_caller.channel)
    for service in ("", SERVICE):
        assert (await health.Check(health_pb2.HealthCheckRequest(service=service))).status == SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(llama_caller.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    async for response in reflection.ServerReflectionInfo(iter([request])):
        assert SERVICE in {service.name for service in response.list_services_response.service}


async def test_usage_and_timings(llama_caller: Caller, llama: Whole):
    tokens = llama.tokens(picture(112, 90))
    answer = await llama_caller.generate("<image>", [tokens], max_new_tokens=9)
    usage, timings = answer.summary.usage, answer.summary.timings
    assert usage.prompt_tokens == usage.text_tokens + usage.vision_tokens + usage.newline_tokens
    assert (usage.vision_tokens, usage.vision_tokens_before) == (tokens.num_tokens, tokens.num_tokens)
    assert (usage.generated_tokens, usage.wire_bytes) == (9, tokens.num_bytes)
    assert 0 < timings.receive_seconds <= timings.first_token_seconds <= timings.total_seconds
    assert timings.queue_seconds > 0
    assert timings.decode_seconds > 0


async def test_draining_lets_running_requests_end_and_refuses_new_ones(llama: Whole):
    async with running(llama) as (server, caller):
        health = health_pb2_grpc.HealthStub(caller.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        assert (await watch.read()).status == SERVING
        call = caller.call(caller.upload("Hi", max_new_tokens=300))
        first = await call.read()
        stopping = asyncio.create_task(server.stop(30))
        assert (await watch.read()).status == NOT_SERVING
        status, _, name = await caller.status_of(caller.upload("Hi", max_new_tokens=3))
        assert (status, name) == (grpc.StatusCode.UNAVAILABLE, "UnavailableError")
        assert (await caller.stub.GetLlmInfo(llm_service_pb2.GetLlmInfoRequest())).backend == "local"
        expected = llama.generate("Hi", [], max_new_tokens=300)
        assert (await collect(call, first)).token_ids == expected
        watch.cancel()
        await stopping


async def test_a_slow_reader_holds_back_only_itself(llama_caller: Caller):
    slow = llama_caller.call(llama_caller.upload("Slow", max_new_tokens=900))
    first = await slow.read()
    quick = await llama_caller.generate("Quick", max_new_tokens=20)
    assert len(quick.token_ids) == 20
    assert (await collect(slow, first)).token_ids == llama_caller.whole.generate("Slow", [], max_new_tokens=900)


async def test_the_command_line_serves_and_sigterm_ends_it(llama: Whole):
    command = ("-m", "llm_service", "--model", str(llama.path), "--listen", "127.0.0.1:0", "--device", "cpu")
    process = await asyncio.create_subprocess_exec(sys.executable, *command, stderr=asyncio.subprocess.PIPE)
    try:
        line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
        while "serving" not in line:
            line = (await asyncio.wait_for(process.stderr.readline(), 60)).decode()
        address = line.split()[-1]
        async with grpc.aio.insecure_channel(address) as channel:
            answer = await Caller(channel, llama).generate("Hi", max_new_tokens=5)
            assert answer.token_ids == llama.generate("Hi", [], max_new_tokens=5)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
