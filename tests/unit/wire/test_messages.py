"""Requests are checked before protobuf builds them; unknown fields are refused instead of dropped."""

import time
import tracemalloc

import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from visionsplit.errors import InvalidPromptError, InvalidRequestError, UnknownFieldError
from visionsplit.receiving.messages import MAX_ENTRIES, has_bytes, parse
from visionsplit.v1 import encoder_service_pb2 as pb
from visionsplit.v1 import generation_pb2, llm_service_pb2, tensor_pb2, vision_tokens_pb2

UNKNOWN_FIELD_99 = b"\x98\x06\x01"
GENERATE, UPLOAD = pb.EncoderServiceGenerateRequest, llm_service_pb2.LlmServiceGenerateRequest


def inside(*numbers: int, body: bytes) -> bytes:
    """`body` inside messages of these field numbers, the outermost first."""
    for number in reversed(numbers):
        body = bytes([number << 3 | 2]) + length_of(body) + body
    return body


def length_of(body: bytes) -> bytes:
    left, encoded = len(body), b""
    while left >= 0x80:
        encoded += bytes([left & 0x7F | 0x80])
        left >>= 7
    return encoded + bytes([left])


HONEST = [
    pb.EncodeRequest(
        image=pb.Image(data=b"x" * 100_000),
        compression=vision_tokens_pb2.Compression(method="m", parameters={"tau": 1.0, "alpha": -2.5}, quotas_only=True),
    ),
    GENERATE(
        images=[pb.Image(data=b"x")] * 16,
        prompt=generation_pb2.Prompt(
            chat=generation_pb2.Chat(
                messages=[generation_pb2.ChatMessage(role="user", parts=[generation_pb2.ContentPart(text="字 🙂")] * 2)]
                * 1000
            )
        ),
        sampling=generation_pb2.Sampling(seed=2**64 - 1, temperature=0.5, stop=["a", ""]),
    ),
    UPLOAD(image=vision_tokens_pb2.ImageTokensHeader(image_index=3, budgets=range(600), quotas=range(600))),
    UPLOAD(
        tokens=vision_tokens_pb2.TokenChunk(
            features=tensor_pb2.Tensor(data_type=tensor_pb2.DATA_TYPE_INT8, shape=[2, 3], data=b"123456"),
            positions=bytes(24),
        )
    ),
    UPLOAD(header=llm_service_pb2.GenerateHeader(grids=[vision_tokens_pb2.TileGrid(side=24, rows=2)] * 16)),
    llm_service_pb2.GetLlmInfoRequest(),
    health_pb2.HealthCheckRequest(service="visionsplit.v1.LlmService"),
    reflection_pb2.ServerReflectionRequest(host="h", list_services=""),
]


@pytest.mark.parametrize("message", HONEST, ids=lambda message: type(message).__name__)
def test_honest_requests_pass(message: Message) -> None:
    assert parse(type(message), message.SerializeToString()) == message


def test_repeated_numbers_pass_in_both_forms() -> None:
    assert parse(tensor_pb2.Tensor, b"\x10\x02\x10\x80\x01").shape == [2, 128]
    assert parse(tensor_pb2.Tensor, b"\x12\x03\x02\x80\x01").shape == [2, 128]


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (pb.EncodeRequest, UNKNOWN_FIELD_99, "field 99 of visionsplit.v1.EncodeRequest"),
        (GENERATE, inside(2, 2, 1, 2, body=UNKNOWN_FIELD_99), "field 99 of visionsplit.v1.ContentPart"),
        (pb.EncodeRequest, inside(2, 7, body=UNKNOWN_FIELD_99), "field 99 of visionsplit.v1.Compression.Parameters"),
        (GENERATE, b"\x08\x01", "field 1 of visionsplit"),  # a known field of another wire type
        (GENERATE, b"\x0b\x0c", "field 1 of visionsplit"),  # a group
        (GENERATE, b"\xfb\x07\xfc\x07", "field 127 of visionsplit"),
        (GENERATE, UNKNOWN_FIELD_99 * 5_000_000, "field 99 of visionsplit"),
    ],
)
def test_an_unknown_field_is_named(kind: type[Message], data: bytes, message: str) -> None:
    with pytest.raises(UnknownFieldError, match=message):
        parse(kind, data)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (GENERATE, b"\xff" * 5_000_000),
        (GENERATE, b"\x0a"),
        (GENERATE, b"\x0a\x05abc"),
        (GENERATE, b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        (GENERATE, inside(2, 1, body=b"\xff\xfe")),  # not UTF-8
        (GENERATE, inside(2, 2, body=b"\x0a\x7f")),  # ends inside a message
        (GENERATE, b"\x21\x00"),
    ],
)
def test_bytes_that_are_no_message_are_refused(kind: type[Message], data: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        parse(kind, data)


MANY = 2_000_000


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (GENERATE, b"\x0a\x00" * MANY),  # images
        (GENERATE, inside(2, 2, body=b"\x0a\x00" * MANY)),  # turns
        (GENERATE, inside(2, 2, 1, body=b"\x12\x00" * MANY)),  # parts of one turn
        (GENERATE, inside(2, 2, body=inside(1, body=b"\x12\x00" * 20) * 100_000)),
        (GENERATE, inside(5, body=b"\x32\x00" * MANY)),  # stop strings
        (GENERATE, inside(3, body=b"\x3a\x00" * MANY)),  # parameters, by name
        (GENERATE, b"\x20\x01" * MANY),  # one number again and again
        (UPLOAD, inside(2, body=b"\x10\x00" * MANY)),  # budgets, one by one
        (UPLOAD, inside(2, 2, body=bytes(MANY))),  # budgets in one run
        (UPLOAD, inside(3, 3, 2, body=bytes(MANY))),  # a tensor's shape
    ],
)
def test_any_number_of_entries_is_refused_at_once_and_without_memory(kind: type[Message], data: bytes) -> None:
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(InvalidRequestError, match=f"more than {MAX_ENTRIES}"):
        parse(kind, data, max_prompt_bytes=len(data))
    seconds, memory = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < 2  # tracing included
    assert memory < 4_000_000


@pytest.mark.parametrize("times", [1, 2])
def test_a_long_prompt_is_refused_before_it_is_parsed(times: int) -> None:
    not_utf8 = b"\x0a\xc8\x01" + b"\xff" * 200  # protobuf would refuse this text
    with pytest.raises(InvalidPromptError, match=f"the prompt has {times * 203} bytes; at most {times * 203 - 1} are"):
        parse(GENERATE, inside(2, body=not_utf8) * times, max_prompt_bytes=times * 203 - 1)


def test_as_many_entries_as_are_allowed_pass() -> None:
    assert len(parse(GENERATE, b"\x0a\x00" * MAX_ENTRIES).images) == MAX_ENTRIES


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(HONEST), st.data())
def test_damaged_messages_are_parsed_as_protobuf_parses_them_or_refused(message: Message, data: st.DataObject) -> None:
    encoded = bytearray(message.SerializeToString()[:300])
    for _ in range(data.draw(st.integers(0, 3))):
        if encoded:
            encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = parse(type(message), bytes(encoded))
    except InvalidRequestError:
        return
    assert parsed == type(message).FromString(bytes(encoded))


def test_methods_that_take_bytes_are_known_by_their_requests() -> None:
    large: list[type[Message]] = [pb.EncodeRequest, GENERATE, UPLOAD]
    small = [pb.GetEncoderInfoRequest, llm_service_pb2.GetLlmInfoRequest, health_pb2.HealthCheckRequest]
    assert all(has_bytes(kind.DESCRIPTOR) for kind in large)
    assert not any(has_bytes(kind.DESCRIPTOR) for kind in [*small, reflection_pb2.ServerReflectionRequest])
