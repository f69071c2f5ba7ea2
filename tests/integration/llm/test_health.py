"""The service's health is that of its replica, and a failed engine restarts by itself."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.integration.llm.engines import RESTART_SECONDS, engine_of, fail_next_step
from tests.integration.llm.support import Whole, running

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_an_engine_that_cannot_start_again_at_once(llama: Whole, monkeypatch: pytest.MonkeyPatch):
    """Its memory is not there for two attempts; meanwhile the service says so, and then it serves again."""
    attempts = 0
    async with running(llama) as (server, caller):
        supervisor = engine_of(server)._supervisor
        start = supervisor._start_core

        def scarce():
            nonlocal attempts
            attempts += 1
            if attempts < 3:
                raise MemoryError("no memory")
            return start()

        monkeypatch.setattr(supervisor, "_start_core", scarce)
        health = health_pb2_grpc.HealthStub(caller.channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="visionsplit.v1.LlmService"))
        assert (await watch.read()).status == SERVING
        fail_next_step(engine_of(server))
        assert (await caller.status_of(caller.upload("Hi", max_new_tokens=900)))[0] is grpc.StatusCode.INTERNAL
        async with asyncio.timeout(RESTART_SECONDS):
            assert (await watch.read()).status == NOT_SERVING
            assert (await health.Check(health_pb2.HealthCheckRequest())).status == NOT_SERVING
            assert (await watch.read()).status == SERVING
        answer = await caller.generate("Hi", max_new_tokens=6)
        assert answer.token_ids == llama.generate("Hi", [], max_new_tokens=6)
        watch.cancel()


async def test_stopping_does_not_wait_for_an_engine_that_cannot_start(llama: Whole, monkeypatch: pytest.MonkeyPatch):
    def never():
        raise MemoryError("no memory")

    async with asyncio.timeout(RESTART_SECONDS):
        async with running(llama) as (server, caller):
            monkeypatch.setattr(engine_of(server)._supervisor, "_start_core", never)
            fail_next_step(engine_of(server))
            assert (await caller.status_of(caller.upload("Hi", max_new_tokens=900)))[0] is grpc.StatusCode.INTERNAL


async def test_replicas_that_cannot_be_counted_are_not_serving(llama: Whole, monkeypatch: pytest.MonkeyPatch):
    """Whatever goes wrong in the counting, health says so, comes back, and the service still stops."""
    async with running(llama) as (server, caller), asyncio.timeout(30):
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
