"""The accounting of messages that have not arrived completely, and which of them are given up."""

import asyncio
import errno
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack

import pytest
from visionsplit.errors import DeadlineError
from visionsplit.network.transport import MIB
from visionsplit.receiving import connections
from visionsplit.receiving.connection_limits import Connection
from visionsplit.receiving.connections import Connections, address_of
from visionsplit.receiving.receiver import ReceiveLimits
from visionsplit.receiving.unfinished_requests import Receipts
from visionsplit.v1 import encoder_service_pb2 as encoder_pb
from visionsplit.v1 import llm_service_pb2 as llm_pb

from tests.receiving import ENCODE, EXHAUSTED, UPLOAD, serving, until
from tests.unfinished import RawConnection, prefix


def accepted(listener: socket.socket, client: socket.socket, num_bytes: int) -> socket.socket:
    server, _ = listener.accept()
    client.sendall(bytes(num_bytes))
    while len(server.recv(num_bytes, socket.MSG_PEEK)) < num_bytes:
        pass
    return server


def test_the_kernel_tells_what_a_connection_has_received() -> None:
    known = Connections()
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as listener,
        socket.create_connection(listener.getsockname()[:2]) as client,
    ):
        address = address_of(f"ipv6:%5B::1%5D:{client.getsockname()[1]}")
        assert address is not None
        with accepted(listener, client, 1234):
            assert not known.bytes_received(address)
            assert known.look()
            assert list(known.bytes_received(address).values()) == [1234]
        assert not known.bytes_received(address)
    assert address_of("unix:/tmp/x") is None


def test_connections_from_one_port_to_two_addresses_do_not_hide_one_another() -> None:
    known = Connections()
    with ExitStack() as stack:
        port = 0
        for number, host in enumerate(("127.0.0.1", "127.0.0.2")):
            listener = stack.enter_context(socket.create_server((host, 0)))
            client = stack.enter_context(socket.socket())
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(("127.0.0.1", port))
            client.connect(listener.getsockname())
            port = client.getsockname()[1]
            stack.enter_context(accepted(listener, client, 100 + number))
        assert known.look()
        assert sorted(known.bytes_received(("127.0.0.1", port)).values()) == [100, 101]


def test_without_a_free_descriptor_known_connections_are_still_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_PAUSE", 0)
    known = Connections()
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        accepted(listener, client, 1234),
    ):
        address = ("127.0.0.1", client.getsockname()[1])
        assert known.look()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
                os.dup(0)
            assert not known.look()
            assert list(known.bytes_received(address).values()) == [1234]
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_kernel_that_does_not_count_is_not_an_error() -> None:
    class Old:
        def getsockopt(self, *_: int) -> bytes:
            return bytes(104)

    assert connections._bytes_received(Old()) is None


async def test_uploads_that_are_cancelled_do_not_cost_others_of_the_connection_theirs() -> None:
    """As of an encoder that brings the calls of many callers over one connection, one of them slow."""
    request = encoder_pb.EncodeRequest(image={"data": bytes(4 * MIB)}).SerializeToString()
    async with serving() as (address, receiver, _), RawConnection(address) as raw:
        slow = raw.open(ENCODE)
        await raw.send(slow, prefix(len(request)) + request[:MIB])
        for _ in range(10):
            cancelled = raw.open(ENCODE)
            assert await raw.send(cancelled, prefix(30 * MIB) + bytes(20 * MIB)) > 20 * MIB
            raw.reset(cancelled)
        await until(lambda: receiver.receipts.under_way == 1)
        await asyncio.sleep(0.2)
        await raw.send(slow, request[MIB:])
        assert await raw.status(slow) == "0"


async def test_of_a_connection_only_what_may_be_the_reason_is_given_up() -> None:
    """Cancelled uploads have brought more than there is room for; a request that came after them is not one of them."""
    limits = ReceiveLimits(max_bytes=32 * MIB, max_unfinished_bytes=40 * MIB)
    request = encoder_pb.EncodeRequest(image={"data": bytes(4 * MIB)}).SerializeToString()
    async with serving(limits) as (address, receiver, _), RawConnection(address) as raw:
        oldest = raw.open(ENCODE)
        await raw.send(oldest, prefix(MIB) + bytes(1000))
        cancelled = raw.open(ENCODE)
        await raw.send(cancelled, prefix(30 * MIB) + bytes(25 * MIB))
        raw.reset(cancelled)
        young = raw.open(ENCODE)
        await until(lambda: receiver.receipts.under_way == 2)
        cancelled = raw.open(ENCODE)
        await raw.send(cancelled, prefix(30 * MIB) + bytes(20 * MIB))
        raw.reset(cancelled)
        assert await raw.status(oldest) == EXHAUSTED
        await raw.send(young, prefix(len(request)) + request)
        assert await raw.status(young) == "0"


async def test_a_fast_connection_that_is_found_late_is_not_refused() -> None:
    body = llm_pb.LlmServiceGenerateRequest(tokens={"features": {"data": bytes(MIB)}}).SerializeToString()
    async with serving() as (address, receiver, _), RawConnection(address) as raw:
        known = receiver.receipts._sockets
        known._look_after = float("inf")  # as after a look that took long
        uploads = [raw.open(UPLOAD)]
        await raw.send(uploads[0], (prefix(len(body)) + body) * 100)
        uploads.append(raw.open(UPLOAD))
        await until(lambda: receiver.receipts.under_way == 2)
        known._look_after = 0.0
        await asyncio.sleep(0.2)
        for number in uploads:
            await raw.send(number, (prefix(len(body)) + body) * 20)
        await asyncio.sleep(0.2)
        assert receiver.receipts.under_way == 2


async def test_a_read_is_never_cancelled() -> None:
    """gRPC would not free a message that arrives in the same moment."""
    arrived, ended = asyncio.Event(), []

    async def messages() -> AsyncIterator[bytes]:
        try:
            await arrived.wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        ended.append("by itself")
        raise RuntimeError("the call has ended")
        yield b""

    receipts = Receipts(max_unfinished_bytes=MIB)

    def receive(seconds: float) -> "asyncio.Task[bytes | None]":
        arguments = {"caller": "c", "peer": "unix:", "max_bytes": 1, "small": True, "seconds": seconds}
        return asyncio.create_task(receipts.receive(messages(), **arguments))

    late, cancelled = receive(0.01), receive(60)
    with pytest.raises(DeadlineError):
        await late
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    assert receipts.under_way == 0
    arrived.set()
    await until(lambda: not receipts._reads)
    assert ended == ["by itself"] * 2


async def test_what_other_messages_bring_hides_nothing_of_one() -> None:
    connection = Connection("ipv4:1.2.3.4:5", ("1.2.3.4", 5))
    connection.note({1: 0})
    first = connection.begin("c", 8 * MIB)
    connection.note({1: 6 * MIB})
    second = connection.begin("c", 8 * MIB)
    connection.end(first, bytes(6 * MIB))  # nothing of it came after the second one began
    connection.note({1: 9 * MIB})
    assert connection.unfinished == second.unfinished == 3 * MIB
    for _ in range(100):  # small messages have frames and headers, of unknown size
        connection.end(connection.begin("c", MIB), b"x")
    assert 3 * MIB - 100 <= connection.unfinished <= 3 * MIB
    connection.note({2: MIB})  # the client has connected again from the same port
    assert 4 * MIB - 100 <= connection.unfinished <= 4 * MIB
    connection.end(second, None)
    assert connection.unfinished == 0
