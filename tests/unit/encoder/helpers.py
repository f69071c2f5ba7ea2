"""Images, servers and a stand-in for the LLM service, for the encoder's tests."""

import asyncio
import io
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import numpy as np
import pytest
import torch
from grpc_health.v1 import health_pb2_grpc
from PIL import Image
from visionsplit.errors import InvalidTokensError, VisionSplitError
from visionsplit.images import ImageLimits, decode_image
from visionsplit.network.transport import MAX_TOKEN_MESSAGE_BYTES, channel_options
from visionsplit.receiving.messages import parse
from visionsplit.serving.health import HealthService
from visionsplit.serving.server_options import server_options
from visionsplit.v1 import (
    encoder_service_pb2_grpc,
    generation_pb2,
    llm_service_pb2,
    llm_service_pb2_grpc,
    vision_tokens_pb2,
)
from visionsplit.wire.grpc_status import status_of, status_parts
from visionsplit.wire.request_tokens import RequestTokens
from visionsplit.wire.vision_tokens import grid_from_proto

from encoder_service.compression import TileFeatures, TowerOutput
from encoder_service.config import CacheLimits, EncoderConfig
from encoder_service.server import EncoderServer

IMAGE_LIMITS = ImageLimits()
LLM_SERVICE_NAME = llm_service_pb2.DESCRIPTOR.services_by_name["LlmService"].full_name


def drawn_image(width, height, seed=0):
    """A smooth random RGB image."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def file_of(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels_of(data):
    """What a file decodes to, [height, width, 3]."""
    image = decode_image(data, IMAGE_LIMITS)
    assert image.mode == "RGB"
    return np.asarray(image)


def png(width, height, seed=0):
    return file_of(drawn_image(width, height, seed))


def globalcom2(ratio, **fields):
    return vision_tokens_pb2.Compression(method="globalcom2", retention_ratio=ratio, **fields)


def scored(scores):
    """What a vision tower might say of tiles [T, P]: these scores in every sense, and features and keys by chance."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(*scores.shape, 8, generator=generator)
    keys = torch.randn(*scores.shape, 8, generator=generator)
    outputs = {o: keys if o in (TowerOutput.KEYS, TowerOutput.LAST_KEYS) else scores for o in TowerOutput}
    return TileFeatures(features, outputs)


async def status_of_call(call):
    """Code, text and error class of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    named = {key: value for key, value in caught.value.trailing_metadata() or ()}  # noqa: C416 - not a mapping
    return caught.value.code(), caught.value.details(), named.get("visionsplit-error")


@asynccontextmanager
async def running_encoder(model, llm=None, **settings):
    """A real server, by default on a free port and without a cache of tokens, and a stub connected to it."""
    llms = () if llm is None else (llm,)
    settings = {"cache": CacheLimits(memory_bytes=0), "listen": "127.0.0.1:0", "llm": llms, **settings}
    server = EncoderServer(EncoderConfig(str(model), **settings))
    port = await server.start()
    try:
        address = f"127.0.0.1:{port}"
        async with grpc.aio.insecure_channel(address, options=channel_options(address)) as channel:
            yield server, encoder_service_pb2_grpc.EncoderServiceStub(channel)
    finally:
        await server.stop(None)


class FakeLlm(llm_service_pb2_grpc.LlmServiceServicer):
    """Records uploads and answers "one two"; may refuse with `error` after `error_after` messages.

    It refuses an upload of vision tokens for the same reasons as the LLM service does; prompts it does not read.
    """

    def __init__(self, error: VisionSplitError | None = None, error_after: int = 0):
        self.error, self.error_after = error, error_after
        self.health = HealthService(LLM_SERVICE_NAME)
        self.health.set(serving=True)
        self.checkpoint = "fake"
        self.info_error: VisionSplitError | None = None  # of GetLlmInfo
        self.received: list[llm_service_pb2.LlmServiceGenerateRequest] = []
        self.metadata: dict[str, str] = {}
        self.time_remaining: float | None = None
        self.arrived = asyncio.Event()  # a first message
        self.cancelled = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def Generate(self, request_iterator, context):  # noqa: N802
        self.metadata = dict(context.invocation_metadata())
        self.time_remaining = context.time_remaining()
        try:
            if self.error and not self.error_after:
                await self._refuse(context)
            images: RequestTokens | None = None
            async for request in request_iterator:
                self.received.append(request)
                self.arrived.set()
                if self.error and len(self.received) >= self.error_after:
                    await self._refuse(context)
                images = _received(images, request)
            assert images is not None, "an upload without a header"
            images.finish()
            for text in ("one", " two"):
                await context.write(_delta(text))
                await self.may_answer.wait()
            summary = generation_pb2.GenerationSummary(finish_reason=generation_pb2.FINISH_REASON_STOP)
            await context.write(llm_service_pb2.LlmServiceGenerateResponse(summary=summary))
        except InvalidTokensError as error:
            self.error = error
            await self._refuse(context)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def GetLlmInfo(self, request, context):  # noqa: N802
        if self.info_error is not None:
            await abort(context, self.info_error)
        form = vision_tokens_pb2.VisionFormat(encoder_fingerprint="0" * 32)
        return llm_service_pb2.GetLlmInfoResponse(model=self.checkpoint, format=form)

    async def _refuse(self, context):
        await abort(context, self.error)

    def parts(self, kind):
        return [getattr(request, kind) for request in self.received if request.WhichOneof("part") == kind]


def _received(images, request):
    """The upload's tokens so far, and those of its next message."""
    parse(type(request), request.SerializeToString())  # as the service refuses fields that it does not know
    match request.WhichOneof("part"):
        case "header" if images is None:
            grids = [grid_from_proto(grid) for grid in request.header.grids]
            return RequestTokens(grids, feature_size=request.header.format.feature_size)
        case "image" if images is not None:
            images.add_header(request.image)
        case "tokens" if images is not None:
            images.add_chunk(request.tokens)
        case part:
            raise InvalidTokensError(f"{part} is out of order")
    return images


def _delta(text):
    return llm_service_pb2.LlmServiceGenerateResponse(delta=generation_pb2.TextDelta(text=text, token_ids=[7]))


@asynccontextmanager
async def running_llm(fake: FakeLlm, address: str = "127.0.0.1:0"):
    """The stand-in, by default on a free port; gives its address."""
    server = grpc.aio.server(options=server_options(max_receive_bytes=MAX_TOKEN_MESSAGE_BYTES, max_calls=64))
    llm_service_pb2_grpc.add_LlmServiceServicer_to_server(fake, server)
    health_pb2_grpc.add_HealthServicer_to_server(fake.health, server)
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


async def abort(context, error):
    """End a call with the status that the services give the error."""
    details, metadata = status_parts(error)
    await context.abort(status_of(error), details, trailing_metadata=metadata)
