"""A caller's text cannot forge or flood the services' logs, nor make a service do too much work."""

import asyncio
import io
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import pytest_asyncio
from visionsplit.errors import InvalidPromptError
from visionsplit.network.transport import channel_options
from visionsplit.receiving.prompts import MAX_PROMPT_BYTES, MAX_TURNS
from visionsplit.telemetry.config import TelemetryConfig
from visionsplit.telemetry.log_lines import LineFormatter
from visionsplit.telemetry.logs import JsonFormatter, LimitedRecords
from visionsplit.v1 import encoder_service_pb2, generation_pb2, llm_service_pb2, vision_tokens_pb2
from visionsplit.v1.encoder_service_pb2_grpc import EncoderServiceStub
from visionsplit.v1.llm_service_pb2_grpc import LlmServiceStub
from visionsplit.wire.grpc_status import error_from_rpc
from visionsplit_client import Prompt, Sampling

from tests.integration.system import System, running_system
from tests.raw_calls import raw_call

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONE = generation_pb2.Sampling(max_new_tokens=1)
HOSTILE = ["a\nINJECTED", "a\r\nINJECTED", "\x1b[2Jred", "a b", "a\u2028INJECTED", "\x00", "\x7f", "a" * 129]
UNESCAPED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ud800-\udfff]")
LINE_START = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} (DEBUG|INFO|WARNING|ERROR) [a-z_.]+: |    ")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(random_checkpoints: dict[str, Path]) -> AsyncIterator[System]:
    telemetry = {"telemetry": TelemetryConfig(log_prompts=True)}
    async with running_system(random_checkpoints["llama"], encoder=telemetry, llm=telemetry) as running:
        yield running


@contextmanager
def logged() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    """What both formats write meanwhile, as text and as JSON."""
    streams = io.StringIO(), io.StringIO()
    formatters = LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"), JsonFormatter("test")
    handlers = [logging.StreamHandler(stream) for stream in streams]
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.INFO)
    for handler, formatter in zip(handlers, formatters, strict=True):
        handler.setFormatter(formatter)
        handler.addFilter(LimitedRecords(("llm_service", "encoder_service", "visionsplit")))
        root.addHandler(handler)
    try:
        yield streams
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)


def check_lines(text: io.StringIO, documents: io.StringIO) -> list[dict[str, object]]:
    """Every line is a record's or of a traceback, none is long, and none has a control character."""
    # JSON writes a character beyond U+FFFF as twelve, and a logged prompt twice.
    for stream, most in ((text, 10_000), (documents, 60_000)):
        assert not UNESCAPED.search(stream.getvalue())
        assert all(len(line) < most for line in stream.getvalue().split("\n"))
    assert all(LINE_START.match(line) for line in text.getvalue().split("\n")[:-1])
    return [json.loads(line) for line in documents.getvalue().split("\n")[:-1]]


def generate(text: str) -> bytes:
    prompt = generation_pb2.Prompt(text=text)
    return encoder_service_pb2.EncoderServiceGenerateRequest(prompt=prompt, sampling=ONE).SerializeToString()


async def test_a_request_id_is_taken_over_only_if_it_is_one(system: System) -> None:
    ids = [id.encode() for id in (*HOSTILE, "fine.id:1/2_-")]
    with logged() as streams:
        for id in ids:
            answer = await raw_call(
                system.encoder_address, "/visionsplit.v1.EncoderService/Generate", generate("Hi"), {b"x-request-id": id}
            )
            assert answer
    calls = [line for line in check_lines(*streams) if line.get("method") == "Generate"]
    assert [line["status"] for line in calls] == ["OK"] * 2 * len(ids)
    # Both services wrote a line for each call, with the same id; of the hostile ones it is a new one.
    both = [(calls[2 * index]["request_id"], calls[2 * index + 1]["request_id"]) for index in range(len(ids))]
    assert all(first == second for first, second in both)
    assert all(re.fullmatch(r"[0-9a-f]{32}", str(first)) for first, _ in both[:-1])
    assert both[-1][0] == "fine.id:1/2_-"


async def test_metadata_that_are_not_text_cost_few_lines(system: System) -> None:
    with logged() as streams:
        for _ in range(100):
            await raw_call(
                system.llm_address, "/visionsplit.v1.LlmService/GetLlmInfo", b"", {b"x-request-id": b"\xff\xfe"}
            )
    assert 0 < len([line for line in check_lines(*streams) if line["logger"] == "grpc._cython.cygrpc"]) <= 20


async def test_a_prompt_in_the_log_is_one_line(system: System) -> None:
    text = "one\nINJECTED \x1b[2J\u2028two\u202e\x85" + "😀" * 3000
    with logged() as streams:
        await raw_call(system.encoder_address, "/visionsplit.v1.EncoderService/Generate", generate(text), {})
    prompts = [str(line["prompt"]) for line in check_lines(*streams) if "prompt" in line]
    assert prompts
    assert all(len(prompt) <= 2000 for prompt in prompts)


@pytest.mark.parametrize("field", ["compression", "sampling", "prefill"])
async def test_settings_of_megabytes_are_refused_before_they_are_read(system: System, field: str) -> None:
    large = "\n😀" * 500_000
    settings = {
        "compression": vision_tokens_pb2.Compression(method=large, guidance=large),
        "sampling": generation_pb2.Sampling(stop=[large]),
        "prefill": generation_pb2.Prefill(pruning=generation_pb2.Pruning(method=large)),
    }
    request = encoder_service_pb2.EncoderServiceGenerateRequest(
        prompt=generation_pb2.Prompt(text="Hi"),
        **{field: settings[field]},
    )
    options = channel_options(system.encoder_address)
    async with grpc.aio.insecure_channel(system.encoder_address, options=options) as channel:
        with logged() as streams, pytest.raises(grpc.aio.AioRpcError, match=f"{field} has") as failure:
            async for _ in EncoderServiceStub(channel).Generate(request):
                pass
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    check_lines(*streams)


def chat(*parts: str, role: str = "user", turns: int = 1) -> generation_pb2.Prompt:
    content = [generation_pb2.ContentPart(text=part) for part in parts]
    return generation_pb2.Prompt(
        chat=generation_pb2.Chat(messages=[generation_pb2.ChatMessage(role=role, parts=content)] * turns)
    )


TOO_MUCH = {
    "emoji": generation_pb2.Prompt(text="😀" * 700_000),
    "a": generation_pb2.Prompt(text="a" * 1_000_000),
    "newlines in a chat": chat("\n" * 900_000),
    "just fits in bytes": chat("b" * 7_000),
    "special tokens": chat("<s></s><image>" * 60_000),
    "turns": chat("x", turns=MAX_TURNS + 1),
    "empty turns": chat(turns=4000),
    "parts": chat(*"x" * 3000),
    "empty parts": generation_pb2.Prompt(
        chat=generation_pb2.Chat(messages=[generation_pb2.ChatMessage(parts=[generation_pb2.ContentPart()] * 2000)])
    ),
    "a role": chat("x", role="r\nINJECTED" * 100_000),
    "a short role": chat("x", role="r\nINJECTED\x1b" * 5),
    "more than the encoder passes on": generation_pb2.Prompt(text="a" * (MAX_PROMPT_BYTES + 1)),
}


@pytest.mark.parametrize("name", list(TOO_MUCH))
async def test_a_prompt_that_cannot_fit_holds_nobody_up(system: System, name: str) -> None:
    """At either service, from several callers at once. A neighbour's answers come as before."""
    prompt = TOO_MUCH[name]
    header = llm_service_pb2.GenerateHeader(prompt=prompt, sampling=ONE)
    upload = llm_service_pb2.LlmServiceGenerateRequest(header=header)
    request = encoder_service_pb2.EncoderServiceGenerateRequest(prompt=prompt, sampling=ONE)
    options = channel_options(system.encoder_address)
    async with (
        grpc.aio.insecure_channel(system.llm_address, options=options) as llm,
        grpc.aio.insecure_channel(system.encoder_address, options=options) as encoder,
    ):

        async def refused(call: object) -> str:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                async for _ in call:  # type: ignore[attr-defined]
                    pass
            error = error_from_rpc(failure.value)
            assert isinstance(error, InvalidPromptError), error
            return str(error)

        with logged() as streams:
            started = time.monotonic()
            calls = [LlmServiceStub(llm).Generate(iter([upload])) for _ in range(3)]
            calls += [EncoderServiceStub(encoder).Generate(request) for _ in range(3)]
            refusals = asyncio.gather(*(refused(call) for call in calls))
            await system.client.generate(None, Prompt.raw("Hi"), sampling=Sampling(max_new_tokens=1))
            neighbour = time.monotonic() - started
            texts = await refusals
        lines = check_lines(*streams)
    assert all(len(text) < 1000 for text in texts)
    assert neighbour < 3  # with everything in one process and other tests beside it; it was a minute
    assert len([line for line in lines if line.get("status") == "INVALID_ARGUMENT"]) >= 6
