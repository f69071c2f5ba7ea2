"""Every wrong upload gets a specific error before a replica sees it, and the next call succeeds."""

import itertools
from collections.abc import Callable

import grpc
import numpy as np
import pytest
from visionsplit.v1 import generation_pb2
from visionsplit.wire.vision_tokens import VisionTokens

from tests.integration.llm.support import Caller, Request, Whole, picture, token_parts

ASK = "USER: <image>\nWhat? ASSISTANT:"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
Part = generation_pb2.ContentPart


def edited(request: Request, edit: Callable[[Request], object]) -> Request:
    copy = Request()
    copy.CopyFrom(request)
    edit(copy)
    return copy


@pytest.fixture
def tokens(llama: Whole) -> VisionTokens:
    return llama.tokens(picture(112, 90))


@pytest.fixture
def upload(llama_caller: Caller, tokens: VisionTokens) -> list[Request]:
    """header, image header, chunks."""
    return llama_caller.upload(ASK, [tokens], max_new_tokens=6)


@pytest.fixture
async def refused(llama_caller: Caller, tokens: VisionTokens, llama: Whole):
    """Sends something wrong; returns the error's name and text, then checks that the next call is right."""

    async def send(requests: list[Request], code: grpc.StatusCode = INVALID) -> tuple[str, str]:
        status, details, name = await llama_caller.status_of(requests)
        assert status is code, details
        answer = await llama_caller.generate(ASK, [tokens], max_new_tokens=6)
        assert answer.token_ids == llama.generate(ASK, [picture(112, 90)], max_new_tokens=6)
        return name, details

    return send


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
async def test_truncated(refused, upload, kept: int):
    assert (await refused(upload[:kept]))[0] == "InvalidTokensError"


async def test_no_header_first(refused, upload):
    assert (await refused(upload[1:]))[0] == "InvalidTokensError"


async def test_two_headers(refused, upload):
    assert (await refused([upload[0], upload[0]]))[0] == "InvalidTokensError"


async def test_empty_message(refused, upload):
    assert (await refused([upload[0], Request()]))[0] == "InvalidTokensError"


async def test_unknown_field(refused, upload):
    newer = Request.FromString(upload[0].SerializeToString() + b"\xf8\x3f\x01")
    name, details = await refused([newer, *upload[1:]])
    assert name == "UnknownFieldError"
    assert "1023" in details


async def test_the_first_error_is_told_whatever_comes_after_it(refused, upload):
    newer = Request.FromString(upload[0].SerializeToString() + b"\xf8\x3f\x01")
    assert (await refused([upload[0], upload[0], newer, *upload[1:]]))[0] == "InvalidTokensError"


async def test_chunks_out_of_order(refused, upload):
    name, details = await refused([*upload[:2], *reversed(upload[2:])])
    assert name == "InvalidTokensError"
    assert "chunk" in details


async def test_tokens_before_their_header(refused, upload):
    assert (await refused([upload[0], *upload[2:]]))[0] == "InvalidTokensError"


async def test_too_many_tokens(refused, upload):
    more = edited(upload[2], lambda request: setattr(request.tokens, "chunk_index", len(upload) - 2))
    assert (await refused([*upload, more]))[0] == "InvalidTokensError"


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b""])
async def test_wrong_byte_count(refused, upload, change):
    bad = edited(
        upload[2], lambda request: setattr(request.tokens.features, "data", change(request.tokens.features.data))
    )
    assert (await refused([*upload[:2], bad, *upload[3:]]))[0] == "InvalidTokensError"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
async def test_not_finite(refused, upload, value: float):
    data = np.frombuffer(upload[2].tokens.features.data, "<f4").copy()
    data[5] = value
    bad = edited(upload[2], lambda request: setattr(request.tokens.features, "data", data.tobytes()))
    assert "NaN" in (await refused([*upload[:2], bad, *upload[3:]]))[1]


async def test_wrong_width(refused, upload, llama: Whole):
    bad = edited(upload[0], lambda request: setattr(request.header.format, "feature_size", 7))
    name, details = await refused([bad, *upload[1:]])
    assert name == "InvalidTokensError"
    assert "7" in details
    assert str(llama.feature_size) in details


async def test_another_encoder(refused, upload):
    bad = edited(upload[0], lambda request: setattr(request.header.format, "encoder_fingerprint", "0" * 32))
    name, _ = await refused([bad, *upload[1:]], grpc.StatusCode.FAILED_PRECONDITION)
    assert name == "IncompatibleServicesError"


async def test_no_format(refused, upload):
    bad = edited(upload[0], lambda request: request.header.ClearField("format"))
    assert (await refused([bad, *upload[1:]]))[0] == "InvalidTokensError"


@pytest.mark.parametrize(
    ("field", "value"), [("side", 24), ("rows", 7), ("columns", 0), ("valid_top", 2), ("valid_right", 99)]
)
async def test_wrong_grid(refused, upload, field: str, value: int):
    bad = edited(upload[0], lambda request: setattr(request.header.grids[0], field, value))
    assert (await refused([bad, *upload[1:]]))[0] == "InvalidTokensError"


async def test_budget_above_the_tile(refused, upload):
    bad = edited(upload[1], lambda request: request.image.budgets.__setitem__(0, 17))
    assert (await refused([upload[0], bad, *upload[2:]]))[0] == "InvalidTokensError"


@pytest.mark.parametrize("prompt", ["no place", "<image> <image>", ""])
async def test_placeholders(refused, llama_caller, tokens, prompt: str):
    name, details = await refused(llama_caller.upload(prompt, [tokens]))
    assert name == "InvalidPromptError"
    assert str(prompt.count("<image>")) in details


async def test_placeholder_without_image(refused, llama_caller):
    assert (await refused(llama_caller.upload(ASK)))[0] == "InvalidPromptError"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [("user", [Part(text="<image>")])],
        [("user", [Part(text="no image")])],
        [("user", [Part(), Part(image=generation_pb2.ImagePart())])],
        [("wizard", [Part(image=generation_pb2.ImagePart())])],
    ],
    ids=["empty", "text", "none", "empty part", "role"],
)
async def test_conversations(refused, llama_caller, tokens, messages):
    turns = [generation_pb2.ChatMessage(role=role, parts=parts) for role, parts in messages]
    prompt = generation_pb2.Prompt(chat=generation_pb2.Chat(messages=turns))
    assert (await refused(llama_caller.upload(prompt, [tokens])))[0] == "InvalidPromptError"


async def test_no_prompt(refused, llama_caller):
    assert (await refused(llama_caller.upload(generation_pb2.Prompt())))[0] == "InvalidPromptError"


async def test_too_long(refused, llama_caller, tokens):
    name, details = await refused(llama_caller.upload(ASK, [tokens], max_new_tokens=1000))
    assert name == "PromptTooLongError"
    assert "1000" in details
    assert "1024" in details


async def test_too_long_before_its_images_came(refused, llama_caller, tokens):
    name, details = await refused(llama_caller.upload(ASK, [tokens], max_new_tokens=1023))
    assert name == "PromptTooLongError"
    assert " 0 vision" not in details  # they were on their way
    assert "without the vision tokens of 1 image yet to come" in details


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": -1.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_p": float("nan")},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": -2.0},
        {"repetition_penalty": 0.009},
        {"repetition_penalty": 101.0},
        {"repetition_penalty": 1e-50},
        {"repetition_penalty": float("nan")},
        {"stop": [""]},
        {"stop": ["x" * 257]},
        {"stop": ["x"] * 17},
    ],
    ids=str,
)
async def test_sampling_ranges(refused, llama_caller, sampling):
    assert (await refused(llama_caller.upload("hi", max_new_tokens=4, **{**sampling})))[0] == "InvalidSamplingError"


async def test_client_that_goes_away_while_uploading(llama_caller: Caller, upload, llama: Whole, tokens):
    call = llama_caller.stub.Generate()
    for request in upload[:3]:
        await call.write(request)
    call.cancel()
    answer = await llama_caller.generate(ASK, [tokens], max_new_tokens=6)
    assert answer.token_ids == llama.generate(ASK, [picture(112, 90)], max_new_tokens=6)


async def test_a_tokens_header_twice_or_of_an_image_that_the_request_does_not_have(refused, upload):
    name, details = await refused([*upload[:2], upload[1]])
    assert (name, details) == ("InvalidTokensError", "the tokens header of image 0 arrived twice")
    other = edited(upload[1], lambda request: setattr(request.image, "image_index", 1))
    name, details = await refused([upload[0], other])
    assert (name, details) == ("InvalidTokensError", "a tokens header is of image 1; the request has 1 images")


async def test_images_may_arrive_in_any_order(llama_caller: Caller, llama: Whole):
    """As they do from an encoder that has a later image in its cache."""
    pictures = [picture(112, 90, 1), picture(60, 150, 2), picture(70, 70, 3)]
    images = [llama.tokens(image) for image in pictures]
    expected = llama.generate("<image> <image> <image>", pictures, max_new_tokens=8)
    parts = token_parts(images, 512)
    header = llama_caller.header("<image> <image> <image>", images, max_new_tokens=8)
    for order in itertools.permutations(range(3)):
        ordered = [part for index in order for part in parts if _image_of(part) == index]
        call = llama_caller.call([header, *ordered])
        assert [token async for response in call for token in response.delta.token_ids] == expected, order


def _image_of(part: Request) -> int:
    return (part.image if part.WhichOneof("part") == "image" else part.tokens).image_index


async def test_interleaved_chunks_are_fine(llama_caller: Caller, llama: Whole):
    pictures = [picture(112, 90, 1), picture(60, 150, 2)]
    images = [llama.tokens(image) for image in pictures]
    parts = token_parts(images, 512)
    headers = [part for part in parts if part.WhichOneof("part") == "image"]
    chunks = sorted(
        (part for part in parts if part.WhichOneof("part") == "tokens"),
        key=lambda part: (part.tokens.chunk_index, part.tokens.image_index),
    )
    header = llama_caller.header("<image> <image>", images, max_new_tokens=8)
    call = llama_caller.call([header, *headers, *chunks])
    ids = [token async for response in call for token in response.delta.token_ids]
    assert ids == llama.generate("<image> <image>", pictures, max_new_tokens=8)
