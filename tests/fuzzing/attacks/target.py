"""Both services as separate processes, and an attacker's connections to them."""

import asyncio
import resource
import ssl
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import psutil
from visionsplit_client import BearerToken, Client, ClientSecurity, ClientTls, HealthStatus

from benchmarks.load.system import Service, free_port
from tests.certificates import Authority
from tests.fuzzing.attacks.http2 import Http2Client

MODEL = Path(__file__).parents[3] / "models" / "visionsplit-mini"
USUAL_FILES = 1024  # the limit of open files that shells and systemd give a process
MIB = 2**20
ENCODER, LLM = "/visionsplit.v1.EncoderService", "/visionsplit.v1.LlmService"
HEALTH = "/grpc.health.v1.Health"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
UNARY = (f"{ENCODER}/GetEncoderInfo", f"{ENCODER}/Encode", f"{ENCODER}/Generate")  # of the encoder, one request each
_TOKENS = {name: f"the-token-of-{name}-0123456789" for name in ("friend", "stranger", "encoder")}
_START_SECONDS = 120.0


@dataclass(frozen=True)
class Target:
    """The services under attack."""

    encoder: Service
    llm: Service
    folder: Path | None  # of certificates and tokens; None without TLS and tokens

    def address_of(self, method: str, *, llm: bool = False) -> str:
        """The service that has a method; both have health and reflection, of which `llm` takes the LLM service's."""
        return self.llm.address if llm or method.startswith(LLM) else self.encoder.address

    def security(self, name: str) -> ClientSecurity:
        """Of a client that holds the token of `friend` or of `stranger`, where there are tokens."""
        if self.folder is None:
            return ClientSecurity()
        return ClientSecurity(ClientTls(self.folder / "authority.pem"), BearerToken(value=_TOKENS[name]))

    def token(self, name: str) -> str:
        return _TOKENS[name]

    def metadata(self, *, token: bool) -> tuple[tuple[str, str], ...]:
        """What the attacker shows, who may hold a token."""
        if self.folder is None or not token:
            return ()
        return (("authorization", f"Bearer {_TOKENS['stranger']}"),)

    def http2(
        self, method: str, *, llm: bool = False, window: int = 2**31 - 1
    ) -> AbstractAsyncContextManager[Http2Client]:
        """A raw connection to the service that has a method."""
        return Http2Client.connected(self.address_of(method, llm=llm), self.tls(), window=window)

    def tls(self) -> ssl.SSLContext | None:
        if self.folder is None:
            return None
        context = ssl.create_default_context(cafile=str(self.folder / "authority.pem"))
        context.set_alpn_protocols(["h2"])
        return context

    @asynccontextmanager
    async def channel(self, address: str) -> AsyncIterator[grpc.aio.Channel]:
        """A connection of gRPC's own client that no other call shares."""
        options: list[tuple[str, int]] = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        if self.folder is None:
            channel = grpc.aio.insecure_channel(address, options=options)
        else:
            authority = (self.folder / "authority.pem").read_bytes()
            channel = grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(authority), options=options)
        async with channel:
            yield channel

    async def call(
        self,
        method: str,
        *messages: bytes,
        llm: bool = False,
        token: bool = True,
        metadata: Sequence[tuple[str, str]] = (),
        compression: grpc.Compression | None = None,
        seconds: float = 60.0,
    ) -> str:
        """Send messages as bytes, and read the whole answer for a number of seconds at most; return the status name."""
        async with self.channel(self.address_of(method, llm=llm)) as channel:
            call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(method)(
                iter(messages),
                timeout=seconds,
                metadata=(*self.metadata(token=token), *metadata),
                compression=compression,
            )
            try:
                while await call.read() is not grpc.aio.EOF:
                    pass
            except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
                pass  # the status says it; a failed write may hide it from the reader
            return (await call.code()).name

    def resident_mib(self) -> dict[str, float]:
        """Resident memory by service; 0 for one that has ended."""
        return {name: _resident(service) for name, service in self._services().items()}

    def ended(self) -> list[str]:
        return [name for name, one in self._services().items() if one.process is None or one.process.poll() is not None]

    def _services(self) -> dict[str, Service]:
        return {"encoder": self.encoder, "llm": self.llm}


@contextmanager
def running_target(folder: Path | None) -> Iterator[Target]:
    """The shipped model with default settings on free ports. `folder` is for TLS and tokens; None leaves both off."""
    encoder, llm = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    options = ([], []) if folder is None else _protected(folder)
    target = Target(
        Service("encoder_service", ["--model", str(MODEL), "--llm", llm, *options[0]], encoder),
        Service("llm_service", ["--model", str(MODEL), *options[1]], llm),
        folder,
    )
    with _usual_limit_of_files():
        for service in (target.llm, target.encoder):
            service.start()
    try:
        for service in (target.llm, target.encoder):
            _wait(service, target.security("friend"))
        yield target
    finally:
        for service in (target.encoder, target.llm):
            if service.process is not None and service.process.poll() is None:
                service.process.kill()
                service.process.wait(timeout=30)
            service.log.unlink(missing_ok=True)


def _protected(folder: Path) -> tuple[list[str], list[str]]:
    """Certificates and tokens in `folder`; the options of the encoder and of the LLM service."""
    pair = Authority(folder).issue("service")
    tokens = folder / "tokens"
    tokens.write_text("".join(f"{name} {_TOKENS[name]}\n" for name in ("friend", "stranger")))
    (folder / "encoder").write_text(f"encoder {_TOKENS['encoder']} relay\n")
    (folder / "llm-tokens").write_text(tokens.read_text() + (folder / "encoder").read_text())
    tls = ["--tls-cert", str(pair.certificate), "--tls-key", str(pair.key)]
    (folder / "sent").write_text(f"{_TOKENS['encoder']}\n")
    to_llm = ["--llm-tls-ca", str(folder / "authority.pem"), "--llm-token-file", str(folder / "sent")]
    return (
        [*tls, "--token-file", str(tokens), *to_llm],
        [*tls, "--token-file", str(folder / "llm-tokens")],
    )


@contextmanager
def _usual_limit_of_files() -> Iterator[None]:
    """For processes that start meanwhile; the attacker keeps its own limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (USUAL_FILES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _wait(service: Service, security: ClientSecurity) -> None:
    """As `Service.wait_until_serving`, with TLS and a token."""
    started = time.monotonic()
    with Client(service.address, security=security) as client:
        while client.health(timeout=1)[service.address] is not HealthStatus.SERVING:
            if service.process is None or service.process.poll() is not None:
                raise RuntimeError(f"{service.module} ended: {service.log.read_text()[-2000:]}")
            if time.monotonic() - started > _START_SECONDS:
                raise RuntimeError(f"{service.module} does not serve: {service.log.read_text()[-2000:]}")
            time.sleep(0.1)


def _resident(service: Service) -> float:
    try:
        return service.memory_mib()
    except psutil.NoSuchProcess:
        return 0.0
