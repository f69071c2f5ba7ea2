"""deploy/proxy/nginx.conf: honest calls pass as without a proxy, and what gRPC's server cannot bound is bounded."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest
from PIL import Image
from visionsplit.errors import DeadlineError, InvalidCompressionError, InvalidImageError, VisionSplitError
from visionsplit.images import file_of
from visionsplit_client import Client, Compression, EncodedImage, HealthStatus, Sampling

from tests.noise import noise_image
from tests.proxy.conftest import CONFIGURATION, Proxy, adapted
from tests.proxy.http2 import (
    DATA,
    END_STREAM,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    call_headers,
    connect,
    frame,
    frames,
)

ENCODE = "/visionsplit.v1.EncoderService/Encode"
HEALTH = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"
MIB = 2**20
CONNECTIONS = CALLS = 64  # that the configuration allows to one address
SMALL = noise_image(60, 60)


@pytest.fixture(scope="module")
def through(proxy: Proxy) -> Iterator[Client]:
    with proxy.client() as client:
        yield client


@pytest.fixture(scope="module")
def direct(proxy: Proxy) -> Iterator[Client]:
    with Client(proxy.encoder.address) as client:
        yield client


def large_image(seed: int) -> bytes:
    """20 MB; reading it takes the encoder a second."""
    pixels = np.random.default_rng(seed).integers(0, 256, (2600, 2600, 3), dtype=np.uint8)
    return file_of(Image.fromarray(pixels))


def features(image: EncodedImage) -> bytes:
    return image.tokens.features.data


def test_answers_are_those_of_the_encoder(through: Client, direct: Client) -> None:
    large = large_image(0)
    assert features(through.encode(large)) == features(direct.encode(large))
    greedy = Sampling(max_new_tokens=40)
    assert through.generate(SMALL, "What is this?", sampling=greedy).token_ids == (
        direct.generate(SMALL, "What is this?", sampling=greedy).token_ids
    )
    assert through.encoder_info().model == direct.encoder_info().model
    assert set(through.health().values()) == {HealthStatus.SERVING}


def test_text_arrives_while_the_rest_is_generated(through: Client) -> None:
    with through.stream(SMALL, "What is this?", sampling=Sampling(max_new_tokens=300)) as stream:
        arrivals = [time.monotonic() for _ in stream]
    assert len(arrivals) > 10
    assert arrivals[-1] - arrivals[0] > (arrivals[-1] - arrivals[-2]) * 2


def test_errors_keep_their_class_and_text(through: Client, direct: Client) -> None:
    for client in (through, direct):
        with pytest.raises(InvalidCompressionError, match="no-such-method"):
            client.encode(SMALL, compression=Compression("no-such-method", 0.5))
        with pytest.raises(InvalidImageError, match="not an image"):
            client.encode(b"no image" * 100)


def test_a_deadline_holds(through: Client) -> None:
    with pytest.raises(DeadlineError):
        through.encode(large_image(1), timeout=0.3)


def test_a_cancelled_call_ends_at_the_encoder(through: Client, proxy: Proxy) -> None:
    before = len(proxy.encoder.log.read_text())
    with through.stream(large_image(2), "What is this?") as stream:
        reader = threading.Thread(target=lambda: list(stream))
        reader.start()
        time.sleep(0.5)  # the request is on its way, or with the encoder
        stream.close()
        reader.join()
    deadline = time.monotonic() + 5
    while "given up by the caller" not in proxy.encoder.log.read_text()[before:]:
        assert time.monotonic() < deadline, proxy.encoder.log.read_text()[before:]
        time.sleep(0.05)


def test_sixty_callers_at_once_are_served(through: Client) -> None:
    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(lambda seed: features(through.encode(noise_image(60, 60, seed % 5))), range(60)))
    assert len(set(answers)) == 5


def test_other_methods_are_not_offered(proxy: Proxy) -> None:
    credentials = grpc.ssl_channel_credentials(proxy.authority.read_bytes())
    with grpc.secure_channel(proxy.address, credentials) as channel:
        for method in ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", "/a.B/C"):
            with pytest.raises(grpc.RpcError) as raised:
                channel.unary_unary(method)(b"")
            assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_configuration_without_tls_is_valid(nginx: str, places: dict[str, str], tmp_path: Path) -> None:
    changes = {old: new for old, new in places.items() if not old.endswith((".pem", ".key"))}
    lines = [line for line in CONFIGURATION.read_text().splitlines() if line.strip().startswith("ssl_")]
    assert len(lines) == 4  # as the comment above them says
    path = adapted(tmp_path, {**changes, " ssl http2": " http2", **dict.fromkeys(lines, "")})
    checked = subprocess.run([nginx, "-t", "-c", path], capture_output=True, text=True)
    assert "test is successful" in checked.stderr


@contextmanager
def beside(proxy: Proxy) -> Iterator[None]:
    """A well-behaved caller from another address, whose calls must be answered quickly and right."""
    times: list[float] = []
    failures: list[VisionSplitError | str] = []
    ended = threading.Event()
    with proxy.client(timeout=20) as client:
        expected = features(client.encode(SMALL))

        def call() -> None:
            while not ended.is_set():
                started = time.monotonic()
                try:
                    if features(client.encode(SMALL)) != expected:
                        failures.append("another answer")
                except VisionSplitError as error:
                    failures.append(error)
                times.append(time.monotonic() - started)
                time.sleep(0.02)  # an address may begin 100 calls in a second

        thread = threading.Thread(target=call)
        thread.start()
        try:
            yield
            while len(times) < 5:
                time.sleep(0.02)
        finally:
            ended.set()
            thread.join()
    assert not failures
    assert max(times) < 2


def attacker(proxy: Proxy, stack: ExitStack, *, tls: bool = True) -> socket.socket:
    return stack.enter_context(connect(proxy.address, proxy.authority, tls=tls))


def test_unfinished_messages_end_by_the_time_limit(proxy: Proxy) -> None:
    part = frame(DATA, 0, 1, b"\0" + (50 * MIB).to_bytes(4, "big") + bytes(16_000))
    with ExitStack() as stack, beside(proxy):
        connections = [attacker(proxy, stack) for _ in range(50)]
        for connection in connections:
            connection.sendall(call_headers(1, ENCODE) + part)
        started = time.monotonic()
        for connection in connections:
            connection.settimeout(4)
            assert any(one.stream == 1 for one in frames(connection, until=(HEADERS, RST_STREAM)))
        assert time.monotonic() - started < 10


def test_a_body_where_none_belongs_is_refused_at_once(proxy: Proxy) -> None:
    before = proxy.encoder.memory_mib()
    with ExitStack() as stack, beside(proxy):
        sent = 0
        for _ in range(20):
            connection = attacker(proxy, stack)
            connection.settimeout(2)
            connection.sendall(call_headers(1, HEALTH))
            with suppress(OSError):  # the proxy no longer reads
                for _ in range(50 * MIB // 16_000):
                    connection.sendall(frame(DATA, 0, 1, bytes(16_000)))
                    sent += 16_000
            assert any(one.stream == 1 and one.ends for one in frames(connection, until=(HEADERS, RST_STREAM)))
    assert proxy.encoder.memory_mib() < before * 1.2


def test_an_address_has_a_bounded_number_of_connections(proxy: Proxy) -> None:
    with ExitStack() as stack, beside(proxy):
        connections = [attacker(proxy, stack, tls=False) for _ in range(200)]
        assert sum(is_open(connection) for connection in connections) <= CONNECTIONS
        # Those that begin no TLS handshake are closed too.
        started = time.monotonic()
        while any(is_open(connection) for connection in connections):
            assert time.monotonic() - started < 10
            time.sleep(0.1)


def is_open(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        while connection.recv(65536):  # what was sent before the end
            pass
        return False
    except TimeoutError:
        return True
    except OSError:
        return False


def test_a_header_that_does_not_end_is_given_up(proxy: Proxy) -> None:
    with ExitStack() as stack, beside(proxy):
        connections = [attacker(proxy, stack) for _ in range(30)]
        for connection in connections:
            connection.sendall(call_headers(1, HEALTH)[:20])
        started = time.monotonic()
        for connection in connections:
            connection.settimeout(10)
            frames(connection)
        assert time.monotonic() - started < 9
        assert not any(is_open(connection) for connection in connections)


def test_rapid_resets_do_not_reach_the_encoder(proxy: Proxy) -> None:
    before = proxy.encoder.memory_mib()
    with ExitStack() as stack, beside(proxy):
        connection = attacker(proxy, stack)
        with suppress(OSError):  # the proxy ends such a connection
            for stream in range(1, 40_001, 2):
                connection.sendall(call_headers(stream, ENCODE) + frame(RST_STREAM, 0, stream, bytes(4)))
        connection.settimeout(1)
        frames(connection)
    assert proxy.encoder.memory_mib() < before * 1.2


@pytest.mark.parametrize(
    "flood",
    [
        frame(WINDOW_UPDATE, 0, 0, b"\0\0\0\1"),
        frame(PRIORITY, 0, 3, b"\0\0\0\0\x10"),
        frame(SETTINGS, 0, 0, b""),
        frame(PING, 0, 0, bytes(8)),
    ],
    ids=["window updates", "priorities", "settings", "pings"],
)
def test_floods_of_frames_do_not_reach_the_encoder(proxy: Proxy, flood: bytes) -> None:
    """The encoder itself would read them for as long as they come."""
    sent = 0
    with ExitStack() as stack, beside(proxy):
        connections = [attacker(proxy, stack) for _ in range(4)]
        for connection in connections:
            connection.settimeout(1)
            started = time.monotonic()
            with suppress(OSError):
                while time.monotonic() - started < 2:
                    connection.sendall(flood * 1000)
                    sent += len(flood) * 1000
        assert sent > MIB or not any(is_open(connection) for connection in connections)


def test_an_address_has_a_bounded_number_of_calls(proxy: Proxy) -> None:
    """Health watches, which last as long as their caller wants."""
    with ExitStack() as stack, beside(proxy):
        refused = 0
        for _ in range(4):
            connection = attacker(proxy, stack)
            connection.settimeout(1)
            for stream in range(1, 51, 2):
                connection.sendall(call_headers(stream, WATCH) + frame(DATA, END_STREAM, stream, bytes(5)))
            refused += sum(one.kind == HEADERS and one.ends for one in frames(connection))
        assert refused >= 100 - CALLS
