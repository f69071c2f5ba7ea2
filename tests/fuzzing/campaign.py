"""Sends hostile requests to both services, a few at a time, and checks how each call ends."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import grpc
import grpc.aio
from google.protobuf.message import Message
from visionsplit.network.transport import channel_options
from visionsplit.v1 import encoder_service_pb2 as encoder_pb
from visionsplit.v1 import llm_service_pb2 as llm_pb
from visionsplit.wire.upload_status import UploadStatus, is_failed_write
from visionsplit_client import AsyncClient, Compression, Pruning, Sampling
from visionsplit_client._prompts import prompt_to_proto
from visionsplit_client._requests import encode_request, generate_request, prefill_of, token_upload

from tests.fuzzing.images import hostile_image, sound_image
from tests.fuzzing.messages import damaged, mutated, parsed, random_message, shuffled

# What a caller's mistake may end with. UNKNOWN and INTERNAL would be the service's own.
SENSIBLE = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.CANCELLED,  # by us, once enough has been read
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.FAILED_PRECONDITION,  # of another encoder
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
)
_DEADLINE_SECONDS = 60.0
_READ_MESSAGES = 20
_AT_ONCE = 4

_ENCODER, _LLM = "/visionsplit.v1.EncoderService", "/visionsplit.v1.LlmService"
_METHODS: dict[str, type[Message]] = {
    f"{_ENCODER}/Encode": encoder_pb.EncodeRequest,
    f"{_ENCODER}/Generate": encoder_pb.EncoderServiceGenerateRequest,
    f"{_ENCODER}/GetEncoderInfo": encoder_pb.GetEncoderInfoRequest,
    f"{_LLM}/Generate": llm_pb.LlmServiceGenerateRequest,
    f"{_LLM}/GetLlmInfo": llm_pb.GetLlmInfoRequest,
}
_WEIGHTS = (3, 4, 1, 4, 1)


@dataclass(frozen=True)
class Sound:
    """Requests that succeed, to be changed."""

    requests: dict[str, list[list[bytes]]]  # of each method: streams of messages

    @classmethod
    async def of(cls, client: AsyncClient) -> "Sound":
        image = sound_image(random.Random(0), "PNG", (128, 96))
        few = Sampling(max_new_tokens=3, temperature=0.5, seed=1, stop=["x"])
        asked = Compression("globalcom2", 0.3)
        prompt = prompt_to_proto("What?", None, num_images=1)
        prefill = prefill_of(Pruning("fastv", 0.5, {"layer": 1}), None)
        encoded = await client.encode(image, asked)
        streams: dict[str, list[list[Message]]] = {
            f"{_ENCODER}/Encode": [[encode_request(image, asked, "int8")]],
            f"{_ENCODER}/Generate": [
                [generate_request([image], prompt, asked, None, few, prefill)],
                [generate_request([image, image], prompt_to_proto("And?", None, num_images=2), None, None, few, None)],
            ],
            f"{_ENCODER}/GetEncoderInfo": [[encoder_pb.GetEncoderInfoRequest()]],
            f"{_LLM}/Generate": [
                list(token_upload([encoded], prompt, few, prefill)),
                list(token_upload([encoded, encoded], prompt_to_proto("And?", None, num_images=2), few, None)),
            ],
            f"{_LLM}/GetLlmInfo": [[llm_pb.GetLlmInfoRequest()]],
        }
        return cls({m: [[one.SerializeToString() for one in s] for s in found] for m, found in streams.items()})


@dataclass(frozen=True)
class Case:
    """One call."""

    number: int
    method: str
    kind: str
    messages: list[bytes] = field(repr=False)


@dataclass(frozen=True)
class End:
    """How a call ended."""

    case: Case
    code: grpc.StatusCode
    details: str


def make_case(seed: int, number: int, sound: Sound) -> Case:
    """The request of this number."""
    rng = random.Random(f"{seed} {number}")
    method = rng.choices(list(_METHODS), _WEIGHTS)[0]
    kind = _METHODS[method]
    stream = rng.choice(sound.requests[method])

    def change(part: bytes) -> bytes:
        return mutated(rng, parsed(kind, part)).SerializeToString()

    if method.startswith(_ENCODER) and "Info" not in method and rng.random() < 0.4:
        return Case(number, method, "image", [_with_image(kind, stream[0], hostile_image(rng))])
    ways = {
        "garbage": lambda: [rng.randbytes(rng.choice((0, 1, 5, 60, 3000)))],
        "damaged": lambda: [damaged(rng, part) if rng.random() < 0.6 else part for part in stream],
        "random": lambda: [random_message(rng, kind).SerializeToString() for _ in range(rng.randint(0, 3) or 1)],
        "mutated": lambda: [change(part) for part in stream],
        "one mutated": lambda: [*stream[:-1], change(stream[-1])],
        "shuffled": lambda: shuffled(rng, stream, change),
    }
    name = rng.choice([*ways, "mutated", "one mutated"])
    messages = ways[name]()
    return Case(number, method, name, messages if method == f"{_LLM}/Generate" else messages[:1] or [b""])


def _with_image(kind: type[Message], request: bytes, image: bytes) -> bytes:
    message = kind.FromString(request)
    if isinstance(message, encoder_pb.EncodeRequest):
        message.image.data = image
    elif isinstance(message, encoder_pb.EncoderServiceGenerateRequest):
        message.images[-1].data = image
    return message.SerializeToString()


async def send(case: Case, encoder: grpc.aio.Channel, llm: grpc.aio.Channel) -> End:
    """Make a call as bytes, read some of the answer, and give the call up if there is more."""
    channel = encoder if case.method.startswith(_ENCODER) else llm
    call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(case.method)(
        _stream(case.messages), timeout=_DEADLINE_SECONDS
    )
    status = UploadStatus(call)
    read = 0
    try:
        while read < _READ_MESSAGES and await call.read() is not grpc.aio.EOF:
            read += 1
    except grpc.aio.AioRpcError as error:
        own = await status.get() if is_failed_write(error) else error
        return End(case, (own or error).code(), (own or error).details() or "")
    if read == _READ_MESSAGES:
        call.cancel()
    return End(case, await call.code(), await call.details() or "")


async def _stream(messages: Sequence[bytes]) -> AsyncIterator[bytes]:
    for message in messages:
        yield message


async def campaign(
    seed: int, numbers: Sequence[int], sound: Sound, encoder_address: str, llm_address: str
) -> tuple[Counter[str], list[End]]:
    """Send the requests of these numbers; how many ended with which status, and the ends that are not sensible."""
    codes: Counter[str] = Counter()
    wrong: list[End] = []
    room = asyncio.Semaphore(_AT_ONCE)
    async with (
        grpc.aio.insecure_channel(encoder_address, options=channel_options(encoder_address)) as encoder,
        grpc.aio.insecure_channel(llm_address, options=channel_options(llm_address)) as llm,
    ):

        async def one(number: int) -> None:
            async with room:
                end = await send(make_case(seed, number, sound), encoder, llm)
            codes[f"{end.case.kind}: {end.code.name}"] += 1
            if end.code not in SENSIBLE or leaks(end.details):
                wrong.append(end)

        await asyncio.gather(*map(one, numbers))
    return codes, wrong


def leaks(details: str) -> bool:
    """Whether a status's text tells of the service's insides: files, code, objects."""
    return any(sign in details for sign in ("Traceback", ".py", "site-packages", " object at 0x", "/tmp/", "/home/"))
