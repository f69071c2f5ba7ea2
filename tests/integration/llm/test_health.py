"""The service's health is that of its replica, and a failed engine restarts by itself."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from llm_service.engines.continuous import engine
from tests.integration.llm.support import Whole, running

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_an_engine_that_cannot_start_again_at_once(llama: Whole, monkeypatch: pytest.MonkeyPatch):
    """Its memory is not there for two attempts; meanwhile the service says so, and then it serves again."""
    attempts = 0
    start = engine.start_manager  # type: ignore[attr-defined]

    def scarce(*arguments, **options):
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise MemoryError("no memory")
        return start(*arguments, **options)

    async with running(llama) as (server, caller):
        monkeypatch.setattr(engine, "start_manager", scarce)
        health = health_pb2_grpc.HealthStub(caller.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="visionsplit.v1.LlmService"))
        assert (await watch.read()).status == SERVING
        layer = server._backend._replica._engine._model.model.layers[0]

        def explode(*_):
            handle.remove()
            raise RuntimeError("device lost")

        handle = layer.register_forward_pre_hook(explode)
        assert (await caller.status_of(caller.upload("Hi", max_new_tokens=4)))[0] is grpc.StatusCode.INTERNAL
        async with asyncio.timeout(30):
            assert (await watch.read()).status == NOT_SERVING
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
            assert (await watch.read()).status == SERVING
        answer = await caller.generate("Hi", max_new_tokens=6)
        assert answer.token_ids == llama.generate("Hi", [], max_new_tokens=6)
        watch.cancel()


async def test_stopping_does_not_wait_for_an_engine_that_cannot_start(llama: Whole, monkeypatch: pytest.MonkeyPatch):
    def never(*_, **__):
        raise MemoryError("no memory")

    async with asyncio.timeout(20):
        async with running(llama) as (server, caller):
            monkeypatch.setattr(engine, "start_manager", never)
            server._backend._replica._engine._model.model.layers[0].register_forward_pre_hook(never)
            assert (await caller.status_of(caller.upload("Hi", max_new_tokens=4)))[0] is grpc.StatusCode.INTERNAL


async def test_replicas_that_cannot_be_counted_are_not_serving(llama: Whole, monkeypatch: pytest.MonkeyPatch):
    """Whatever goes wrong in the counting, health says so, comes back, and the service still stops."""
    async with asyncio.timeout(30), running(llama) as (server, caller):
        watch = health_pb2_grpc.HealthStub(caller.channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING

        async def unknown() -> int:
            raise RuntimeError("an unknown error")

        with monkeypatch.context() as patch:
            patch.setattr(server._backend, "num_replicas", unknown)
            assert (await watch.read()).status == NOT_SERVING
        assert (await watch.read()).status == SERVING
        monkeypatch.setattr(server._backend, "num_replicas", unknown)
        assert (await watch.read()).status == NOT_SERVING
        watch.cancel()
