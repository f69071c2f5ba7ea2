"""The whole model as Hugging Face runs it, and a caller of the service."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import grpc.aio
import numpy as np
import torch
from PIL import Image
from transformers import LlavaNextForConditionalGeneration, LlavaNextProcessor
from transformers.image_processing_utils import select_best_resolution
from visionsplit.families.checkpoint import Checkpoint
from visionsplit.grid import TileGrid
from visionsplit.network.transport import channel_options
from visionsplit.options.data_types import DataType
from visionsplit.v1 import generation_pb2, llm_service_pb2, llm_service_pb2_grpc, vision_tokens_pb2
from visionsplit.wire.tensors import TokenTensor
from visionsplit.wire.vision_tokens import VisionTokens, grid_to_proto, split_into_chunks

from llm_service.config import EngineConfig, EngineKind, LlmConfig
from llm_service.server import LlmServer

Request = llm_service_pb2.LlmServiceGenerateRequest

# The engine that these tests are run with: `make test-vllm` names the other one.
ENGINE = EngineKind(os.environ.get("VISIONSPLIT_TEST_ENGINE", EngineKind.TRANSFORMERS.value))
# Sizes of heads that vLLM's CPU kernels have.
HEADS = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
# vLLM's compiler takes a minute for each service.
_ENGINE_OPTIONS = {"enforce_eager": True} if ENGINE is EngineKind.VLLM else None


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Coarse noise, different for every seed."""
    cells = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height))


@dataclass(frozen=True)
class Whole:
    """`LlavaNextForConditionalGeneration` in float32, and an image as an encoder sends it without compression."""

    path: Path

    @cached_property
    def model(self) -> LlavaNextForConditionalGeneration:
        return LlavaNextForConditionalGeneration.from_pretrained(self.path, dtype=torch.float32).eval()

    @cached_property
    def processor(self) -> LlavaNextProcessor:
        return LlavaNextProcessor.from_pretrained(self.path)

    @cached_property
    def fingerprint(self) -> str:
        return Checkpoint(str(self.path)).encoder_fingerprint()

    @property
    def feature_size(self) -> int:
        return self.model.config.vision_config.hidden_size

    @torch.no_grad()
    def generate(self, prompt: str, images: Sequence[Image.Image], **options) -> list[int]:
        inputs = self.processor(text=prompt, images=list(images) or None, return_tensors="pt")
        return self.continuation(inputs, **options)

    @torch.no_grad()
    def continuation(self, inputs, **options) -> list[int]:
        output = self.model.generate(**inputs, **{"do_sample": False, **options})
        return output[0, inputs["input_ids"].shape[1] :].tolist()

    @torch.no_grad()
    def tokens(self, image: Image.Image, data_type: DataType = DataType.FLOAT32) -> VisionTokens:
        """Every valid token of an image, tile after tile in raster order."""
        config = self.model.config
        pixels = self.processor.image_processor(image, return_tensors="pt")["pixel_values"][0]  # [T, 3, H, W]
        hidden = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
        features = hidden[config.vision_feature_layer][:, 1:]  # [T, P, Dv]
        tile = config.vision_config.image_size
        height, width = select_best_resolution((image.height, image.width), config.image_grid_pinpoints)
        grid = TileGrid.padded(
            image.height,
            image.width,
            rows=height // tile,
            columns=width // tile,
            side=tile // config.vision_config.patch_size,
        )
        positions = np.array(
            [
                (index, row, column)
                for index in range(grid.num_tiles)
                for region in [grid.valid_in_tile(index)]
                for row in range(region.top, region.bottom)
                for column in range(region.left, region.right)
            ],
            np.int32,
        )
        tiles, rows, columns = positions.T
        kept = features.numpy()[tiles, rows * grid.side + columns]  # [N, Dv]
        assert data_type is DataType.FLOAT32
        tensor = TokenTensor(data_type, len(kept), kept.shape[1], kept.astype("<f4").tobytes())
        return VisionTokens(grid, tuple(grid.valid_counts()), tensor, positions)


def keep(tokens: VisionTokens, rows: np.ndarray) -> VisionTokens:
    """Some of an image's tokens, by ascending row."""
    features = tokens.features
    table = np.frombuffer(features.data, "<f4").reshape(features.rows, features.columns)[rows]
    positions = tokens.positions[rows]
    budgets = tuple(np.bincount(positions[:, 0], minlength=tokens.grid.num_tiles).tolist())
    tensor = replace(features, rows=len(rows), data=table.tobytes())
    return VisionTokens(tokens.grid, budgets, tensor, positions)


@dataclass
class Answer:
    """A finished stream."""

    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    deltas: list[generation_pb2.TextDelta] = field(default_factory=list)
    summary: generation_pb2.GenerationSummary | None = None


class Caller:
    """Speaks the protocol to a running service."""

    def __init__(self, channel: grpc.aio.Channel, whole: Whole) -> None:
        self.channel = channel
        self.whole = whole
        self.stub = llm_service_pb2_grpc.LlmServiceStub(channel)

    def header(
        self,
        prompt: str | generation_pb2.Prompt,
        images: Sequence[VisionTokens] = (),
        *,
        layout: int = vision_tokens_pb2.LAYOUT_UNSPECIFIED,
        **sampling,
    ) -> Request:
        form = generation_pb2.Prompt(text=prompt) if isinstance(prompt, str) else prompt
        return Request(
            header=llm_service_pb2.GenerateHeader(
                prompt=form,
                sampling=generation_pb2.Sampling(**sampling),
                grids=[grid_to_proto(image.grid) for image in images],
                format=vision_tokens_pb2.VisionFormat(
                    feature_size=self.whole.feature_size, encoder_fingerprint=self.whole.fingerprint
                ),
                layout=layout,
            )
        )

    def upload(
        self, prompt, images: Sequence[VisionTokens] = (), *, chunk_bytes: int = 4096, **options
    ) -> list[Request]:
        return [self.header(prompt, images, **options), *token_parts(images, chunk_bytes)]

    def call(self, requests: Iterable[Request], **options):
        return self.stub.Generate(iter(list(requests)), **options)

    async def generate(self, prompt, images: Sequence[VisionTokens] = (), **options) -> Answer:
        return await collect(self.call(self.upload(prompt, images, **options)))

    async def status_or_answer(self, *upload, **options) -> Answer | grpc.StatusCode:
        try:
            return await self.generate(*upload, **options)
        except grpc.aio.AioRpcError as error:
            return error.code()

    async def status_of(self, requests: Iterable[Request]) -> tuple[grpc.StatusCode, str, str]:
        """Status, details and our error's name of a call that must fail."""
        try:
            await collect(self.call(requests))
        except grpc.aio.AioRpcError as error:
            names = [value for key, value in error.trailing_metadata() or () if key == "visionsplit-error"]
            return error.code(), error.details() or "", "".join(map(str, names))
        raise AssertionError("the call succeeded")


def token_parts(images: Sequence[VisionTokens], chunk_bytes: int = 4096) -> list[Request]:
    parts: list[Request] = []
    for index, image in enumerate(images):
        parts.append(Request(image=vision_tokens_pb2.ImageTokensHeader(image_index=index, budgets=image.budgets)))
        chunks = split_into_chunks(
            image.features, image.positions, image_index=index, first_chunk=0, chunk_bytes=chunk_bytes
        )
        parts.extend(Request(tokens=chunk) for chunk in chunks)
    return parts


async def collect(call, *read) -> Answer:
    """The answer of a call. `read` are its responses that were read before; one response can have several tokens."""
    answer, before = Answer(), iter(read)
    while (response := next(before, None) or await call.read()) is not grpc.aio.EOF:
        if response.WhichOneof("event") == "delta":
            assert answer.summary is None
            answer.deltas.append(response.delta)
            answer.text += response.delta.text
            answer.token_ids.extend(response.delta.token_ids)
        else:
            answer.summary = response.summary
    assert answer.summary is not None
    return answer


def engine_config(engine: EngineConfig | None = None) -> EngineConfig:
    """Settings with the engine that these tests are run with."""
    return replace(engine or EngineConfig(), kind=ENGINE, vllm_options=_ENGINE_OPTIONS)


@asynccontextmanager
async def running(
    whole: Whole, *, engine: EngineConfig | None = None, **options
) -> AsyncIterator[tuple[LlmServer, Caller]]:
    """A service of a checkpoint on a free port with the tests' engine, and a caller connected to it."""
    settings = {"model": str(whole.path), "listen": "127.0.0.1:0", "device": "cpu", "engine": engine_config(engine)}
    config = {**settings, **options}
    server = LlmServer(LlmConfig(**config))
    port = await server.start()
    try:
        address = f"127.0.0.1:{port}"
        async with grpc.aio.insecure_channel(address, options=channel_options(address)) as channel:
            yield server, Caller(channel, whole)
    finally:
        await server.stop(None)


class Services:
    """Keeps a service for the next test that asks for the same one, because a start of vLLM takes long.

    There is one at a time. All tests that use it must run on the event loop on which it was made.
    """

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._asked: tuple[Whole, EngineConfig | None] | None = None
        self._service: tuple[LlmServer, Caller] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def get(self, whole: Whole, engine: EngineConfig | None = None) -> tuple[LlmServer, Caller]:
        """A service of a checkpoint with its default limits, and a caller connected to it."""
        if self._service is None or self._asked != (whole, engine):
            self._service = None
            await self._stack.aclose()
            self._service = await self._stack.enter_async_context(running(whole, engine=engine))
            self._asked = whole, engine
        return self._service


async def together(*awaitables):
    return await asyncio.gather(*awaitables)
