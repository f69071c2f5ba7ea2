"""Any input gets a clear error of the right class, and the next call succeeds."""

import asyncio
import io
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
import pytest_asyncio
from PIL import Image
from visionsplit.errors import (
    IncompatibleServicesError,
    InvalidCompressionError,
    InvalidImageError,
    InvalidPromptError,
    InvalidPruningError,
    InvalidRequestError,
    InvalidSamplingError,
    InvalidTokensError,
    PromptTooLongError,
    UnknownFieldError,
)
from visionsplit.v1 import encoder_service_pb2 as encoder_pb
from visionsplit.v1 import generation_pb2, llm_service_pb2, tensor_pb2, vision_tokens_pb2
from visionsplit.v1.encoder_service_pb2_grpc import EncoderServiceStub
from visionsplit.v1.llm_service_pb2_grpc import LlmServiceStub
from visionsplit.wire.grpc_status import error_from_rpc
from visionsplit_client import Compression, Prompt, Sampling

from encoder_service.config import BatchLimits
from tests.integration.system import System, running_system
from tests.noise import noise_image

PROMPT = Prompt.raw("<image> what?")
FEW = Sampling(max_new_tokens=3)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_system(random_checkpoints: dict[str, Path]) -> AsyncIterator[System]:
    limits = BatchLimits(max_batch_tiles=2, max_wait_seconds=0.002, max_queued_tiles=64)  # several chunks an image
    async with running_system(random_checkpoints["llama"], encoder={"batch": limits}) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def system(shared_system: System) -> AsyncIterator[System]:
    yield shared_system
    answer = await shared_system.client.generate(noise_image(60, 60), PROMPT, sampling=FEW)
    assert answer.token_ids  # unharmed


def encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def png_bomb(side: int) -> bytes:
    """A small file that claims to be side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


BAD_IMAGES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "text": lambda: b"this is not an image",
    "half a jpeg": lambda: encoded(noise_image(200, 200), "JPEG")[:2000],
    "half a png": lambda: encoded(noise_image(200, 200), "PNG")[:2000],
    "only a header": lambda: encoded(noise_image(200, 200), "WEBP")[:40],
    "a bomb": lambda: png_bomb(40_000),
    "a larger bomb": lambda: png_bomb(2_000_000_000),
    "a pdf": lambda: b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
}


@pytest.mark.parametrize("name", list(BAD_IMAGES))
async def test_a_bad_image(system: System, name: str) -> None:
    with pytest.raises(InvalidImageError) as failure:
        await system.client.generate(BAD_IMAGES[name](), PROMPT, sampling=FEW)
    assert "/" not in str(failure.value).replace(" / ", "")  # no path
    with pytest.raises(InvalidImageError):
        await system.client.encode(BAD_IMAGES[name]())


@pytest.mark.parametrize(("width", "height"), [(1, 1), (30_000, 20)])
@pytest.mark.parametrize("ratio", [1.0, 0.1])
async def test_a_strange_image_is_answered(system: System, width: int, height: int, ratio: float) -> None:
    answer = await system.client.generate(
        noise_image(width, height), PROMPT, compression=Compression("globalcom2", ratio), sampling=FEW
    )
    assert answer.usage.vision_tokens > 0


@pytest.mark.parametrize(
    ("compression", "says"),
    [
        (vision_tokens_pb2.Compression(method="globalcom2", retention_ratio=0.0), "0"),
        (vision_tokens_pb2.Compression(method="globalcom2", retention_ratio=-1.0), "-1"),
        (vision_tokens_pb2.Compression(method="globalcom2", retention_ratio=2.0), "2"),
        (vision_tokens_pb2.Compression(method="globalcom2", retention_ratio=float("nan")), "nan"),
        (vision_tokens_pb2.Compression(method="globalcom2", retention_ratio=1e-9), "token"),
        (vision_tokens_pb2.Compression(method="squeeze", retention_ratio=0.5), "globalcom2"),
        (vision_tokens_pb2.Compression(retention_ratio=0.5), "method"),
        (vision_tokens_pb2.Compression(method="globalcom2", retention_ratio=0.5, budget="many"), "many"),
        (vision_tokens_pb2.Compression(method="globalcom2", retention_ratio=0.5, score="x"), "x"),
        (vision_tokens_pb2.Compression(method="globalcom2", retention_ratio=0.5, selection="y"), "y"),
        (vision_tokens_pb2.Compression(method="globalcom2", retention_ratio=0.5, parameters={"tua": 1}), "tua"),
        (
            vision_tokens_pb2.Compression(method="globalcom2", retention_ratio=0.5, parameters={"tau": float("nan")}),
            "tau",
        ),
        (vision_tokens_pb2.Compression(method="globalcom2", retention_ratio=0.5, layout=99), "99"),
    ],
)
async def test_a_bad_compression(system: System, compression: vision_tokens_pb2.Compression, says: str) -> None:
    request = encoder_pb.EncoderServiceGenerateRequest(
        images=[encoder_pb.Image(data=encoded(noise_image(60, 60), "PNG"))],
        prompt=generation_pb2.Prompt(text="<image>"),
        compression=compression,
    )
    error = await failing_call(system, request)
    assert isinstance(error, InvalidRequestError if compression.layout else InvalidCompressionError), error
    assert says in str(error)


@pytest.mark.parametrize(
    ("prompt", "images"),
    [
        (generation_pb2.Prompt(text="none"), 1),
        (generation_pb2.Prompt(text="<image> <image>"), 1),
        (generation_pb2.Prompt(text="<image>"), 0),
        (generation_pb2.Prompt(), 1),
        (generation_pb2.Prompt(chat=generation_pb2.Chat()), 0),
        (generation_pb2.Prompt(chat=generation_pb2.Chat(messages=[generation_pb2.ChatMessage(role="robot")])), 0),
    ],
)
async def test_a_bad_prompt(system: System, prompt: generation_pb2.Prompt, images: int) -> None:
    picture = encoder_pb.Image(data=encoded(noise_image(60, 60), "PNG"))
    error = await failing_call(
        system, encoder_pb.EncoderServiceGenerateRequest(images=[picture] * images, prompt=prompt)
    )
    assert isinstance(error, InvalidPromptError), error


async def test_a_prompt_that_does_not_fit_is_refused_with_the_numbers(system: System) -> None:
    with pytest.raises(PromptTooLongError, match=r"1024") as failure:
        await system.client.generate(None, Prompt.raw("word " * 500), sampling=FEW)
    assert "25" in str(failure.value)  # some 2500 tokens
    with pytest.raises(PromptTooLongError, match="1024"):
        await system.client.generate([noise_image(112, 112)] * 12, Prompt.raw("<image>" * 12), sampling=FEW)
    with pytest.raises(InvalidRequestError, match="1024"):
        await system.client.generate(None, Prompt.raw("word"), sampling=Sampling(max_new_tokens=5000))


@pytest.mark.parametrize(
    "sampling",
    [
        generation_pb2.Sampling(temperature=-1),
        generation_pb2.Sampling(temperature=float("nan")),
        generation_pb2.Sampling(temperature=1, top_p=0),
        generation_pb2.Sampling(temperature=1, top_p=1.5),
        generation_pb2.Sampling(repetition_penalty=0),
        generation_pb2.Sampling(stop=[""]),
        generation_pb2.Sampling(stop=["x"] * 17),
        generation_pb2.Sampling(stop=["x" * 257]),
    ],
)
async def test_bad_sampling(system: System, sampling: generation_pb2.Sampling) -> None:
    error = await failing_call(
        system,
        encoder_pb.EncoderServiceGenerateRequest(prompt=generation_pb2.Prompt(text="hello"), sampling=sampling),
    )
    assert isinstance(error, InvalidSamplingError), error


def prune(method: str, ratio: float | None = None, **parameters: float) -> generation_pb2.Prefill:
    return generation_pb2.Prefill(
        pruning=generation_pb2.Pruning(method=method, retention_ratio=ratio, parameters=parameters)
    )


@pytest.mark.parametrize(
    ("prefill", "error", "says"),
    [
        (generation_pb2.Prefill(pruning=generation_pb2.Pruning()), InvalidPruningError, "unknown pruning method ''"),
        (prune("x" * 5000), InvalidPruningError, "there are: fastv"),
        (prune("fastv", layer=1), InvalidPruningError, "needs a retention_ratio"),
        (prune("fastv", 0), InvalidPruningError, "retention_ratio is 0"),
        (prune("fastv", -1), InvalidPruningError, "retention_ratio is -1"),
        (prune("fastv", float("inf")), InvalidPruningError, "retention_ratio is inf"),
        (prune("fastv", 0.5, layer=float("nan")), InvalidPruningError, "parameter 'layer' is nan"),
        (prune("fastv", 0.5, layer=0), InvalidPruningError, "parameter 'layer' is 0"),
        (prune("fastv", 0.5, layer=2), InvalidPruningError, "below the model's 2 layers"),
        (prune("fastv", 0.5, depth=1), InvalidPruningError, "unknown parameter 'depth'"),
        (generation_pb2.Prefill(position_ids=77), InvalidRequestError, "position ids 77 are not known here"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_bad_prefill(
    system: System, prefill: generation_pb2.Prefill, error: type[Exception], says: str
) -> None:
    request = encoder_pb.EncoderServiceGenerateRequest(
        images=[encoder_pb.Image(data=encoded(noise_image(60, 60), "PNG"))],
        prompt=generation_pb2.Prompt(text="<image>"),
        prefill=prefill,
    )
    refusal = await failing_call(system, request)
    assert (type(refusal), says in str(refusal)) == (error, True), refusal


async def test_fields_of_a_newer_client(system: System) -> None:
    inside = generation_pb2.Prefill.FromString(prune("fastv", 0.5).SerializeToString() + b"\x98\x06\x01")
    error = await failing_call(system, encoder_pb.EncoderServiceGenerateRequest(prefill=inside))
    assert "field 99 of visionsplit.v1.Prefill" in str(error)
    newer = encoder_pb.EncoderServiceGenerateRequest.FromString(
        encoder_pb.EncoderServiceGenerateRequest(prompt=generation_pb2.Prompt(text="x")).SerializeToString()
        + b"\x98\x06\x01"
    )
    error = await failing_call(system, newer)
    assert type(error) is UnknownFieldError
    assert "field 99" in str(error)


async def failing_call(system: System, request: encoder_pb.EncoderServiceGenerateRequest) -> Exception:
    async with grpc.aio.insecure_channel(system.encoder_address) as channel:
        try:
            async for _ in EncoderServiceStub(channel).Generate(request):
                pass
        except grpc.RpcError as error:
            return refusal(error)
    raise AssertionError("the call succeeded")


def refusal(error: grpc.RpcError) -> Exception:
    assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION), error
    return error_from_rpc(error)


# --- uploads to the LLM service ---------------------------------------------------------------------------------------

Parts = list[llm_service_pb2.LlmServiceGenerateRequest]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def good_upload(shared_system: System) -> Parts:
    """An upload as the encoder makes it of an image that it has not cached: with a chunk for each batch of tiles."""
    parts: Parts = []
    async with grpc.aio.insecure_channel(shared_system.encoder_address) as channel:
        request = encoder_pb.EncodeRequest(
            image=encoder_pb.Image(data=encoded(noise_image(112, 112, seed=9), "PNG")),
            compression=vision_tokens_pb2.Compression(method="globalcom2", retention_ratio=0.5),
        )
        async for event in EncoderServiceStub(channel).Encode(request):
            if event.HasField("header"):
                header = llm_service_pb2.GenerateHeader(
                    prompt=generation_pb2.Prompt(text="<image> what?"),
                    sampling=generation_pb2.Sampling(max_new_tokens=3),
                    grids=[event.header.grid],
                    format=event.header.format,
                )
                parts.append(llm_service_pb2.LlmServiceGenerateRequest(header=header))
                parts.append(llm_service_pb2.LlmServiceGenerateRequest(image=event.header.tokens))
            elif event.HasField("tokens"):
                parts.append(llm_service_pb2.LlmServiceGenerateRequest(tokens=event.tokens))
    assert len(parts) >= 4, "at least two chunks are needed"
    return parts


def spoil_nan(parts: Parts) -> None:
    tensor = parts[2].tokens.features
    values = np.frombuffer(tensor.data, "<f4").copy()
    values[7] = np.nan
    tensor.data = values.tobytes()


def spoil_width(parts: Parts) -> None:
    tensor = parts[2].tokens.features
    tensor.shape[:] = [tensor.shape[0] * 2, tensor.shape[1] // 2]
    parts[2].tokens.positions = parts[2].tokens.positions * 2


def spoil_fingerprint(parts: Parts) -> None:
    parts[0].header.format.encoder_fingerprint = "0" * 32


def spoil_grid(parts: Parts) -> None:
    parts[0].header.grids[0].rows, parts[0].header.grids[0].valid_bottom = 1, 4


def swap(first: int, second: int) -> Callable[[Parts], None]:
    def spoil(parts: Parts) -> None:
        parts[first], parts[second] = parts[second], parts[first]

    return spoil


BAD_UPLOADS: dict[str, tuple[Callable[[Parts], object], type[Exception]]] = {
    "nothing": (lambda parts: parts.clear(), InvalidTokensError),
    "only a header": (lambda parts: parts.__delitem__(slice(1, None)), InvalidTokensError),
    "no header": (lambda parts: parts.pop(0), InvalidTokensError),
    "two headers": (lambda parts: parts.insert(1, parts[0]), InvalidTokensError),
    "two image headers": (lambda parts: parts.insert(1, parts[1]), InvalidTokensError),
    "an empty part": (lambda parts: parts.insert(2, llm_service_pb2.LlmServiceGenerateRequest()), InvalidTokensError),
    "chunks out of order": (swap(2, 3), InvalidTokensError),
    "a chunk before its image": (swap(1, 2), InvalidTokensError),
    "truncated": (lambda parts: parts.pop(), InvalidTokensError),
    "a chunk twice": (lambda parts: parts.append(parts[-1]), InvalidTokensError),
    "too few bytes": (lambda parts: shorten(parts, 1), InvalidTokensError),
    "too many bytes": (lambda parts: shorten(parts, -1), InvalidTokensError),
    "a wrong hidden size": (spoil_width, InvalidTokensError),
    "NaN": (spoil_nan, InvalidTokensError),
    "another encoder": (spoil_fingerprint, IncompatibleServicesError),
    "another grid": (spoil_grid, InvalidTokensError),
    "no format": (lambda parts: parts[0].header.ClearField("format"), InvalidTokensError),
    "an image out of range": (lambda parts: setattr(parts[1].image, "image_index", 7), InvalidTokensError),
    "a chunk of another image": (lambda parts: setattr(parts[2].tokens, "image_index", 7), InvalidTokensError),
    "quotas without pruning": (lambda parts: parts[1].image.quotas.extend(parts[1].image.budgets), InvalidPruningError),
    "a quota too few": (lambda parts: parts[1].image.quotas.extend(parts[1].image.budgets[1:]), InvalidTokensError),
    "a quota too large": (
        lambda parts: parts[1].image.quotas.extend(budget + 1 for budget in parts[1].image.budgets),
        InvalidTokensError,
    ),
    "a budget too many": (lambda parts: parts[1].image.budgets.append(1), InvalidTokensError),
    "an unknown data type": (lambda parts: setattr(parts[2].tokens.features, "data_type", 77), InvalidTokensError),
    "no placeholder": (lambda parts: setattr(parts[0].header.prompt, "text", "nothing"), InvalidPromptError),
}


def shorten(parts: Parts, count: int) -> None:
    tensor: tensor_pb2.Tensor = parts[2].tokens.features
    tensor.data = tensor.data[:-count] if count > 0 else tensor.data + bytes(-count)


@pytest.mark.parametrize("name", list(BAD_UPLOADS))
async def test_a_bad_upload(system: System, good_upload: Parts, name: str) -> None:
    spoil, expected = BAD_UPLOADS[name]
    parts = [llm_service_pb2.LlmServiceGenerateRequest.FromString(part.SerializeToString()) for part in good_upload]
    assert isinstance(await upload(system, parts), llm_service_pb2.LlmServiceGenerateResponse)  # good as it was
    spoil(parts)
    error = await upload(system, parts)
    assert isinstance(error, expected), error


async def upload(system: System, parts: Parts) -> object:
    return await asyncio.to_thread(_upload, system.llm_address, parts)


def _upload(address: str, parts: Parts) -> object:
    # grpc's synchronous client: its asyncio one hides the server's status behind the failed write of an upload.
    with grpc.insecure_channel(address) as channel:
        try:
            return list(LlmServiceStub(channel).Generate(iter(parts)))[-1]
        except grpc.RpcError as error:
            return refusal(error)
