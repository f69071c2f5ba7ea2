"""Turns among callers with tokens: applications are told apart by name, wherever they call from."""

from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from visionsplit.security.server import ServerSecurity
from visionsplit.serving.caller import CALLER_KEY
from visionsplit_client import AsyncClient, BearerToken, ClientSecurity, OverloadedError, Prompt, Retries

from encoder_service.config import EncoderConfig
from encoder_service.server import EncoderServer
from llm_service.config import Limits
from tests.integration.llm.support import Whole, running
from tests.unit.encoder.helpers import FakeLlm, running_llm

ALICE, BOB, ENCODER = "a-token-that-alice-has", "a-token-that-bob-has", "a-token-of-an-encoder"
HALF = {"max_calls": 4, "caller_share": 0.5}  # two calls of each caller
PROMPT = Prompt.raw("x")


def accepted(folder: Path, *lines: str) -> ServerSecurity:
    path = folder / "tokens"
    path.write_text("\n".join(lines))
    return ServerSecurity(token_files=(path,))


def client_of(address: str, token: str) -> AsyncClient:
    security = ClientSecurity(token=BearerToken(value=token))
    return AsyncClient(address, retries=Retries(attempts=1), security=security)


@asynccontextmanager
async def encoder_for(model: Path, llm: str, security: ServerSecurity):
    server = EncoderServer(EncoderConfig(str(model), listen="127.0.0.1:0", llm=(llm,), security=security, **HALF))
    try:
        yield f"127.0.0.1:{await server.start()}"
    finally:
        await server.stop(None)


async def test_applications_at_one_address_have_each_their_part(
    random_checkpoints: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    llm = FakeLlm()
    llm.may_answer.clear()
    security = accepted(tmp_path, f"alice {ALICE}", f"{BOB}")
    async with (
        running_llm(llm) as llm_address,
        encoder_for(random_checkpoints["llama"], llm_address, security) as address,
        client_of(address, ALICE) as alice,
        client_of(address, BOB) as bob,
        alice.stream([], PROMPT) as first,
        alice.stream([], PROMPT) as second,
    ):
        await anext(first)
        await anext(second)
        assert llm.metadata[CALLER_KEY] == "token:alice"
        with pytest.raises(OverloadedError, match="2 calls of this caller"):
            await alice.generate([], PROMPT)
        async with bob.stream([], PROMPT) as his:
            await anext(his)
            assert llm.metadata[CALLER_KEY].startswith("token:")
        assert not any(token in str(llm.metadata) + caplog.text for token in (ALICE, BOB))


async def test_only_a_relay_is_believed_when_it_calls_for_others(llama: Whole, tmp_path: Path) -> None:
    security = accepted(tmp_path, f"alice {ALICE}", f"encoder {ENCODER} relay")
    async with running(llama, limits=Limits(**HALF), security=security) as (_, caller):

        async def third_call(token: str, *names: str) -> grpc.StatusCode:
            """How the last of three long calls begins, each with another name."""
            calls = [
                caller.call(
                    caller.upload("Hi", max_new_tokens=300),
                    metadata=(("authorization", f"Bearer {token}"), (CALLER_KEY, name)),
                )
                for name in names
            ]
            try:
                for call in calls[:-1]:
                    await call.read()
                await calls[-1].read()
                return grpc.StatusCode.OK
            except grpc.aio.AioRpcError as error:
                return error.code()
            finally:
                for call in calls:
                    call.cancel()

        assert await third_call(ALICE, "x", "y", "z") is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await third_call(ENCODER, "token:bob", "token:bob", "token:alice") is grpc.StatusCode.OK
        assert await third_call(ENCODER, "same", "same", "same") is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_without_tokens_an_address_cannot_take_every_place_by_inventing_names(llama: Whole) -> None:
    async with running(llama, limits=Limits(**HALF)) as (_, caller):
        calls = [
            caller.call(caller.upload("Hi", max_new_tokens=900), metadata=((CALLER_KEY, f"name-{number}"),))
            for number in range(3)
        ]
        for call in calls:  # more than the two of one caller: an encoder calls for many
            await call.read()
        refused = caller.call(caller.upload("Hi", max_new_tokens=1), metadata=((CALLER_KEY, "name-3"),))
        with pytest.raises(grpc.aio.AioRpcError, match="3 calls of this address") as failure:
            await refused.read()
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        for call in calls:
            call.cancel()
