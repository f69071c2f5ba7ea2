"""Both services with TLS and tokens: which calls are admitted, and what refused callers learn."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from visionsplit.errors import (
    IncompatibleServicesError,
    UnauthenticatedError,
    VisionSplitError,
)
from visionsplit.network.transport import channel_options
from visionsplit.security.reloaded_files import CredentialsError
from visionsplit.security.server import ServerSecurity
from visionsplit.security.tls import ServerTls
from visionsplit.v1 import encoder_service_pb2, llm_service_pb2
from visionsplit.v1.encoder_service_pb2_grpc import EncoderServiceStub
from visionsplit.v1.llm_service_pb2_grpc import LlmServiceStub
from visionsplit_cli import main
from visionsplit_client import (
    AsyncClient,
    BearerToken,
    Client,
    ClientSecurity,
    ClientTls,
    Prompt,
    Retries,
    Sampling,
    UnreachableError,
)

from encoder_service.config import EncoderConfig
from encoder_service.server import EncoderServer
from tests.certificates import Authority, Pair
from tests.integration.system import System, running_system
from tests.noise import noise_image

PROMPT = Prompt.raw("<image> what?")
FEW = Sampling(max_new_tokens=3)
ONCE = Retries(attempts=1)
TOKEN = "the-applications-token"
ENCODERS_TOKEN = "the-token-of-the-encoder"
SECRETS = (TOKEN, ENCODERS_TOKEN, "PRIVATE KEY")


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def server_tls(pair: Pair, client_ca: Path | None = None) -> ServerTls:
    return ServerTls(pair.certificate, pair.key, client_ca)


def client_tls(authority: Authority, pair: Pair | None = None) -> ClientTls:
    return ClientTls(authority.path, pair and pair.certificate, pair and pair.key)


def token_file(folder: Path, name: str, *tokens: str) -> Path:
    path = folder / name
    path.write_text("\n".join(tokens))
    return path


async def ask(client: AsyncClient) -> tuple[int, ...]:
    return (await client.generate(noise_image(60, 60), PROMPT, sampling=FEW)).token_ids


async def refused(system: System, security: ClientSecurity) -> VisionSplitError:
    """How a separate client is refused."""
    async with AsyncClient(system.encoder_address, retries=ONCE, timeout=20, security=security) as client:
        with pytest.raises(VisionSplitError) as caught:
            await ask(client)
    return caught.value


def no_secret_in(caplog: pytest.LogCaptureFixture) -> bool:
    return not any(secret in record.getMessage() for record in caplog.records for secret in SECRETS)


@asynccontextmanager
async def protected(checkpoint: Path, folder: Path, authority: Authority) -> AsyncIterator[System]:
    """mTLS and tokens everywhere; the application may call both services, the encoder only the LLM service."""
    service, application = authority.issue("service"), authority.issue("application")
    tls = server_tls(service, authority.path)
    sent = token_file(folder, "encoders-token", ENCODERS_TOKEN)
    async with running_system(
        checkpoint,
        llm={"security": ServerSecurity(tls, (token_file(folder, "llm-tokens", ENCODERS_TOKEN, TOKEN),))},
        encoder={
            "security": ServerSecurity(tls, (token_file(folder, "tokens", TOKEN),)),
            "llm_security": ClientSecurity(client_tls(authority, service), BearerToken(file=sent)),
        },
        security=ClientSecurity(client_tls(authority, application), BearerToken(value=TOKEN)),
    ) as system:
        yield system


async def test_with_mtls_and_tokens_everything_works_and_strangers_stay_out(
    random_checkpoints: dict[str, Path], tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with running_system(random_checkpoints["llama"]) as system:
        expected = await ask(system.client)
    caplog.clear()
    stranger = Authority(tmp_path, "stranger")
    async with protected(random_checkpoints["llama"], tmp_path, authority) as system:
        assert await ask(system.client) == expected
        assert (await system.client.encoder_info()).model == (await system.client.llm_info()).model
        assert {state.value for state in (await system.client.health()).values()} == {"serving"}
        tokens = await system.client.encode(noise_image(60, 60))
        assert (await system.client.generate_from_tokens(tokens, PROMPT, sampling=FEW)).token_ids == expected

        mine, token = client_tls(authority, authority.issue("mine")), BearerToken(value=TOKEN)
        unreachable = [
            ClientSecurity(client_tls(authority), token),  # no certificate
            ClientSecurity(client_tls(authority, stranger.issue("other")), token),  # of another authority
            ClientSecurity(client_tls(stranger, authority.issue("third")), token),  # trusts another authority
            ClientSecurity(replace(mine, server_name="other.example"), token),  # expects another name
            ClientSecurity(None, token),  # not encrypted; loopback, so the token may be sent
        ]
        for security in unreachable:
            assert type(await refused(system, security)) is UnreachableError
        for security in (ClientSecurity(mine), ClientSecurity(mine, BearerToken(value="another-token-of-no-use"))):
            error = await refused(system, security)
            assert type(error) is UnauthenticatedError
            assert str(error) == "a valid token is needed"
    assert no_secret_in(caplog)


async def test_without_a_token_nothing_but_health_is_told(
    random_checkpoints: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    security = ServerSecurity(token_files=(token_file(tmp_path, "tokens", TOKEN),))
    sent = ClientSecurity(token=BearerToken(value=TOKEN))
    protection = {"security": security, "llm_security": sent}
    async with running_system(random_checkpoints["llama"], encoder=protection, llm={"security": security}) as system:
        for address in (system.encoder_address, system.llm_address):
            async with grpc.aio.insecure_channel(address, options=channel_options(address)) as channel:
                check = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
                assert check.status == health_pb2.HealthCheckResponse.SERVING
                calls = [
                    EncoderServiceStub(channel).GetEncoderInfo(encoder_service_pb2.GetEncoderInfoRequest())
                    if address == system.encoder_address
                    else LlmServiceStub(channel).GetLlmInfo(llm_service_pb2.GetLlmInfoRequest()),
                    _first(
                        EncoderServiceStub(channel).Generate(encoder_service_pb2.EncoderServiceGenerateRequest())
                        if address == system.encoder_address
                        else LlmServiceStub(channel).Generate(_endless())
                    ),
                    _first(
                        reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
                            iter([reflection_pb2.ServerReflectionRequest(list_services="")])
                        )
                    ),
                ]
                for call in calls:
                    with pytest.raises(grpc.aio.AioRpcError) as caught:
                        await call
                    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
                    assert caught.value.details() == "a valid token is needed"
        async with AsyncClient(system.encoder_address, llm=system.llm_address, security=sent) as client:
            assert len(await ask(client)) > 0
            assert (await client.llm_info()).context_length > 0
    assert "refused a call from ipv4:127.0.0.1" in caplog.text
    assert no_secret_in(caplog)


async def _first(call: object) -> object:
    async for message in call:  # type: ignore[attr-defined]
        return message
    return None


async def _endless() -> AsyncIterator[llm_service_pb2.LlmServiceGenerateRequest]:
    while True:
        yield llm_service_pb2.LlmServiceGenerateRequest()
        await asyncio.sleep(0.01)


async def test_an_encoder_that_the_llm_service_refuses_is_not_the_callers_fault(
    random_checkpoints: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = token_file(tmp_path, "tokens", ENCODERS_TOKEN)
    sent = token_file(tmp_path, "sent", TOKEN)
    async with running_system(
        random_checkpoints["llama"],
        llm={"security": ServerSecurity(token_files=(tokens,))},
        encoder={"llm_security": ClientSecurity(token=BearerToken(file=sent))},
    ) as system:
        with pytest.raises(IncompatibleServicesError, match="does not accept this encoder"):
            await ask(system.client)
        assert "does not accept this encoder's token" in caplog.text
        sent.write_text(ENCODERS_TOKEN)  # and from the next call on it is
        assert len(await ask(system.client)) > 0
        tokens.write_text(TOKEN)
        with pytest.raises(IncompatibleServicesError):
            await ask(system.client)


async def test_certificates_change_without_a_restart(
    random_checkpoints: dict[str, Path], tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Servers and the encoder's connection take new certificates; what cannot be used leaves the old ones."""
    new_authority = Authority(tmp_path, "new-authority")
    service, trusted = authority.issue("service"), tmp_path / "trusted.pem"
    trusted.write_bytes(authority.path.read_bytes())
    tls, to_llm = server_tls(service, trusted), ClientTls(trusted, service.certificate, service.key)
    protection = {"security": ServerSecurity(tls), "llm_security": ClientSecurity(to_llm)}
    old = ClientSecurity(client_tls(authority, authority.issue("old-application")))
    new = ClientSecurity(client_tls(new_authority, new_authority.issue("new-application")))
    async with running_system(
        random_checkpoints["llama"], encoder=protection, llm={"security": ServerSecurity(tls)}, security=old
    ) as system:
        expected = await ask(system.client)
        assert type(await refused(system, new)) is UnreachableError
        service.key.write_text("half a file")
        async with AsyncClient(system.encoder_address, security=old) as client:
            assert await ask(client) == expected
        assert "what was read before stays in force" in caplog.text
        service.become(new_authority.issue("new-service"))
        trusted.write_bytes(new_authority.path.read_bytes())
        async with AsyncClient(system.encoder_address, security=new) as client:
            assert await ask(client) == expected
        assert type(await refused(system, old)) is UnreachableError
        assert await ask(system.client) == expected  # over the connection from before


async def test_what_cannot_be_protected_does_not_start(
    random_checkpoints: dict[str, Path], tmp_path: Path, authority: Authority
) -> None:
    expired, model = authority.issue("expired", days=-1), str(random_checkpoints["llama"])
    token = BearerToken(value=TOKEN)
    wrong = [
        (EncoderConfig(model, security=ServerSecurity(server_tls(expired))), "expired on"),
        (EncoderConfig(model, llm=("10.0.0.1:1",), llm_security=ClientSecurity(token=token)), "not encrypted"),
        (
            EncoderConfig(model, llm=("10.0.0.1:1",), llm_security=ClientSecurity(client_tls(authority, expired))),
            "expired",
        ),
    ]
    for config, reason in wrong:
        with pytest.raises(CredentialsError, match=reason):
            await EncoderServer(replace(config, listen="127.0.0.1:0", device="cpu")).start()
    with pytest.raises(CredentialsError, match="not encrypted"):
        Client("10.0.0.1:1", security=ClientSecurity(token=token))
    with pytest.raises(CredentialsError, match="not encrypted"):
        AsyncClient("127.0.0.1:1", llm="10.0.0.1:1", security=ClientSecurity(token=token))


async def test_the_command_line_tool_proves_itself(
    random_checkpoints: dict[str, Path],
    tmp_path: Path,
    authority: Authority,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with protected(random_checkpoints["llama"], tmp_path, authority) as system:
        where = ["--encoder", system.encoder_address, "--llm", system.llm_address, "--timeout", "20"]
        mine = authority.issue("mine")
        tls = ["--tls-ca", str(authority.path), "--tls-cert", str(mine.certificate), "--tls-key", str(mine.key)]
        sent = ["--token-file", str(token_file(tmp_path, "mine.token", TOKEN))]
        assert await asyncio.to_thread(main, ["info", *where, *tls, *sent]) == 0
        assert await asyncio.to_thread(main, ["health", system.llm_address, *tls]) == 0
        assert await asyncio.to_thread(main, ["info", *where, *tls]) == 1
        assert "a valid token is needed" in capsys.readouterr().err
        monkeypatch.setenv("VISIONSPLIT_TOKEN", TOKEN)
        assert await asyncio.to_thread(main, ["info", *where, *tls]) == 0
        assert await asyncio.to_thread(main, ["ask", "--encoder", "10.0.0.1:1", "Why?"]) == 1
        shown = capsys.readouterr()
        assert "not encrypted" in shown.err
        assert TOKEN not in shown.out + shown.err


# 127.1 is this machine too, but only a resolver knows: nothing here is really reachable from elsewhere.
async def test_listening_beyond_this_machine_without_tls_is_logged(
    random_checkpoints: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    async with running_system(random_checkpoints["llama"], llm={"listen": "127.1:0"}):
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["127.1:0 is reachable from other machines without TLS: images and answers are not encrypted"]
