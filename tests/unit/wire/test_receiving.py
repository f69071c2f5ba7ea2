"""Requests that do not arrive, or are too large or too many, end by themselves and delay no other request."""

import asyncio
import gc
import gzip
import resource
import socket
import time
from contextlib import AsyncExitStack

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from visionsplit.errors import DeadlineError, InvalidRequestError, OverloadedError
from visionsplit.network.transport import KIB, MIB
from visionsplit.receiving import receiver as receiving
from visionsplit.receiving import unfinished_requests
from visionsplit.receiving.receiver import SMALL_REQUEST_BYTES, ReceiveLimits
from visionsplit.serving import server_options
from visionsplit.serving.caller import CALLER_KEY
from visionsplit.v1 import encoder_service_pb2 as encoder_pb
from visionsplit.v1 import llm_service_pb2 as llm_pb
from visionsplit.v1.encoder_service_pb2_grpc import (
    EncoderServiceStub,
)
from visionsplit.v1.llm_service_pb2_grpc import LlmServiceStub
from visionsplit.wire.grpc_status import error_from_rpc

from tests.receiving import (
    CHECK,
    ENCODE,
    EXHAUSTED,
    TOO_LATE,
    UNIMPLEMENTED,
    UPLOAD,
    WATCH,
    channel,
    check,
    encode,
    failure,
    serving,
    until,
)
from tests.unfinished import RawConnection, prefix


async def test_every_kind_of_method_works_as_before() -> None:
    async with serving() as (address, receiver, services), channel(address) as opened:
        assert (await EncoderServiceStub(opened).GetEncoderInfo(encoder_pb.GetEncoderInfoRequest())).model == "m"
        assert await encode(address, 20 * MIB, timeout=60) == 20 * MIB
        assert 0 < services.remaining < 60
        uploads = LlmServiceStub(opened).Generate(iter([llm_pb.LlmServiceGenerateRequest()] * 3))
        assert [part.delta.text async for part in uploads] == ["3"]
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")] * 2)
        told = reflection_pb2_grpc.ServerReflectionStub(opened).ServerReflectionInfo(asked)
        assert len([answer async for answer in told]) == 2
        watch = health_pb2_grpc.HealthStub(opened).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert receiver.receipts.under_way == 0


async def test_answered_calls_leave_their_connection_usable() -> None:
    """A call that a reference cycle keeps goes on counting towards the streams of its connection."""
    gc.collect()
    gc.disable()
    try:
        async with serving() as (address, _, _), channel(address) as opened, asyncio.timeout(60):
            stub = EncoderServiceStub(opened)
            for _ in range(15):
                await asyncio.gather(*(stub.GetEncoderInfo(encoder_pb.GetEncoderInfoRequest()) for _ in range(40)))
    finally:
        gc.enable()


async def test_a_call_that_is_given_up_or_late_ends_inside_too() -> None:
    async with serving() as (address, _, services):
        services.go_on.clear()
        asking = asyncio.ensure_future(encode(address))
        await until(lambda: services.inside)
        asking.cancel()
        await until(lambda: not services.inside)
        assert (await failure(encode(address, timeout=0.5))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until(lambda: not services.inside)


@pytest.mark.parametrize("body", [b"\x0a\x00" * 8 * MIB, b"\x98\x06\x01" * 5 * MIB, b"\xff" * 16 * MIB])
async def test_a_request_of_many_fields_is_refused_while_others_are_answered(body: bytes) -> None:
    async with serving() as (address, _, _), channel(address) as opened:
        for method in (ENCODE, UPLOAD):
            call = opened.stream_stream(method)(iter([body]))
            refused, seconds = await asyncio.gather(failure(call.read()), check(address))
            assert isinstance(error_from_rpc(refused), InvalidRequestError)
            assert seconds < 1


async def test_a_call_without_a_request_is_refused() -> None:
    async with serving() as (address, _, _), channel(address) as opened:
        call = opened.stream_unary("/visionsplit.v1.EncoderService/GetEncoderInfo")(iter([]))
        assert isinstance(error_from_rpc(await failure(call)), InvalidRequestError)


async def test_methods_that_need_no_more_take_small_requests_only() -> None:
    async with serving() as (address, _, _), channel(address) as opened:
        name = "x" * SMALL_REQUEST_BYTES
        for method in (CHECK, "/visionsplit.v1.EncoderService/GetEncoderInfo"):
            body = health_pb2.HealthCheckRequest(service=name).SerializeToString()
            error = error_from_rpc(await failure(opened.unary_unary(method)(body)))
            assert isinstance(error, OverloadedError)
            assert error.retry_after_seconds is None


async def test_a_compressed_request_is_refused_before_it_is_unpacked() -> None:
    packed = gzip.compress(bytes(100 * MIB), 1)
    async with serving() as (address, _, _), RawConnection(address) as raw:
        number = raw.open(ENCODE, headers=[("grpc-encoding", "gzip")])
        await raw.send(number, prefix(len(packed), compressed=True) + packed)
        assert await raw.status(number) == UNIMPLEMENTED


async def test_a_request_that_stands_still_ends_and_others_do_not_wait_for_it() -> None:
    async with serving(ReceiveLimits(max_bytes=32 * MIB, seconds=2)) as (address, receiver, services):
        async with AsyncExitStack() as stack:
            calls = []
            for _ in range(4):
                raw = await stack.enter_async_context(RawConnection(address))
                for _ in range(16):
                    number = raw.open(ENCODE)
                    await raw.send(number, prefix(MIB) + bytes(1000))
                    calls.append((raw, number))
            await until(lambda: receiver.receipts.under_way >= 64)
            started = time.monotonic()
            assert await encode(address, 4 * MIB) == 4 * MIB
            await check(address)
            assert time.monotonic() - started < 2
            assert {await raw.status(number) for raw, number in calls} == {TOO_LATE}
        assert receiver.receipts.under_way == 0
        assert services.inside == 0


@pytest.mark.parametrize("method", [CHECK, ENCODE, UPLOAD])
async def test_a_message_that_is_longer_than_any_may_be_is_not_stored(method: str) -> None:
    async with serving() as (address, _, _), RawConnection(address) as raw:
        number = raw.open(method)
        sent = await raw.send(number, prefix(2**30) + bytes(300 * MIB))
        assert await raw.status(number) == EXHAUSTED
        assert sent < 150 * MIB  # what comes between two looks is stored


async def test_a_call_that_has_its_request_takes_little_more() -> None:
    """Of a second message that no handler reads, whether the call runs on or only stays open."""
    async with serving() as (address, _, services), RawConnection(address) as raw:
        services.go_on.clear()
        request = encoder_pb.EncodeRequest(image={"data": bytes(4 * MIB)}).SerializeToString()
        for method, body in ((ENCODE, request), (WATCH, b"")):
            for _ in range(3):  # gRPC would let in more as it learns how fast the connection is
                number = raw.open(method)
                await raw.send(number, prefix(len(body)) + body)
                await asyncio.sleep(0.1)
                assert await raw.send(number, prefix(2**30) + bytes(MIB)) <= 128 * KIB


async def test_beyond_the_room_for_unfinished_requests_the_largest_are_given_up() -> None:
    limits = ReceiveLimits(max_bytes=32 * MIB, max_unfinished_bytes=40 * MIB)
    request = encoder_pb.EncodeRequest(image={"data": bytes(20 * MIB)}).SerializeToString()
    async with serving(limits) as (address, receiver, _), AsyncExitStack() as stack:
        raws = [await stack.enter_async_context(RawConnection(address)) for _ in range(3)]
        calls = [raw.open(ENCODE) for raw in raws]
        for raw, number, size in zip(raws, calls, (2, 16, 30), strict=True):
            whole = request if size < 20 else bytes(32 * MIB)
            await raw.send(number, prefix(len(whole)) + whole[: size * MIB])
        assert await raws[2].status(calls[2]) == EXHAUSTED
        await until(lambda: receiver.receipts.under_way == 2)
        await raws[0].send(calls[0], request[2 * MIB :])
        assert await raws[0].status(calls[0]) == "0"


async def test_of_too_many_that_stand_still_the_oldest_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished_requests, "_MAX_RECEIPTS", 8)
    async with serving() as (address, receiver, _), RawConnection(address) as raw:
        slow = raw.open(ENCODE)
        await raw.send(slow, prefix(100) + bytes(50))
        calls = [raw.open(CHECK) for _ in range(20)]
        await until(lambda: receiver.receipts.under_way == 9)
        assert {await raw.status(number) for number in calls[:12]} == {EXHAUSTED}
        assert await check(address) < 2
        assert receiver.receipts.under_way >= 8  # methods with large requests are counted by themselves


async def test_an_address_that_invents_names_gives_its_own_calls_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unfinished_requests, "_MAX_RECEIPTS", 16)
    async with (
        serving(relayed=True) as (address, receiver, _),
        RawConnection(address) as inventive,
        RawConnection(address, source="127.0.0.2") as honest,
    ):
        for number in range(16):
            inventive.open(UPLOAD, headers=[(CALLER_KEY, f"name-{number}")])
        await until(lambda: receiver.receipts.under_way == 16)
        uploads = [honest.open(UPLOAD, headers=[(CALLER_KEY, "name")]) for _ in range(3)]
        await asyncio.sleep(0.5)
        for number in uploads:
            await honest.send(number, prefix(0), end=True)
            assert await honest.status(number) == "0"


async def test_requests_of_running_calls_have_room_only_for_some() -> None:
    async with serving(ReceiveLimits(max_bytes=MIB)) as (address, _, services):
        services.go_on.clear()
        running = [asyncio.ensure_future(encode(address, MIB - 100)) for _ in range(12)]
        await until(lambda: services.inside == 12)
        refused = error_from_rpc(await failure(encode(address, MIB - 100)))
        assert isinstance(refused, OverloadedError)
        assert refused.retry_after_seconds is not None
        services.go_on.set()
        assert await asyncio.gather(*running) == [MIB - 100] * 12
        assert await encode(address, MIB - 100) == MIB - 100


async def test_calls_that_are_reset_at_once_hold_up_nobody() -> None:
    async with serving() as (address, receiver, services):
        async with RawConnection(address) as raw:
            for _ in range(3000):
                raw.reset(raw.open(ENCODE))
            assert await check(address) < 2
        await until(lambda: receiver.receipts.under_way == 0 and services.inside == 0)


async def test_idle_connections_do_not_shut_others_out_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with few open files allowed: 24 connections stand for all that the process may have."""
    monkeypatch.setattr(server_options, "_MAX_CONNECTIONS", 24)
    async with serving() as (address, _, _):
        host, _, port = address.rpartition(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(40)]
        started = time.monotonic()
        async with channel(address) as opened:
            await health_pb2_grpc.HealthStub(opened).Check(
                health_pb2.HealthCheckRequest(), timeout=20, wait_for_ready=True
            )
        assert time.monotonic() - started < 12
        for one in silent:
            one.close()


async def test_an_idle_connection_ends_but_not_a_health_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_options, "_IDLE_SECONDS", 1)
    async with serving() as (address, _, _), channel(address) as opened, RawConnection(address) as raw:
        watch = health_pb2_grpc.HealthStub(opened).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        waiting = asyncio.ensure_future(watch.read())
        await raw.closed()
        await asyncio.sleep(1.5)
        assert not waiting.done()
        waiting.cancel()


def test_connections_are_limited_by_the_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
        assert server_options.max_connections() == 750
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_only_the_first_message_of_a_small_stream_has_a_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "SMALL_REQUEST_SECONDS", 0.5)
    async with serving() as (address, _, _), channel(address) as opened:
        stub = reflection_pb2_grpc.ServerReflectionStub(opened)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo()
        for _ in range(2):
            await call.write(question)
            assert (await call.read()).HasField("list_services_response")
            await asyncio.sleep(1)
        call.cancel()
        assert isinstance(error_from_rpc(await failure(stub.ServerReflectionInfo().read())), DeadlineError)
