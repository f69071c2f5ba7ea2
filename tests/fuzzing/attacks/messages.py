"""Single messages within the limits of size that cost far more to read than to send."""

import asyncio
import gzip
import time
from collections.abc import Callable
from typing import Any

from google.protobuf.message import Message
from visionsplit.v1 import encoder_service_pb2, generation_pb2, llm_service_pb2, vision_tokens_pb2

from tests.fuzzing.attacks.base import Attack, counted
from tests.fuzzing.attacks.target import ENCODER, HEALTH, LLM, MIB, REFLECTION, Target

_MOST = 48 * MIB  # of the encoder's 64
_MOST_LLM = 4 * MIB - 1024  # of the LLM service's 4
_UNKNOWN = 1000  # a field number that no message has
_VARINT, _BYTES, _GROUP, _GROUP_END = 0, 2, 3, 4

EncoderRequest = encoder_service_pb2.EncoderServiceGenerateRequest
LlmRequest = llm_service_pb2.LlmServiceGenerateRequest


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*out, number))


def tag(field: int, kind: int) -> bytes:
    return varint(field << 3 | kind)


def wrapped(kind: type[Message], *path: str, content: bytes) -> bytes:
    """`content` as the innermost of nested messages, whose fields' names are the path from `kind` on."""
    numbers = []
    descriptor: Any = kind.DESCRIPTOR
    for name in path:
        field = descriptor.fields_by_name[name]
        numbers.append(field.number)
        descriptor = field.message_type
    for number in reversed(numbers):
        content = tag(number, _BYTES) + varint(len(content)) + content
    return content


def repeated(piece: bytes, size: int) -> bytes:
    return piece * (size // len(piece))


def field(kind: type[Message], name: str) -> int:
    return kind.DESCRIPTOR.fields_by_name[name].number


def _empty(kind: type[Message], name: str) -> bytes:
    """An empty message, string or bytes in a field."""
    return tag(field(kind, name), _BYTES) + b"\0"


def _message_attack(name: str, method: str, make: Callable[[], bytes], *, quick: bool = False) -> Attack:
    async def run(target: Target, seconds: float) -> str:
        started = time.monotonic()
        message = make()
        sent = time.monotonic()
        status = await target.call(method, message, seconds=max(seconds, 1.0) + 60)
        return f"{status} after {time.monotonic() - sent:.2f} s (made in {sent - started:.1f} s)"

    return Attack(name, run, quick=quick)


_UNKNOWN_VARINT = tag(_UNKNOWN, _VARINT) + b"\1"
_UNKNOWN_GROUP = tag(_UNKNOWN, _GROUP) + tag(_UNKNOWN, _GROUP_END)
_ENTRY = tag(1, _BYTES) + b"\x01k" + tag(2, 1) + bytes(8)  # of a map from strings to doubles
_GENERATE, _ENCODE, _LLM_GENERATE = f"{ENCODER}/Generate", f"{ENCODER}/Encode", f"{LLM}/Generate"


def _compression_entries() -> bytes:
    compression = vision_tokens_pb2.Compression.DESCRIPTOR
    maps = [one for one in compression.fields if one.message_type and one.message_type.GetOptions().map_entry]
    entry = tag(maps[0].number, _BYTES) + varint(len(_ENTRY)) + _ENTRY
    return wrapped(encoder_service_pb2.EncodeRequest, "compression", content=repeated(entry, _MOST))


def _nested_groups() -> bytes:
    depth = _MOST // 4
    return tag(_UNKNOWN, _GROUP) * depth + tag(_UNKNOWN, _GROUP_END) * depth


def _nested_messages() -> bytes:
    """Ten thousand levels, each in the other, in a field that is not known."""
    content = b""
    for _ in range(10_000):
        content = tag(_UNKNOWN, _BYTES) + varint(len(content)) + content
    return content


def _numbers(*, packed: bool) -> bytes:
    number = field(vision_tokens_pb2.ImageTokensHeader, "budgets")
    if packed:
        content = tag(number, _BYTES) + varint(_MOST_LLM) + bytes(_MOST_LLM)
    else:
        content = repeated(tag(number, _VARINT) + b"\0", _MOST_LLM)
    return wrapped(LlmRequest, "image", content=content)


MESSAGE_ATTACKS = (
    _message_attack(
        "messages/empty-images", _GENERATE, lambda: repeated(_empty(EncoderRequest, "images"), _MOST), quick=True
    ),
    _message_attack("messages/unknown-fields", _GENERATE, lambda: repeated(_UNKNOWN_VARINT, _MOST)),
    _message_attack("messages/unknown-in-info", f"{ENCODER}/GetEncoderInfo", lambda: repeated(_UNKNOWN_VARINT, _MOST)),
    _message_attack("messages/groups", _ENCODE, lambda: repeated(_UNKNOWN_GROUP, _MOST)),
    _message_attack("messages/nested-groups", _ENCODE, _nested_groups),
    _message_attack("messages/nested-messages", _ENCODE, _nested_messages),
    _message_attack("messages/map-entries", _ENCODE, _compression_entries),
    _message_attack(
        "messages/stop-strings",
        _GENERATE,
        lambda: wrapped(EncoderRequest, "sampling", content=repeated(_empty(generation_pb2.Sampling, "stop"), _MOST)),
    ),
    _message_attack("messages/health", f"{HEALTH}/Check", lambda: repeated(_UNKNOWN_VARINT, _MOST)),
    _message_attack("messages/reflection", REFLECTION, lambda: repeated(_UNKNOWN_VARINT, _MOST)),
    _message_attack(
        "messages/chat-turns",
        _LLM_GENERATE,
        lambda: wrapped(
            LlmRequest, "header", "prompt", "chat", content=repeated(_empty(generation_pb2.Chat, "messages"), _MOST_LLM)
        ),
        quick=True,
    ),
    _message_attack(
        "messages/chat-parts",
        _LLM_GENERATE,
        lambda: wrapped(
            LlmRequest,
            *("header", "prompt", "chat", "messages"),
            content=repeated(_empty(generation_pb2.ChatMessage, "parts"), _MOST_LLM),
        ),
    ),
    _message_attack(
        "messages/grids",
        _LLM_GENERATE,
        lambda: wrapped(
            LlmRequest, "header", content=repeated(_empty(llm_service_pb2.GenerateHeader, "grids"), _MOST_LLM)
        ),
    ),
    _message_attack("messages/numbers", _LLM_GENERATE, lambda: _numbers(packed=False)),
    _message_attack("messages/packed-numbers", _LLM_GENERATE, lambda: _numbers(packed=True)),
)


async def _compressed(target: Target, seconds: float) -> str:
    """32 messages at once, without a token, each 60 KiB on the wire and 60 MiB afterwards, within the limit of size."""
    zeros = tag(_UNKNOWN, _BYTES) + varint(60 * MIB) + bytes(60 * MIB)
    bomb = gzip.compress(zeros)
    message = b"\1" + len(bomb).to_bytes(4, "big") + bomb
    end = time.monotonic() + seconds
    outcomes: list[str] = []

    async def one(method: str, *, llm: bool) -> None:
        while time.monotonic() < end:
            async with target.http2(method, llm=llm) as client:
                calls = [await client.begin(method, (("grpc-encoding", "gzip"),)) for _ in range(8)]
                for stream in calls:
                    await client.send(stream, message, end=True)
                async with asyncio.timeout(60):
                    for stream in calls:
                        await client.finished(stream)
                outcomes.extend("ended" for _ in calls)

    check, info = f"{HEALTH}/Check", f"{ENCODER}/GetEncoderInfo"
    await asyncio.gather(*(one(check, llm=False) for _ in range(2)), one(check, llm=True), one(info, llm=False))
    return counted(outcomes)


COMPRESSED = Attack("messages/gzip", _compressed)
